"""Hold one Sandbox and start guests on request: run as a program of its own, as root or as an ordinary user.

Lines of JSON both ways. In: {"id", "do": "run" | "python" | "stop" | "kill", ...}. Out: {"id", "event": "ready" |
"output" | "ended" | "refused", ...}. Whatever falls out of a guest's tree on the host becomes a child of this program.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clawplane.sandbox.launch import Process, Sandbox, SandboxUnavailable
from clawplane.sandbox.policy import Limits, Listener, Overlay, Policy, ReadOnly, Scratch, Writable

_PR_SET_CHILD_SUBREAPER = 36
MOUNTS = {each.__name__: each for each in (ReadOnly, Writable, Scratch, Overlay)}


def tell(**event: Any) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def policy_of(request: dict[str, Any]) -> Policy:
    return Policy(
        mounts=tuple(MOUNTS[kind](**fields) for kind, fields in request.get("mounts", [])),
        environment=request.get("environment", {}),
        working_directory=request.get("working_directory", "/tmp"),
        limits=Limits(**request.get("limits", {})),
        listeners=tuple(Listener(host, port) for host, port in request.get("listeners", [])),
    )


async def follow(sandbox: Sandbox, request: dict[str, Any], running: dict[int, Process]) -> None:
    number = request["id"]
    policy = policy_of(request)
    if request["do"] == "python":
        zygote = await sandbox.zygote(key="attacks", python=sys.executable)
        script = request["script"]
        process = await sandbox.run_python(zygote, policy, script, interpreter=sys.executable, site_directories=[])
    else:
        process = await sandbox.run(policy, request["argv"])
    running[number] = process
    tell(id=number, event="ready", pid=process.pid)
    async for stream, block in process.output():
        tell(id=number, event="output", stream=stream, data=base64.b64encode(block).decode())
    verdict = await process.wait()
    for listening in process.listeners.values():
        listening.close()
    del running[number]
    tell(id=number, event="ended", verdict=asdict(verdict))


async def main(state_directory: Path, first_uid: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        sandbox = await Sandbox.open(state_directory=state_directory, first_uid=first_uid, uid_count=64)
    except SandboxUnavailable as problem:
        tell(id=0, event="refused", why=str(problem))
        return
    tell(id=0, event="ready", pid=0, mode=sandbox.cgroup_mode)
    running: dict[int, Process] = {}
    tasks: set[asyncio.Task[None]] = set()
    lines = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        request = json.loads(line)
        if request["do"] in ("run", "python"):
            task = asyncio.create_task(follow(sandbox, request, running))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif request["do"] == "stop" and request["id"] in running:
            task = asyncio.ensure_future(_stop(running[request["id"]]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        elif request["do"] == "kill" and request["id"] in running:
            running[request["id"]].kill()
    await sandbox.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _stop(process: Process) -> None:
    await process.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
