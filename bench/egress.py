"""Measure the way out: connections and bytes through the relay's SOCKS5 and HTTP proxies, next to going there directly.

The server, the relay and the client are three processes, all on loopback. Direct and proxied rounds alternate, so that
all see the same machine. `python -m bench.egress [rounds]`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

import uvloop

from bench.report import Figure, median, percentile, show
from clawplane.egress.ledger import Ledger
from clawplane.egress.relay import Relay
from clawplane.egress.resolver import Resolver
from clawplane.egress.rules import OperatorRules
from clawplane.egress.ways import Direct

ROUNDS = 400
BYTES = 256 << 20
IDLE = 200
HOST = "localhost"


def listen() -> socket.socket:
    """Return a listening socket on loopback."""
    return socket.create_server(("127.0.0.1", 0), backlog=512)


def serve_far(listener: socket.socket) -> None:
    """Answer `p` with `p`, and `d` with BYTES bytes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readexactly(1)
            block = bytes(1 << 18)
            for _ in range(BYTES // len(block) if asked == b"d" else 0):
                writer.write(block)
                await writer.drain()
            writer.write(asked)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, sock=listener)
        await server.serve_forever()

    uvloop.run(main())


def serve_relay(socks: socket.socket, http: socket.socket, far_port: int) -> None:
    """Serve both proxies as the runner does."""

    async def main() -> None:
        rules = OperatorRules.read(trusted_hosts=[f"{HOST}:{far_port}"]).rules()
        relay = Relay(rules, Ledger(), Direct(Resolver()))
        await relay.serve_socks(socks)
        await relay.serve_http(http)
        await asyncio.Event().wait()

    uvloop.run(main())


def directly(port: int) -> socket.socket:
    """Connect without any proxy."""
    return socket.create_connection(("127.0.0.1", port))


def over_socks(proxy: int, port: int) -> socket.socket:
    """Connect by SOCKS5, as clients do: one step after the other."""
    connection = socket.create_connection(("127.0.0.1", proxy))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"\x05\x01\x00")
    connection.recv(2)
    connection.sendall(b"\x05\x01\x00\x03" + bytes([len(HOST)]) + HOST.encode() + port.to_bytes(2, "big"))
    if connection.recv(10)[1]:
        raise SystemExit("the relay refused")
    return connection


def over_http(proxy: int, port: int) -> socket.socket:
    """Connect by HTTP CONNECT."""
    connection = socket.create_connection(("127.0.0.1", proxy))
    connection.sendall(f"CONNECT {HOST}:{port} HTTP/1.1\r\nHost: {HOST}:{port}\r\n\r\n".encode())
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        raise SystemExit("the relay refused")
    return connection


Connect = Callable[[], socket.socket]


def first_byte(connect: Connect) -> float:
    """Return the time in ms from nothing to the first byte of the far end."""
    began = time.perf_counter()
    with connect() as connection:
        connection.sendall(b"p")
        connection.recv(1)
        return (time.perf_counter() - began) * 1000


def throughput(connect: Connect) -> float:
    """Return MB/s of one download."""
    with connect() as connection:
        connection.sendall(b"d")
        buffer, left, began = bytearray(1 << 20), BYTES + 1, time.perf_counter()
        while left > 0 and (count := connection.recv_into(buffer)):
            left -= count
        return BYTES / (time.perf_counter() - began) / 1e6


def idle_cpu(connect: Connect, pid: int) -> float:
    """Return the share of a core in % that the relay takes for IDLE connections that say nothing."""

    def ticks() -> int:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    kept = [connect() for _ in range(IDLE)]
    before, began = ticks(), time.perf_counter()
    time.sleep(3)
    used = (ticks() - before) / (time.perf_counter() - began)  # a tick is 10 ms: 100 of them a second are a core
    for connection in kept:
        connection.close()
    return used


def main() -> None:
    """Run all rounds and print the figures."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    far, socks, http = listen(), listen(), listen()
    port, socks_port, http_port = (each.getsockname()[1] for each in (far, socks, http))
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=serve_far, args=(far,), daemon=True),
        context.Process(target=serve_relay, args=(socks, http, port), daemon=True),
    ]
    for process in processes:
        process.start()
    ways: dict[str, Connect] = {
        "direct": partial(directly, port),
        "SOCKS5": partial(over_socks, socks_port, port),
        "HTTP CONNECT": partial(over_http, http_port, port),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for turn in range(rounds):
            for name, connect in ways.items():
                times[name].append(first_byte(connect))
                if turn < 3:
                    rates[name].append(throughput(connect))
        idle = idle_cpu(ways["SOCKS5"], processes[1].pid or 0)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    base = median(times["direct"])
    figures = [Figure("first byte, direct, p50", base, "ms")]
    for name in ("SOCKS5", "HTTP CONNECT"):
        for share, label in ((0.5, "p50"), (0.99, "p99")):
            extra = percentile(times[name], share) - percentile(times["direct"], share)
            bar = "< 1 ms" if share == 0.5 else ""
            figures.append(
                Figure(f"more for {name}, {label}", extra * 1000, "us", bar, extra < 1 if bar else None, "", None)
            )
    figures.append(Figure("download, direct", median(rates["direct"]), "MB/s"))
    for name in ("SOCKS5", "HTTP CONNECT"):
        rate = median(rates[name])
        figures.append(Figure(f"download, {name}", rate, "MB/s", "", None, "direct", rate / median(rates["direct"])))
    figures.append(Figure(f"CPU for {IDLE} idle connections", idle, "%", "< 1 %", idle < 1))
    show("Egress: the relay next to a direct connection", figures)


if __name__ == "__main__":
    main()
