"""Rows per second of an unmodified Python SDK Worker: our SDK server against an empty grpc.aio server.

    python -m bench.sdk_rows [--rows 4000] [--rounds 5]

Each round is a network namespace of its own with one server process (uvloop) on 127.0.0.1:20086 and one client process:
the SDK as `clawplane init python` writes it, one `push_data` per row of 200 bytes, one call in flight. Rounds of both
servers alternate, so that whatever else the machine does hits both. Needs the `dev` extra (grpcio) and `unshare`.
"""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench.report import Figure, median, show

ROOT = Path(__file__).resolve().parent.parent
MYSELF = (sys.executable, "-m", "bench.sdk_rows")
SDK_FILES = ROOT / "src" / "clawplane" / "sdk" / "templates" / "python"
BAR = 0.9
ADDRESS = ("127.0.0.1", 20086)
WARM_UP = 300
SERVERS = ("clawplane", "grpc.aio")

CLIENT = """
import json, sys, time
from sdk import CoreSDK
rows, warm_up = int(sys.argv[1]), int(sys.argv[2])
row = {"title": "x" * 20, "text": ""}
row["text"] = "y" * (200 - len(json.dumps(row)))
for number in range(warm_up):
    CoreSDK.Result.push_data(row)
began, used = time.perf_counter(), time.process_time()
for number in range(rows):
    if CoreSDK.Result.push_data(row).code != 0:
        sys.exit("a row was refused")
print(json.dumps({"seconds": time.perf_counter() - began, "cpu": time.process_time() - used}))
"""


async def serve_clawplane(say_ready: Callable[[], None], ended: Awaitable[object]) -> int:
    """Serve with SdkServer and a sink that counts."""
    from clawplane.sdk.server import SdkServer  # noqa: PLC0415  (the other server's process must not load it)
    from clawplane.sdk.subtask import ACCEPTED, HeaderItem, PushOutcome  # noqa: PLC0415

    class Sink:
        rows = 0

        def input_json(self) -> str:
            return "{}"

        async def set_header(self, items: list[HeaderItem]) -> None:
            pass

        async def push(self, row_json: str) -> PushOutcome:
            self.rows += 1
            return ACCEPTED

        async def log(self, level: int, text: str) -> None:
            pass

    sink = Sink()
    server = SdkServer(sink)
    await server.start(socket.create_server(ADDRESS))
    say_ready()
    await ended
    await server.stop()
    return sink.rows


async def serve_grpc_aio(say_ready: Callable[[], None], ended: Awaitable[object]) -> int:
    """Serve with grpc.aio and a method that does nothing but count."""
    import grpc  # noqa: PLC0415

    sys.path.insert(0, str(SDK_FILES))
    import sdk_pb2  # type: ignore[import-not-found]  # noqa: PLC0415

    rows = 0

    async def push(_request: Any, _context: Any) -> Any:
        nonlocal rows
        rows += 1
        return sdk_pb2.Response(code=0, message="ok")

    method = grpc.unary_unary_rpc_method_handler(
        push, request_deserializer=sdk_pb2.Data.FromString, response_serializer=sdk_pb2.Response.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("coresdk.Result", {"PushData": method})])
    server.add_insecure_port(f"{ADDRESS[0]}:{ADDRESS[1]}")
    await server.start()
    say_ready()
    await ended
    await server.stop(None)
    return rows


def server_role(which: str) -> None:
    """Be one server until SIGTERM; say "ready" on a line, and in the end the number of rows and the CPU time used."""
    import uvloop  # noqa: PLC0415

    async def serve() -> int:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        roles = {"clawplane": serve_clawplane, "grpc.aio": serve_grpc_aio}
        return await roles[which](lambda: print("ready", flush=True), ended.wait())

    rows = uvloop.run(serve())
    print(json.dumps({"rows": rows, "cpu": time.process_time()}), flush=True)


def round_role(which: str, rows: int) -> None:
    """Run one server and one client in the network namespace we were started in; print the figures."""
    raise_loopback()
    server = subprocess.Popen(
        [*MYSELF, "--server", which], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        measured = drive(server, rows)
        server.terminate()
        counted = json.loads(server.communicate(timeout=30)[0])
    finally:
        server.kill()
    print(
        json.dumps(
            {
                "rows_per_second": round(rows / measured["seconds"]),
                "lost": rows + WARM_UP - counted["rows"],
                "client_cpu_us": round(measured["cpu"] / rows * 1e6, 1),
                "server_cpu_us": round(counted["cpu"] / rows * 1e6, 1),
            }
        )
    )


def drive(server: "subprocess.Popen[str]", rows: int) -> dict[str, float]:
    """Run the client against a server that has started."""
    if server.stdout is None or server.stdout.readline() != "ready\n":
        raise SystemExit("the server did not start")
    environment = {**os.environ, "PYTHONPATH": str(SDK_FILES)}
    client = [sys.executable, "-c", CLIENT, str(rows), str(WARM_UP)]
    output = subprocess.run(client, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
    measured: dict[str, float] = json.loads(output)
    return measured


def raise_loopback() -> None:
    """Bring up the loopback device of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name, flags = struct.unpack_from("16sh", fcntl.ioctl(control, 0x8913, struct.pack("16sh14x", b"lo", 0)))
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", name, flags | 0x1))


def measure(which: str, rows: int) -> dict[str, float]:
    """Run one round in a namespace of its own."""
    command = ["unshare", "--map-root-user", "--net", *MYSELF, "--round", which, "--rows", str(rows)]
    measured: dict[str, float] = json.loads(
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    if measured["lost"]:
        raise SystemExit(f"{which}: {measured['lost']} rows were lost")
    return measured


def compare(rows: int, rounds: int) -> list[Figure]:
    """Alternate rounds of both servers and compare the medians."""
    found: dict[str, list[dict[str, float]]] = {which: [] for which in SERVERS}
    for _ in range(rounds):
        for which in SERVERS:
            found[which].append(measure(which, rows))
    figures = []
    speeds = {which: median([each["rows_per_second"] for each in found[which]]) for which in SERVERS}
    for which in reversed(SERVERS):
        ratio = speeds[which] / speeds["grpc.aio"]
        ours = which == "clawplane"
        figures.append(
            Figure(
                f"rows of an unmodified Python Worker, 1 in flight: {which}",
                speeds[which],
                "rows/s",
                bar=f">= {BAR:.0%} of empty" if ours else "",
                met=ratio >= BAR if ours else None,
                baseline="empty grpc.aio" if ours else "",
                ratio=ratio if ours else None,
                note=f"server CPU {median([each['server_cpu_us'] for each in found[which]]):.0f} us/row, no row lost",
            )
        )
    return figures


def main() -> None:
    """Measure and print; the hidden options are the roles of child processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000, help="rows per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per server")
    parser.add_argument("--server", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--round", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server:
        server_role(options.server)
    elif options.round:
        round_role(options.round, options.rows)
    else:
        show("SDK: rows over gRPC, one call each", compare(options.rows, options.rounds))


if __name__ == "__main__":
    main()
