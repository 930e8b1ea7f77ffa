"""MIME bundles: what objects say of themselves, figures and tables, and what is too large."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PNG = b"\x89PNG\r\n\x1a\n"


def test_every_representation_of_an_object_is_in_the_bundle(repl: Any) -> None:
    ran = repl.run(
        "class A:\n    def __repr__(self): return 'A!'\n    def _repr_html_(self): return '<b>A</b>'\n"
        "    def _repr_markdown_(self): return '**A**'\n    def _repr_svg_(self): return '<svg/>'\n"
        "    def _repr_png_(self): return b'png'\n    def _repr_jpeg_(self): return (b'jpeg', {'width': 3})\n"
        "    def _repr_latex_(self): return '$A$'\n"
        "    def _repr_json_(self): return {'a': [1, None, float('nan'), (2,)]}\n"
        "    def _repr_javascript_(self): return 'a()'\n    def _repr_pdf_(self): return None\nA()"
    )
    (shown,) = ran.shown
    assert shown.kind == "result"
    assert shown.data == {
        "text/plain": "A!",
        "text/html": "<b>A</b>",
        "text/markdown": "**A**",
        "image/svg+xml": "<svg/>",
        "image/png": base64.b64encode(b"png").decode(),
        "image/jpeg": base64.b64encode(b"jpeg").decode(),
        "text/latex": "$A$",
        "application/json": {"a": [1, None, None, [2]]},
        "application/javascript": "a()",
    }
    assert shown.metadata == {"image/jpeg": {"width": 3}}


def test_a_mimebundle_method_comes_first(repl: Any) -> None:
    ran = repl.run(
        "class A:\n    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'application/vnd.plot+json': {'x': 1}, 'text/html': 'bundle'}, {'height': 5}\n"
        "    def _repr_html_(self): return 'method'\nA()"
    )
    assert ran.shown[0].data["application/vnd.plot+json"] == {"x": 1}
    assert (ran.shown[0].data["text/html"], ran.shown[0].metadata) == ("bundle", {"height": 5})


def test_a_representation_that_fails_is_named_in_the_text(repl: Any) -> None:
    ran = repl.run(
        "class A:\n    def __repr__(self): return 'A'\n    def _repr_html_(self): raise ValueError('why')\nA()"
    )
    assert ran.text == "A\n[_repr_html_ failed with ValueError: why]"
    assert ran.done.status == "ok"


def test_a_repr_that_fails_is_replaced_by_a_sentence(repl: Any) -> None:
    assert repl.run("class A:\n    def __repr__(self): raise ValueError('why')\nA()").text == (
        "<A object; its repr failed with ValueError: why>"
    )


def test_a_class_with_rich_methods_is_shown_as_a_class(repl: Any) -> None:
    ran = repl.run("class A:\n    def _repr_html_(self): return 'x'\nA")
    assert ran.shown[0].data == {"text/plain": "<class '__main__.A'>"}


def test_display_shows_objects_while_the_cell_runs(repl: Any) -> None:
    ran = repl.run("display(1, 'two')\ndisplay({'text/html': '<i>'}, raw=True)\n3")
    assert [(each.kind, each.data.get("text/html") or each.data["text/plain"]) for each in ran.shown] == [
        ("display", "1"),
        ("display", "'two'"),
        ("display", "<i>"),
        ("result", "3"),
    ]


def test_a_display_with_an_id_can_be_updated(repl: Any) -> None:
    repl.run("handle = display('first', display_id='mine')")
    ran = repl.run("handle.update('second')")
    assert [(each.kind, each.display_id, each.data["text/plain"]) for each in ran.shown] == [
        ("update", "mine", "'second'")
    ]


def test_what_is_too_large_is_left_out_with_a_note(repl: Any) -> None:
    ran = repl.run(
        "class A:\n    def __repr__(self): return 'A'\n    def _repr_png_(self): return bytes(20 << 20)\nA()"
    )
    assert set(ran.shown[0].data) == {"text/plain"}
    assert ran.text.startswith("A\n[image/png of ")
    assert ran.text.endswith("left out: the largest shown is 8 MiB]")
    assert repl.value("1") == "1"


def test_parts_that_are_too_large_together_are_left_out(repl: Any) -> None:
    ran = repl.run("display({f'text/x{n}': 'x' * (7 << 20) for n in range(5)}, raw=True)")
    assert ran.shown[0].data == {"text/plain": "[left out: its representations are too large together]"}


def test_a_long_repr_keeps_its_head_and_tail(repl: Any) -> None:
    text = repl.run("list(range(1_000_000))").text
    assert (text[:6], text[-8:]) == ("[0, 1,", " 999999]")
    assert len(text) < (1 << 20) + 100


def test_json_that_never_ends_is_cut(repl: Any) -> None:
    ran = repl.run("a = []; a.append(a)\nclass A:\n    def _repr_json_(self): return a\nA()")
    assert "..." in str(ran.shown[0].data["application/json"])


def test_more_displays_than_are_sent_are_counted(repl: Any) -> None:
    ran = repl.run("for n in range(1500): display(n)")
    assert len(ran.shown) == 1000
    assert ran.done.notes == ("500 shown objects were dropped: too many or too large together",)


@pytest.mark.parametrize("installed", [True, False])
def test_code_for_notebooks_finds_what_it_imports_from_ipython(
    needs: Callable[[str], Any], start: Callable[[], Any], tmp_path: Path, installed: bool
) -> None:
    repl = start()
    if installed:
        needs("IPython")
    else:
        repl.run("import sys; sys.path[:] = [path for path in sys.path if 'site-packages' not in path]")
    (tmp_path / "dot.png").write_bytes(PNG)
    ran = repl.run(
        "from IPython.display import HTML, Image, Markdown, clear_output, display, update_display\n"
        "from IPython import get_ipython\n"
        "display(HTML('<b>')); display(Markdown('**m**'), display_id='m'); update_display(5, display_id='m')\n"
        "clear_output(wait=True)\nassert get_ipython() is None\nImage('dot.png')"
    )
    assert ran.done.status == "ok", ran.traceback
    assert [(each.kind, each.display_id) for each in ran.shown] == [
        ("display", ""),
        ("display", "m"),
        ("update", "m"),
        ("result", ""),
    ]
    assert ran.shown[0].data["text/html"] == "<b>"
    assert ran.shown[1].data["text/markdown"] == "**m**"
    assert _is_png(ran.shown[3])
    assert [each.wait for each in ran.cleared] == [True]


@pytest.fixture
def plots(needs: Callable[[str], Any]) -> Any:
    """Return an interpreter with pyplot, in an environment that has it."""
    repl = needs("matplotlib")
    repl.run("import matplotlib.pyplot as plt")
    return repl


def _is_png(shown: Any) -> bool:
    return base64.b64decode(shown.data.get("image/png", "")).startswith(PNG)


def test_open_figures_are_shown_at_the_end_of_the_cell_and_closed(plots: Any) -> None:
    ran = plots.run("plt.plot([1, 2]); plt.figure(); plt.plot([3]);")
    assert [(each.kind, _is_png(each)) for each in ran.shown] == [("display", True), ("display", True)]
    assert ran.shown[0].data["text/plain"].startswith("<Figure")
    assert plots.run("plt.get_fignums()").text == "[]"


def test_show_shows_at_once_and_only_once(plots: Any) -> None:
    ran = plots.run("plt.plot([1]); plt.show(); display('after')")
    assert [each.data["text/plain"][:7] for each in ran.shown] == ["<Figure", "'after'"]
    assert ran.stderr == ""


def test_a_figure_as_the_result_is_shown_once(plots: Any) -> None:
    ran = plots.run("fig, ax = plt.subplots(); ax.plot([1]); fig")
    assert [(each.kind, _is_png(each)) for each in ran.shown] == [("result", True)]


def test_the_agg_backend_shows_as_well_and_does_not_warn(plots: Any) -> None:
    ran = plots.run("import matplotlib; matplotlib.use('Agg')\nplt.plot([1]); plt.show()")
    assert [_is_png(each) for each in ran.shown] == [True]
    assert ran.stderr == ""


def test_a_figure_that_cannot_be_drawn_is_named(plots: Any) -> None:
    ran = plots.run(
        "from matplotlib.lines import Line2D\nclass Bad(Line2D):\n    def draw(self, *a): raise ValueError('no ink')\n"
        "plt.gca().add_line(Bad([0], [1]));"
    )
    assert "[drawing it failed with ValueError: no ink]" in ran.shown[0].data["text/plain"]
    assert plots.value("1") == "1"


def test_a_huge_figure_is_left_out_with_a_note(plots: Any) -> None:
    ran = plots.run("import numpy as np\nplt.figure(figsize=(25, 25)); plt.imshow(np.random.rand(2000, 2000, 3));")
    assert "left out" in ran.shown[0].data["text/plain"]


def test_a_data_frame_has_text_and_html(needs: Callable[[str], Any]) -> None:
    ran = needs("pandas").run("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert "a\n0  1\n1  2" in ran.text
    assert "<table" in ran.shown[0].data["text/html"]


def test_a_huge_data_frame_is_shown_short(needs: Callable[[str], Any]) -> None:
    ran = needs("pandas").run("import pandas as pd\npd.DataFrame({'a': range(1_000_000)})")
    assert "1000000 rows" in ran.text
    assert len(ran.shown[0].data["text/html"]) < 20_000
