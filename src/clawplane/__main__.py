"""Start the command line."""

from __future__ import annotations

import sys

import clawplane


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:] == ["--version"]:  # answered before anything is imported: scripts ask for it again and again
        print(clawplane.__version__)
        return
    try:
        from clawplane.cli.app import start  # noqa: PLC0415 - a Ctrl-C during the imports ends as quietly as later

        code = start()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
