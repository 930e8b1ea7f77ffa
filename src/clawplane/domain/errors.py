"""The one tree of errors.

    ClawplaneError
    |-- InvalidArgument            a value is wrong; the caller can mend it
    |   |-- InvalidSchema          ... its shape or range (422 on the CoreClaw wire)
    |   `-- Unchanged              ... it is what is stored already
    |-- NotFound                   an id that nothing answers to
    |   |-- WorkerNotFound         ... asked to run
    |   `-- RunNotFound
    |-- Gone                       what was there for a time that is over
    |-- AuthenticationRequired     no credential
    |-- InvalidToken               a credential that is unknown, revoked or expired
    |-- Forbidden                  a credential without the scope
    |-- VersionUnavailable         a version that is absent, building or failed
    |-- NotAbortable               a run that has ended
    |-- ConcurrencyLimited         the plan's concurrent runs are taken
    |-- RateLimited                too many requests
    |-- TooLarge                   a body or value above its limit
    |-- Conflict                   what is asked contradicts the present state
    |   `-- StaleLease             a holder whose fence has been superseded
    |-- StoreError                 the database cannot take or give data
    |   |-- StoreBusy              ... it is locked by another process
    |   `-- StoreFull              ... the disk is full
    |-- Unavailable                not ready yet, or shutting down
    |-- NotImplementedHere         an operation this installation does not offer
    `-- InternalError              a defect of ours; the details are in the log

Each has a machine code, a sentence and a hint. `api/errors.py` maps every one to its wire in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar


class ClawplaneError(Exception):
    """A failure with a code for machines, a sentence for people and a hint at the way out."""

    code: ClassVar[str] = "internal_error"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint
        self.details = tuple(details)


class InvalidArgument(ClawplaneError):
    """A value that the caller can mend."""

    code = "invalid_argument"


class InvalidSchema(InvalidArgument):
    """A value of the wrong shape or outside its range."""

    code = "invalid_schema"


class Unchanged(InvalidArgument):
    """An upload that is byte for byte what is stored already."""

    code = "unchanged"
    default_hint = "Change the package, or use the version that is there."


class NotFound(ClawplaneError):
    """An id that nothing answers to."""

    code = "not_found"


class WorkerNotFound(NotFound):
    """A Worker that was asked to run and does not exist."""

    code = "worker_not_found"
    default_hint = "List the Workers with `clawplane workers list`."


class RunNotFound(NotFound):
    """A run that does not exist."""

    code = "run_not_found"
    default_hint = "List the runs with `clawplane runs list`."


class Gone(ClawplaneError):
    """What was there for a time that is over."""

    code = "gone"


class AuthenticationRequired(ClawplaneError):
    """A request without a credential."""

    code = "authentication_required"
    default_hint = "Send `Authorization: Bearer KEY`, or set CLAWPLANE_API_KEY."


class InvalidToken(ClawplaneError):
    """A credential that is unknown, revoked or expired."""

    code = "invalid_token"
    default_hint = "Create a key with `clawplane keys create`."


class Forbidden(ClawplaneError):
    """A credential that lacks the scope for what it asks."""

    code = "forbidden"
    default_hint = "Use a key that has the scope named here."


class VersionUnavailable(ClawplaneError):
    """A version that does not exist, is still being built, or failed to build."""

    code = "version_unavailable"


class NotAbortable(ClawplaneError):
    """A run that has already ended or is being aborted."""

    code = "not_abortable"


class ConcurrencyLimited(ClawplaneError):
    """The plan's number of running runs is reached; nothing was created."""

    code = "concurrency_limited"
    default_hint = "Wait for a run to end, or raise the limit in the settings."


class RateLimited(ClawplaneError):
    """Too many requests in too short a time."""

    code = "rate_limited"
    default_hint = "Retry after the number of seconds in Retry-After."


class TooLarge(ClawplaneError):
    """A body or value above its limit."""

    code = "too_large"


class Conflict(ClawplaneError):
    """What is asked contradicts the present state."""

    code = "conflict"


class StaleLease(Conflict):
    """A holder whose lease has been lost; it must kill what it runs and send nothing more."""

    code = "stale_lease"


class StoreError(ClawplaneError):
    """The database cannot take or give data."""

    code = "store_error"


class StoreBusy(StoreError):
    """The database file is locked by another process."""

    code = "store_busy"
    default_hint = "Stop the other process that writes to the database, or give this one its own --data directory."


class StoreFull(StoreError):
    """The disk that holds the database or the blobs is full."""

    code = "store_full"
    default_hint = "Free disk space; nothing that was acknowledged is lost."


class Unavailable(ClawplaneError):
    """Not ready yet, or shutting down."""

    code = "unavailable"
    default_hint = "Try again in a moment."


class NotImplementedHere(ClawplaneError):
    """An operation that this installation does not offer."""

    code = "not_implemented"


class InternalError(ClawplaneError):
    """A defect of ours; its details are in the log under the request id."""

    code = "internal_error"
    default_hint = "Report the request id with the server's log."
