"""Start the parts of clawplane apart from each other, so that each can be killed, stopped or cut off alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
for directory in (str(HERE), str(HERE.parents[1])):
    if directory not in sys.path:
        sys.path.insert(0, directory)

from fault_parts import Parts  # noqa: E402 - found in the directories above
from watched_proxy import WatchedProxy  # noqa: E402


@pytest.fixture
def parts(make_plane: Callable[..., Any], make_package: Callable[..., bytes]) -> Iterator[Parts]:
    """The parts of a plane of its own."""
    with Parts(make_plane(), make_package) as made:
        yield made


@pytest.fixture
def make_proxy(parts: Parts) -> Iterator[Callable[..., WatchedProxy]]:
    """Make proxies before the control plane; each is closed at the end."""
    proxies: list[WatchedProxy] = []

    def make(**options: Any) -> WatchedProxy:
        proxies.append(WatchedProxy(parts.plane.port, **options))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()
