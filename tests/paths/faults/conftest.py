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
from host_parts import TOKEN as TASK_API_TOKEN  # noqa: E402
from host_parts import HostParts  # noqa: E402
from request_proxy import RequestProxy  # noqa: E402
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


@pytest.fixture
def host(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostParts]:
    """A plane's Task API; the daemons that a test starts get its token and nothing of the user's own agents."""
    monkeypatch.setenv("WORKER_TOKEN", TASK_API_TOKEN)
    monkeypatch.setenv("WORKER_SHELL", "/bin/sh")
    made = HostParts(parts)
    yield made
    made.http.close()


@pytest.fixture
def make_request_proxy(parts: Parts) -> Iterator[Callable[..., RequestProxy]]:
    """Make proxies before the Task API; each is closed at the end."""
    proxies: list[RequestProxy] = []

    def make(watch: Callable[[str], bool] = lambda what: True) -> RequestProxy:
        proxies.append(RequestProxy(parts.plane.port, watch))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()
