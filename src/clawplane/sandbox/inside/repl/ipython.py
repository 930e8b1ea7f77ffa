"""Make `from IPython.display import display` work: code for notebooks begins with it without a thought.

Where IPython is installed its own classes are used, and its functions show things through us: by themselves they print,
since no IPython shell runs here. Where it is not, a module with the usual names stands in; it is asked for last.
"""

from __future__ import annotations

import base64
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from types import ModuleType
from typing import Any, Final

from clawplane.sandbox.inside.repl.display import Publisher

_NAMES: Final = ("IPython", "IPython.display")
_REAL: Final = "IPython.core.display_functions"
_RICH: Final = {
    "HTML": "text/html",
    "Markdown": "text/markdown",
    "Latex": "text/latex",
    "SVG": "image/svg+xml",
    "JSON": "application/json",
    "Javascript": "application/javascript",
}
_IMAGES: Final = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif"}
_open = open


class Rich:
    """Data of one MIME type, shown as such."""

    mime = "text/plain"

    def __init__(self, data: Any = None, *, filename: str | None = None, **_unused: object) -> None:
        if data is None and filename is not None:
            with _open(filename, "rb") as file:
                data = file.read()
            if not self.mime.startswith("image/") or self.mime == "image/svg+xml":
                data = data.decode()
        self.data = data

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {self.mime: self.data}

    def __repr__(self) -> str:
        return f"<IPython.display.{type(self).__name__} object>"


class Image(Rich):
    """A picture given as bytes, base64 text or a file name."""

    def __init__(self, data: Any = None, *, filename: str | None = None, **options: Any) -> None:
        if isinstance(data, str) and os.path.exists(data):
            data, filename = None, data
        suffix = os.path.splitext(filename or f".{options.get('format', 'png')}")[1].lower()
        self.mime = _IMAGES.get(suffix, "image/png")
        super().__init__(data, filename=filename)
        if isinstance(self.data, str):
            self.data = base64.b64decode(self.data)


class Functions:
    """The functions of IPython.display, showing through us."""

    def __init__(self, publisher: Publisher, display: Callable[..., object]) -> None:
        self._publisher = publisher
        self._display = display

    def install(self) -> None:
        """Be known to the import system."""
        sys.meta_path.insert(0, Changer(self.members()))
        sys.meta_path.append(StandIn(self.members() | {"display_html": self._typed("text/html")}))

    def members(self) -> dict[str, Any]:
        """Return the functions by name."""
        return {"display": self._display, "update_display": self._update, "clear_output": self._clear}

    def _update(self, obj: object, *, display_id: str, **_unused: object) -> None:
        data, metadata = self._publisher.bundle_of(obj)
        self._publisher.show("update", data, metadata, str(display_id))

    def _clear(self, wait: bool = False) -> None:
        self._publisher.clear(wait=wait)

    def _typed(self, mime: str) -> Callable[..., None]:
        def show(*objs: Any, raw: bool = False, **_unused: object) -> None:
            for each in objs:
                self._display({mime: each} if raw else each, raw=raw)

        return show


class Changer(MetaPathFinder, Loader):
    """Loads the module of the real package that has the functions, and puts ours in their place."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members
        self._real: Loader | None = None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Know one name, where the real package is."""
        if fullname != _REAL:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            self._real, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the import system."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Load the module, then change it."""
        if self._real is not None:
            self._real.exec_module(module)
        module.__dict__.update(self._members)


class StandIn(MetaPathFinder, Loader):
    """Finds the two modules when nobody else does."""

    def __init__(self, members: dict[str, Any]) -> None:
        self._members = members

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Know our names and no other."""
        if fullname not in _NAMES:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=fullname == "IPython")

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the import system."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module."""
        if module.__name__ == "IPython":
            module.__dict__.update(get_ipython=lambda: None)
        for name, mime in _RICH.items():
            module.__dict__[name] = type(name, (Rich,), {"mime": mime, "__module__": "IPython.display"})
        module.__dict__.update(self._members, Image=Image)
