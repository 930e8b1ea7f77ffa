"""`clawplane selftest`: attack this host's own sandbox, and a plane of its own."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from clawplane.cli.ending import run
from clawplane.cli.output import FAILED, show_json, tell
from clawplane.cli.progress import progress
from clawplane.domain.errors import Unavailable

if TYPE_CHECKING:
    from clawplane.sandbox.selftest import Report, Result


def selftest(
    *,
    sandbox_only: Annotated[bool, Parameter(name="--sandbox-only", negative="")] = False,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Try the whole attack list on this host, and report what happened.

    Half of it is tried in bare sandboxes. For the other half a control plane and a runner are started in a temporary
    directory, and attacked from inside their sessions and from their edge; nothing of yours is touched. It takes one to
    two minutes. Run it as the user that runs the runner. Exit code 0 when every critical attack failed, 1 when one
    succeeded or this host cannot isolate at all.

    Example: `clawplane selftest --json > report.json`

    Parameters
    ----------
    sandbox_only
        Only what needs bare sandboxes: half a minute, and no server.
    json
        Write the report as JSON.
    """
    from clawplane.sandbox.launch import SandboxUnavailable  # noqa: PLC0415 - only this command needs the sandbox

    with progress("Attacking this host", quiet=json) as bar:

        def told(result: Result) -> None:
            bar.update("Attacking this host", f"{result.number} {result.title}")

        try:
            report = run(_attacked(told, sandbox_only=sandbox_only))
        except SandboxUnavailable as refusal:
            sentence, *details = str(refusal).splitlines()
            raise Unavailable(sentence, details=details, hint="See `clawplane doctor` for what to mend.") from None
    if json:
        show_json(report.as_json())
    else:
        tell(report.as_text())
    if not report.ok:
        sys.exit(FAILED)


async def _attacked(told: Callable[[Result], None], *, sandbox_only: bool) -> Report:
    from clawplane.cli.live_attacks import attack_plane  # noqa: PLC0415 - as above
    from clawplane.sandbox.selftest import attack  # noqa: PLC0415

    report = await attack(told)
    return report if sandbox_only else _with(report, await attack_plane(told))


def _with(report: Report, live: Sequence[Result]) -> Report:
    """Return a report in which what was tried on a whole plane stands in place of where it is tried."""
    numbers = {each.number for each in live}
    kept = [each for each in report.results if each.status != "not tried" or each.number not in numbers]
    return dataclasses.replace(report, results=sorted([*kept, *live], key=lambda each: each.number))
