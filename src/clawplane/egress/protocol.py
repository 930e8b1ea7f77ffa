"""Speak SOCKS5 (RFC 1928, RFC 1929) as a server: bytes in, one request and bytes out, no socket.

    METHODS --(credentials are set)--> LOGIN --> REQUEST --> DECIDING --> OPEN
       \\-------(none are set)----------------->/               \\-------> ENDED (refused)

`receive` is fed whatever arrives and says what to send and, once, what is wanted. Only CONNECT is understood. When
credentials are set, a client that does not offer a user name and password is refused; when none are set, the listener
itself says who is there, and only "no authentication" is chosen.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import Final

_VERSION: Final = 5
_LOGIN_VERSION: Final = 1
_NO_AUTHENTICATION: Final = 0x00
_USERNAME_PASSWORD: Final = 0x02
_NOTHING_ACCEPTABLE: Final = 0xFF
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4


class Reply(IntEnum):
    """What is answered to a request (RFC 1928, section 6)."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TIMED_OUT = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_NOT_SUPPORTED = 8


class State(Enum):
    """Where a conversation stands."""

    METHODS = auto()
    LOGIN = auto()
    REQUEST = auto()
    DECIDING = auto()
    OPEN = auto()
    ENDED = auto()


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and password."""

    user: str
    password: str = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Credentials:
        """Read `user:password`."""
        user, _, password = text.partition(":")
        return cls(user, password)

    def match(self, user: bytes, password: bytes) -> bool:
        """Compare in time that does not depend on where the difference is."""
        same_user = hmac.compare_digest(user, self.user.encode())
        return hmac.compare_digest(password, self.password.encode()) and same_user


@dataclass(frozen=True, slots=True)
class Wanted:
    """The host, as the client wrote it, and the port that a client wants to be connected to."""

    host: str
    port: int


class Conversation:
    """One client's handshake."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self.state = State.METHODS
        self.reason = ""
        """Why the conversation has ended, in words; "" while it goes on."""
        self._credentials = credentials
        self._buffer = bytearray()
        self._wanted: Wanted | None = None

    def receive(self, data: bytes) -> tuple[bytes, Wanted | None]:
        """Take in what the client sent; return what to send, and what it wants as soon as that is known."""
        answers = bytearray()
        if self.state is not State.ENDED:
            self._buffer += data
        while self.state in _STEPS:
            answer = _STEPS[self.state](self)
            if answer is None:
                break
            answers += answer
        wanted, self._wanted = self._wanted, None
        return bytes(answers), wanted

    def reply(self, code: Reply) -> bytes:
        """Answer what was wanted. The address in a reply is of no use to a client here and is always 0.0.0.0:0."""
        self.state = State.OPEN if code is Reply.SUCCEEDED else State.ENDED
        return bytes((_VERSION, code, 0, _IPV4, 0, 0, 0, 0, 0, 0))

    def rest(self) -> bytes:
        """Return what the client sent after its request, once: it belongs to the far end."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _end(self, answer: bytes, reason: str) -> bytes:
        self.state, self.reason = State.ENDED, reason
        self._buffer.clear()
        return answer

    def _refuse(self, code: Reply, reason: str) -> bytes:
        return self._end(self.reply(code), reason)

    def _methods(self) -> bytes | None:
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            return self._end(b"", "the client does not speak SOCKS5")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return None
        offered = self._take(2 + buffer[1])[2:]
        method = _NO_AUTHENTICATION if self._credentials is None else _USERNAME_PASSWORD
        if method not in offered:
            nothing = bytes((_VERSION, _NOTHING_ACCEPTABLE))
            missing = "no user name and password" if self._credentials else "no way in without authentication"
            return self._end(nothing, f"the client offers {missing}")
        self.state = State.REQUEST if self._credentials is None else State.LOGIN
        return bytes((_VERSION, method))

    def _login(self) -> bytes | None:
        buffer = self._buffer
        if buffer and buffer[0] != _LOGIN_VERSION:
            return self._end(bytes((_LOGIN_VERSION, 1)), "the login is malformed")
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return None
        names = 2 + buffer[1]
        if len(buffer) < names + 1 + buffer[names]:
            return None
        login = self._take(names + 1 + buffer[names])
        user, password = login[2:names], login[names + 1 :]
        if self._credentials is None or not self._credentials.match(user, password):
            return self._end(bytes((_LOGIN_VERSION, 1)), "the user name or password is wrong")
        self.state = State.REQUEST
        return bytes((_LOGIN_VERSION, 0))

    def _request(self) -> bytes | None:
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            return self._end(b"", "the request is malformed")
        if len(buffer) < 5:
            return None
        if buffer[1] != _CONNECT:
            return self._refuse(Reply.COMMAND_NOT_SUPPORTED, "only CONNECT is supported")
        lengths = {_IPV4: 4, _NAME: 1 + buffer[4], _IPV6: 16}
        kind = buffer[3]
        if kind not in lengths:
            return self._refuse(Reply.ADDRESS_NOT_SUPPORTED, "the type of the address is unknown")
        if len(buffer) < 4 + lengths[kind] + 2:
            return None
        request = self._take(4 + lengths[kind] + 2)
        address, port = request[4:-2], int.from_bytes(request[-2:], "big")
        host = _host(kind, address)
        if host is None:
            return self._refuse(Reply.NOT_ALLOWED, "the name is no text")
        self._wanted = Wanted(host, port)
        self.state = State.DECIDING
        return b""

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _host(kind: int, address: bytes) -> str | None:
    if kind == _IPV4:
        return str(IPv4Address(address))
    if kind == _IPV6:
        return str(IPv6Address(address))
    try:
        return address[1:].decode("utf-8")
    except UnicodeDecodeError:
        return None


_STEPS: Final = {
    State.METHODS: Conversation._methods,
    State.LOGIN: Conversation._login,
    State.REQUEST: Conversation._request,
}
