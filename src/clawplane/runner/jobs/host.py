"""Do one host task under a lease: its output is told while it runs, its end is on disk before it is reported.

    stop (Cancel)           terminate, kill after the grace; what was printed until then is reported
    part (the runner goes)  the same, sooner; it is reported as ended by a signal, for nobody may do it twice unasked
    kill (Drop)             at once, and nothing is reported

What is told live is a courtesy: a link that is cut for a while must not hold a command back, so lines for which there
is no room are left out and counted. The report has what was printed.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final, cast

import msgspec

from clawplane.domain.batches import ERROR, INFO, LogSource
from clawplane.domain.host_tasks import HostSpec, TaskReport
from clawplane.domain.leases import Claim, Finish, Offer, Outcome
from clawplane.link.asking import Asking
from clawplane.runner.host.agents.events import AgentEvent
from clawplane.runner.host.doing import Voices
from clawplane.runner.host.execute import execute
from clawplane.runner.host.house import HostHouse
from clawplane.runner.host.spool import SpooledEnds
from clawplane.runner.host.stopping import Stop
from clawplane.runner.host.tool_desk import ToolDesk
from clawplane.runner.jobs.job import Answering, Unrepeatable
from clawplane.runner.lines import LineReader
from clawplane.runner.shipping import Shipper

_QUIET_SECONDS: Final = 0.5


class HostJob(Answering, Unrepeatable):
    """One attempt at a host task; implements `Job`."""

    def __init__(self, offer: Offer, shipper: Shipper, house: HostHouse, ends: SpooledEnds) -> None:
        self._spec = msgspec.msgpack.decode(offer.spec, type=HostSpec)
        self._claim = Claim(job=offer.job, fence=offer.fence, nonce=offer.nonce)
        self._house = house
        self._ends = ends
        self._stop = Stop()
        self._live = LiveLines(shipper)
        self._desk = ToolDesk(self._live.surely, house.clock)

    async def prepare(self) -> None:
        """Have nothing to prepare."""

    async def run(self) -> Outcome:
        """Do the task and return how it ended, kept on disk."""
        voices = Voices(told=self._live.event, ask=self._desk.ask)
        report = await execute(self._spec, self._house, self._live.tell, stop=self._stop, voices=voices)
        self._live.end()
        outcome = outcome_of(report, self._stop)
        if self._stop.why != "drop":
            await asyncio.to_thread(self._ends.put, Finish(claim=self._claim, outcome=outcome))
            if self._dropped():
                self._ends.remove(self._claim.job, self._claim.fence)
        return outcome

    def asked(self, asking: Asking) -> None:
        """Answer a question about tool uses that wait for a person."""
        self._desk.asked(asking)

    def stop(self) -> None:
        """Terminate, and kill after the grace period."""
        self._stop.cancel()

    def part(self) -> None:
        """Terminate, kill soon, and report: this runner leaves."""
        self._stop.leave()

    def kill(self) -> None:
        """Kill at once."""
        self._stop.drop()

    async def close(self) -> None:
        """Hold nothing."""

    def _dropped(self) -> bool:
        return self._stop.why == "drop"


class LiveLines:
    """Turns what a task prints into log lines, as far as there is room for them."""

    def __init__(self, shipper: Shipper) -> None:
        self._shipper = shipper
        self._readers = {"stdout": LineReader(), "stderr": LineReader()}
        self._missed = 0
        self._quiet: asyncio.TimerHandle | None = None

    def tell(self, stream: str, text: str) -> None:
        """Take a piece of a stream; a line that does not end is told when nothing was printed for a while."""
        self._lines(stream, self._readers[stream].feed(text.encode("utf-8", "replace")))
        if self._quiet is not None:
            self._quiet.cancel()
        self._quiet = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._flush)

    def event(self, event: AgentEvent) -> None:
        """Take what an agent does, as one line of JSON."""
        self._line(INFO, msgspec.json.encode(event).decode(), "sdk")

    def surely(self, word: msgspec.Struct) -> None:
        """Take what must be seen, as one line of JSON; there are few of them."""
        self._shipper.line(INFO, msgspec.json.encode(word).decode(), "sdk")

    def end(self) -> None:
        """Take what is left as last lines."""
        if self._quiet is not None:
            self._quiet.cancel()
        self._flush()
        if self._missed:
            self._shipper.say(f"SYSTEM: {self._missed} lines were not told live; the result has the output.")

    def _flush(self) -> None:
        for stream, reader in self._readers.items():
            self._lines(stream, reader.end())

    def _lines(self, stream: str, lines: list[str]) -> None:
        for line in lines:
            self._line(ERROR if stream == "stderr" else INFO, line, cast(LogSource, stream))

    def _line(self, kind: int, text: str, source: LogSource) -> None:
        if not self._shipper.offer(kind, text, source):
            self._missed += 1


def outcome_of(report: TaskReport, stop: Stop) -> Outcome:
    """Return what is told of a report over the link; the whole of it travels as the outcome's result."""
    name = report.metadata.get("signal")
    reason = "aborted" if stop.why == "cancel" else "signal" if name else "exit"
    return Outcome(
        succeeded=report.succeeded and reason != "aborted",
        reason=reason,
        exit_code=report.exit_code,
        signal=getattr(signal, name) if isinstance(name, str) and hasattr(signal, name) else None,
        message="" if report.error is None else str(report.error)[:400],
        wall_ms=report.duration if isinstance(report.duration, int) else 0,
        result=msgspec.msgpack.encode(_sayable(report)),
    )


def _sayable(report: TaskReport) -> TaskReport:
    """Return a report without halves of surrogate pairs, which no UTF-8 can hold."""
    texts = {
        name: text.encode("utf-8", "replace").decode()
        for name in ("stdout", "stderr", "error")
        if isinstance(text := getattr(report, name), str) and not text.isascii()
    }
    return msgspec.structs.replace(report, **texts) if texts else report
