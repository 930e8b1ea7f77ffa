"""Speak HTTP/1 as a forward proxy: bytes in, one request and bytes out, no socket.

Theory of operation. A connection carries one request: `CONNECT host:port`, after which everything is opaque, or
`METHOD http://host/...`, which is forwarded. h11 parses it strictly; the head that goes to the server is written anew
from what was parsed, and so is the body's framing. Therefore nothing that two parsers could read in two ways is passed
on, and nothing behind the request's end either. What a request says about its host twice (address and `Host` header)
has to agree. The answer to a forwarded request is passed to the client as it comes: only the client itself reads it.

    HEAD --> DECIDING --(accept)--> BODY --> OPEN      BODY only for forwarded requests
       \\--------------------------------------> ENDED (refused)
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import h11

from clawplane.egress.hosts import HIGHEST_PORT, BadHost, read_destination
from clawplane.egress.protocol import Credentials, Wanted

HEAD_BYTES: Final = 32 << 10
_AUTHORITY: Final = re.compile(r"(?P<host>[^\s/@:\[\]\\?#]{1,254}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?")
_ADDRESS: Final = re.compile(r"http://(?P<authority>[^/?#]{1,300})(?P<path>[^#]*)", re.IGNORECASE)
_OF_THIS_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"proxy-connection", b"proxy-authorization"}
)
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})
"""What a Connection header cannot have removed: the server would read another request than was judged."""


class State(Enum):
    """Where a conversation stands."""

    HEAD = auto()
    DECIDING = auto()
    BODY = auto()
    OPEN = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is not served: the answer to send, and why."""

    answer: bytes = field(repr=False)
    reason: str


class _Bad(Exception):
    """A request that is refused before anything is asked."""

    def __init__(self, status: str, reason: str, *headers: str) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


def refusal(status: str, reason: str, *headers: str) -> bytes:
    """Write an answer that ends the connection; `status` is such as `403 Forbidden`."""
    body = f"clawplane: {reason}.\n".encode()
    lines = (f"HTTP/1.1 {status}", "Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, *headers, "Connection: close", "", "")).encode("latin-1") + body


class Conversation:
    """One client's connection."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.state = State.HEAD
        self._credentials = credentials
        self._client = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._server: h11.Connection | None = None
        self._head: h11.Request | None = None

    @property
    def forwards(self) -> bool:
        """Tell whether this is a forwarded request, whose body has a frame, and no tunnel."""
        return self._head is not None

    def receive(self, data: bytes) -> Wanted | Refused | None:
        """Take in what the client sent until it is known what it wants; None = not yet."""
        try:
            self._client.receive_data(data)
            event = self._client.next_event()
            if event is h11.NEED_DATA:
                return None
            if not isinstance(event, h11.Request):
                raise _Bad("400 Bad Request", "the connection ended before a request")
            _check_size(event)
            self._check_credentials(event)
            wanted = self._tunnel(event) if event.method == b"CONNECT" else self._forward(event)
        except _Bad as bad:
            self.state = State.ENDED
            return Refused(refusal(bad.status, str(bad), *bad.headers), str(bad))
        except h11.RemoteProtocolError as error:
            self.state = State.ENDED
            status = "431 Request Header Fields Too Large" if error.error_status_hint == 431 else "400 Bad Request"
            reason = "the request is no valid HTTP/1 request"
            return Refused(refusal(status, reason), reason)
        self.state = State.DECIDING
        return wanted

    def accept(self) -> tuple[bytes, bytes]:
        """Return what the client and what the server is sent now that they are connected."""
        if self._head is None:
            self.state = State.OPEN
            early, _ = self._client.trailing_data
            return b"HTTP/1.1 200 Connection established\r\n\r\n", early
        self.state = State.BODY
        self._server = h11.Connection(h11.CLIENT)
        head = self._server.send(self._head) or b""
        return b"", head + self.body(b"")

    def body(self, data: bytes) -> bytes:
        """Return what of a forwarded request's body goes to the server; raises BadRequest when it is malformed.

        What comes behind the end of the request is malformed too: each request has a connection of its own.
        """
        if self.state is not State.BODY or self._server is None:
            raise BadRequest
        out = bytearray()
        try:
            if data:
                self._client.receive_data(data)
            while True:
                event = self._client.next_event()
                if isinstance(event, h11.Data):
                    out += self._server.send(h11.Data(data=event.data)) or b""
                elif isinstance(event, h11.EndOfMessage):
                    out += self._server.send(h11.EndOfMessage()) or b""
                    self.state = State.OPEN
                    self._end()
                    break
                else:
                    break
        except h11.ProtocolError:
            self.state = State.ENDED
            raise BadRequest from None
        return bytes(out)

    def _end(self) -> None:
        behind, _ = self._client.trailing_data
        if behind:
            raise BadRequest

    def _check_credentials(self, request: h11.Request) -> None:
        if self._credentials is None:
            return
        given = [value for name, value in request.headers if name == b"proxy-authorization"]
        scheme, _, text = (given[0] if len(given) == 1 else b"").partition(b" ")
        try:
            user, _, password = base64.b64decode(text.strip(), validate=True).partition(b":")
        except binascii.Error:
            user = password = b""
        if scheme.lower() != b"basic" or not self._credentials.match(user, password):
            reason = "the proxy needs the user name and password it was set up with"
            raise _Bad("407 Proxy Authentication Required", reason, 'Proxy-Authenticate: Basic realm="egress"')

    def _tunnel(self, request: h11.Request) -> Wanted:
        host, port = _authority(request.target.decode("latin-1"), 0)
        if not port:
            raise _Bad("400 Bad Request", "a CONNECT request has to name host and port")
        for name, value in request.headers:
            if name == b"host" and _canonical(*_authority(value.decode("latin-1"), port)) != _canonical(host, port):
                raise _Bad("400 Bad Request", "the Host header names another host than the request")
        if any(name in {b"content-length", b"transfer-encoding"} for name, _ in request.headers):
            raise _Bad("400 Bad Request", "a CONNECT request has no body")
        return Wanted(host, port)

    def _forward(self, request: h11.Request) -> Wanted:
        match = _ADDRESS.fullmatch(request.target.decode("latin-1"))
        if match is None:
            raise _Bad("400 Bad Request", "this is a proxy: ask for http://host/path, or CONNECT to host:port")
        host, port = _authority(match["authority"], 80)
        framing = [name for name, _ in request.headers if name in {b"content-length", b"transfer-encoding"}]
        if len(framing) > 1:
            raise _Bad("400 Bad Request", "the length of the request's body is given twice")
        for name, value in request.headers:
            if name == b"host" and _canonical(*_authority(value.decode("latin-1"), 80)) != _canonical(host, port):
                raise _Bad("400 Bad Request", "the Host header names another host than the request")
        path = match["path"]
        target = (path if path.startswith("/") else f"/{path}").encode("latin-1")
        self._head = h11.Request(method=request.method, target=target, headers=_headers(request, match["authority"]))
        return Wanted(host, port)


def _check_size(request: h11.Request) -> None:
    """Refuse a large head that came at once; h11 itself bounds only what it waits for."""
    size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    if size > HEAD_BYTES:
        raise _Bad("431 Request Header Fields Too Large", "the request's head is too large")


class BadRequest(Exception):
    """The body of a forwarded request is malformed."""


def _authority(text: str, default: int) -> tuple[str, int]:
    match = _AUTHORITY.fullmatch(text)
    if match is None or (match["port"] and not 1 <= int(match["port"]) <= HIGHEST_PORT):
        raise _Bad("400 Bad Request", "the request names no valid host and port")
    return match["host"], int(match["port"] or default)


def _canonical(host: str, port: int) -> str:
    try:
        return str(read_destination(host, port))
    except BadHost as error:
        raise _Bad("400 Bad Request", f"the host cannot be used: {error}") from None


def _headers(request: h11.Request, authority: str) -> list[tuple[bytes, bytes]]:
    """Return the headers for the server: those for this hop are dropped, and the host is the one that was judged."""
    named = b",".join(value for name, value in request.headers if name == b"connection").split(b",")
    dropped = (_OF_THIS_HOP | {name.strip().lower() for name in named}) - _FRAMING | {b"host"}
    kept = [(name, value) for name, value in request.headers if name not in dropped]
    return [(b"Host", authority.encode("latin-1")), *kept, (b"Connection", b"close")]
