"""Shell and Node in a session."""

from __future__ import annotations

import pytest

from clawplane.domain.asks import Reset


async def test_a_shell_command_sees_the_files_of_the_interpreter(stay):
    await stay.python("open('/workspace/a.txt', 'w').write('hello')")
    assert (await stay.shell("cat a.txt")).stdout == "hello"


async def test_a_command_that_fails_is_told_with_its_exit_code(stay):
    result = await stay.shell("echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.error, result.exit_code) == ("out\n", "err\n", "exit code 7", 7)


async def test_the_exit_code_of_the_last_command_counts(stay):
    assert (await stay.shell("false; echo $?; true")).stdout == "1\n"


async def test_a_command_is_killed_as_a_whole_at_its_limit(stay, in_time):
    command = "echo begun; (sleep 1000 & setsid sleep 1000 & wait)"
    result = await in_time(lambda: stay.shell(command, timeout=0.5), seconds=0.75)
    assert (result.status, result.stdout) == ("timeout", "begun\n")
    assert (await stay.shell("pgrep -c sleep || true")).stdout.strip() == "0"


async def test_a_program_in_the_background_lives_on_until_the_reset(stay):
    result = await stay.shell("(while true; do echo tick; sleep 0.05; done) & echo started")
    assert "started\n" in result.stdout
    assert (await stay.shell("pgrep -c bash")).stdout == "1\n"
    await stay.ask("reset", Reset()).answer()
    assert (await stay.shell("pgrep -c sleep || true")).stdout.strip() == "0"


async def test_standard_input_is_what_the_caller_gives(stay):
    assert (await stay.shell("tr a-z A-Z", stdin="abc")).stdout == "ABC"


async def test_a_command_gets_variables_and_a_directory(stay):
    await stay.shell("mkdir sub")
    result = await stay.shell("pwd; echo $X", environment={"X": "1"}, directory="sub")
    assert result.stdout == "/workspace/sub\n1\n"


@pytest.mark.parametrize("directory", ["../..", "/etc", "absent"])
async def test_a_directory_outside_or_absent_is_refused(stay, directory):
    with pytest.raises(Exception, match=r"directory|absent"):
        await stay.shell("pwd", directory=directory)


async def test_a_very_long_command_runs(stay):
    assert (await stay.shell(f"echo {'x' * 300_000} | wc -c")).stdout.strip() == "300001"


async def test_no_variable_of_the_runner_is_visible(stay, monkeypatch):
    monkeypatch.setenv("CLAWPLANE_SECRET", "s3cr3t")
    shown = (await stay.shell("env")).stdout
    assert "s3cr3t" not in shown
    assert "ALL_PROXY=http://127.0.0.1:3128" in shown
    assert "FTP_PROXY=socks5h://127.0.0.1:1080" in shown


async def test_a_package_that_a_command_installs_can_be_imported_afterwards(stay):
    assert "ModuleNotFoundError" in (await stay.python("import brandnew")).error
    await stay.shell("d=$(python3 -m site --user-site) && mkdir -p $d && echo 'x = 1' > $d/brandnew.py")
    assert (await stay.python("import brandnew; brandnew.x")).results[0]["text/plain"] == "1"


async def test_node_runs_and_requires(stay):
    result = await stay.python("1")
    result = await stay.start("console.log(require('path').basename(process.cwd()))", tool="node").answer()
    assert (result.stdout, result.error) == ("workspace\n", None)


async def test_an_unhandled_rejection_of_node_is_an_error(stay):
    result = await stay.start("Promise.reject(new Error('no'))", tool="node").answer()
    assert result.error == "exit code 1"
    assert "Error: no" in result.stderr
