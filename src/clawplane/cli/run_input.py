"""Read a run's input from an argument, a file or standard input, and keep it as it was written."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from clawplane.domain.errors import InvalidArgument

_EXAMPLE = 'Give an object, such as {"n": 1}.'


def input_object(text: str | None, file: Path | None) -> msgspec.Raw:
    """Return the input as it was written, once it is known to be a JSON object."""
    if text is not None and file is not None:
        raise InvalidArgument("--input and --input-file exclude each other.", hint="Give one of them.")
    if file is not None:
        text = _read(file)
    text = "{}" if text is None else text
    try:
        data = text.encode()
        value = msgspec.json.decode(data)
    except RecursionError:
        raise InvalidArgument("The input is nested too deep.", hint=_EXAMPLE) from None
    except ValueError as error:
        raise InvalidArgument(f"The input is not JSON: {error}", hint=_EXAMPLE) from None
    if not isinstance(value, dict):
        raise InvalidArgument("The input is not a JSON object.", hint=_EXAMPLE)
    return msgspec.Raw(data)


def _read(file: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidArgument(f"{file}: {error.strerror}.", hint="Name a UTF-8 JSON file.") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{file} is not UTF-8.", hint="Name a UTF-8 JSON file.") from None
