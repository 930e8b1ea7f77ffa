"""The attack list on this host's own sandbox, and what the report says of attacks that succeed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from clawplane.sandbox.policy import Verdict
from clawplane.sandbox.selftest.items import Attack, Outcome, ended_by, refused, says
from clawplane.sandbox.selftest.report import Report, Result
from clawplane.sandbox.selftest.running import attack, attacks

RUN = """
import asyncio, json
from clawplane.sandbox.selftest import attack
print(json.dumps(asyncio.run(attack(lambda result: None)).as_json()))
"""


@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_every_attack_fails_on_this_host(user: str, tmp_path: Path) -> None:
    here = os.geteuid()
    if user == "root" and here != 0:
        pytest.skip("only root can run the sandbox as root")
    change = {"user": 64_123, "group": 64_123, "extra_groups": []} if user == "ordinary" and here == 0 else {}
    done = subprocess.run(  # a process of its own, because it may be another user
        [sys.executable, "-c", RUN], cwd="/", capture_output=True, text=True, timeout=110, check=False, **change
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    broken = [each for each in report["results"] if each["status"] == "broken"]
    assert broken == []
    assert report["ok"]
    assert report["counted"]["held"] >= 50
    assert {each["number"] for each in report["results"]} == set(range(1, 71))


def one(**changes: object) -> Attack:
    values = {"number": 99, "title": "tries", "expected": "refused", "judge": refused("EPERM"), "code": "say(['done'])"}
    return Attack(**{**values, **changes})  # type: ignore[arg-type]


async def test_an_attack_that_succeeds_is_reported_as_broken() -> None:
    heard: list[Result] = []
    report = await attack(heard.append, attacks=lambda canary: [one(), one(title="rare", critical=False)])
    assert [each.status for each in heard] == ["broken", "broken"]
    assert not report.ok
    assert "BROKEN  99  tries: refused -- it got done" in report.as_text()
    assert "run no foreign code" in report.as_text()


async def test_an_attack_that_is_not_critical_does_not_spoil_the_report() -> None:
    report = await attack(lambda result: None, attacks=lambda canary: [one(critical=False)])
    assert report.ok
    only = await attack(lambda result: None, attacks=lambda canary: [one(critical=False)], only_critical=True)
    assert 99 not in {each.number for each in only.results}


async def test_a_change_of_the_host_is_broken_whatever_the_attack_says() -> None:
    def reaching_out(canary: str) -> Sequence[Attack]:
        def judge(outcome: Outcome) -> str:
            Path(canary).write_text("changed")
            return ""

        return [one(judge=judge)]

    report = await attack(lambda result: None, attacks=reaching_out)
    assert [each.happened for each in report.results if each.number == 99] == ["the host changed: the canary file"]


async def test_an_attack_that_needs_a_program_that_is_absent_is_not_tried() -> None:
    report = await attack(lambda result: None, attacks=lambda canary: [one(needs="no-such-program")])
    assert [each.status for each in report.results if each.number == 99] == ["not tried"]
    assert report.ok


def outcome(output: str = "", *, reason: str = "exit", cgroups: bool = True, **verdict: int) -> Outcome:
    return Outcome(output, "", Verdict(reason=reason, **verdict), cgroups)  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["", "no json", "[]", '{"a": 1}', "null"])
def test_a_guest_that_says_nothing_useful_has_not_been_refused(output: str) -> None:
    assert refused("EPERM")(outcome(output, exit_code=1))


def test_a_wrong_answer_and_a_wrong_end_are_named() -> None:
    assert says([])(outcome('["x"]')) == 'it said ["x"]'
    assert ended_by("timeout", within_ms=100)(outcome(reason="timeout", wall_ms=300)) == "it ended after 300 ms"
    assert ended_by("memory")(outcome(exit_code=0)) == "it ended by exit (exit code 0)"


def test_without_cgroups_a_guest_may_end_by_its_own_error_but_not_well() -> None:
    judge = ended_by("memory", polled=("exit",))
    assert judge(outcome(exit_code=1, cgroups=False)) == ""
    assert judge(outcome(exit_code=0, cgroups=False)) == "it ended well"
    assert judge(outcome(exit_code=1, cgroups=True))


def test_titles_say_what_the_attacker_does_and_are_told_apart() -> None:
    listed = [(each.number, each.title) for each in attacks("/nowhere/canary")]
    assert len(set(listed)) == len(listed)


def test_the_report_names_what_the_host_lacks() -> None:
    lacking = [{"ok": False, "title": "Landlock", "cause": "Off."}]
    report = Report(user="root", cgroup_mode="v1", features=lacking, results=[])
    assert "lacks: Landlock. Off." in report.as_text()
