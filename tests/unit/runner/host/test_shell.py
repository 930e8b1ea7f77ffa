"""Commands as people type them, through the real shell."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from clawplane.domain.host_tasks import Command
from clawplane.runner.host.policy import CommandPolicy, HostPolicy
from clawplane.runner.host.stopping import Stop


def command(text: str, timeout: int = 20_000) -> Command:
    return Command(command=text, timeout=timeout)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("x=5; echo $x", "5\n"),
        ("echo one\necho two", "one\ntwo\n"),
        ("echo '$HOME `id` $(id)'", "$HOME `id` $(id)\n"),
        ("echo `echo back` $(echo sub)", "back sub\n"),
        ("printf '%s|' \"a  b\" 'c\"d'", 'a  b|c"d|'),
        ("echo 'it'\"'\"'s'", "it's\n"),
        ("cat", ""),
        ("  echo kept  ", "kept\n"),
        ("printf 'no newline \\n\\n'", "no newline \n\n"),
    ],
)
async def test_a_command_prints_what_the_shell_itself_would_print(do, text: str, printed: str) -> None:
    report = await do(command(text))
    assert (report.stdout, report.exit_code, report.error) == (printed, 0, None)


async def test_both_streams_the_code_and_the_error_are_reported(do) -> None:
    report = await do(command("echo out; echo err >&2; exit 7"))
    assert (report.stdout, report.stderr, report.exit_code, report.error) == ("out\n", "err\n", 7, "Exit code 7")
    assert isinstance(report.duration, int)
    assert report.metadata == {}


async def test_an_empty_command_is_refused(do) -> None:
    report = await do(command("  \n "))
    assert (report.exit_code, report.error) == (1, "Empty command")


async def test_a_command_starts_in_the_home_directory_wherever_the_runner_was_started(do, home: Path) -> None:
    assert (await do(command("pwd; cd; pwd"))).stdout == f"{home}\n{home}\n"


async def test_a_task_may_name_its_directory(do, home: Path) -> None:
    (home / "a b").mkdir()
    for cwd in ("a b", "~/a b", str(home / "a b")):
        assert (await do(command("pwd"), cwd=cwd)).stdout == f"{home / 'a b'}\n"


async def test_a_directory_that_is_not_there_is_said_by_name(do, home: Path) -> None:
    report = await do(command("pwd"), cwd="nowhere")
    assert (report.exit_code, report.error) == (1, f"cwd: {home / 'nowhere'} is no directory on this runner")


async def test_a_command_sees_no_secret_of_the_runner_and_keeps_provider_keys(do) -> None:
    report = await do(command("env; cat /proc/$PPID/environ | tr '\\0' '\\n'"))
    for secret in ("worker-token", "bot-token", "discord-token", "hooks-token", "that-is-secret", "CLAUDECODE"):
        assert secret not in report.stdout
    assert "ANTHROPIC_API_KEY=kept-provider-key" in report.stdout


async def test_a_task_brings_variables_of_its_own(do) -> None:
    assert (await do(command('echo "$ONE"'), env={"ONE": "1 2"})).stdout == "1 2\n"
    report = await do(command("true"), env={"A=B": ""})
    assert (report.exit_code, report.error) == (1, "env: 'A=B' is no name of a variable.")


async def test_a_command_longer_than_an_argument_may_be_runs_whole(do) -> None:
    text = "x='" + "y" * 300_000 + "'; echo ${#x} 'a'"
    assert (await do(command(text))).stdout == "300000 a\n"


async def test_a_command_that_was_killed_failed_and_names_the_signal(do) -> None:
    report = await do(command("kill -9 $$"))
    assert (report.exit_code, report.error, report.metadata) == (137, "Exit code 137", {"signal": "SIGKILL"})
    assert not report.succeeded


async def test_a_timeout_keeps_what_was_printed(do) -> None:
    report = await do(command("echo before; sleep 600", timeout=300))
    assert (report.exit_code, report.error, report.stdout) == (-1, "Command timeout", "before\n")
    assert report.stderr == "Timeout"


async def test_a_timeout_leaves_the_commands_own_words_alone(do) -> None:
    assert (await do(command("echo why >&2; sleep 600", timeout=300))).stderr == "why\n"


async def test_a_hundred_timeouts_are_all_reported_alike(do) -> None:
    turns = asyncio.Semaphore(10)

    async def one(number: int) -> tuple[object, object]:
        async with turns:
            end = "trap 'exit 0' TERM; " if number % 2 else ""
            report = await do(command(f"{end}sleep 600", timeout=60))
            return report.exit_code, report.error

    assert set(await asyncio.gather(*map(one, range(100)))) == {(-1, "Command timeout")}


async def test_a_timeout_ends_the_sleeper_in_the_background_that_holds_stdout(do, tools) -> None:
    report = await do(command("sleep 600 & echo $!; wait", timeout=500))
    assert report.error == "Command timeout"
    assert tools.is_gone(int(report.stdout), seconds=0)


async def test_a_command_that_ignores_the_request_is_killed_with_all_that_left_its_group(do, tools) -> None:
    text = """
    trap '' TERM
    (setsid bash -c 'trap "" TERM; (setsid sleep 600 & echo $!); echo $$; while :; do sleep 1; done' &)
    echo $$; while :; do sleep 1; done
    """
    stop, heard = Stop(), tools.Heard()
    stop.grace = 0.2
    running = asyncio.create_task(do(command(text), stop=stop, tell=heard))
    await heard.until("\n", count=3)
    stop.cancel()
    report = await running
    pids = [int(line) for line in report.stdout.split()]
    assert len(pids) == 3
    assert all(tools.is_gone(pid, seconds=0) for pid in pids)
    assert (report.exit_code, report.error) == (-1, "Cancelled")


async def test_what_a_command_leaves_behind_is_ended_and_does_not_hold_the_report(do, tools) -> None:
    report = await do(command("(setsid sleep 600 & echo $!) ; echo done"))
    pid, done = report.stdout.split()
    assert (done, report.exit_code) == ("done", 0)
    assert tools.is_gone(int(pid), seconds=0)


async def test_a_runner_may_leave_alone_what_a_command_leaves_behind(make_house, tools) -> None:
    async with make_house(policy=HostPolicy(background="keep")) as house:
        report = await tools.do_in(house, command("sleep 600 >/dev/null 2>&1 & echo $!"))
        pid = int(report.stdout)
        try:
            assert not tools.is_gone(pid, seconds=0)
        finally:
            os.kill(pid, signal.SIGKILL)


async def test_output_without_end_is_cut_with_a_mark_and_kept_whole_in_a_private_file(make_house, tools) -> None:
    async with make_house(spill_bytes=15 << 20) as house:
        report = await tools.do_in(house, command("echo first; yes | head -c 30000000; echo last >&2; exit 3"))
    told = report.metadata["output"]["stdout"]
    assert report.stdout.startswith("first\ny\ny\n")
    assert f"[... {30_000_006 - (10 << 20)} bytes left out of 30000006 ...]" in report.stdout
    assert len(report.stdout) < (10 << 20) + 200
    assert (told["bytes"], told["saved"], told["complete"]) == (30_000_006, 15 << 20, False)
    kept = Path(told["path"])
    assert (kept.stat().st_size, kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (
        15 << 20,
        0o600,
        0o700,
    )
    assert (report.stderr, report.exit_code) == ("last\n", 3)


async def test_large_utf8_output_arrives_unchanged(do) -> None:
    report = await do(command("for i in $(seq 60000); do printf 'aé€😀'; done"))
    assert report.stdout == "aé€😀" * 60_000


async def test_output_is_told_while_the_command_runs(do, tools, home: Path) -> None:
    os.mkfifo(home / "gate")
    heard = tools.Heard()
    running = asyncio.create_task(do(command("echo ready; cat gate; echo end >&2"), tell=heard))
    await heard.until("ready\n")
    assert not running.done()
    gate = await asyncio.to_thread(os.open, home / "gate", os.O_WRONLY)
    os.write(gate, "é".encode())
    os.close(gate)
    report = await running
    assert (report.stdout, heard.text) == ("ready\né", {"stdout": "ready\né", "stderr": "end\n"})


async def test_a_runner_that_leaves_reports_the_signal(do, tools) -> None:
    stop, heard = Stop(), tools.Heard()
    running = asyncio.create_task(do(command("echo on; sleep 600"), stop=stop, tell=heard))
    await heard.until("on")
    stop.leave()
    report = await running
    assert (report.exit_code, report.error, report.metadata) == (143, "Exit code 143", {"signal": "SIGTERM"})


async def test_cancelling_the_call_ends_the_tree(do, tools) -> None:
    heard = tools.Heard()
    running = asyncio.create_task(do(command("sleep 600 & echo $!; wait"), tell=heard))
    await heard.until("\n")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tools.is_gone(int(heard.text["stdout"]), seconds=0)


async def test_the_prefix_filter_is_off_unless_asked_for(do, make_house, tools) -> None:
    assert (await do(command("true $(true)"))).exit_code == 0
    async with make_house(policy=HostPolicy(commands=CommandPolicy(prefix_filter=True))) as house:
        report = await tools.do_in(house, command("sudo ls"))
        assert (report.exit_code, report.error) == (126, "Command rejected by prefix filter")
        assert (await tools.do_in(house, command("echo fine"))).stdout == "fine\n"


async def test_a_policy_bounds_directories_and_gives_the_first_where_none_is_named(make_house, tools, home) -> None:
    (home / "src" / "inner").mkdir(parents=True)
    (home / "out").symlink_to("/")
    async with make_house(policy=HostPolicy(directories=("~/src",))) as house:
        assert (await tools.do_in(house, command("pwd"))).stdout == f"{home}/src\n"
        assert (await tools.do_in(house, command("pwd"), cwd="src/inner")).stdout == f"{home}/src/inner\n"
        for cwd in ("/", "out", "src/.."):
            report = await tools.do_in(house, command("pwd"), cwd=cwd)
            assert (report.exit_code, report.error) == (126, "Directory rejected by policy")


async def test_a_kind_of_task_that_the_policy_leaves_out_is_refused(make_house, tools) -> None:
    async with make_house(policy=HostPolicy(groups=("files",))) as house:
        assert house.groups == ("files",)
        report = await tools.do_in(house, command("id"))
        assert (report.exit_code, report.error) == (126, "This runner does no tasks of kind 'command'.")
