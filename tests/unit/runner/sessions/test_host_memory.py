"""How much memory there is and how much of it is free, as a played host says."""

from __future__ import annotations

from pathlib import Path

import pytest

from clawplane.runner.sessions.host_memory import free_share, memory_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("bounds", "memory"),
    [
        ({}, 8 * GIB),
        ({"memory.max": "max\n"}, 8 * GIB),
        ({"memory.max": f"{GIB}\n"}, GIB),
        ({"memory/memory.limit_in_bytes": f"{GIB}\n"}, GIB),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 8 * GIB),
    ],
    ids=["alone", "unbounded", "v2", "v1", "v1 unbounded"],
)
def test_a_container_has_no_more_memory_than_it_may_use(tmp_path: Path, bounds: dict[str, str], memory: int) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:        8388608 kB\nMemFree:         1 kB\n")
    for name, content in bounds.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    assert memory_size(tmp_path) == memory


@pytest.mark.parametrize(("version", "share"), [("host", 0.5), ("v2", 0.25), ("v1", 0.25), ("unbounded", 0.5)], ids=str)
def test_the_least_free_share_counts_and_page_cache_is_free(tmp_path: Path, version: str, share: float) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  500 kB\nHugePages: \n")
    group = tmp_path / "sys/fs/cgroup"
    (group / "memory").mkdir(parents=True)
    if version == "v2":
        (group / "memory.max").write_text("1000\n")
        (group / "memory.current").write_text("850\n")
        (group / "memory.stat").write_text("anon 750\ninactive_file 100\n")
    if version == "v1":
        (group / "memory/memory.limit_in_bytes").write_text("1000\n")
        (group / "memory/memory.usage_in_bytes").write_text("850\n")
        (group / "memory/memory.stat").write_text("rss 750\ntotal_inactive_file 100\n")
    if version == "unbounded":
        (group / "memory.max").write_text("max\n")
    assert free_share(tmp_path) == share
