"""Start, stop, order and backpressure of the SDK server."""

import asyncio
import json
import logging
import socket

import pytest
from sdk_actors import Connect, RecordedSubtask, Serve

from clawplane.sdk.server import SdkServer

from raw_client import DATA, END_HEADERS, GOAWAY, HEADERS, RST_STREAM, frame, message  # isort: skip


async def test_stop_may_come_twice_and_before_start(recorded: RecordedSubtask) -> None:
    server = SdkServer(recorded)
    await server.stop()
    await server.stop()


async def test_a_stopped_server_leaves_its_port_and_no_task(serve: Serve, recorded: RecordedSubtask) -> None:
    server, port = await serve()
    await server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_rows_still_in_the_socket_are_served_while_stopping(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve()
    client = await connect(port)
    client.send(client.call(1, b"0"))
    assert "'grpc-status': '0'" in await client.status(1)
    client.send(*[client.call(stream, str(stream).encode()) for stream in range(3, 40, 2)])
    client.writer.write_eof()
    await server.stop(drain_seconds=10)
    assert recorded.rows == ["0", *map(str, range(3, 40, 2))]


async def test_stopping_tells_clients_to_go_and_drops_those_that_stay(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    server, port = await serve()
    client = await connect(port)
    client.send(client.call(1))
    assert "'grpc-status': '0'" in await client.status(1)
    await server.stop(drain_seconds=0.01)
    assert await client.until(GOAWAY) is not None
    assert await client.next() is None


async def test_stopping_ends_a_call_that_waits_with_unavailable(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    recorded.hold = asyncio.Event()
    server, port = await serve()
    client = await connect(port)
    client.send(client.call(1, b"waiting"))
    while not recorded.rows:
        await asyncio.sleep(0)
    await server.stop(drain_seconds=0)
    assert recorded.pushing == 0
    status = await client.status(1)
    assert "'grpc-status': '14'" in status
    assert "the subtask is being stopped" in status


async def test_a_push_that_waits_holds_back_its_worker_and_nobody_else(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    recorded.hold = asyncio.Event()
    _, port = await serve()
    client = await connect(port)
    client.send(client.call(1, b"first"), client.call(3, b"a log line", path="/coresdk.Log/Info"))
    assert "'grpc-status': '0'" in await client.status(3)
    assert recorded.pushing == 1
    recorded.hold.set()
    assert "'grpc-status': '0'" in await client.status(1)


async def test_calls_sent_together_begin_in_the_order_of_arrival(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve()
    client = await connect(port)
    client.send(*[client.call(stream, str(stream).encode()) for stream in range(1, 60, 2)])
    await client.status(59)
    assert recorded.rows == [str(stream) for stream in range(1, 60, 2)]


async def test_bytes_that_come_one_by_one_make_the_same_calls(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve()
    client = await connect(port, greet=False)
    whole = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0) + client.call(1, b"slow")
    for byte in whole:
        client.send(bytes([byte]))
        await asyncio.sleep(0)
    assert "'grpc-status': '0'" in await client.status(1)
    assert recorded.rows == ["slow"]


async def test_a_call_whose_client_left_is_served_and_its_room_given_back(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    recorded.hold = asyncio.Event()
    server, port = await serve()
    client = await connect(port)
    client.send(client.call(1, b"row"), frame(RST_STREAM, 0, 1, b"\0\0\0\x08"))
    while not recorded.rows:
        await asyncio.sleep(0)
    assert server.held_bytes > 0
    recorded.hold.set()
    while server.held_bytes:
        await asyncio.sleep(0)
    client.send(client.call(3, b"next"))
    assert "'grpc-status': '0'" in await client.status(3)


async def test_an_input_with_no_window_to_send_it_waits_for_the_client(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    recorded.given_input = json.dumps({"text": "x" * 100_000})
    _, port = await serve()
    client = await connect(port, settings=b"\0\4\0\0\x10\0")  # a first window of 4096
    ask = client.request("/coresdk.Parameter/GetInputJSONString")
    client.send(frame(HEADERS, END_HEADERS, 1, ask), frame(DATA, 1, 1, b"\0" * 5))
    first = await client.until(DATA, 1)
    assert first is not None
    assert len(first.payload) == 4096
    client.send(client.call(3, b"small"))
    assert "'grpc-status': '0'" in await client.status(3)
    client.send(frame(8, 0, 1, b"\0\1\0\0"), frame(8, 0, 0, b"\0\4\0\0"), frame(8, 0, 1, b"\0\1\0\0"))
    received = len(first.payload)
    while (found := await client.next()) and found.kind == DATA:
        received += len(found.payload)
    assert received == 5 + 1 + 3 + len(recorded.given_input)


async def test_a_broken_port_of_the_platform_is_logged_and_the_worker_gets_internal(
    serve: Serve, connect: Connect, recorded: RecordedSubtask, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.failure = ValueError("details for the operator")
    _, port = await serve()
    client = await connect(port)
    with caplog.at_level(logging.ERROR):
        client.send(client.call(1))
        status = await client.status(1)
    assert "'grpc-status': '13'" in status
    assert "details" not in status
    assert "details for the operator" in caplog.text


async def test_too_many_columns_are_a_response_code_and_not_a_failure(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve()
    client = await connect(port)
    header = b"\x0a\x00" * 5000
    body = b"\0" + len(header).to_bytes(4, "big") + header
    client.send(
        frame(HEADERS, END_HEADERS, 1, client.request("/coresdk.Result/SetTableHeader")), frame(DATA, 1, 1, body)
    )
    answer = await client.until(DATA, 1)
    assert answer is not None
    assert answer.payload[5:].startswith(b"\x08\x01\x12")
    assert b"more than 4096 columns" in answer.payload


async def test_padding_priorities_and_unknown_frames_do_no_harm(
    serve: Serve, connect: Connect, recorded: RecordedSubtask
) -> None:
    _, port = await serve()
    client = await connect(port)
    head = b"\x03" + b"\0\0\0\0\x10" + client.request() + b"\0" * 3
    body = b"\x07" + message(b"padded") + b"\0" * 7
    client.send(frame(0xBE, 0, 0, b"?"), frame(HEADERS, END_HEADERS | 0x28, 1, head), frame(DATA, 0x9, 1, body))
    assert "'grpc-status': '0'" in await client.status(1)
    assert recorded.rows == ["padded"]
