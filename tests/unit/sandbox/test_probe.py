from __future__ import annotations

import collections
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox import landlock, probe, seccomp, trials
from clawplane.sandbox.cgroups import Cgroups
from clawplane.sandbox.probe import Finding, Host

EXPECTED = {
    "user-namespaces",
    "uid-range",
    *(f"{kind}-namespace" for kind in trials.NAMESPACES),
    "loopback",
    "proc",
    "overlay",
    "mount-setattr",
    "seccomp",
    "openat2",
    "pidfd",
    "landlock",
    *(f"cgroup-{name}" for name in ("memory", "pids", "cpu", "freezer", "moves")),
    "interpreter",
    "dev-null",
    "node",
    "disk",
}


def finding(findings: list[Finding], key: str) -> Finding:
    (found,) = [each for each in findings if each.id == key]
    return found


@pytest.fixture
def settings() -> Iterator[Callable[..., Host]]:
    """Return a maker of hosts with these kernel settings, in a place that ordinary users can read."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        root.chmod(0o755)

        def make(**values: str) -> Host:
            for name, value in values.items():
                path = root / "proc/sys" / name.replace("__", "/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(value + "\n")
            return Host(root=root)

        yield make


def without_namespaces(host: Host) -> Callable[[], list[dict[str, Any]]]:
    """Probe under a filter that refuses namespaces, as a container or a security module does."""

    def run() -> list[dict[str, Any]]:
        seccomp.install(seccomp.build_filter())
        return [asdict(each) for each in probe.probe(host)]

    return run


def test_everything_is_looked_at_once_and_this_host_can_run_sandboxes() -> None:
    findings = probe.probe()
    assert sorted(each.id for each in findings) == sorted(EXPECTED)
    assert probe.refusals(findings) == []


def test_an_ordinary_user_can_run_sandboxes_too(as_nobody: Any) -> None:
    assert as_nobody(lambda: [asdict(each) for each in probe.refusals(probe.probe())]).value == []


def test_whatever_is_missing_has_a_cause_and_a_remedy(as_nobody: Any, settings: Any) -> None:
    findings = [Finding(**each) for each in as_nobody(without_namespaces(settings())).value]
    missing = [each for each in findings if not each.ok]
    assert {"user-namespaces", "network-namespace", "proc", "overlay"} <= {each.id for each in missing}
    assert all(each.cause and each.remedy for each in missing)
    assert "user-namespaces" in {each.id for each in probe.refusals(findings)}


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("kernel__apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("kernel__unprivileged_userns_clone", "0", "unprivileged_userns_clone"),
        ("user__max_user_namespaces", "0", "max_user_namespaces"),
    ],
)
def test_the_setting_that_forbids_user_namespaces_is_named(
    setting: str, value: str, named: str, as_nobody: Any, settings: Any
) -> None:
    findings = [Finding(**each) for each in as_nobody(without_namespaces(settings(**{setting: value}))).value]
    refused = finding(findings, "user-namespaces")
    assert not refused.ok
    assert refused.critical
    assert named in refused.cause
    assert "sysctl" in refused.remedy


def test_a_container_that_forbids_them_is_told_which_options_to_give(in_child: Any, settings: Any) -> None:
    findings = [Finding(**each) for each in in_child(without_namespaces(settings())).value]
    assert "seccomp=unconfined" in finding(findings, "user-namespaces").remedy


def test_a_trial_leaves_no_trace_in_the_caller() -> None:
    before = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    mounts = Path("/proc/self/mounts").read_text()
    for trial in (trials.mount_overlay, trials.mount_proc, trials.seal_mounts, trials.filter_calls):
        assert trials.attempt(trial) == ""
    assert {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")} == before
    assert Path("/proc/self/mounts").read_text() == mounts


def test_a_trial_that_fails_says_why_and_one_that_dies_says_so() -> None:
    def refuse() -> None:
        raise OSError(1, "not today")

    assert "not today" in trials.attempt(refuse)
    assert "status 7" in trials.attempt(lambda: os._exit(7))


def test_slow_moves_between_cgroups_are_measured(tmp_path: Path) -> None:
    procs = tmp_path / "cgroup.procs"
    procs.touch()
    assert trials.attempt(trials.join_quickly([str(procs)], pause=0, bar=10)) == ""
    assert trials.attempt(trials.join_quickly([str(procs)], pause=0, bar=-1)).endswith(" ms")


def test_missing_controllers_weaken_and_do_not_forbid(tmp_path: Path) -> None:
    nothing = Cgroups.detect(mountinfo="", root=tmp_path)
    memory = finding(probe.probe(cgroups=nothing), "cgroup-memory")
    assert (memory.ok, memory.critical) == (False, False)
    assert "rlimits" in memory.cause
    assert "Delegate=yes" in memory.remedy


def test_a_null_device_that_is_a_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").write_text("")
    found = finding(probe.probe(Host(root=tmp_path)), "dev-null")
    assert (found.ok, found.critical) == (False, True)
    assert "mknod" in found.remedy


def test_an_interpreter_that_is_closed_to_guests_is_noticed(tmp_path: Path) -> None:
    interpreter = tmp_path / "python"
    interpreter.write_text("")
    interpreter.chmod(0o700)
    found = finding(probe.probe(Host(interpreter=interpreter)), "interpreter")
    assert found.ok == (os.geteuid() != 0)  # an ordinary user's guests are the same user
    gone = finding(probe.probe(Host(interpreter=tmp_path / "gone")), "interpreter")
    assert not gone.ok


def test_a_kernel_without_landlock_runs_sandboxes_with_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    found = finding(probe.probe(), "landlock")
    assert (found.ok, found.critical) == (False, False)


@pytest.mark.parametrize(("mebibytes", "critical"), [(100, True), (2000, False)])
def test_a_full_disk_forbids_and_a_filling_one_warns(
    mebibytes: int, critical: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, mebibytes << 20))
    found = finding(probe.probe(Host(data=Path("/nowhere/yet"))), "disk")
    assert (found.ok, found.critical) == (False, critical)
    assert str(mebibytes) in found.cause
