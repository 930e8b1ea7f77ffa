"""A bot token reaches one address and no other, and a message arrives as it is."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime

import pytest
from receiver import Heard, Say, in_turn, receiver

from clawplane.callbacks.answers import CannotSend, NotAllowed, retry_after
from clawplane.callbacks.chat import Chat, segment

TOKEN = "bot-token-of-a-test"


async def test_a_message_arrives_below_the_base_path_with_the_bot_token() -> None:
    async with receiver(in_turn(Say(204, b""))) as played:
        chat = Chat(f"{played.url}/api/v10")
        answer = await chat.send("12345", "Grüße \U0001f600 @everyone", TOKEN)
        await chat.close()
    (heard,) = played.heard
    assert (answer.status, answer.good) == (204, True)
    assert (heard.method, heard.target) == ("POST", "/api/v10/channels/12345/messages")
    assert heard.headers["authorization"] == f"Bot {TOKEN}"
    assert heard.headers["content-type"] == "application/json"
    assert heard.json == {"content": "Grüße \U0001f600 @everyone"}


@pytest.mark.parametrize(
    ("channel", "shown"),
    [("slash:123", "123"), ("channel:123", "123"), (" 42 ", "42"), ("#general", "%23general"), ("@me", "%40me")],
)
def test_a_channel_is_one_encoded_segment_without_its_prefix(channel: str, shown: str) -> None:
    assert segment(channel) == shown


@pytest.mark.parametrize(
    "channel",
    [
        "../../../evil?x=1",
        "..",
        ".",
        "",
        "a/b",
        "a%2fb",
        "1?x",
        "a b",
        "slash:",
        "slash:../x",
        "x" * 201,
        "a\nb",
        "1\\2",
    ],
)
async def test_a_channel_of_another_shape_sends_no_request(channel: str) -> None:
    async with receiver(in_turn(Say())) as played:
        chat = Chat(played.url)
        with pytest.raises(NotAllowed):
            await chat.send(channel, "text", TOKEN)
        await chat.close()
    assert played.heard == []


@pytest.mark.parametrize("token", ["", " ", "a\r\nX-Evil: 1", "ä"])
async def test_nothing_is_sent_without_a_token_that_a_header_can_carry(token: str) -> None:
    async with receiver(in_turn(Say())) as played:
        chat = Chat(played.url)
        with pytest.raises(NotAllowed):
            await chat.send("1", "text", token)
        await chat.close()
    assert played.heard == []


async def test_the_token_does_not_follow_a_redirect() -> None:
    async with (
        receiver(in_turn(Say())) as other,
        receiver(in_turn(Say(307, headers={"Location": other.url}))) as played,
    ):
        chat = Chat(played.url)
        answer = await chat.send("1", "text", TOKEN)
        await chat.close()
        assert other.heard == []
    assert (answer.status, answer.permanent) == (307, True)


async def test_a_refused_connection_is_told_without_the_address() -> None:
    async with receiver(in_turn(Say())) as played:
        pass
    chat = Chat(played.url)
    with pytest.raises(CannotSend, match="the connection failed"):
        await chat.send("1", "text", TOKEN)
    await chat.close()


async def test_a_server_that_hangs_up_is_told() -> None:
    async with receiver(in_turn(Say(hang_up=True))) as played:
        chat = Chat(played.url)
        with pytest.raises(CannotSend, match="without an answer"):
            await chat.send("1", "text", TOKEN)
        await chat.close()


async def test_https_goes_through_the_proxy_by_connect_and_shows_it_no_token() -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked.put(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chat = Chat("https://chat.example/api", proxy=f"http://127.0.0.1:{port}")
    with pytest.raises(CannotSend, match="proxy"):
        await chat.send("1", "text", TOKEN)
    await chat.close()
    server.close()
    head = await asked.get()
    assert head.startswith(b"CONNECT chat.example:443 HTTP/1.1\r\n")
    assert TOKEN.encode() not in head


def test_plain_http_does_not_use_the_proxy() -> None:
    async def main() -> list[Heard]:
        async with receiver(in_turn(Say())) as played:
            chat = Chat(played.url, proxy="http://127.0.0.1:1")
            await chat.send("1", "text", TOKEN)
            await chat.close()
            return played.heard

    assert len(asyncio.run(main())) == 1


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "7"}, "", 7.0),
        ({"retry-after": "0.5"}, "", 0.5),
        ({"retry-after": "Fri, 20 Nov 2026 10:00:30 GMT"}, "", 30.0),
        ({"retry-after": "Fri, 20 Nov 2020 10:00:30 GMT"}, "", 0.0),
        ({"retry-after": "soon"}, json.dumps({"retry_after": 1.25}), 1.25),
        ({}, json.dumps({"retry_after": 2}), 2.0),
        ({"retry-after": "-3"}, "", 0.0),
        ({"retry-after": "1e9"}, "", 3600.0),
        ({"retry-after": "nan"}, "[]", None),
        ({}, "<html>", None),
        ({}, '{"retry_after": true}', None),
    ],
)
def test_the_asked_wait_is_read_from_the_header_or_the_body(
    headers: dict[str, str], body: str, seconds: float | None
) -> None:
    assert retry_after(headers, body, now=datetime(2026, 11, 20, 10, tzinfo=UTC)) == seconds
