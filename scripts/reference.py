"""Write docs/reference/ from the code; with --check, tell whether it is what the code says."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from clawplane.cli.app import build_app
from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "docs" / "reference"
NOTE = "<!-- Made by `make reference`; do not edit. -->\n\n"


def commands() -> str:
    """Return every command with its parameters."""
    text = build_app().generate_docs(output_format="markdown")
    return NOTE + "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def error_page() -> str:
    """Return the tree of errors with codes, meanings and hints."""
    members = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClawplaneError)]
    rows = [
        f"| `{kind.code}` | {(inspect.getdoc(kind) or '').splitlines()[0]} | {kind.default_hint} |"
        for kind in sorted(members, key=lambda kind: kind.code)
        if kind is not ClawplaneError
    ]
    return NOTE + "# Errors\n\n| code | meaning | way out |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def settings_page() -> str:
    """Return every environment variable that the settings read."""
    source = (PROJECT / "src" / "clawplane" / "settings.py").read_text(encoding="utf-8")
    source += "".join(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "src/clawplane/cli").glob("*.py")))
    names = sorted(set(re.findall(r"\bCLAWPLANE_[A-Z_]+\b", source)))
    rows = [f"| `{name}` | {MEANINGS[name]} |" for name in names]
    return NOTE + "# Environment variables\n\n| variable | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n"


MEANINGS = {
    "CLAWPLANE_API_KEY": "for clients: the key to send; for the first start of a server: the admin key",
    "CLAWPLANE_BIND": "address to listen on; default 127.0.0.1",
    "CLAWPLANE_DATA": "directory that holds everything; default `$XDG_DATA_HOME/clawplane`",
    "CLAWPLANE_LINK_SECONDS": "how long a download link is valid; default 3600",
    "CLAWPLANE_LOG": "debug, info, warning or error; default info",
    "CLAWPLANE_MAX_BODY_BYTES": "largest JSON body; default 8 MiB",
    "CLAWPLANE_MAX_EXPANDED_BYTES": "largest package when expanded; default 500 MB",
    "CLAWPLANE_MAX_PACKAGE_BYTES": "largest package; default 100 MB",
    "CLAWPLANE_MAX_RUNNING_RUNS": "runs of one owner that may run at once; default 1000",
    "CLAWPLANE_MAX_SUBTASKS": "subtasks of one run; default 1000",
    "CLAWPLANE_MONTH_RULE": "1 = run lists show one calendar month, as the hosted platform does; default off",
    "CLAWPLANE_OWNER": "owner part of `owner~name`; default local",
    "CLAWPLANE_PORT": "port to listen on; default 3456",
    "CLAWPLANE_PUBLIC_URL": "address that clients see, for download links behind a proxy",
    "CLAWPLANE_RUNNER_NAME": "a runner's name; default the host's",
    "CLAWPLANE_RUNNER_TOKEN": "a runner's token, when no --token-file is given",
    "CLAWPLANE_SLOTS": "subtasks a runner takes at once; default four a core, at least four",
    "CLAWPLANE_URL": "the control plane that clients and runners talk to; default http://127.0.0.1:3456",
}


def main() -> int:
    """Write or check the pages."""
    pages = {"commands.md": commands(), "errors.md": error_page(), "settings.md": settings_page()}
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
