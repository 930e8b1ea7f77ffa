"""What the clients of the features send, and what they make of the answers."""

from __future__ import annotations

import io
import json
from typing import Any

import msgspec
import pytest

from clawplane.client.http import Http
from clawplane.client.keys import KeysClient
from clawplane.client.runs import RunsClient
from clawplane.client.workers import WorkersClient
from clawplane.domain.errors import InvalidArgument, Unavailable

VERSION = {
    "worker": "01S",
    "path": "local~w",
    "version": "v1.0.0",
    "language": "python",
    "status": "ready",
    "package_size": 3,
    "diagnostics": [],
    "build_error": "",
    "unchanged": False,
}


async def test_a_package_is_sent_as_one_form_of_known_length_and_its_progress_is_told(
    peer: Any, http: Http, answers: Any
) -> None:
    peer.answers = [answers.envelope(VERSION)]
    told: list[int] = []
    package = b"z" * 100_000
    pushed = await WorkersClient(http).push(
        io.BytesIO(package), len(package), name="w", title="W", version="v1.0.0", on_sent=told.append
    )
    assert pushed == VERSION
    body = peer.bodies[0]
    assert int(peer.headers[0]["content-length"]) == len(body)
    assert b'name="scraper_file"; filename="worker.zip"' in body
    assert package in body
    assert b'name="version"\r\n\r\nv1.0.0\r\n' in body
    assert told == [65_536, 100_000]


async def test_a_package_that_shrinks_while_it_is_sent_is_given_up(peer: Any, http: Http, answers: Any) -> None:
    peer.answers = [answers.envelope(VERSION)]
    with pytest.raises(InvalidArgument, match="shorter"):
        await WorkersClient(http).push(io.BytesIO(b"abc"), 10, name="w", title="W")


@pytest.mark.parametrize("title", ["two\nlines", "carriage\rreturn", "\udcff"])
async def test_a_title_that_would_break_the_form_is_refused(http: Http, title: str) -> None:
    with pytest.raises(InvalidArgument, match="title"):
        await WorkersClient(http).push(io.BytesIO(b""), 0, name="w", title=title)


async def test_an_input_is_sent_digit_by_digit_as_it_was_written(peer: Any, http: Http, answers: Any) -> None:
    peer.answers = [answers.envelope({"run_slug": "01R"})]
    text = b'{"id": 123456789012345678901234567890, "price": 0.10, "s": "&"}'
    slug = await RunsClient(http).start("local~w", custom=msgspec.Raw(text), system={"memory": 512}, version="v1.0.0")
    assert slug == "01R"
    assert peer.requests == [("POST", "/api/v2/workers/local~w/runs")]
    assert text in peer.bodies[0]
    assert json.loads(peer.bodies[0])["version"] == "v1.0.0"


@pytest.mark.parametrize("base", ["", "/behind/a/proxy"])
async def test_an_export_is_fetched_from_the_address_we_speak_to_whatever_the_link_says(
    peer: Any, answers: Any, base: str
) -> None:
    http = Http(peer.url + base, None)
    link = f"http://elsewhere.example:99{base}/v1/downloads/abc.def?x=1"
    peer.answers = [answers.envelope({"download_url": link}), answers.reply(b"a,b\r\n", media="text/csv")]
    chunks = [chunk async for chunk in RunsClient(http).export("01R", format_="csv", columns=["a", "b"])]
    await http.close()
    assert b"".join(chunks) == b"a,b\r\n"
    assert [path for _, path in peer.requests] == [
        f"{base}/api/v2/worker-runs/01R/result/export?format=csv&filter_keys=a%2Cb",
        f"{base}/v1/downloads/abc.def?x=1",
    ]


async def test_an_export_that_breaks_off_says_so(peer: Any, http: Http, answers: Any) -> None:
    peer.answers = [answers.envelope({"download_url": "http://x/v1/downloads/a"}), answers.lines({"a": 1}, ends=False)]
    with pytest.raises(Unavailable, match="broke off"):
        async for _ in RunsClient(http).export("01R", format_="jsonl", columns=[]):
            pass


async def test_a_key_is_created_and_revoked_under_its_id(peer: Any, http: Http, answers: Any) -> None:
    peer.answers = [answers.envelope({"id": "k1", "key": "secret"}), answers.reply(b'{"code": 0}')]
    keys = KeysClient(http)
    assert (await keys.create("ci", ["read"]))["key"] == "secret"
    await keys.revoke("k1")
    assert peer.requests[1] == ("DELETE", "/v1/keys/k1")
