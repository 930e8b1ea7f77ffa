"""List runs, read one, its log and its rows, export them, abort."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

import msgspec
from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.coreclaw import shapes
from clawplane.api.coreclaw.choosing import chosen_run
from clawplane.api.pages import page_of
from clawplane.domain.errors import InvalidArgument, InvalidSchema
from clawplane.domain.lifecycle import RunStatus

_MONTHS_AT: Final = timezone(timedelta(hours=8))
_DAY_SECONDS: Final = 86_400
_LATEST: Final = 32_503_680_000  # the year 3000
CROSSES: Final = "run list time range cannot cross months"


async def list_runs(call: Call) -> Response:
    """Return a page of the caller's runs, newest first."""
    page = page_of(call)
    since, before = _time_range(call)
    count, runs = await call.flows.runs.page(
        call.caller,
        worker_id=call.text("worker_id") or None,
        status=_status(call),
        created_from=since,
        created_before=before,
        limit=page.limit,
        offset=page.skip,
    )
    flows = call.flows
    items = [shapes.run_object(run, usage=flows.runs.usage(run), clock=flows.clock) for run in runs]
    return replies.success(call, shapes.RunList(count, items, page.index, page.limit))


async def get_run(call: Call) -> Response:
    """Return a run."""
    run = await chosen_run(call)
    return replies.success(call, shapes.run_object(run, usage=call.flows.runs.usage(run), clock=call.flows.clock))


async def abort_run(call: Call) -> Response:
    """Abort a run; whatever the body holds is ignored."""
    await call.request.body()  # read, so that the connection can be used again
    run = await chosen_run(call)
    await call.flows.runs.abort(call.caller, run.slug)
    return replies.done(call)


async def get_log(call: Call) -> Response:
    """Return the newest log entries and a link to the whole log."""
    run = await chosen_run(call)
    lines = await call.flows.results.log_tail(run.slug)
    token = await call.flows.results.log_link(run.slug)
    log = shapes.RunLog(
        call.url(f"/v1/downloads/{token}"), [shapes.log_entry(line) for line in lines], run.result_count
    )
    return replies.success(call, log)


async def list_results(call: Call) -> Response:
    """Return a page of rows."""
    wanted = page_of(call)
    run = await chosen_run(call)
    page = await call.flows.results.page(run, page=wanted.index, limit=wanted.limit)
    return replies.success(call, msgspec.structs.replace(page, headers=shapes.headers(page.headers)))


async def export_results(call: Call) -> Response:
    """Return a link to the rows as a file."""
    format_ = call.text("format").strip() or "csv"
    keys = [key.strip() for key in call.text("filter_keys").split(",") if key.strip()]
    run = await chosen_run(call)
    token = await call.flows.results.export_link(run, format_, keys)
    return replies.success(call, shapes.ExportLink(call.url(f"/v1/downloads/{token}")))


def _status(call: Call) -> RunStatus | None:
    value = call.text("status").strip()
    if not value:
        return None
    try:
        return RunStatus(value)
    except ValueError:
        choices = ", ".join(status.value for status in RunStatus)
        raise InvalidSchema(f"status: {value[:40]!r} is unknown.", hint=f"Use {choices}.") from None


def _time_range(call: Call) -> tuple[int | None, int | None]:
    """Return the range of creation in milliseconds; both times lie in one month at UTC+8, the last day counts."""
    start = call.number("start_time", None, low=0, high=_LATEST)
    end = call.number("end_time", None, low=0, high=_LATEST)
    if start is None and end is None:
        return (_month_start(call), None) if call.flows.month_rule else (None, None)
    if start is None or end is None:
        raise InvalidArgument("start_time and end_time must be sent together.", hint="Send both, or neither.")
    first, last = (datetime.fromtimestamp(moment, UTC).astimezone(_MONTHS_AT) for moment in (start, end))
    if (first.year, first.month) != (last.year, last.month):
        raise InvalidArgument(CROSSES, hint="Ask month by month.")
    return start * 1000, (end + _DAY_SECONDS) * 1000


def _month_start(call: Call) -> int:
    now = datetime.fromtimestamp(call.flows.clock.now_ms() / 1000, UTC).astimezone(_MONTHS_AT)
    return int(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1000
