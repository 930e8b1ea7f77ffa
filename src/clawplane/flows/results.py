"""Show what runs have produced: rows, columns, logs, and exports behind signed links."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final, Protocol

import msgspec

from clawplane.domain.batches import StoredLogLine
from clawplane.domain.errors import InvalidSchema, NotFound, NotImplementedHere
from clawplane.domain.ports import Runs, Workers
from clawplane.domain.rows import with_data_id
from clawplane.domain.runs import HeaderItem, Run
from clawplane.domain.schemas import load_output_schema
from clawplane.domain.wakeups import Wakeups
from clawplane.flows import channels, closing
from clawplane.flows.links import Link, Links

EXPORT_FORMATS: Final = ("csv", "json", "jsonl", "xlsx", "xls", "xml", "html", "rss")
"""What the wire knows; the exporter says which of them are here."""

LOG_TAIL: Final = 1000
_LOG_PAGE: Final = 2000
_FOLLOW_SECONDS: Final = 15.0
_CLOSING_SECONDS: Final = 1.0


class Exporter(Protocol):
    """What turns rows into a file; the exports leaf is joined to it by wiring."""

    def formats(self) -> Sequence[str]:
        """Return the formats that are offered."""
        ...

    def media_type(self, format_: str) -> str:
        """Return a format's media type."""
        ...

    def needs_columns(self, format_: str) -> bool:
        """Tell whether a format is a table, which shows what its columns name and nothing else."""
        ...

    def export(
        self, format_: str, keys: Sequence[str] | None, rows: AsyncIterator[list[bytes]]
    ) -> AsyncIterator[bytes]:
        """Yield the file: `keys` are the columns in order (None = every row's own), `rows` JSON bodies in lists."""
        ...


class ResultPage(msgspec.Struct, frozen=True, kw_only=True, rename={"items": "list"}):
    """One page of rows, each as JSON with its platform key."""

    count: int
    headers: list[HeaderItem]
    items: list[msgspec.Raw]
    page_index: int
    page_size: int


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way."""

    filename: str
    media_type: str
    chunks: AsyncIterator[bytes]


class Results:
    """Read rows and logs. Whether the caller may see the run is settled before."""

    def __init__(self, workers: Workers, runs: Runs, links: Links, exporter: Exporter, wakeups: Wakeups) -> None:
        self._workers = workers
        self._runs = runs
        self._links = links
        self._exporter = exporter
        self._wakeups = wakeups

    async def columns(self, run: Run) -> list[HeaderItem]:
        """Return a run's columns: its own header, else the Worker's output schema, else the keys seen in rows."""
        if run.header is not None:
            return list(run.header)
        version = await self._workers.version(run.worker, run.version)
        if version is not None:
            declared = load_output_schema(version.output_schema).columns
            if declared:
                return [
                    HeaderItem(key=column.name, label=column.description or column.name, format=column.format)
                    for column in declared
                ]
        return await self._runs.columns(run.slug)

    async def page(self, run: Run, *, page: int, limit: int) -> ResultPage:
        """Return one page of rows; `page` counts from 1."""
        count, rows = await self._runs.rows(run.slug, limit=limit, offset=(page - 1) * limit)
        return ResultPage(
            count=count,
            headers=await self.columns(run),
            items=[msgspec.Raw(with_data_id(row.body, row.ordinal)) for row in rows],
            page_index=page,
            page_size=limit,
        )

    async def export_link(self, run: Run, format_: str, columns: Sequence[str]) -> str:
        """Return the token of a link to the run's rows as a file."""
        name = format_.lower()
        if name not in EXPORT_FORMATS:
            raise InvalidSchema(f"format: {format_[:40]!r} is unknown.", hint=f"Use {', '.join(EXPORT_FORMATS)}.")
        if name not in self._exporter.formats():
            offered = ", ".join(self._exporter.formats())
            raise NotImplementedHere(f"Exports as {name} are not offered here.", hint=f"Use {offered}.")
        return await self._links.sign("export", run.slug, format_=name, columns=tuple(columns))

    async def log_link(self, subject: str) -> str:
        """Return the token of a link to a whole log as plain text."""
        return await self._links.sign("log", subject)

    async def download(self, token: str) -> Download:
        """Return the file that a link gives; raises InvalidToken."""
        link = await self._links.read(token)
        if link.kind == "log":
            name = "".join(char if char.isalnum() or char in "-." else "-" for char in link.subject)
            return Download(
                filename=f"{name}-logs.txt",
                media_type="text/plain; charset=utf-8",
                chunks=self._log_text(link.subject),
            )
        run = await self._runs.find(link.subject)
        if run is None:
            raise NotFound("The run of this link is gone.")
        return Download(
            filename=f"{run.slug}-results.{link.format}",
            media_type=self._exporter.media_type(link.format),
            chunks=self._exporter.export(link.format, await self._keys(run, link), self._runs.stream_rows(run.slug)),
        )

    async def log_tail(self, subject: str, limit: int = LOG_TAIL) -> list[StoredLogLine]:
        """Return the newest log entries, oldest first."""
        return await self._runs.log_tail(subject, limit=limit)

    async def log_after(self, subject: str, seq: int, limit: int = _LOG_PAGE) -> list[StoredLogLine]:
        """Return log entries behind `seq`, oldest first."""
        return await self._runs.log_after(subject, seq, limit=limit)

    async def follow_log(
        self, subject: str, seq: int, ended: Ended, *, closes: bool = True
    ) -> AsyncGenerator[list[StoredLogLine], None]:
        """Yield log entries behind `seq` as they come until `ended` says so.

        An empty list now and then is a sign of life. `ended` is asked before the log is read, so that what was logged
        before the end is delivered. `closes`: a line about the end follows it shortly and is waited for.
        """
        wakeup = self._wakeups.listen(channels.log(subject))
        awaited = closes
        try:
            while True:
                last = await ended()
                lines = await self._runs.log_after(subject, seq, limit=_LOG_PAGE)
                if lines:
                    seq = lines[-1].seq
                    awaited = awaited and not closing.is_closing(lines[-1].content)
                    yield lines
                elif not last:
                    if not await wakeup.wait(_FOLLOW_SECONDS):
                        yield []
                elif awaited:
                    awaited = False
                    await wakeup.wait(_CLOSING_SECONDS)
                else:
                    return
        finally:
            wakeup.close()

    async def _keys(self, run: Run, link: Link) -> list[str] | None:
        """Return the keys to export: the ones asked for that exist, else all of them."""
        declared = [column.key for column in await self.columns(run)]
        known = set(declared)
        if not known.issuperset(link.columns):
            known.update(column.key for column in await self._runs.columns(run.slug))
        chosen = [key for key in dict.fromkeys(link.columns) if key in known]
        if chosen:
            return chosen
        return declared if self._exporter.needs_columns(link.format) else None

    async def _log_text(self, subject: str) -> AsyncIterator[bytes]:
        seq = 0
        while lines := await self._runs.log_after(subject, seq, limit=_LOG_PAGE):
            seq = lines[-1].seq
            yield "".join(f"{line.content}\n" for line in lines).encode("utf-8", "replace")


class Ended(Protocol):
    """Tell whether nothing more will be logged."""

    async def __call__(self) -> bool:
        """Return True once the end has been stored."""
        ...
