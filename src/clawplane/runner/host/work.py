"""Host tasks as one runner does them over its link: the house, and the ends that were not reported yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from clawplane.domain.clock import Clock
from clawplane.domain.leases import Finish
from clawplane.runner.host.house import HostHouse, open_house
from clawplane.runner.host.settings import HostSettings
from clawplane.runner.host.spool import SpooledEnds
from clawplane.runner.identity import runner_id
from clawplane.runner.settings import RunnerSettings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostWork:
    """What the daemon needs for jobs of kind `host`."""

    house: HostHouse
    ends: SpooledEnds
    kept: tuple[Finish, ...]
    """Ends that an earlier life of this runner could not report."""

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Return one capability for each kind of task, such as host@command."""
        return tuple(f"host@{group}" for group in self.house.groups)


@asynccontextmanager
async def host_work(
    settings: RunnerSettings, host: HostSettings, environ: Mapping[str, str], clock: Clock
) -> AsyncIterator[HostWork]:
    """Open the house of a runner and read its spool; raises InvalidArgument."""
    async with open_house(
        host,
        data=settings.data,
        mark=runner_id(settings.data, clock),
        environ=environ,
        clock=clock,
        secrets=[settings.token],
        protected=settings.protected,
    ) as house:
        ends = SpooledEnds(house.spool)
        kept = tuple(await asyncio.to_thread(ends.load))
        if kept:
            _log.info("%d ends of host tasks are still to be reported", len(kept))
        _log.warning("This runner does host tasks (%s) with all the rights of its user", ", ".join(house.groups))
        path = house.environment["PATH"]
        for adapter in house.agents.values():
            if missing := adapter.missing(path):
                _log.info("%s", missing)
        yield HostWork(house, ends, kept)
