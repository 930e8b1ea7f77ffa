"""Show a question about a host task to whoever has its link, and take the answer. No key is needed: the link is it.

Looking never decides, for chat programs and scanners fetch what they find in messages. A browser gets a page with two
buttons and nothing that is loaded from anywhere; programs get and send JSON. Nothing of it may be kept, framed, or told
to the next site, and the access log shows no link (see edge).
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Final, Literal
from urllib.parse import parse_qsl

from msgspec import Struct
from starlette.responses import Response

from clawplane.api import errors, replies
from clawplane.api.calls import Call
from clawplane.api.native.host_tasks import host_of
from clawplane.domain.errors import ClawplaneError, InvalidSchema, TooLarge
from clawplane.domain.questions import ON_PAGE, Question, shown, when
from clawplane.flows import approvals

_LONGEST: Final = 1 << 12
_FORM: Final = "application/x-www-form-urlencoded"
_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "pre{background:#f3f3f3;padding:1rem;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:.4rem}"
    "dt{font-weight:600}dd{margin:0 0 .4rem;overflow-wrap:anywhere}"
    "button{font:inherit;padding:.5rem 2rem;margin-right:1rem;border:1px solid #555;border-radius:.4rem}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; frame-ancestors 'none'; "
        "base-uri 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
}


class AnswerBody(Struct, forbid_unknown_fields=True):
    """The answer to a question; it is final."""

    answer: Literal["yes", "no"]


class Fact(Struct, frozen=True):
    """Something that is known about what is asked."""

    name: str
    value: str


class QuestionBody(Struct, frozen=True):
    """A question about a host task, and how it stands; `text` is what the caller or the agent wrote, bounded.

    tool_use: the tool use that it is about, "" for the task itself. expires_at, in milliseconds: null once answered.
    """

    task_id: str
    kind: Literal["task", "tool"]
    tool_use: str
    title: str
    facts: list[Fact]
    text: str
    answer: Literal["waiting", "yes", "no"]
    expires_at: int | None


async def look(call: Call) -> Response:
    """Show what is asked; decides nothing."""
    try:
        question, until = await approvals.look(host_of(call), call.path("token"))
    except ClawplaneError as error:
        return _refused(call, error)
    if _wants_page(call):
        return _page(f"{question.title}?", _asked(question, until))
    return _sealed(replies.success(call, _body(question, "waiting", until)))


async def answer(call: Call) -> Response:
    """Take the answer, from a form or as JSON."""
    try:
        word = await _word(call)
        question = await approvals.answer(host_of(call), call.path("token"), given=word == "yes")
    except ClawplaneError as error:
        return _refused(call, error)
    if _wants_page(call):
        told = "You said yes: it goes on." if word == "yes" else "You said no: it will not happen."
        return _page(told, f"<p>{escape(question.title)}.</p>")
    return _sealed(replies.success(call, _body(question, word, None)))


async def _word(call: Call) -> Literal["yes", "no"]:
    if len(await call.request.body()) > _LONGEST:
        raise TooLarge(f"An answer is at most {_LONGEST} bytes long.", hint="Send answer=yes or answer=no.")
    if call.request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return (await call.body(AnswerBody)).answer
    match [value for name, value in parse_qsl((await call.request.body()).decode("latin-1")) if name == "answer"]:
        case ["yes"]:
            return "yes"
        case ["no"]:
            return "no"
    raise InvalidSchema("answer: it is neither yes nor no.", hint="Send answer=yes or answer=no.")


def _wants_page(call: Call) -> bool:
    return "text/html" in call.request.headers.get("accept", "").lower()


def _refused(call: Call, error: ClawplaneError) -> Response:
    """Return the answer to what cannot be shown or answered, with the headers of all the others."""
    if not _wants_page(call):
        path = "/v1/host/approvals/"
        return _sealed(errors.to_response(error, path=path, request_id=call.request_id))
    hint = f"<p>{escape(error.hint)}</p>" if error.hint else ""
    return _page(error.message, hint, status=errors.answer_for(error).native_status)


def _body(question: Question, word: Literal["waiting", "yes", "no"], until: int | None) -> QuestionBody:
    return QuestionBody(
        task_id=question.task,
        kind=question.kind,
        tool_use=question.use,
        title=question.title,
        facts=[Fact(name, value) for name, value in question.facts],
        text=shown(question.text, ON_PAGE),
        answer=word,
        expires_at=until,
    )


def _asked(question: Question, until: int) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in question.facts)
    text = shown(question.text, ON_PAGE)
    written = f"<pre>{escape(text)}</pre>" if text.strip() else ""
    return (
        f"<dl><dt>task</dt><dd>{escape(question.task)}</dd>{facts}</dl>{written}"
        '<form method="post"><button name="answer" value="yes">Yes</button>'
        '<button name="answer" value="no">No</button></form>'
        f"<p>The answer is final. This link is good until {when(until)}; whoever has it decides.</p>"
    )


def _page(heading: str, inside: str, *, status: int = 200) -> Response:
    """Return a page; `inside` is HTML."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    page = (
        f'<!doctype html><html lang="en"><head>{head}<title>clawplane asks</title></head>'
        f"<body><h1>{escape(heading)}</h1>{inside}</body></html>"
    )
    body = page.encode("utf-8", "replace")
    return _sealed(Response(body, status_code=status, media_type="text/html; charset=utf-8"))


def _sealed(response: Response) -> Response:
    response.headers.update(_HEADERS)
    return response
