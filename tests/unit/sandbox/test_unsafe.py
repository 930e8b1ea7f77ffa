"""The launcher without a sandbox keeps its books and hides nothing about itself."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clawplane.sandbox.policy import Limits, Listener, Overlay, Policy, ReadOnly, Scratch
from clawplane.sandbox.process import Process
from clawplane.sandbox.unsafe import UnsafeLauncher


@pytest.fixture
async def launcher(tmp_path: Path) -> AsyncIterator[UnsafeLauncher]:
    opened = UnsafeLauncher(state_directory=tmp_path / "state")
    yield opened
    await opened.close()


async def _text(process: Process) -> str:
    blocks = [block async for _, block in process.output()]
    verdict = await process.wait()
    assert verdict.succeeded, verdict
    return b"".join(blocks).decode()


def test_it_says_what_it_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        UnsafeLauncher(state_directory=tmp_path)
    assert "UNSAFE" in caplog.text


async def test_a_program_runs_with_the_policys_environment_only(launcher: UnsafeLauncher) -> None:
    process = await launcher.run(Policy(environment={"A": "1"}), ["env"])
    assert sorted(line.split("=")[0] for line in (await _text(process)).split()) == ["A", "HOME", "LANG", "PATH"]


async def test_paths_of_the_guest_become_paths_of_the_host(launcher: UnsafeLauncher, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    source = "import os, sys; open('new', 'w'); print(sys.argv[1], os.environ['X'], os.listdir('.'), extra.V)"
    (package / "main.py").write_text(f"import extra\n{source}")
    site = tmp_path / "site"
    site.mkdir()
    (site / "extra.py").write_text("V = 7")
    policy = Policy(
        mounts=(Overlay(str(package), "/app"), ReadOnly("/usr", "/data"), Scratch("/scratch")),
        working_directory="/app",
        environment={"X": "/data/share:/elsewhere"},
    )
    zygote = await launcher.zygote(key="x", python=sys.executable)
    process = await launcher.run_python(
        zygote,
        policy,
        "/app/main.py",
        interpreter=sys.executable,
        site_directories=[str(site)],
        arguments=["/data/bin"],
    )
    words = (await _text(process)).split(maxsplit=2)
    assert words[:2] == ["/usr/bin", "/usr/share:/elsewhere"]
    assert "'new'" in words[2]
    assert words[2].endswith("7\n")
    assert not (package / "new").exists()
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "limits", "reason"),
    [
        (["sh", "-c", "exit 4"], Limits(), "exit"),
        (["sh", "-c", "kill -9 $$"], Limits(), "signal"),
        (["sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60"], Limits(wall=0.2, grace=0.2), "timeout"),
        (["yes"], Limits(output=10_000), "output"),
        (["no-such-program"], Limits(), "setup"),
    ],
)
async def test_verdicts_are_told_apart(launcher: UnsafeLauncher, argv: list[str], limits: Limits, reason: str) -> None:
    process = await launcher.run(Policy(limits=limits), argv)
    verdict = await asyncio.wait_for(process.wait(), 30)
    assert verdict.reason == reason, verdict


async def test_stopping_ends_the_process_group(launcher: UnsafeLauncher) -> None:
    process = await launcher.run(Policy(limits=Limits(grace=0.2)), ["sh", "-c", "sleep 60 & echo $!; wait"])
    child = int((await anext(process.output()))[1])
    pidfd = os.pidfd_open(child)
    assert (await process.stop()).reason == "aborted"
    os.close(pidfd)


async def test_a_listener_is_on_the_hosts_own_loopback(launcher: UnsafeLauncher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    listener = Listener("127.0.0.1", port)
    process = await launcher.run(Policy(listeners=(listener,)), ["true"])
    with socket.create_connection(("127.0.0.1", port)):
        pass
    second = await launcher.run(Policy(listeners=(listener,)), ["true"])
    verdict = await second.wait()
    assert verdict.reason == "setup"
    assert str(port) in verdict.detail
    verdict = await process.wait()
    assert verdict.succeeded, verdict
    process.listeners[listener].close()
