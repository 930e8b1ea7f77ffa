"""Show an exec as it runs: its output where it belongs, its results, how it ended, and its images as files."""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path
from typing import Any, Final

from clawplane.cli.output import coloured, log_text, plain, say
from clawplane.client.sessions import Answer, Event
from clawplane.domain.errors import InvalidArgument

_IMAGES: Final = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp"}


class ExecPrinter:
    """Writes to stdout and stderr; whatever the code prints passes `log_text`, so that no terminal obeys it."""

    def __init__(self, *, save: Path | None = None, quiet: bool = False) -> None:
        """`save` keeps images; `quiet` shows nothing else."""
        self._save = save
        self._quiet = quiet
        self._saved = 0
        self._at_line_start = True
        self._waits_for = ""

    def show(self, event: Event) -> None:
        """Show one event."""
        text = str(event.get("text") or "")
        if event["type"] in ("stdout", "stderr") and not self._quiet:
            stream = sys.stdout if event["type"] == "stdout" else sys.stderr
            stream.write(log_text(text))
            stream.flush()
            self._at_line_start = text.endswith("\n") if text else self._at_line_start
        elif event["type"] == "ping" and text not in ("", self._waits_for) and not self._quiet:
            self._waits_for = text
            say(f"waiting: {plain(text)}")
        elif event["type"] in ("result", "display_update"):
            self._result(event.get("data") or {})

    def end(self, answer: Answer) -> None:
        """Show what is known only when it is over."""
        if not self._at_line_start:
            sys.stdout.write("\n")
        sys.stdout.flush()
        error = answer.get("error")
        if error is not None and answer.get("error_detail") is None:
            mark, end = ("\x1b[1;31m", "\x1b[0m") if coloured(sys.stderr) else ("", "")
            sys.stderr.write(f"{mark}{plain(error)}{end}\n")
        for note in answer.get("notes") or ():
            say(f"note: {plain(note)}")
        for stream, cut in (answer.get("truncated") or {}).items():
            spill = f"; all of it is in {plain(cut.get('spill'))}" if cut.get("spill") else ""
            say(f"note: {plain(stream)} was shortened by {cut.get('omitted_bytes', 0)} bytes{spill}")

    def _result(self, bundle: dict[str, Any]) -> None:
        for mime, ending in _IMAGES.items():
            if isinstance(bundle.get(mime), str):
                self._image(bundle[mime], mime, ending)
                return
        text = bundle.get("text/plain")
        if isinstance(text, str) and not self._quiet:
            sys.stdout.write(log_text(text) + "\n")
            sys.stdout.flush()
            self._at_line_start = True

    def _image(self, data: str, mime: str, ending: str) -> None:
        try:
            content = base64.b64decode(data, validate=False)
        except (binascii.Error, ValueError):
            say(f"note: a result that claims to be {mime} is none")
            return
        if self._save is None:
            say(f"note: a {mime} of {len(content)} bytes; keep such images with --save DIR")
            return
        path = self._free_name(self._save, ending)
        path.write_bytes(content)
        say(f"saved {path}")

    def _free_name(self, directory: Path, ending: str) -> Path:
        while True:
            self._saved += 1
            path = directory / f"image-{self._saved}.{ending}"
            if not path.exists():
                return path


def save_directory(path: Path | None) -> Path | None:
    """Return an existing directory for images; raises InvalidArgument."""
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"--save {path}: {error.strerror or error}.", hint="Name a directory that can be written to."
        ) from None
    return path
