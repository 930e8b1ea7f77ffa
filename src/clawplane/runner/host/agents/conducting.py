"""Conduct one turn with any agent CLI: find the program, hold its conversation, launch, try again, report.

    program? -> its help -> can it do this? -> hold the API's id
      -> for each candidate model: begin -> hold the provider's id -> launch -> (conversation trouble: begin again)
      -> report

One time limit holds for the whole turn: the task's time-out and AGENT_GRACE_MS beyond, waiting for the conversation
included. Every launch gets what is left of it.

A provider's id is bound the moment the CLI says it: to the runner's cache, to the control plane, and to this turn's
locks; a turn that then fails or runs out of time has not lost its conversation.

Why the CLIs and not the vendors' SDKs in process: the stream of `--output-format stream-json` is what Claude's Agent
SDK itself reads from the same program, so nothing is gained by the SDK but a second thing to keep up to date; a process
has its own environment, group and limits, and can be ended with its whole tree.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from clawplane.domain.host_tasks import AGENT_GRACE_MS, RUNNER_TIMEOUT_MS, Prompt, TaskReport
from clawplane.runner.host.agents import models
from clawplane.runner.host.agents.cli import Cli, Scene, Start
from clawplane.runner.host.agents.conversation_locks import TurnLocks
from clawplane.runner.host.agents.events import Notice
from clawplane.runner.host.agents.help_probe import Help
from clawplane.runner.host.agents.house import AgentHouse
from clawplane.runner.host.agents.listening import Answer, Listener
from clawplane.runner.host.agents.live_log import LiveLog
from clawplane.runner.host.agents.turn import AgentContext, Ended, Launch
from clawplane.runner.host.output import OUTPUT_BYTES, cut

_MOST_LAUNCHES: Final = 4
"""Of one model: by id, by index, the latest, a new conversation."""
_LISTING_SECONDS: Final = 30.0
"""Gemini CLI asks its provider for titles before it lists, and may wait for it long."""
T = TypeVar("T")


class CannotTurn(Exception):
    """A turn that ends before or between launches; the message is the report's error."""

    def __init__(self, error: str, *, exit_code: int = 1) -> None:
        super().__init__(error)
        self.exit_code = exit_code


def program_of(cli: Cli, house: AgentHouse, path: str | None) -> str | None:
    """Return the path of an installed CLI; None when it is not there."""
    return shutil.which(house.settings.programs.get(cli.key, cli.key), path=path)


class Conductor:
    """The adapter of one CLI."""

    def __init__(self, cli: Cli, house: AgentHouse) -> None:
        self._cli = cli
        self._house = house

    def missing(self, path: str | None) -> str:
        """Return a sentence when the CLI is not installed; "" when it is."""
        if program_of(self._cli, self._house, path):
            return ""
        name = self._house.settings.programs.get(self._cli.key, self._cli.key)
        return (
            f"{self._cli.label} is not installed on this runner: `{name}` was not found on its PATH. "
            f"Install it, or set {self._cli.key.upper()}_PATH to where it is."
        )

    async def run(self, prompt: Prompt, context: AgentContext) -> TaskReport:
        """Take one turn; raises nothing but CancelledError, and then nothing of it runs any more."""
        began = context.clock.monotonic()
        timeout = prompt.timeout if prompt.timeout > 0 else RUNNER_TIMEOUT_MS
        async with self._house.locks.turn(self._cli.key) as locks:
            deadline = began + (timeout + AGENT_GRACE_MS) / 1000
            turn = _Turn(self._cli, self._house, prompt, context, locks=locks, deadline=deadline)
            try:
                start, answer = await turn.play()
                report = _report(self._cli, turn, start, answer)
            except CannotTurn as failed:
                text = str(failed)
                session = {"sessionId": prompt.session_id} if prompt.session_id else {}
                report = TaskReport(stderr=text, exit_code=failed.exit_code, error=text, metadata=session)
            finally:
                await turn.settle()
        duration = round((context.clock.monotonic() - began) * 1000)
        return msgspec.structs.replace(report, duration=duration)


class _Turn:
    """One turn while it is taken."""

    def __init__(
        self, cli: Cli, house: AgentHouse, prompt: Prompt, context: AgentContext, *, locks: TurnLocks, deadline: float
    ) -> None:
        self._cli = cli
        self._house = house
        self.prompt = prompt
        self.context = context
        self._locks = locks
        self._deadline = deadline
        self._saving: set[asyncio.Task[None]] = set()
        self._program = ""
        self.remarks: list[str] = []
        self._env = dict(context.env)
        self._env.pop("CLAUDECODE", None)  # the nesting guard of Claude Code

    async def play(self) -> tuple[Start, Answer]:
        """Take the turn; raises CannotTurn."""
        found = program_of(self._cli, self._house, self._env.get("PATH"))
        if found is None:
            raise CannotTurn(Conductor(self._cli, self._house).missing(self._env.get("PATH")), exit_code=-1)
        self._program = found
        scene = await self._scene()
        refusal = self._cli.refusal(scene)
        if refusal:
            raise CannotTurn(refusal)
        remark = self._cli.remark(scene)
        if remark:
            self._remark(remark)
        if self.prompt.session_id:
            await self._patiently(self._locks.hold(self.prompt.session_id))
        configured = self._house.settings.models.get(self._cli.key) or self._cli.default_models
        candidates = models.candidates(self.prompt.model, configured)
        for number, model in enumerate(candidates, 1):
            start, answer = await self._try_model(scene, model)
            ended = answer.ended
            if ended.exit_code == 0 or ended.timed_out or ended.stopped or not models.refused(answer.said):
                break
            if number < len(candidates):
                following = candidates[number] or "the CLI's own choice"
                self._remark(f"The model {model or 'of the CLI'} was refused; {following} is tried next.")
        return start, answer

    async def settle(self) -> None:
        """Wait until everything is written down that was learnt."""
        await asyncio.gather(*self._saving)

    async def _scene(self) -> Scene:
        helps: dict[str, Help] = {}
        for words in self._cli.sub_commands:
            asked = (self._program, *words.split())
            cwd = self._directory(self.context.cwd)
            probe = self._house.probe.of(asked, cwd=cwd, env=self._env, spawn=self.context.spawn)
            helps[words] = await self._patiently(probe)
        return Scene(
            prompt=self.prompt,
            context=self.context,
            settings=self._house.settings,
            cache=self._house.cache,
            help=helps,
            listed=self._listed,
        )

    async def _try_model(self, scene: Scene, model: str | None) -> tuple[Start, Answer]:
        start = await self._cli.begin(scene)
        while True:
            if start.session:
                await self._patiently(self._locks.hold(start.session))
            answer = await self._launch(scene, start, model)
            ended = answer.ended
            if answer.good or ended.timed_out or ended.stopped or start.tries + 1 >= _MOST_LAUNCHES:
                break
            following = await self._cli.again(scene, start, answer)
            if following is None:
                break
            start = following
        if not start.resume:
            scene.begun.update(filter(None, (start.session, answer.session)))
        if answer.good and (answer.session or start.session):
            self._learn(answer.session or start.session or "")
        return start, answer

    async def _launch(self, scene: Scene, start: Start, model: str | None) -> Answer:
        log = LiveLog(self._house.settings.live_log if self._cli.key == "claude" else None, start.session or "")
        listener = Listener(self.context, log, self._cli.reader(scene), self._cli.overheard, self._learn)
        log.begin(self.prompt.prompt, _now(self.context))
        outcome = "stopped"
        try:
            async with self._cli.around(scene) as further:
                arguments = self._cli.arguments(scene, start, model)
                cwd = self._directory(start.cwd)
                launch = Launch(
                    argv=(self._program, *arguments, *further),
                    cwd=cwd,
                    env={**self._env, "PWD": cwd},
                    stdin=self._cli.stdin(scene),
                    seconds=self._left(),
                )
                ended = await self.context.spawn(launch, listener.heard)
            answer = listener.end(ended, self._cli.plain)
            outcome = f"exit code {ended.exit_code}"
        finally:
            log.end(outcome, _now(self.context))
        return answer

    async def _listed(self, arguments: tuple[str, ...], cwd: str) -> Ended:
        seconds = min(self._left(), _LISTING_SECONDS)
        launch = Launch(
            argv=(self._program, *arguments), cwd=self._directory(cwd), env=self._env, stdin=b"", seconds=seconds
        )
        return await self.context.spawn(launch, lambda _stream, _text: None)

    def _learn(self, session: str) -> None:
        """Bind the provider's id everywhere, at once."""
        self._locks.hold_new(session)
        self._house.cache.remember(session, self.prompt.session_id or None, self.context.channel)
        self._saving.add(asyncio.get_running_loop().create_task(self._house.cache.save()))
        self.context.bind(session)

    def _remark(self, text: str) -> None:
        self.remarks.append(text)
        self.context.told(Notice(text=text))
        self.context.tell("stderr", f"{text}\n")

    def _directory(self, cwd: str) -> str:
        """Return a conversation's own directory, or the task's where the operator does not let it start there."""
        own = self.context.cwd
        if cwd != own and not self.context.may_start_in(cwd):
            cwd = own
        if Path(cwd).is_dir():
            return cwd
        raise CannotTurn(f"The directory {cwd} does not exist on this runner.")

    def _left(self) -> float:
        left = self._deadline - self.context.clock.monotonic()
        if left <= 0:
            raise CannotTurn("Timeout", exit_code=-1)
        return left

    async def _patiently(self, waited: Awaitable[T]) -> T:
        """Wait for something, but no longer than the turn may last and the task is wanted; raises CannotTurn."""
        waiting = asyncio.ensure_future(waited)
        stop = asyncio.ensure_future(self.context.stop.wait())
        try:
            await asyncio.wait({waiting, stop}, timeout=self._left(), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
        finally:
            stop.cancel()
            waiting.cancel()
            await asyncio.gather(waiting, stop, return_exceptions=True)
        if self.context.stop.asked:
            raise CannotTurn("Cancelled", exit_code=-1)
        raise CannotTurn("Timeout", exit_code=-1)


def _report(cli: Cli, turn: _Turn, start: Start, answer: Answer) -> TaskReport:
    ended = answer.ended
    code = ended.exit_code if ended.exit_code != 0 or answer.good else 1
    error = None if code == 0 else _error(cli, answer, code)
    if ended.stopped:
        code, error = _stopped(ended, turn.context)
    text = answer.text if code == 0 or answer.text.strip() else "\n".join(answer.errors)
    # The errors that a program printed as events and again as text are said once.
    problems = (
        [each for each in (*answer.errors, cli.hint(answer)) if each and each not in ended.stderr] if code else []
    )
    stderr = "\n".join([*turn.remarks, *problems, ended.stderr.strip()]).strip() or (
        "" if code == 0 or ended.exit_code > 0 else error or ""
    )
    notes = [note for note in (start.note, cli.note(start, answer)) if note]
    stdout = "\n\n".join([*notes, text.strip()]).strip()
    return TaskReport(
        stdout=cut(stdout, OUTPUT_BYTES),
        stderr=cut(stderr, OUTPUT_BYTES),
        exit_code=code,
        error=error,
        metadata={**_metadata(turn.prompt, start, answer, notes), **cli.metadata(answer)},
    )


def _stopped(ended: Ended, context: AgentContext) -> tuple[int, str]:
    if context.stop.why == "cancel":
        return -1, "Cancelled"
    code = ended.exit_code or 143
    return code, f"Exit code {code}"


def _error(cli: Cli, answer: Answer, code: int) -> str:
    ended = answer.ended
    if ended.timed_out:
        return "Timeout"
    if ended.error:
        return ended.error
    if answer.final and answer.final.problem:
        return answer.final.problem
    if ended.exit_code == 0 and answer.final is None:
        return f"{cli.label} ended without a final answer"
    return f"Exit code {code}"


def _metadata(prompt: Prompt, start: Start, answer: Answer, notes: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"sessionId": answer.session or (start.session if answer.good else "") or prompt.session_id}
    if answer.ended.signal:
        told["signal"] = answer.ended.signal
    if answer.model:
        told["model"] = answer.model
    if answer.cost:
        told["usage"] = {"inputTokens": answer.cost.input_tokens, "outputTokens": answer.cost.output_tokens}
        if answer.cost.usd is not None:
            told["costUsd"] = answer.cost.usd
    if notes:
        told["freshSession"] = True
    return told


def _now(context: AgentContext) -> str:
    return datetime.fromtimestamp(context.clock.now_ms() / 1000, UTC).isoformat(timespec="seconds")
