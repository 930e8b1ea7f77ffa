"""Make the modules beside this file importable, and give every test the one server with nothing in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from e2b_place import Place  # noqa: E402 - found through the line above


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Yield one server for all."""
    found = Place(tmp_path_factory.mktemp("e2b"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def place(served: Place) -> Place:
    """Return the server with nothing in it."""
    served.sessions.clear()
    return served
