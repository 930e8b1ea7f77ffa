"""Watch one host task to its end: what it prints where it belongs, why it waits, and its exit code as our own.

Output is told live in lines; the result has it once more, byte for byte as far as it was kept. What was shown is
remembered as a digest, so that the rest of the result can be added when live lines are missing (a runner that only
polls tells none), and nothing is shown twice.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import sys
from contextlib import AsyncExitStack, ExitStack, aclosing, suppress
from typing import Any, Final

import msgspec

from clawplane.cli.connection import Api, tell_lost
from clawplane.cli.output import FAILED, NO_CODE, TIMED_OUT, log_text, plain, say
from clawplane.cli.progress import Progress, progress
from clawplane.client.following import LogEntry
from clawplane.client.host_tasks import LONGEST_WAIT, HostTask, Result, TaskResult
from clawplane.domain.errors import ClawplaneError, Conflict

_PATIENCE: Final = 1.0
"""Seconds without output after which a person is told what goes on."""
_LARGEST_CODE: Final = 255


class Shown:
    """What was shown of one stream. A line that did not end for a while was told in pieces, each as a line."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._length = 0
        self._letters = 0
        self._whole = hashlib.sha256()
        self._unbroken = hashlib.sha256()

    def line(self, text: str) -> None:
        """Show a line."""
        whole, letters = f"{text}\n", text.replace("\n", "")
        self._length += len(whole)
        self._letters += len(letters)
        self._whole.update(_encoded(whole))
        self._unbroken.update(_encoded(letters))
        self.write(whole)

    def rest(self, text: str) -> bool:
        """Show what a result has beyond what was shown; False when the two differ before that."""
        whole = text if text.endswith("\n") or not self._length else f"{text}\n"
        if hashlib.sha256(_encoded(whole[: self._length])).digest() == self._whole.digest():
            self.write(whole[self._length :])
            return True
        letters = text.replace("\n", "")[: self._letters]
        if hashlib.sha256(_encoded(letters)).digest() != self._unbroken.digest():
            return False
        self.write(_behind(whole, self._letters).removeprefix("\n"))
        return True

    def write(self, text: str) -> None:
        """Write to the stream; what goes to a terminal cannot command it."""
        stream = sys.stdout if self.name == "stdout" else sys.stderr
        stream.write(log_text(text) if stream.isatty() else text.encode("utf-8", "replace").decode())
        stream.flush()


class Watch:
    """One task that is watched; `quiet` shows nothing, `agent` shows the answer at the end instead of its making."""

    def __init__(self, api: Api, task: HostTask, *, quiet: bool, agent: bool, binary: bool = False) -> None:
        self._api = api
        self._task = task["id"]
        self._quiet = quiet
        self._agent = agent
        self._binary = binary
        self._streams = {name: Shown(name) for name in ("stdout", "stderr")}
        self._begun = asyncio.Event()
        self._bar: Progress | None = None

    async def to_the_end(self) -> TaskResult:
        """Show what the task prints and return its end; a Ctrl-C cancels the task."""
        try:
            async with AsyncExitStack() as stack:
                if not self._quiet:
                    waiting = asyncio.create_task(self._explain())
                    stack.push_async_callback(_ended, waiting)
                await self._follow()
            return await self._result()
        except asyncio.CancelledError:
            with suppress(ClawplaneError, TimeoutError):
                async with asyncio.timeout(5):
                    await self._api.host.act(self._task, "cancel")
            say(f"Cancelled {self._task}.")
            raise

    async def _follow(self) -> None:
        entries = self._api.host.follow(self._task, on_lost=tell_lost(say))
        async with aclosing(entries):
            async for entry in entries:
                if not self._quiet:
                    self._show(entry)

    async def _result(self) -> TaskResult:
        while True:
            found = await self._api.host.result(self._task, wait=LONGEST_WAIT)
            if found["result"] is not None:
                return found

    def _show(self, entry: LogEntry) -> None:
        source, text = entry.get("source", "stdout"), entry["content"]
        if source == "sdk":
            self._agent_says(text)
        elif source == "system":
            self._note(text)
        elif self._agent:
            self._tell_progress(text)
        elif not self._binary:
            self._begun.set()
            self._streams["stderr" if source == "stderr" else "stdout"].line(text)

    def _agent_says(self, text: str) -> None:
        try:
            event = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            return
        match event.get("kind"):
            case "tool":
                self._note(f"{event.get('tool')} {event.get('detail', '')}"[:200])
            case "approval":
                self._note(f"It asks to use {event.get('tool')}: {event.get('detail', '')}"[:400])
                self._note(f"clawplane task approve {self._task} --tool-use {event.get('id')}  (or: task refuse ...)")
            case "notice":
                self._note(str(event.get("text", "")))

    def _note(self, text: str) -> None:
        if self._bar is not None:
            self._bar.note(plain(text))
        else:
            say(plain(text))

    def _tell_progress(self, text: str) -> None:
        if self._bar is not None:
            self._bar.update("Running", plain(text))

    async def _explain(self) -> None:
        """After a second without output, say why; until there is some."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._begun.wait()
        if self._begun.is_set():
            return
        with ExitStack() as stack:
            while not self._begun.is_set():
                with suppress(ClawplaneError):
                    self._say_why(stack, await self._api.host.explain(self._task))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await self._begun.wait()
            self._bar = None

    def _say_why(self, stack: ExitStack, why: Any) -> None:
        phase = "Running" if why["code"] == "running" else f"Waiting: {plain(why['reason'])}"
        if self._bar is None:
            self._bar = stack.enter_context(progress(phase, quiet=False))
            self._bar.note(f"task {self._task}")
        self._bar.update(phase, plain(why["reason"]) if why["code"] == "running" else plain(why["hint"]))

    def show_rest(self, result: Result) -> None:
        """Show what of the result was not shown while the task ran."""
        if self._binary and result["exit_code"] == 0:
            sys.stdout.buffer.write(_bytes_of(result["stdout"]))
            sys.stdout.buffer.flush()
            return
        texts = {"stdout": result["stdout"], "stderr": _closed(result["stderr"])}
        if self._agent:
            texts["stdout"] = _closed(texts["stdout"])
        told = [self._streams[name].rest(text) for name, text in texts.items()]
        if not all(told):
            say(f"note: what was shown live is not byte for byte the output; see `clawplane task result {self._task}`.")


def exit_code_of(found: TaskResult) -> int:
    """Return the exit code with which a command ends that watched a task."""
    result = found["result"]
    code = None if result is None else result["exit_code"]
    if isinstance(code, bool) or not isinstance(code, int | float):
        return FAILED
    if 0 <= code <= _LARGEST_CODE:
        return int(code)
    if code > 0:
        return FAILED
    timed_out = found["task"]["reason"] == "expired" or (
        result is not None and str(result["error"]) in ("Command timeout", "Timeout")
    )
    return TIMED_OUT if timed_out else NO_CODE


def say_why_it_failed(found: TaskResult) -> None:
    """Say in a sentence how a task ended that has no exit code of its own."""
    code, result = exit_code_of(found), found["result"]
    if code in (TIMED_OUT, NO_CODE) and result is not None:
        task = found["task"]
        say(f"error: {plain(result['error'] or task['reason'] or 'The task failed.')}")
        if code == TIMED_OUT:
            say("hint: Give it more time with --timeout SECONDS.")
        else:
            say(f"hint: See `clawplane task explain {task['id']}` and `clawplane events --task {task['id']}`.")


async def result_now(api: Api, task: str, *, wait: float) -> TaskResult:
    """Return a task's result, waiting for it for up to `wait` seconds; raises Conflict when it is not there."""
    until = asyncio.get_running_loop().time() + wait
    while True:
        left = until - asyncio.get_running_loop().time()
        found = await api.host.result(task, wait=max(0, min(LONGEST_WAIT, round(left + 0.5))))
        if found["result"] is not None:
            return found
        if asyncio.get_running_loop().time() >= until:
            why = await api.host.explain(task)
            hint = why["hint"] or "Wait for it with --wait SECONDS."
            raise Conflict(f"The task has not ended: {why['reason']}", hint=hint)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _behind(text: str, letters: int) -> str:
    """Return what follows so many characters that are no line breaks."""
    at = 0
    while letters > 0:
        end = text.find("\n", at)
        length = (len(text) if end < 0 else end) - at
        if length >= letters:
            return text[at + letters :]
        letters -= length
        at += length + 1
    return text[at:]


def _closed(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _bytes_of(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError):
        return text.encode("utf-8", "replace")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
