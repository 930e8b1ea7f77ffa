"""Environments and shells: what children inherit and who runs their commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.runner.host.environment import child_environment, extended_path, with_task_variables
from clawplane.runner.host.settings import host_settings
from clawplane.runner.host.shells import find_shell, shell_argv


def test_secrets_go_by_name_and_by_value_and_the_rest_stays() -> None:
    base = {
        "WORKER_TOKEN": "1",
        "WORKER_TOKEN_PREVIOUS": "1",
        "CALLBACK_BOT_TOKEN": "1",
        "DISCORD_BOT_TOKEN": "1",
        "OPENCLAW_HOOKS_TOKEN": "1",
        "CLAWPLANE_ANYTHING": "1",
        "CLAUDECODE": "1",
        "AUTH": "Bearer the-runners-token",
        "SHORT": "abc",
        "OPENAI_API_KEY": "stays",
        "GH_TOKEN": "stays",
        "PATH": "/bin",
        "HOME": "/wrong",
    }
    made = child_environment(base, home=Path("/h"), secrets=["the-runners-token", "abc", ""])
    assert made == {
        "SHORT": "abc",
        "OPENAI_API_KEY": "stays",
        "GH_TOKEN": "stays",
        "PATH": "/bin:/usr/local/bin:/opt/homebrew/bin",
        "HOME": "/h",
        "TERM": "xterm-256color",
    }


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("", "/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin"),
        ("/a::/b:/a", "/a:/b:/usr/local/bin:/opt/homebrew/bin"),
        ("/usr/local/bin:/x", "/usr/local/bin:/x:/opt/homebrew/bin"),
    ],
)
def test_the_platforms_directories_stand_behind_the_own_ones_once(path: str, made: str) -> None:
    assert extended_path(path) == made


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "x\0")])
def test_a_variable_that_cannot_be_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match="env: "):
        with_task_variables({}, {name: value})


@pytest.mark.parametrize(
    ("environment", "there", "shell"),
    [
        ({"WORKER_SHELL": "/w", "SHELL": "/s"}, {"/w", "/bin/zsh", "/s"}, "/w"),
        ({"WORKER_SHELL": "/w", "SHELL": "/s"}, {"/bin/zsh", "/s"}, "/bin/zsh"),
        ({"SHELL": "/s"}, {"/s", "/bin/bash"}, "/s"),
        ({"SHELL": "/s"}, {"/bin/bash"}, "/bin/bash"),
        ({}, set(), "/bin/sh"),
    ],
)
def test_the_first_shell_that_is_there_is_taken(environment: dict[str, str], there: set[str], shell: str) -> None:
    assert find_shell(environment, there.__contains__) == shell


@pytest.mark.parametrize("name", ["bash", "fish", "ksh", "sh", "zsh"])
def test_shells_that_know_logins_are_login_shells(name: str) -> None:
    assert shell_argv(f"/x/{name}", "c") == [f"/x/{name}", "-l", "-c", "c"]


def test_other_shells_are_not() -> None:
    assert shell_argv("/bin/tcsh", "c") == ["/bin/tcsh", "-c", "c"]


def test_numbers_of_the_contract_are_clamped_and_what_is_none_is_the_default(tmp_path: Path) -> None:
    assert (host_settings({}, None).slots, host_settings({}, None).timeout_ms) == (5, 600_000)
    clamped = host_settings({"MAX_CONCURRENT": "900", "CC_TIMEOUT": "1"}, None)
    assert (clamped.slots, clamped.timeout_ms) == (50, 1000)
    assert host_settings({"MAX_CONCURRENT": "many"}, None).slots == 5
    with pytest.raises(InvalidArgument, match="host policy cannot be read"):
        host_settings({}, tmp_path / "none.toml")
    (tmp_path / "p.toml").write_text('groups = ["files"]')
    assert host_settings({}, tmp_path / "p.toml").policy.groups == ("files",)


def test_secrets_are_wiped_from_what_proc_shows_of_this_process() -> None:
    program = """
import os
from clawplane.runner.host.environment import wipe_secrets
before = open("/proc/self/environ").read()
wipe_secrets()
shown = open("/proc/self/environ").read()
assert "the-token" in before and "the-key" in before
print([secret in shown for secret in ("the-token", "the-key", "stays")], sorted(os.environ))
"""
    env = {
        "WORKER_TOKEN": "the-token",
        "CLAWPLANE_API_KEY": "the-key",
        "CLAWPLANE_DATA": "stays",
        "LC_CTYPE": "C.UTF-8",
    }
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**env, **path}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[False, False, True] ['CLAWPLANE_DATA', 'LC_CTYPE', 'PYTHONPATH']\n", done.stderr
