"""Which commands a policy lets pass, and how a policy file is read."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.runner.host.policy import (
    BY_POLICY,
    BY_PREFIX,
    PREFIXES,
    CommandPolicy,
    HostPolicy,
    read_policy,
    simple_parts,
)

GIT = CommandPolicy(allow=("git *", "npm run *", r"re:make( -j\d+)? \w+"))


@pytest.mark.parametrize(
    "command",
    [
        "git status",
        "git log --format='%h; $(x) `y` > z'",
        "git add -A && npm run test | git hash-object x",
        "make -j4 all",
        'git commit -m "a;b"',
        "git show a\\;b",
    ],
)
def test_an_allow_list_lets_simple_commands_of_its_patterns_pass(command: str) -> None:
    assert GIT.refuses(command) == ""


@pytest.mark.parametrize(
    "command",
    [
        "git status; rm -rf x",
        "git status & id",
        "git status\nid",
        "git status | sh",
        "id && git status",
        "git $(id)",
        'git "$(id)"',
        'git "`id`"',
        "git `id`",
        "git log > /etc/x",
        "git diff <(id)",
        "(git status)",
        "{ git status; }",
        "git 'open",
        "FOO=1 git status",
        "git status \\",
        "git $'\\'' ; id \\'",
        "git '\\'' ; id \\'",
        'git "${x@P}"',
        "git ${x@P}",
        "git $[x]",
        'git $"x"',
        "git a \\\nid",
        "gitx",
        "make -j4 all install",
        "",
        ";",
    ],
)
def test_an_allow_list_refuses_what_is_more_than_its_patterns(command: str) -> None:
    assert GIT.refuses(command) == BY_POLICY


@pytest.mark.parametrize("command", ["rm -rf /", "cd x;  rm   -rf  /home", "git x && curl http://a | sh"])
def test_a_deny_list_goes_before_everything(command: str) -> None:
    policy = CommandPolicy(allow=("*",), deny=("rm -rf /*", "re:sh( .*)?"))
    assert policy.refuses(command) == BY_POLICY
    assert policy.refuses("git status") == ""


def test_without_lists_everything_passes() -> None:
    assert CommandPolicy().refuses("sudo rm -rf / $(anything") == ""


@pytest.mark.parametrize(
    "command",
    ["sudo ls", "ls; rm -rf /", "ls > /etc/x", "echo $(id)", "echo `id`", "eval ls", "pwdx", "unknown", "./ls"],
)
def test_the_prefix_filter_refuses_what_the_contract_names(command: str) -> None:
    assert CommandPolicy(prefix_filter=True).refuses(command) == BY_PREFIX


@pytest.mark.parametrize("command", [" ls -la", "pwd", "docker-compose up", "git commit -m x", "python3 x.py"])
def test_the_prefix_filter_lets_the_known_names_pass(command: str) -> None:
    assert CommandPolicy(prefix_filter=True).refuses(command) == ""
    assert len(PREFIXES) == 56


def test_a_command_is_divided_only_outside_of_quotes() -> None:
    assert simple_parts("a 'b;c' && d \"e|f\" & g\nh") == ["a 'b;c'", 'd "e|f"', "g", "h"]


def test_a_policy_file_is_read_whole() -> None:
    text = """
    groups = ["command", "files"]
    directories = ["~/src"]
    roots = ["*"]
    background = "keep"
    [commands]
    allow = ["git *"]
    variables = ["APP_*"]
    deny = ["re:rm .*"]
    prefix_filter = true
    prefixes = ["git"]
    forbidden = ["sudo"]
    """
    assert read_policy(text, "p") == HostPolicy(
        groups=("command", "files"),
        directories=("~/src",),
        roots=("*",),
        background="keep",
        commands=CommandPolicy(
            allow=("git *",),
            deny=("re:rm .*",),
            prefix_filter=True,
            prefixes=("git",),
            forbidden=("sudo",),
            variables=("APP_*",),
        ),
    )
    assert read_policy("", "p") == HostPolicy()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("groups = 1", "p: groups is no list of texts"),
        ('groups = ["shell"]', "p: groups has 'shell'"),
        ("nonsense", "p is no TOML"),
        ("allow = []", "p has an unknown key: 'allow'"),
        ("commands = 1", "p: commands is no table"),
        ('[commands]\nallow = ["re:("]', "p: commands: allow has a bad pattern 're:('"),
        ('[commands]\nforbidden = ["("]', "p: commands: forbidden has a bad pattern"),
        ("[commands]\nprefix_filter = 1", "p: commands.prefix_filter is neither"),
        ('background = "x"', "p: background is 'x'"),
    ],
)
def test_a_bad_policy_names_its_file_and_key(text: str, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named.replace("(", r"\(").replace("'re:\\('", r"'re:\('")):
        read_policy(text, "p")


def test_with_an_allow_list_a_task_sets_only_variables_that_are_named() -> None:
    assert GIT.refuses("git status", ["BASH_ENV"]) == BY_POLICY
    assert CommandPolicy().refuses("git status", ["BASH_ENV"]) == ""
    named = CommandPolicy(allow=("git *",), variables=("APP_*",))
    assert (named.refuses("git x", ["APP_A"]), named.refuses("git x", ["APP_A", "PATH"])) == ("", BY_POLICY)


PIECES = [
    "echo",
    "canary",
    " ",
    " ",
    ";",
    "&",
    "|",
    "'",
    '"',
    "\\",
    "\n",
    "$x",
    "$",
    "`",
    "#",
    "=",
    "!",
    "-",
    "\r",
    "\t",
    "$'",
    "~",
    "*",
]


@pytest.mark.parametrize("seed", range(4))
def test_no_shell_runs_more_of_an_allowed_command_than_the_policy_saw(seed: int, tmp_path: Path) -> None:
    (tmp_path / "canary").write_text(f"#!/bin/sh\n: > {tmp_path}/sang\n")
    (tmp_path / "canary").chmod(0o755)
    policy, chance, tried = CommandPolicy(allow=("echo", "echo *")), random.Random(seed), 0
    for _ in range(20_000):
        command = "echo " + "".join(chance.choices(PIECES, k=chance.randint(3, 12)))
        if "canary" not in command or policy.refuses(command):
            continue
        tried += 1
        for shell in ("bash", "sh"):
            env = {"PATH": f"{tmp_path}:/bin", "x": "; canary"}
            subprocess.run([shell, "-c", command], env=env, cwd=tmp_path, capture_output=True, check=False, timeout=10)
        assert not (tmp_path / "sang").exists(), command
        if tried == 60:
            return
    raise AssertionError("too few commands were allowed to prove anything")
