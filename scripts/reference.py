"""Write docs/reference/ from the code; with --check, tell whether it is what the code says."""

from __future__ import annotations

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path

from reference_diagnostics import diagnostics_page
from reference_http import http_page
from reference_settings import settings_page

from clawplane.api.errors import TABLE
from clawplane.cli.app import build_app
from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "docs" / "reference"
NOTE = "<!-- Made by `make reference`; do not edit. -->\n\n"


def commands() -> str:
    """Return every command with its parameters, and what the exit codes mean."""
    text = build_app().generate_docs(output_format="markdown")
    page = "\n".join(line.rstrip() for line in text.strip().splitlines())
    rows = [f"| {code} | {meaning} |" for code, meaning in sorted(exit_codes().items())]
    table = "\n".join(["| code | meaning |", "| --- | --- |", "| 0 | done |", *rows])
    return f"{NOTE}{page}\n\n## Exit codes\n\n{table}\n"


def exit_codes() -> dict[int, str]:
    """Return the exit codes of `cli/output.py` with the text that stands below each."""
    body = ast.parse((PROJECT / "src/clawplane/cli/output.py").read_text(encoding="utf-8")).body
    codes = {}
    for assigned, text in pairwise(body):
        if isinstance(assigned, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            codes[int(ast.literal_eval(assigned.value))] = str(text.value.value)
    return codes


def error_page() -> str:
    """Return the tree of errors with codes, both wires' answers, meanings and hints."""
    members = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClawplaneError)]
    rows = []
    for kind in sorted(members, key=lambda kind: kind.code):
        if kind is not ClawplaneError:
            answer = TABLE[kind]
            meaning = (inspect.getdoc(kind) or "").splitlines()[0]
            wires = f"{answer.status} / {answer.code} | {answer.native_status}"
            rows.append(f"| `{kind.code}` | {wires} | {meaning} | {kind.default_hint} |")
    rows.append("| `method_not_allowed` | 405 / 11000 | 405 | A method that a path does not take. | See `Allow`. |")
    head = "| error | `/api/v2`: status / code | `/v1`: status | meaning | way out |\n| --- | --- | --- | --- | --- |"
    return f"{NOTE}{ERRORS}\n{head}\n" + "\n".join(rows) + "\n"


ERRORS = """# Errors

A refusal is `{"code", "message", "request_id", "details", "error", "hint"}`: `code` is the number of the CoreClaw wire,
`error` the name below, `message` a sentence, `hint` the way out, `details` everything that was found. On `/api/v2` the
message of some codes is fixed by that wire; the sentence is then the first of the details. The command line prints
sentence, details and hint to standard error, or with `--json` one object of `error`, `message`, `details` and `hint`.
"""


def main() -> int:
    """Write or check the pages."""
    pages = {
        "commands.md": commands(),
        "errors.md": error_page(),
        "settings.md": NOTE + settings_page(PROJECT / "src/clawplane"),
        "diagnostics.md": NOTE + diagnostics_page(PROJECT / "src/clawplane/domain"),
        "http-api.md": NOTE + http_page(),
    }
    if "--check" in sys.argv:
        stale = [
            name
            for name, text in pages.items()
            if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != text
        ]
        if stale:
            print(f"docs/reference is behind the code: {', '.join(stale)}; run `make reference`.")
        return 1 if stale else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
