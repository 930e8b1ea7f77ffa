"""A holder of a runner token connects under the id of somebody else's runner: a whole server, a real link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from clawplane.domain.access import Scope
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.ids import RunnerId, new_ulid
from clawplane.link.connection import Link, LinkRefused
from clawplane.link.frames import ServerFrame, Welcome
from clawplane.link.protocol import Identity
from clawplane.settings import ServeSettings
from clawplane.wiring import ControlPlane, control_plane


class Server:
    """A control plane that listens."""

    def __init__(self, plane: ControlPlane, url: str) -> None:
        self.plane = plane
        self.url = url

    async def token(self, *, runner: str | None = None) -> str:
        _, secret = await self.plane.access.create(name="runner", scopes={Scope.RUNNER}, runner=runner)
        return secret

    @asynccontextmanager
    async def linked(self, token: str, runner: RunnerId) -> AsyncIterator[Link]:
        """Be a runner of this id; raises LinkRefused."""
        welcomed = asyncio.Event()

        def hear(frame: ServerFrame) -> None:
            if isinstance(frame, Welcome):
                welcomed.set()

        identity = Identity(
            runner=runner, name="r", version="0", capabilities=("workers",), labels={}, slots={"workers": 1}
        )
        link = Link(self.url, token, identity, hear, clock=SystemClock())
        running, greeted = asyncio.create_task(link.run()), asyncio.create_task(welcomed.wait())
        try:
            async with asyncio.timeout(20):
                await asyncio.wait([running, greeted], return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            yield link
        finally:
            for task in (running, greeted):
                task.cancel()
            await asyncio.gather(running, greeted, return_exceptions=True)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with control_plane(ServeSettings(data=tmp_path, port=port)) as plane:
        config = uvicorn.Config(plane.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        serving = uvicorn.Server(config)
        task = asyncio.create_task(serving._serve([listener]))
        yield Server(plane, f"http://127.0.0.1:{port}")
        serving.should_exit = True
        await task


def victim() -> RunnerId:
    return RunnerId(new_ulid(SystemClock().now_ms()))


async def test_another_runner_token_cannot_take_the_place_of_a_runner(server: Server) -> None:
    runner = victim()
    async with server.linked(await server.token(), runner) as first:
        with pytest.raises(LinkRefused, match="belongs to another key") as refused:
            async with server.linked(await server.token(), runner):
                pass
        assert f"--runner {runner}" in refused.value.reason
        assert first.linked
        assert server.plane.leases.connection_to(runner) is not None


async def test_nor_can_it_while_the_runner_is_away(server: Server) -> None:
    runner, token = victim(), await server.token()
    async with server.linked(token, runner):
        pass
    with pytest.raises(LinkRefused, match="belongs to another key"):
        async with server.linked(await server.token(), runner):
            pass
    async with server.linked(token, runner) as again:
        assert again.linked


async def test_an_operator_gives_a_runner_a_new_key_and_the_old_one_is_refused(server: Server) -> None:
    runner, old = victim(), await server.token()
    async with server.linked(old, runner):
        pass
    new = await server.token(runner=runner)
    async with server.linked(new, runner) as link:
        assert link.linked
        with pytest.raises(LinkRefused, match="belongs to another key"):
            async with server.linked(old, runner):
                pass


async def test_one_key_may_be_that_of_several_runners(server: Server) -> None:
    token = await server.token()
    async with server.linked(token, victim()) as one, server.linked(token, victim()) as other:
        assert one.linked
        assert other.linked


@pytest.mark.parametrize(
    ("runner", "scope"),
    [("r", Scope.RUNNER), ("", Scope.RUNNER), (victim(), Scope.WORKERS)],
    ids=["no-id", "empty", "another-scope"],
)
async def test_only_runner_keys_are_given_runners(server: Server, runner: str, scope: Scope) -> None:
    with pytest.raises(InvalidArgument, match="runner"):
        await server.plane.access.create(name="k", scopes={scope}, runner=runner)
