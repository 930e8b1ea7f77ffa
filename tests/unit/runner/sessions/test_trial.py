"""Sessions start on a host only when its critical attacks have failed."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawplane.domain.clock import ManualClock
from clawplane.runner.jobs.job import CannotPrepare
from clawplane.runner.sessions.trial import PROGRESS, Trial, Unproven, finding_of, remembered
from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.policy import Policy
from clawplane.sandbox.selftest import Report, Result, attack, attacks
from clawplane.sandbox.selftest.items import Attack, says
from clawplane.sandbox.unsafe import UnsafeLauncher


def result(**changes: Any) -> Result:
    values = {"number": 7, "title": "looks for files", "expected": "none", "status": "broken", "critical": True}
    return Result(**{"happened": "it got done", **values, **changes})


def report(*results: Result) -> Report:
    return Report(user="tests", cgroup_mode="none", features=[], results=results)


class Attacks:
    """Attacks whose outcome a test decides; `held` keeps them under way."""

    def __init__(self, *outcomes: Report | Exception) -> None:
        self.outcomes = list(outcomes)
        self.count = 0
        self.held = asyncio.Event()
        self.held.set()

    async def __call__(self, sandbox: Sandbox) -> Report:
        self.count += 1
        await self.held.wait()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def trial(sandbox: Sandbox, tmp_path: Path, attacks: Attacks, **more: Any) -> Trial:
    return Trial(sandbox, tmp_path / "selftest.json", clock=ManualClock(), attacks=attacks, **more)


async def tried(tried: Trial) -> Trial:
    tried.begin()
    try:
        async with asyncio.timeout(30):
            await tried.passed()
    finally:
        await tried.close()
    return tried


async def test_the_critical_attacks_fail_in_the_runner_s_own_sandbox_with_several_at_once(sandbox: Sandbox) -> None:
    heard: list[Result] = []
    found = await attack(heard.append, only_critical=True, isolation=sandbox, at_once=3)
    assert [each for each in found.results if each.status == "broken"] == []
    assert len(heard) >= 50
    assert (await (await sandbox.run(Policy(), ["true"])).wait()).succeeded  # it was not closed


async def test_an_attack_that_was_only_late_beside_others_is_tried_again_alone(sandbox: Sandbox) -> None:
    late, got = "it ended after 900 ms", "it got done"
    for told, status in (
        ([late, late, ""], "held"),
        ([late] * 4, "broken"),
        ([late, got, ""], "broken"),
        ([got, ""], "broken"),  # a race that is won once is won
    ):
        outcomes = iter(told)
        listed = [
            Attack(number=98, title="is tried", expected="", judge=lambda _, o=outcomes: next(o), code="say(1)"),
            Attack(number=99, title="holds", expected="", judge=says(1), code="say(1)"),
        ]
        found = await attack(lambda _: None, attacks=lambda _, these=listed: these, isolation=sandbox, at_once=2)
        assert [each.status for each in found.results if each.number > 90] == [status, "held"]


async def test_without_a_sandbox_the_attacks_that_look_succeed_and_others_are_not_begun(tmp_path: Path) -> None:
    open_host = UnsafeLauncher(state_directory=tmp_path)
    try:
        with pytest.raises(ValueError, match="would harm"):
            await attack(lambda _: None, isolation=open_host)

        def looks(canary: str) -> list[Attack]:
            return [each for each in attacks(canary) if each.harmless]

        found = await attack(lambda _: None, attacks=looks, isolation=open_host, at_once=2)
    finally:
        await open_host.close()
    assert {each.title for each in found.results if each.status == "broken"} == {
        "looks for files of the host",
        "reads the account file",
    }
    assert not found.ok


async def test_a_pass_is_remembered_for_as_long_as_the_facts_are_the_same(sandbox: Sandbox, tmp_path: Path) -> None:
    attacks = Attacks(report(result(status="held")), report())
    await tried(trial(sandbox, tmp_path, attacks))
    again = trial(sandbox, tmp_path, attacks)
    again.begin()
    assert not again.under_way
    assert attacks.count == 1
    kept = remembered(tmp_path / "selftest.json")
    assert kept is not None
    assert kept.facts["kernel"]
    older = msgspec.structs.replace(kept, facts={**kept.facts, "kernel": "5.15"})
    (tmp_path / "selftest.json").write_bytes(msgspec.json.encode(older))
    await tried(trial(sandbox, tmp_path, attacks))
    assert attacks.count == 2


async def test_a_damaged_memory_is_no_pass(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "selftest.json").write_text('{"facts": {}')
    attacks = Attacks(report())
    await tried(trial(sandbox, tmp_path, attacks))
    assert attacks.count == 1


async def test_a_critical_item_that_succeeds_is_named_logged_and_told(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    failing = trial(sandbox, tmp_path, Attacks(report(result())))
    failing.listen(told.append)
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(Unproven, match=r"7 \(looks for files: it got done\)") as no,
    ):
        await tried(failing)
    assert "clawplane selftest" in no.value.hint
    assert told == [no.value.message]
    assert any("item 7" in record.getMessage() for record in caplog.records)
    kept = remembered(tmp_path / "selftest.json")
    assert kept is not None
    finding = finding_of(kept)
    assert not finding.ok
    assert "item 7" in finding.cause
    assert "clawplane selftest" in finding.remedy


async def test_an_item_that_is_not_critical_forbids_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    await tried(trial(sandbox, tmp_path, Attacks(report(result(critical=False)))))


async def test_attacks_that_end_by_a_defect_count_as_a_failure(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(Unproven, match="could not be tried"):
        await tried(trial(sandbox, tmp_path, Attacks(RuntimeError("oh"))))
    with pytest.raises(Unproven, match="no more processes"):
        await tried(trial(sandbox, tmp_path, Attacks(OSError("no more processes"))))


async def test_a_failure_is_not_believed_at_the_next_start_and_tried_again_after_a_while(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    with pytest.raises(Unproven):
        await tried(trial(sandbox, tmp_path, Attacks(report(result()))))
    told: asyncio.Queue[str] = asyncio.Queue()
    mended = trial(sandbox, tmp_path, Attacks(report(result()), report()), retry_seconds=0.0)
    mended.listen(told.put_nowait)
    mended.begin()
    assert mended.under_way
    async with asyncio.timeout(30):
        assert [bool(await told.get()), bool(await told.get())] == [True, False]
        await mended.passed()
    await mended.close()


async def test_no_session_is_opened_before_the_attacks_have_failed(open_house, begin) -> None:
    attacks = Attacks(report())
    attacks.held.clear()
    house = await open_house(attacks=attacks)
    await house.profiles.ensure("bare")
    assert house.progress("bare") == PROGRESS
    opening = asyncio.create_task(begin(house))
    done, _ = await asyncio.wait([opening], timeout=0.3)
    assert not done
    attacks.held.set()
    stay = await opening
    assert (await stay.python("1+1")).error is None


async def test_a_session_on_a_host_that_fails_is_refused_with_the_item(open_house, begin) -> None:
    house = await open_house(attacks=Attacks(report(result())))
    with pytest.raises(CannotPrepare, match="item 7"):
        await begin(house)


async def test_who_waits_is_told_for_what_and_the_answer_says_it_too(open_house, arriving) -> None:
    attacks = Attacks(report())
    attacks.held.clear()
    house = await open_house(attacks=attacks)
    await house.profiles.ensure("bare")
    stay = arriving(house)
    asked = stay.start("1 + 1")
    beginning = asyncio.create_task(stay.begin())
    await asked.until(lambda: any(event.text == PROGRESS for event in asked.events))
    attacks.held.set()
    await beginning
    result = await asked.answer()
    assert result.results[0]["text/plain"] == "2"
    assert PROGRESS in " ".join(result.notes)
    assert (await stay.python("1")).notes == ()
    stay.job.kill()
    await stay.end()
