"""`clawplane selftest`: attack this host's own sandbox."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from clawplane.cli.output import FAILED, show_json, tell
from clawplane.cli.progress import progress
from clawplane.domain.errors import Unavailable

if TYPE_CHECKING:
    from clawplane.sandbox.selftest import Result


def selftest(*, json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Try the attack list on this host's sandbox, and report what happened.

    No server is needed; it takes about half a minute. Run it as the user that runs the runner. Exit code 0 when every
    critical attack failed, 1 when one succeeded or this host cannot isolate at all.

    Example: `clawplane selftest --json > report.json`

    Parameters
    ----------
    json
        Write the report as JSON.
    """
    from clawplane.sandbox.launch import SandboxUnavailable  # noqa: PLC0415 - only this command needs the sandbox
    from clawplane.sandbox.selftest import attack  # noqa: PLC0415

    with progress("Attacking the sandbox", quiet=json) as bar:

        def told(result: Result) -> None:
            bar.update("Attacking the sandbox", f"{result.number} {result.title}")

        try:
            report = asyncio.run(attack(told))
        except SandboxUnavailable as refusal:
            sentence, *details = str(refusal).splitlines()
            raise Unavailable(sentence, details=details, hint="See `clawplane doctor` for what to mend.") from None
    if json:
        show_json(report.as_json())
    else:
        tell(report.as_text())
    if not report.ok:
        sys.exit(FAILED)
