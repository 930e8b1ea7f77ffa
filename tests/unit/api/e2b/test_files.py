"""Read, write, list, make, move and remove files with the published client."""

from __future__ import annotations

import io
from typing import Any

import httpx
import pytest
from e2b import (
    FileNotFoundException,
    FileType,
    InvalidArgumentException,
    SandboxException,
    TemplateException,
)
from e2b_place import KEY


@pytest.fixture
def sandbox(place: Any) -> Any:
    return place.client().Sandbox.create()


@pytest.mark.parametrize("path", ["a.txt", "/workspace/a.txt", "/home/user/a.txt", "./a.txt", "~/a.txt"])
def test_a_file_is_written_and_read_whatever_way_its_path_is_said(place: Any, sandbox: Any, path: str) -> None:
    info = sandbox.files.write(path, "grüße\n")
    assert (info.name, info.path, info.type) == ("a.txt", "/workspace/a.txt", FileType.FILE)
    assert place.sessions.contents["a.txt"] == "grüße\n".encode()
    assert sandbox.files.read(path) == "grüße\n"
    assert sandbox.files.read(path, format="bytes") == bytearray("grüße\n".encode())
    with sandbox.files.read(path, format="stream") as stream:
        assert b"".join(stream) == "grüße\n".encode()


@pytest.mark.parametrize("how", [{}, {"use_octet_stream": True}, {"gzip": True}, {"use_octet_stream": False}])
def test_large_bytes_arrive_whole_however_they_are_sent(place: Any, sandbox: Any, how: Any) -> None:
    data = bytes(range(256)) * 8192
    sandbox.files.write("deep/er/x.bin", data, **how)
    assert place.sessions.contents["deep/er/x.bin"] == data
    sandbox.files.write("y.bin", io.BytesIO(data), **how)
    assert place.sessions.contents["y.bin"] == data


def test_an_iterable_is_uploaded_as_it_comes(place: Any, sandbox: Any) -> None:
    sandbox.files.write("x", iter([b"one ", b"two"]))
    assert place.sessions.contents["x"] == b"one two"


def test_several_files_are_written_at_once(place: Any, sandbox: Any) -> None:
    infos = sandbox.files.write_files([{"path": "a", "data": "1"}, {"path": "b/c", "data": b"2"}])
    assert [info.path for info in infos] == ["/workspace/a", "/workspace/b/c"]
    assert (place.sessions.contents["a"], place.sessions.contents["b/c"]) == (b"1", b"2")


async def test_the_async_client_handles_files_too(place: Any) -> None:
    sandbox = await place.client().AsyncSandbox.create()
    await sandbox.files.write("a", "1")
    assert await sandbox.files.read("a") == "1"
    assert await sandbox.files.exists("a")
    assert [entry.name for entry in await sandbox.files.list("/workspace")] == ["a"]


def test_entries_are_described_listed_moved_and_removed(sandbox: Any) -> None:
    assert sandbox.files.make_dir("d/e") is True
    assert sandbox.files.make_dir("d/e") is False
    sandbox.files.write("d/e/f.txt", "12345")
    info = sandbox.files.get_info("d/e/f.txt")
    assert (info.name, info.type, info.size, info.permissions) == ("f.txt", FileType.FILE, 5, "rw-r--r--")
    assert info.modified_time.timestamp() == 1_700_000_000.123
    assert sandbox.files.get_info("d").type is FileType.DIR
    assert [entry.path for entry in sandbox.files.list("d")] == ["/workspace/d/e"]
    deep = sandbox.files.list("d", depth=2)
    assert [entry.path for entry in deep] == ["/workspace/d/e", "/workspace/d/e/f.txt"]
    assert sandbox.files.rename("d/e/f.txt", "d/g.txt").path == "/workspace/d/g.txt"
    assert not sandbox.files.exists("d/e/f.txt")
    sandbox.files.remove("d")
    assert not sandbox.files.exists("d/g.txt")


def test_what_is_not_there_is_not_found(sandbox: Any) -> None:
    for attempt in (sandbox.files.read, sandbox.files.get_info, sandbox.files.remove, sandbox.files.list):
        with pytest.raises(FileNotFoundException):
            attempt("nothing")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "/workspace/../etc/passwd", "a/../../x", "/", "/workspacex/a"])
def test_a_path_out_of_the_workspace_is_refused(place: Any, sandbox: Any, path: str) -> None:
    for attempt in (sandbox.files.read, sandbox.files.get_info, sandbox.files.make_dir, sandbox.files.remove):
        with pytest.raises(InvalidArgumentException, match="path"):
            attempt(path)
    with pytest.raises(InvalidArgumentException, match="path"):
        sandbox.files.write(path, "x")
    assert place.sessions.contents == {}


def test_the_workspace_itself_is_not_removed(place: Any, sandbox: Any) -> None:
    place.sessions.contents["a"] = b""
    with pytest.raises(InvalidArgumentException):
        sandbox.files.remove("/workspace")
    assert "a" in place.sessions.contents


def test_root_is_no_user_of_a_session(sandbox: Any) -> None:
    for attempt in (sandbox.files.read, sandbox.files.get_info):
        with pytest.raises(InvalidArgumentException, match="no user 'root'"):
            attempt("a", user="root")


def test_signed_addresses_open_one_file_for_one_operation(place: Any, sandbox: Any) -> None:
    sandbox.files.write("a", "1")
    named = {"E2b-Sandbox-Id": sandbox.sandbox_id}
    assert httpx.get(sandbox.download_url("a"), headers=named).text == "1"
    assert httpx.get(sandbox.download_url("a", use_signature_expiration=60), headers=named).text == "1"
    upload = sandbox.upload_url("b", use_signature_expiration=60)
    assert httpx.post(upload, headers=named, files={"file": b"2"}).status_code == 200
    assert place.sessions.contents["b"] == b"2"
    expired = sandbox.download_url("a", use_signature_expiration=-5)
    for forged in (sandbox.upload_url("a"), sandbox.download_url("b").replace("path=b", "path=a"), expired):
        refused = httpx.get(forged, headers=named)
        assert (refused.status_code, refused.json()["code"]) == (401, 401)


def test_a_sandbox_may_also_be_named_by_its_host(sandbox: Any) -> None:
    sandbox.files.write("a", "1")
    for named in (sandbox.sandbox_id, sandbox.sandbox_id.lower()):
        host = {"Host": f"49983-{named}.sandboxes.example"}
        assert httpx.get(sandbox.download_url("a"), headers=host).text == "1"


def test_a_host_that_only_looks_like_a_sandboxs_is_the_servers_own(place: Any, sandbox: Any) -> None:
    for host in ("10-foo.example", "49983-foo.example", f"8080-{sandbox.sandbox_id}.example"):
        answer = httpx.get(f"{place.url}/sandboxes", headers={"Host": host, "X-API-KEY": KEY})
        assert [found["sandboxID"] for found in answer.json()] == [sandbox.sandbox_id]


def test_another_sandboxs_token_opens_nothing(place: Any, sandbox: Any) -> None:
    other = place.client().Sandbox.create()
    sandbox.files.write("a", "1")
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49983"}
    for token in ("", "x", "é", other._envd_access_token):
        answer = httpx.get(
            f"{place.url}/files", params={"path": "a"}, headers=headers | {"X-Access-Token": token.encode()}
        )
        assert answer.status_code == 401
    remote = httpx.post(f"{place.url}/filesystem.Filesystem/ListDir", json={"path": ""}, headers=headers)
    assert (remote.status_code, remote.json()["code"]) == (401, "unauthenticated")
    unknown = httpx.get(f"{place.url}/files", params={"path": "a"}, headers=headers | {"E2b-Sandbox-Id": "nobody"})
    assert unknown.status_code == 401


def test_a_form_that_breaks_off_writes_nothing(place: Any, sandbox: Any) -> None:
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "X-Access-Token": sandbox._envd_access_token,
        "Content-Type": "multipart/form-data; boundary=b",
    }
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'
    answer = httpx.post(f"{place.url}/files", content=body, headers=headers)
    assert (answer.status_code, place.sessions.contents) == (400, {})


def test_a_gzip_body_that_is_none_is_refused(place: Any, sandbox: Any) -> None:
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "X-Access-Token": sandbox._envd_access_token,
        "Content-Type": "application/octet-stream",
        "Content-Encoding": "gzip",
    }
    answer = httpx.post(f"{place.url}/files", params={"path": "a"}, content=b"no gzip", headers=headers)
    assert (answer.status_code, place.sessions.contents) == (400, {})


def test_a_path_that_is_no_utf8_is_refused_and_nothing_is_written_under_another_name(place: Any, sandbox: Any) -> None:
    headers = {"X-Access-Token": sandbox._envd_access_token, "E2b-Sandbox-Id": sandbox.sandbox_id}
    for method in ("GET", "POST"):
        answer = httpx.request(method, f"{place.url}/files?path=a%ff", headers=headers, content=b"1")
        assert answer.status_code == 400
        assert "no UTF-8" in answer.text
    assert place.sessions.contents == {}


def test_watching_and_metadata_answer_a_clear_error(sandbox: Any) -> None:
    with pytest.raises(SandboxException, match="watching directories"):
        sandbox.files.watch_dir("/workspace")
    with pytest.raises(TemplateException):
        sandbox.files.write("a", "1", metadata={"k": "v"})


async def test_watching_by_a_stream_answers_a_clear_error(place: Any) -> None:
    sandbox = await place.client().AsyncSandbox.create()
    with pytest.raises(SandboxException, match="watching directories"):
        await sandbox.files.watch_dir("/workspace", on_event=print)
