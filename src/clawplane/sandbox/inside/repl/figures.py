"""Show matplotlib figures as PNG: when plt.show() is called, and what is left open at the end of a cell.

Nothing of matplotlib is imported here; it is used when the user's code has imported it. Its backend is a module object
that fills itself when matplotlib asks for it by name.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from clawplane.sandbox.inside.repl import bundles

BACKEND: Final = "clawplane_inline"
_NOT_SHOWN: Final = "FigureCanvas.* is non-interactive, and thus cannot be shown"
re.compile(_NOT_SHOWN, re.IGNORECASE)  # a zygote's children find it in the cache of the module
_sys = sys
_BytesIO = io.BytesIO
_Show = Callable[[str, dict[str, Any], dict[str, Any]], None]


def render(value: object) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the bundle of a matplotlib figure, None for anything else."""
    if "matplotlib.figure" not in _sys.modules or not _is_figure(value):
        return None
    return _bundle(value)


class Figures:
    """Shows every open figure once, then closes it."""

    def __init__(self, show: _Show) -> None:
        self._show = show
        self._shown: set[int] = set()

    def install(self) -> None:
        """Be there when matplotlib looks for its backend."""
        _sys.modules[BACKEND] = _Backend(self.show_open)
        warnings.filterwarnings("ignore", message=_NOT_SHOWN)

    def begin(self) -> None:
        """Be matplotlib's backend unless the environment of this process names another."""
        os.environ.setdefault("MPLBACKEND", f"module://{BACKEND}")

    def seen(self, value: object) -> None:
        """Do not show this figure once more at the end of the cell."""
        if "matplotlib.figure" in _sys.modules and _is_figure(value):
            self._shown.add(id(value))

    def show_open(self) -> None:
        """Show and close what is open, in order of creation."""
        holder: Any = _sys.modules.get("matplotlib._pylab_helpers")
        registry = getattr(getattr(holder, "Gcf", None), "figs", None)
        if not registry:
            self._shown.clear()
            return
        for manager in list(registry.values()):
            figure = manager.canvas.figure
            if id(figure) not in self._shown and figure.get_axes():
                self._show("display", *_bundle(figure))
        holder.Gcf.destroy_all()
        self._shown.clear()


class _Backend(ModuleType):
    """A matplotlib backend whose members come into being when matplotlib looks for them."""

    def __init__(self, show_open: Callable[[], None]) -> None:
        super().__init__(BACKEND)
        self._show_open = show_open

    def __getattr__(self, name: str) -> Any:
        if name not in ("FigureCanvas", "FigureManager", "show"):
            raise AttributeError(name)
        agg: Any = __import__("matplotlib.backends.backend_agg", fromlist=["FigureCanvasAgg"])
        show_open = self._show_open

        def show(*_arguments: object, **_options: object) -> None:
            show_open()

        self.__dict__.update(
            FigureCanvas=agg.FigureCanvasAgg, FigureManager=agg.FigureCanvasAgg.manager_class, show=show
        )
        return self.__dict__[name]


def _is_figure(value: object) -> bool:
    return any(
        each.__module__ == "matplotlib.figure" and each.__name__ == "FigureBase" for each in type.mro(type(value))
    )


def _bundle(figure: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    data: dict[str, Any] = {bundles.PLAIN: bundles.plain(figure)}
    try:
        target = _BytesIO()
        figure.savefig(target, format="png", bbox_inches="tight")
        content = target.getvalue()
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        data[bundles.PLAIN] += f"\n[drawing it failed with {bundles.brief(problem)}]"
        return data, {}
    data.update(bundles.clean_bundle({"image/png": content}))
    return bundles.bounded(data), {}
