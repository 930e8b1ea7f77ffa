"""Save the variables of an interpreter one by one, and restore what can be restored, saying why for the rest.

What is kept: anything that pickles; modules by name; functions by their code, with the names they use looked up in the
restored session; classes by running their `class` statement again (that statement, not its cell). Each variable is a
pickle of its own: two variables that were one object are two afterwards. Files, connections, threads, generators and
classes made inside functions are lost, and said to be.
The file is ours to write and read, inside the sandbox only: [length, header as JSON, payload], in the order modules,
definitions, values. What fails to restore is tried again after the others, since it may need them.
"""

from __future__ import annotations

import importlib
import io
import json
import marshal
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from clawplane.sandbox.inside.repl import rebuild
from clawplane.sandbox.inside.repl.bundles import brief
from clawplane.sandbox.inside.repl.mainmodule import MainModule
from clawplane.sandbox.inside.repl.texts import clipped
from clawplane.sandbox.repl_wire import MAIN

MOST_NAMES: Final = 2000
_INTERNAL: Final = frozenset(
    ("__name__", "__builtins__", "__doc__", "__loader__", "__spec__", "__package__", "__annotations__", "_", "__")
)
_MAGIC: Final = f"{sys.implementation.cache_tag} 1"
_LARGEST_HEADER: Final = 1 << 16
_write, _read, _lseek, _ftruncate = os.write, os.read, os.lseek, os.ftruncate


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes and seconds that one variable may take, bytes that all may take."""

    largest: int
    seconds: float
    room: int


@dataclass(frozen=True, slots=True)
class Report:
    """Names that were kept, and (name, reason) of those that were not."""

    names: list[str]
    lost: list[tuple[str, str]]

    def members(self) -> dict[str, Any]:
        """Return the members of the frame, bounded."""
        lost = [[clipped(name, 200), clipped(reason, 300)] for name, reason in self.lost[:MOST_NAMES]]
        return {"names": [clipped(name, 200) for name in self.names[:MOST_NAMES]], "lost": lost}


class _TooMuch(BaseException):
    """A variable is past its bounds; not an Exception, so that user code in between does not swallow it."""


def save(contexts: dict[str, MainModule], descriptor: int, bounds: Bounds, session: dict[str, Any]) -> Report:
    """Write every variable of every context to an empty file; `session` is what else restore shall return."""
    report = Report([], [])
    _append(descriptor, {"magic": _MAGIC}, json.dumps(session).encode())
    with rebuild.importable():
        for context, module in contexts.items():
            with _as_main(module):
                for name, value in _sorted(module):
                    problem = _save_one(descriptor, context, name, value, module, bounds)
                    shown = f"{context}:{name}" if context else name
                    if problem:
                        report.lost.append((shown, problem))
                    else:
                        report.names.append(shown)
    return report


def restore(
    module_of: Callable[[str], MainModule], descriptor: int, prepare: Callable[[dict[str, Any]], None]
) -> tuple[Report, dict[str, Any]]:
    """Fill contexts from a file that `save` wrote; `module_of` returns the namespace of a context.

    Calls `prepare` with the `session` given to save, and returns that, {} when the file is not ours.
    """
    report = Report([], [])
    _lseek(descriptor, 0, os.SEEK_SET)
    records = list(_records(descriptor))
    if not records or records[0][0].get("magic") != _MAGIC:
        report.lost.append(("", "what was saved was written by another version of Python"))
        return report, {}
    session = json.loads(records[0][1])
    prepare(session)
    waiting = records[1:]
    reasons: dict[int, str] = {}
    with rebuild.importable():
        while waiting:
            failed = []
            for record in waiting:
                header, payload = record
                reason = _restore_one(module_of(header["context"]), header, payload)
                if reason:
                    failed.append(record)
                    reasons[id(header)] = reason
                else:
                    report.names.append(_shown(header))
            if len(failed) == len(waiting):
                break
            waiting = failed
    report.lost.extend((_shown(header), reasons[id(header)]) for header, _payload in waiting)
    return report, session


def _shown(header: dict[str, Any]) -> str:
    return f"{header['context']}:{header['name']}" if header["context"] != MAIN else str(header["name"])


def _sorted(module: MainModule) -> list[tuple[str, Any]]:
    """Return variables in the order in which they can be restored."""
    found = [(name, value) for name, value in module.__dict__.items() if type(name) is str and name not in _INTERNAL]

    def rank(item: tuple[str, Any]) -> int:
        value = item[1]
        return 0 if type(value) is ModuleType else 1 if type(value) is FunctionType else 2 if _is_class(value) else 3

    return sorted(found, key=rank)


def _save_one(descriptor: int, context: str, name: str, value: Any, module: MainModule, bounds: Bounds) -> str:
    """Append one variable; returns "" or why it is lost, and then the file is as before."""
    start = _lseek(descriptor, 0, os.SEEK_CUR)
    header = {"context": context, "name": name, "kind": "pickle"}
    try:
        if type(value) is ModuleType:
            _append(descriptor, {**header, "kind": "module"}, value.__name__.encode())
            return ""
        statement = module.definitions.class_code(name) if _is_class(value) and _is_own(value, name) else None
        if statement is not None:
            _append(descriptor, {**header, "kind": "class"}, marshal.dumps(statement))
            return ""
        with _Deadline(bounds.seconds):
            payload = _Payload(min(bounds.largest, bounds.room - start))
            _Pickler(payload, module.__dict__, value, name).dump(value)
        _append(descriptor, header, payload.getbuffer())
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        _lseek(descriptor, start, os.SEEK_SET)
        _ftruncate(descriptor, start)
        return brief(problem).removeprefix("_TooMuch: ")
    return ""


def _restore_one(module: MainModule, header: dict[str, Any], payload: bytes) -> str:
    names = module.__dict__
    try:
        with _as_main(module), rebuild.into(names):
            match header["kind"]:
                case "module":
                    names[header["name"]] = importlib.import_module(payload.decode())
                case "class":
                    code: CodeType = marshal.loads(payload)
                    exec(code, names)
                case _:
                    names[header["name"]] = _Unpickler(io.BytesIO(payload), names).load()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        return brief(problem)
    return ""


class _Payload(io.BytesIO):
    """A pickle in memory, up to a size."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._room -= size
        if self._room < 0:
            raise _TooMuch("larger than what is kept of a variable")
        return super().write(data)


class _Pickler(pickle.Pickler):
    """Pickles by name what can be found by name, and definitions of cells by what they are made of."""

    def __init__(self, file: io.BytesIO, names: dict[str, Any], root: Any, root_name: str) -> None:
        super().__init__(file, protocol=5)
        self._names = names
        self._root = root
        self._root_name = root_name

    def reducer_override(self, value: Any) -> Any:
        kind = type(value)
        if kind is ModuleType:
            return importlib.import_module, (value.__name__,)
        if kind is FunctionType and not self._is_found(value, value.__module__):
            return rebuild.reduce_function(value)
        if isinstance(value, type) and not self._is_found(value, value.__module__):
            reduced = rebuild.reduce_class(value)
            if reduced is None:
                raise pickle.PicklingError(f"the class {value.__qualname__} was made inside a function or by a call")
            return reduced
        return NotImplemented

    def _is_found(self, value: Any, module: str | None) -> bool:
        """Tell whether restoring finds this very function or class under its name."""
        name = value.__qualname__
        if module == "__main__":
            return self._names.get(name) is value and not (value is self._root and name == self._root_name)
        found: Any = sys.modules.get(module or "")
        for part in name.split("."):
            found = getattr(found, part, None)
        return found is value


class _Unpickler(pickle.Unpickler):
    """Looks up `__main__` in the namespace that is being restored."""

    def __init__(self, file: io.BytesIO, names: dict[str, Any]) -> None:
        super().__init__(file)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        if module != "__main__":
            return super().find_class(module, name)
        first, *rest = name.split(".")
        if first not in self._names:
            raise pickle.UnpicklingError(f"it needs {first}, which was lost")
        found = self._names[first]
        for part in rest:
            found = getattr(found, part)
        return found


class _Deadline:
    """Raise _TooMuch in what runs longer than so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._handler = signal.signal(signal.SIGALRM, self._expire)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_unused: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)

    def _expire(self, _number: int, _frame: object) -> None:
        raise _TooMuch("it takes longer than a variable may take")


class _as_main:  # noqa: N801 - reads as the phrase it is
    """Let `__main__` be a module for a while."""

    def __init__(self, module: MainModule) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._before = sys.modules.get("__main__")
        sys.modules["__main__"] = self._module

    def __exit__(self, *_unused: object) -> None:
        if self._before is not None:
            sys.modules["__main__"] = self._before


def _is_class(value: Any) -> bool:
    return isinstance(value, type)


def _is_own(value: Any, name: str) -> bool:
    return (value.__module__, value.__qualname__) == ("__main__", name)


def _append(descriptor: int, header: dict[str, Any], payload: Any) -> None:
    packed = json.dumps({**header, "size": len(payload)}).encode()
    for part in (len(packed).to_bytes(4, "little"), packed, payload):
        left = memoryview(part)
        while left:
            left = left[_write(descriptor, left) :]


def _records(descriptor: int) -> Iterator[tuple[dict[str, Any], bytes]]:
    while True:
        length = int.from_bytes(_read_exactly(descriptor, 4), "little")
        if not 0 < length <= _LARGEST_HEADER:
            return
        try:
            header = json.loads(_read_exactly(descriptor, length))
            payload = _read_exactly(descriptor, header["size"])
        except (ValueError, KeyError, TypeError):
            return
        if len(payload) < header["size"]:
            return
        yield header, payload


def _read_exactly(descriptor: int, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        chunk = _read(descriptor, min(size - len(content), 1 << 24))
        if not chunk:
            break
        content += chunk
    return bytes(content)
