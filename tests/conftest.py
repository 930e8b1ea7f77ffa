"""What holds for every test: none is judged by the time it takes, and files that wait run beside files that compute.

A test of a main flow starts daemons and then mostly waits for them, for a lease to run out or a link to be given up;
most others keep a core busy. In the order of their names the ones would all wait at once while every core idles. So one
worker in three begins with those that wait, longest first, and the others with the rest; who is through with its own
takes of what is left. A file stays with one worker, as with `--dist loadfile`.
"""

from __future__ import annotations

import compileall
import gc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

try:
    from xdist.scheduler import LoadFileScheduling
except ImportError:  # then all tests run here, one after the other
    LoadFileScheduling = object

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SOURCE = Path(__file__).parents[1] / "src"
WAITING = (
    "tests/paths/faults/test_host_cut.py",
    "tests/paths/faults/",
    *(f"tests/paths/test_{name}.py" for name in ("faults", "worker", "deployment", "operation", "bad_input", "cli")),
    "tests/paths/",
)
"""Files and directories whose tests mostly wait, those first that take longest: else the last would be waited for."""
WORKERS_FOR_EACH_THAT_WAITS = 3


class BesideEachOther(LoadFileScheduling):  # type: ignore[misc]
    """Give files that wait to some workers and all others to the rest, as long as there are both."""

    def _assign_work_unit(self, node: Any) -> None:
        place = self.nodes.index(node)
        waiting = sorted((rank, name) for name in self.workqueue if (rank := rank_of(name)) is not None)
        computing = [name for name in self.workqueue if rank_of(name) is None]
        if waiting and (place % WORKERS_FOR_EACH_THAT_WAITS == 0 or not computing):
            chosen = waiting[0][1]
        else:
            chosen = computing[0]
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)


def rank_of(name: str) -> int | None:
    """Return how early a file that waits is to begin, and nothing for the others."""
    return next((rank for rank, start in enumerate(WAITING) if name.startswith(start)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BesideEachOther | None:
    """Take the place of `--dist loadfile`."""
    return BesideEachOther(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile once what hundreds of daemons import, even where the environment forbids each of them to keep it."""
    if not hasattr(session.config, "workerinput"):
        compileall.compile_dir(SOURCE, quiet=2)


def pytest_collection_finish() -> None:
    """Keep thousands of tests out of every later look for garbage, and out of what forks have to copy."""
    gc.collect()
    gc.freeze()
