"""The polling runner as a process: `clawplane worker`, `reconciler` and `runner --poll`.

Start: own the data directory -> know who we are -> open the house -> send what an earlier life left -> poll.
Stop (SIGINT or SIGTERM): abort the poll -> end what runs -> report in the time that is left -> close in reverse. All of
it takes at most five seconds; a second signal changes nothing, SIGKILL leaves what is not acknowledged on disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager

from clawplane.callbacks.ways import open_courier
from clawplane.domain.clock import Clock, SystemClock
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import HostSpec, TaskReport
from clawplane.runner.host.callback_outbox import CallbackOutbox, TokenSeal
from clawplane.runner.host.doing import Voices
from clawplane.runner.host.execute import execute
from clawplane.runner.host.house import open_house
from clawplane.runner.host.poll_settings import PollSettings
from clawplane.runner.host.polling import Desk, Polling
from clawplane.runner.host.reporting import Reporter
from clawplane.runner.host.spool import Spool
from clawplane.runner.host.stopping import Stop
from clawplane.runner.host.task_api import TaskApi
from clawplane.runner.identity import own, runner_id

_log = logging.getLogger(__name__)


def nearby(seconds: float) -> float:
    """Return a wait between half and all of one, by chance."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret depends on it


async def run_worker(
    settings: PollSettings,
    *,
    environ: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    serving: Callable[[Polling], None] = lambda polling: None,
) -> None:
    """Poll and do tasks until SIGINT or SIGTERM; raises InvalidArgument and Conflict when it cannot start."""
    clock = clock or SystemClock()
    environ = dict(os.environ if environ is None else environ)
    try:
        courier = open_courier(settings.ways)
    except ValueError as error:
        raise InvalidArgument(str(error), hint="Correct or unset that variable.") from None
    async with AsyncExitStack() as stack:
        stack.enter_context(own(settings.data))
        runner = runner_id(settings.data, clock)
        ways = settings.ways
        house = await stack.enter_async_context(
            open_house(
                settings.host,
                data=settings.data,
                mark=runner,
                environ=environ,
                clock=clock,
                secrets=[settings.token, ways.bot_token, ways.hooks_token],
            )
        )
        api = await stack.enter_async_context(TaskApi(settings.url, settings.token))
        reporter = Reporter(api, house.spool, jitter=nearby, monotonic=clock.monotonic)
        letters = Spool(settings.data / "host" / "callbacks")
        stack.callback(letters.close)
        outbox = CallbackOutbox(letters, courier, api, TokenSeal(settings.token), clock, jitter=nearby)

        async def do(spec: HostSpec, stop: Stop, voices: Voices) -> TaskReport:
            return await execute(spec, house, stop=stop, voices=voices)

        stack.push_async_callback(reporter.close)
        stack.push_async_callback(outbox.close)
        left = (await reporter.start(), await outbox.start())
        if any(left):
            _log.info("%d reports and %d callbacks of an earlier run are still to be delivered", *left)
        desk = Desk(
            api=api, reporter=reporter, outbox=outbox, execute=do, groups=house.groups, clock=clock, jitter=nearby
        )
        polling = Polling(settings, runner, desk)
        stack.enter_context(_left_by_signals(polling))
        _log.warning(
            "This runner polls %s and does host tasks (%s) with all the rights of its user",
            settings.url,
            ", ".join(house.groups),
        )
        serving(polling)
        await polling.run()


@contextmanager
def _left_by_signals(polling: Polling) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, polling.leave)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
