"""What the SDK server needs from whoever runs a subtask: one small port, and the values that cross it."""

from typing import NamedTuple, Protocol

DEBUG, INFO, WARN, ERROR = 1, 2, 3, 4


class HeaderItem(NamedTuple):
    """One result column as the Worker declared it; `format` is kept as it came, known or not."""

    label: str
    key: str
    format: str


class PushOutcome(NamedTuple):
    """The answer to one row: code 0 is success, any other code is shown to the Worker with its message."""

    code: int
    message: str


ACCEPTED = PushOutcome(0, "ok")


class Subtask(Protocol):
    """One running subtask, as its SDK sees it.

    All text comes from a guest and is hostile. An exception becomes the gRPC status INTERNAL, which raises in every
    SDK: raise only when the infrastructure failed, and use `PushOutcome` for everything the Worker did wrong.
    """

    def input_json(self) -> str:
        """Return the subtask's input object as JSON text, `{}` when empty; asked once, then remembered."""
        ...

    async def set_header(self, items: list[HeaderItem]) -> None:
        """Replace the run's ordered result columns."""
        ...

    async def push(self, row_json: str) -> PushOutcome:
        """Take one row; calls of one connection begin in order of arrival, and not returning holds the Worker back."""
        ...

    async def log(self, level: int, text: str) -> None:
        """Append one log entry, level 1 (debug) to 4 (error); the text may have many lines."""
        ...
