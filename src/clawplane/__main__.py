"""Start the command line."""

from __future__ import annotations

from clawplane.cli.app import build_app


def main() -> None:
    """Run the command that the arguments name."""
    build_app()()


if __name__ == "__main__":
    main()
