"""What a guest may try against the SDK server: it gets a clear end, memory stays bounded, and the server lives on."""

import asyncio
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sdk_actors import Connect, RecordedSubtask, Serve

from clawplane.sdk.http2 import Connection, Http2Error
from clawplane.sdk.limits import Limits, Room

from raw_client import (  # isort: skip  (beside this file, see conftest)
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, RawClient,
    frame, message,
)  # fmt: skip


async def assert_still_serving(port: int, recorded: RecordedSubtask) -> None:
    """One honest call succeeds."""
    client = await RawClient.connect(port)
    client.send(client.call(1, b'"honest"'))
    assert "'grpc-status': '0'" in await client.status(1)
    assert recorded.rows[-1] == '"honest"'
    await client.close()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "this is not HTTP/2"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "this is not HTTP/2"),
        (PREFACE + frame(PING, 0, 0, b"8" * 8), "the first frame is not SETTINGS"),
        (PREFACE + frame(SETTINGS, 0, 0, b"12345"), "a malformed SETTINGS"),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"7" * 7), "a malformed PING"),
        (PREFACE + frame(SETTINGS, 0, 0) + b"\xff" * 100, "a frame of 16777215 bytes"),
        (
            PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 2, b"\x82"),
            "a request on a stream that clients cannot open",
        ),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, b"\xff" * 50), "a header block cannot be read: "),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, 0, 5, b"x"), "data for a stream that was never opened"),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(CONTINUATION, 4, 1, b""), "a CONTINUATION of nothing"),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, b"\x82") + frame(PING, 0, 0, b"8" * 8), "interrupted"),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\0"), "a window update of nothing"),
        (
            PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
            "a window that is too large",
        ),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(5, 4, 1, b"\0\0\0\2"), "a client cannot push"),
        (PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0xC, 1, b"\xff\x82"), "more padding than payload"),
    ],
)
async def test_what_is_not_http2_ends_its_own_connection_with_a_reason(
    serve: Serve, connect: Connect, recorded: RecordedSubtask, sent: bytes, reason: str
) -> None:
    _, port = await serve()
    client = await connect(port, greet=False)
    client.send(sent)
    assert reason in await client.reason()
    await assert_still_serving(port, recorded)


async def test_a_huge_length_prefix_is_refused_at_once_and_costs_no_memory(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve()
    client = await connect(port)
    client.send(frame(HEADERS, END_HEADERS, 1, client.request()), frame(DATA, 0, 1, b"\0\xff\xff\xff\xff{"))
    status = await client.status(1)
    assert "'grpc-status': '8'" in status
    assert "4294967295 bytes is larger than the limit of 67108864" in status
    assert (await client.until(RST_STREAM, 1)) is not None
    assert server.held_bytes == 0
    client.send(frame(DATA, 0, 1, b"late"), client.call(3, b"after"))
    assert "'grpc-status': '0'" in await client.status(3)


async def test_declared_lengths_reserve_one_turn_and_not_memory(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve(max_message=1 << 20)
    client = await connect(port)
    prefix = b"\0" + struct.pack(">I", 900_000)
    for stream in range(1, 20, 2):
        client.send(frame(HEADERS, END_HEADERS, stream, client.request()), frame(DATA, 0, stream, prefix))
    granted = await client.until(WINDOW_UPDATE, 1)
    assert granted is not None
    client.send(frame(PING, 0, 0, b"01234567"))
    while (found := await client.next()) and found.kind != PING:
        assert found.kind != WINDOW_UPDATE, "a second message was given room"
    assert server.held_bytes <= (1 << 20) + 10 * 5
    client.send(frame(RST_STREAM, 0, 1, b"\0\0\0\x08"))
    assert await client.until(WINDOW_UPDATE, 3) is not None, "the turn did not go to the next one"


async def test_more_data_than_the_window_ends_the_connection(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve(max_message=1 << 20)
    client = await connect(port)
    prefix = b"\0" + struct.pack(">I", 900_000)
    for stream in (1, 3):  # the first one gets the room, the second has to wait with its first window
        client.send(frame(HEADERS, END_HEADERS, stream, client.request()), frame(DATA, 0, stream, prefix))
    client.send(*[frame(DATA, 0, 3, b"x" * 16_000)] * 5)
    assert await client.reason() == "more data than the stream's window"
    await assert_still_serving(port, recorded)


async def test_a_thousand_streams_at_once_never_become_a_thousand_calls(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve(limits=Limits(max_streams=8))
    recorded.hold = asyncio.Event()
    client = await connect(port)
    client.send(*[client.call(stream) for stream in range(1, 2001, 2)])
    refused = 0
    while refused < 992 and (found := await client.until(RST_STREAM)):
        assert found.payload == b"\0\0\0\x07"  # REFUSED_STREAM: the client may try again
        refused += 1
    assert refused == 992
    assert recorded.most_pushing == 8
    recorded.hold.set()
    assert "'grpc-status': '0'" in await client.status(15)


async def test_a_connection_with_every_call_in_flight_and_every_first_window_full_is_served(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve()
    recorded.hold = asyncio.Event()
    client = await connect(port)
    announced = await client.until(SETTINGS)
    assert announced is not None
    assert struct.pack(">HI", 3, 100) in announced.payload
    body = message(b"x" * 65_000)
    pieces = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
    for stream in range(1, 201, 2):
        client.send(frame(HEADERS, END_HEADERS, stream, client.request()))
        client.send(*[frame(DATA, END_STREAM * (piece is pieces[-1]), stream, piece) for piece in pieces])
        await client.writer.drain()
    client.send(client.call(201))
    refused = await client.until(RST_STREAM)
    assert refused is not None
    assert (refused.stream, recorded.pushing) == (201, 100)
    assert server.held_bytes == 100 * len(body) <= Limits().max_small / 5
    recorded.hold.set()
    for stream in range(1, 201, 2):
        assert "'grpc-status': '0'" in await client.status(stream)
    assert server.held_bytes == 0


def test_answers_that_nobody_reads_share_one_large_input() -> None:
    connection = Connection(Limits(), Room(Limits()), lambda: 0.0, lambda: None)
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    ask = [frame(HEADERS, 4, n, GOOD_HEAD) + frame(DATA, 1, n, b"\0" * 5) for n in range(1, 201, 2)]
    connection.receive(b"".join([PREFACE, no_window, *ask]))
    calls = connection.take_calls()
    assert len(calls) == 100
    large = b"x" * (8 << 20)
    tracemalloc.start()
    for call in calls:
        connection.answer(call.stream_id, large)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < len(large)
    connection.take_output()
    connection.receive(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\3"))  # less than the prefix
    assert connection.take_output().endswith(frame(DATA, 0, 1, b"\0\0\x80"))
    connection.receive(frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\4"))
    assert connection.take_output().endswith(frame(DATA, 0, 1, b"\0\0xx"))


async def test_opening_and_resetting_streams_in_a_loop_piles_up_no_calls(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve(limits=Limits(max_streams=8, max_idle_frames=3_000))
    recorded.hold = asyncio.Event()
    client = await connect(port)
    for stream in range(1, 4001, 2):
        client.send(client.call(stream), frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
    assert await client.reason() == "too many frames without a call"
    assert recorded.most_pushing == 8
    recorded.hold.set()
    recorded.hold = None
    await assert_still_serving(port, recorded)


@pytest.mark.parametrize(
    "flood",
    [
        frame(PING, 0, 0, b"01234567"),
        frame(SETTINGS, 0, 0),
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
        frame(2, 0, 1, b"\0\0\0\0\1"),
        frame(0xEE, 0, 0, b"who knows"),
    ],
    ids=["ping", "settings", "window", "priority", "unknown"],
)
async def test_a_flood_of_frames_without_calls_ends_the_connection(
    serve: Serve, connect: Connect, recorded: RecordedSubtask, flood: bytes
) -> None:
    _, port = await serve(limits=Limits(max_idle_frames=500))
    client = await connect(port)
    client.send(flood * 600)
    assert await client.reason() == "too many frames without a call"
    await assert_still_serving(port, recorded)


async def test_empty_pieces_of_a_message_count_as_a_flood(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve(limits=Limits(max_idle_frames=500))
    client = await connect(port)
    client.send(frame(HEADERS, END_HEADERS, 1, client.request()), frame(DATA, 0, 1) * 600)
    assert await client.reason() == "too many frames without a call"


async def test_endless_header_blocks_end_the_connection(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve()
    client = await connect(port)
    client.send(frame(HEADERS, 0, 1, b"\x82" * 16_000), frame(CONTINUATION, 0, 1, b"\x82" * 16_000))
    assert await client.reason() == "a header block is too long"


async def test_a_header_bomb_is_not_inflated(serve: Serve, connect: Connect, recorded: RecordedSubtask) -> None:
    _, port = await serve()
    client = await connect(port)
    bomb = b"\x40\x01a\x7f\x81\x1e" + b"v" * 4_000 + b"\xbe" * 12_000  # one entry of 4 kB, 12,000 times
    client.send(frame(HEADERS, END_HEADERS, 1, bomb[:16_384]))
    assert await client.reason() == "a header block cannot be read: OversizedHeaderListError"


async def test_a_client_that_never_greets_is_dropped(serve: Serve, connect: Connect, recorded: RecordedSubtask) -> None:
    _, port = await serve(limits=Limits(handshake_seconds=0.05))
    client = await connect(port, greet=False)
    client.send(PREFACE[:10])
    assert await client.reason() == "no HTTP/2 greeting came"


async def test_a_half_open_call_is_ended_and_its_room_given_back(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve(limits=Limits(stall_seconds=0.05))
    client = await connect(port)
    client.send(frame(HEADERS, END_HEADERS, 1, client.request()), frame(DATA, 0, 1, message(b"x" * 99_000)[:10_000]))
    status = await client.status(1)
    assert "'grpc-status': '4'" in status
    assert "did not arrive in time" in status
    assert server.held_bytes == 0
    client.send(client.call(3))
    assert "'grpc-status': '0'" in await client.status(3)


async def test_a_header_block_that_never_ends_is_ended(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve(limits=Limits(stall_seconds=0.05))
    client = await connect(port)
    client.send(frame(HEADERS, 0, 1, b"\x82"))
    assert await client.reason() == "a header block does not end"


async def test_connections_beyond_the_limit_are_closed_and_a_place_becomes_free_again(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve(limits=Limits(max_connections=3))
    clients = [await connect(port) for _ in range(3)]
    for client in clients:
        assert await client.until(SETTINGS)
    extra = await connect(port)
    assert await extra.next() is None
    clients[0].send(frame(PING, 0, 0, b"bad"))
    await clients[0].reason()
    await assert_still_serving(port, recorded)


async def test_a_client_that_does_not_read_is_not_read_from(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    recorded.given_input = '"' + "x" * 1_000_000 + '"'
    server, port = await serve()
    wide = struct.pack(">HI", 4, (1 << 31) - 1)  # a window that never ends
    client = await connect(port, settings=wide)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    client.send(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", (1 << 31) - 1 - 65_535)))
    ask = "/coresdk.Parameter/GetInputJSONString"
    empty = b"\0" * 5
    for stream in range(1, 64, 2):
        client.send(frame(HEADERS, END_HEADERS, stream, client.request(ask)), frame(DATA, END_STREAM, stream, empty))
    await assert_still_serving(port, recorded)
    (stuck,) = [peer._transport for peer in server._peers if peer._full]
    assert stuck is not None
    assert stuck.get_write_buffer_size() < 2 << 20
    assert not stuck.is_reading()
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert "'grpc-status': '0'" in await client.status(63)


async def test_many_small_unfinished_calls_are_refused_when_their_memory_is_full(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve(limits=Limits(max_small=20_000))
    client = await connect(port)
    part = message(b"x" * 60_000)[:9_000]
    for stream in (1, 3, 5):
        client.send(frame(HEADERS, END_HEADERS, stream, client.request()), frame(DATA, 0, stream, part))
    status = await client.status(5)
    assert "'grpc-status': '8'" in status
    assert "too many unfinished calls" in status
    assert server.held_bytes == 18_000


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", "13", "ended before its message"),
        (b"\0\0\0\0\x05ab", "13", "ended before its message"),
        (b"\0\0\0\0\x01\x0a\x00rest", "13", "more than one message"),
        (b"\0\0\0\0\x03\x0a\x05x", "3", "field 1 is longer than its message"),
        (b"\0\0\0\0\x04\x0a\x02\xff\xfe", "3", "text is not UTF-8"),
        (b"\0\0\0\0\x01\x0b", "3", "unknown wire type 3"),
        (b"\0\0\0\1\0" + b"\x10\0" * 128, "3", "more than 64 fields"),
    ],
)
async def test_malformed_messages_fail_their_own_call_only(
    serve: Serve, connect: Connect, recorded: RecordedSubtask, body: bytes, status: str, words: str
) -> None:
    _, port = await serve()
    client = await connect(port)
    client.send(frame(HEADERS, END_HEADERS, 1, client.request()), frame(DATA, END_STREAM, 1, body), client.call(3))
    answer = await client.status(1)
    assert f"'grpc-status': '{status}'" in answer
    assert words in answer
    assert "'grpc-status': '0'" in await client.status(3)


async def test_what_is_http2_but_no_grpc_is_unimplemented(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve()
    client = await connect(port)
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, client.request(**{"content-type": "text/html"})))
    assert "only gRPC calls are served here" in await client.status(1)


GOOD_HEAD = b"\x83\x86\x04\x18/coresdk.Result/PushData\x0f\x10\x10application/grpc"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                frame, st.integers(0, 12), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5]), st.binary(max_size=40)
            ),
            st.builds(
                lambda stream, flags, text: frame(HEADERS, 4, stream, GOOD_HEAD) + frame(DATA, flags, stream, text),
                st.sampled_from([1, 3, 5, 7]),
                st.integers(0, 1),
                st.one_of(st.binary(max_size=30), st.just(message(b"{}"))),
            ),
        ),
        max_size=12,
    ),
    st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_no_bytes_whatsoever_make_more_than_a_protocol_error(parts: list[bytes], greet: bool, at_once: bool) -> None:
    room = Room(Limits())
    connection = Connection(Limits(), room, lambda: 0.0, lambda: None)
    greeting = [PREFACE, frame(SETTINGS, 0, 0)] if greet else []
    received = [b"".join(greeting + parts)] if at_once else greeting + parts
    try:
        for part in received:
            connection.receive(part)
            connection.take_output()
    except Http2Error as error:
        connection.fail(error)
    connection.take_output()
    connection.lost()
    for call in connection.take_calls():
        connection.answer(call.stream_id, b"\x12\x02ok")
    assert room.held == 0
    assert connection.calls_open == 0
