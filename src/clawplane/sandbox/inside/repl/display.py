"""Show objects while a cell runs: display(), the last expression, open figures."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from clawplane.sandbox.inside.repl import bundles
from clawplane.sandbox.inside.repl.wire import Channel, encode
from clawplane.sandbox.repl_wire import FROM_GUEST, MOST_SHOWN

_MOST_BYTES: Final = 64 << 20
_urandom = os.urandom
_Bundle = tuple[dict[str, Any], dict[str, Any]]


class Publisher:
    """Sends what one run shows, up to a number and a size; `renderers` know objects that do not know themselves."""

    def __init__(self, channel: Channel, renderers: tuple[Callable[[object], _Bundle | None], ...]) -> None:
        self.channel = channel
        self._renderers = renderers
        self._run: tuple[str, str] | None = None
        self._shown = 0
        self._bytes = 0
        self._dropped = 0

    def begin(self, number: str, nonce: str) -> None:
        """From now on what is shown belongs to this run."""
        self._run = (number, nonce)
        self._shown = self._bytes = self._dropped = 0

    def end(self) -> list[str]:
        """Show nothing more; returns notes for the caller."""
        self._run = None
        return [f"{self._dropped} shown objects were dropped: too many or too large together"] if self._dropped else []

    def result(self, value: object) -> None:
        """Show the value of the last expression; it leaves together with the next frame, which is near."""
        self.show("result", *self.bundle_of(value))

    def bundle_of(self, value: object) -> _Bundle:
        """Return data and metadata of a value."""
        for render in self._renderers:
            told = render(value)
            if told is not None:
                return told
        return bundles.bundle_of(value)

    def show(self, kind: str, data: dict[str, Any], metadata: dict[str, Any], display_id: str = "") -> None:
        """Send one bundle, already clean and bounded."""
        run = self._run
        if run is None:
            return
        if self._shown >= MOST_SHOWN or self._bytes > _MOST_BYTES:
            self._dropped += 1
            return
        message = {
            "op": "shown",
            "id": run[0],
            "nonce": run[1],
            "kind": kind,
            "data": data,
            "metadata": metadata,
            "display_id": display_id,
        }
        body = encode(message)
        if len(body) > FROM_GUEST:
            message["data"] = {bundles.PLAIN: "[left out: its representations are too large together]"}
            message["metadata"] = {}
            body = encode(message)
        self._shown += 1
        self._bytes += len(body)
        if kind == "result":
            self.channel.hold(body)
        else:
            self.channel.send(body)

    def clear(self, *, wait: bool = False) -> None:
        """Let what was shown vanish."""
        if self._run is not None and self._shown < MOST_SHOWN:
            self._shown += 1
            number, nonce = self._run
            self.channel.send(encode({"op": "cleared", "id": number, "nonce": nonce, "wait": bool(wait)}))


class Handle:
    """What display(..., display_id=...) returns: shows something else in the same place."""

    def __init__(self, publisher: Publisher, display_id: str) -> None:
        self._publisher = publisher
        self.display_id = display_id

    def display(self, obj: object) -> None:
        """Show an object once more."""
        data, metadata = self._publisher.bundle_of(obj)
        self._publisher.show("display", data, metadata, self.display_id)

    def update(self, obj: object) -> None:
        """Replace what is shown."""
        data, metadata = self._publisher.bundle_of(obj)
        self._publisher.show("update", data, metadata, self.display_id)

    def __repr__(self) -> str:
        return f"<display {self.display_id}>"


def _raw_bundle(given: dict[Any, Any]) -> _Bundle:
    return bundles.bounded(bundles.clean_bundle(given)), {}


def make_display(publisher: Publisher) -> Callable[..., Handle | None]:
    """Return the function that user code knows as `display`."""

    def display(
        *objs: object,
        raw: bool = False,
        metadata: dict[str, Any] | None = None,
        display_id: str | bool | None = None,
        clear: bool = False,
        **_unused: object,
    ) -> Handle | None:
        """Show objects in their richest form; `raw` objects are MIME bundles. With display_id returns a handle."""
        if clear:
            publisher.clear(wait=True)
        name = _urandom(8).hex() if display_id is True else str(display_id) if display_id else ""
        for each in objs:
            data, more = _raw_bundle(each) if raw and isinstance(each, dict) else publisher.bundle_of(each)
            if metadata:
                more = {**more, **bundles.as_json(metadata)}
            publisher.show("display", data, more, name)
        return Handle(publisher, name) if name else None

    display.__module__ = "builtins"
    return display
