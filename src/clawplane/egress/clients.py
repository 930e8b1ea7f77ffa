"""The two ends of a connection through the relay: the client, which first says what it wants, and the far end.

A `Client` converses (protocol.py and http_protocol.py hold the words, no sockets) until it is known what it wants;
then it is not read from until the relay has joined it to a `FarEnd`, or refuses.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Protocol

from clawplane.egress import http_protocol
from clawplane.egress.http_protocol import BadRequest
from clawplane.egress.ledger import Entry
from clawplane.egress.pipes import End
from clawplane.egress.protocol import Conversation, Credentials, Reply, State, Wanted


class Gatekeeper(Protocol):
    """What clients need of the relay."""

    @property
    def ended(self) -> bool:
        """Tell whether nothing may pass any more."""
        ...

    def admit(self, client: Client) -> bool:
        """Take a new client, unless there are too many."""
        ...

    def dismiss(self, client: Client) -> None:
        """Forget a client that is gone."""
        ...

    def open(self, client: Client, wanted: Wanted) -> None:
        """Judge and connect for a client."""
        ...

    def pass_on(self, entry: Entry, *, sent: int = 0, received: int = 0) -> bool:
        """Count bytes that are about to pass; False when they must not."""
        ...


class Client(End, ABC):
    """One accepted connection; subclasses speak its protocol until it is joined to a far end."""

    def __init__(self, relay: Gatekeeper) -> None:
        super().__init__()
        self.moved_at = asyncio.get_running_loop().time()
        """When something last moved; before it is joined, when it came: a drop now and then buys no time."""
        self.joined = False
        self.deciding = False
        self.relay = relay

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Come in, if there is room."""
        super().connection_made(transport)
        if not self.relay.admit(self):
            self.reset()

    def connection_lost(self, error: Exception | None) -> None:
        """Be forgotten."""
        super().connection_lost(error)
        self.relay.dismiss(self)

    def eof_received(self) -> bool:
        """Go on listening to the far end; before there is one, a client that has finished wants nothing."""
        if self.joined:
            return super().eof_received()
        self.finished = True
        return self.deciding

    def data_received(self, data: bytes) -> None:
        """Converse, then pass on."""
        if self.joined:
            self.moved_at = asyncio.get_running_loop().time()
            self.upload(data)
        elif not self.deciding:
            self.converse(data)
        else:
            self.early(data)

    def ask(self, wanted: Wanted) -> None:
        """Have the relay connect; nothing is read meanwhile."""
        self.deciding = True
        self.hold()
        self.relay.open(self, wanted)

    def join(self, far: FarEnd, early: bytes) -> None:
        """Become one pipe with the far end, which has received nothing yet but `early`."""
        self.deciding, self.joined = False, True
        self.moved_at = asyncio.get_running_loop().time()
        self.other, far.other = far, self
        if self.lost or self.relay.ended:
            self.cut()
            return
        self.greet(far)
        if early:
            far.data_received(early)
        if self.finished:
            far.finish()
        self.go_on()

    def end_with(self, answer: bytes) -> None:
        """Send a last answer and close."""
        self.deciding = False
        if self.transport is not None and not self.lost:
            self.transport.write(answer)
            self.transport.close()

    def cut(self) -> None:
        """Break this connection and its far end."""
        if self.other is not None:
            self.other.reset()
        self.reset()

    @abstractmethod
    def converse(self, data: bytes) -> None:
        """Take in a piece of the handshake."""

    @abstractmethod
    def early(self, data: bytes) -> None:
        """Keep what came although nothing was asked for."""

    @abstractmethod
    def greet(self, far: FarEnd) -> None:
        """Tell the client that it is connected, and the far end what was already said."""

    @abstractmethod
    def upload(self, data: bytes) -> None:
        """Pass on what the client sends."""

    @abstractmethod
    def refuse(self, code: Reply, status: str, reason: str) -> None:
        """Answer that nothing comes of it."""


class SocksClient(Client):
    """A connection that speaks SOCKS5."""

    def __init__(self, relay: Gatekeeper, credentials: Credentials | None) -> None:
        super().__init__(relay)
        self._conversation = Conversation(credentials)

    def converse(self, data: bytes) -> None:
        """Answer the handshake."""
        answer, wanted = self._conversation.receive(data)
        if self._conversation.state is State.ENDED:
            self.end_with(answer)
            return
        self.write(answer)
        if wanted is not None:
            self.ask(wanted)

    def early(self, data: bytes) -> None:
        """Keep it behind the request."""
        self._conversation.receive(data)

    def greet(self, far: FarEnd) -> None:
        """Send the reply, and on what came with the request."""
        self.write(self._conversation.reply(Reply.SUCCEEDED))
        if rest := self._conversation.rest():
            far.upload(rest)

    def upload(self, data: bytes) -> None:
        """Pass on as it is."""
        if isinstance(self.other, FarEnd):
            self.other.upload(data)

    def refuse(self, code: Reply, status: str, reason: str) -> None:
        """Send the reply code; SOCKS5 has no words."""
        self.end_with(self._conversation.reply(code))


class HttpClient(Client):
    """A connection that speaks HTTP."""

    def __init__(self, relay: Gatekeeper, credentials: Credentials | None) -> None:
        super().__init__(relay)
        self._conversation = http_protocol.Conversation(credentials)
        self._early = bytearray()

    def converse(self, data: bytes) -> None:
        """Read the request's head."""
        found = self._conversation.receive(data)
        if isinstance(found, http_protocol.Refused):
            self.end_with(found.answer)
        elif found is not None:
            self.ask(found)

    def early(self, data: bytes) -> None:
        """Keep it until there is somebody to send it to."""
        self._early += data

    def greet(self, far: FarEnd) -> None:
        """Say that the tunnel stands, or send the request on."""
        try:
            to_client, to_server = self._conversation.accept()
        except BadRequest:
            self.cut()
            return
        self.write(to_client)
        if to_server:
            far.upload(to_server)
        if self._early:
            self.upload(bytes(self._early))
            self._early.clear()

    def upload(self, data: bytes) -> None:
        """Pass on a tunnel's bytes as they are, a request's body in its frame."""
        if not isinstance(self.other, FarEnd):
            return
        if not self._conversation.forwards:
            self.other.upload(data)
            return
        try:
            if body := self._conversation.body(data):
                self.other.upload(body)
        except BadRequest:
            self.cut()

    def refuse(self, code: Reply, status: str, reason: str) -> None:
        """Answer with a page of one sentence."""
        self.end_with(http_protocol.refusal(status, reason))


class FarEnd(End):
    """The connection to the destination; the bytes that pass here are what is counted."""

    def __init__(self, relay: Gatekeeper, client: Client, entry: Entry, early: bytes) -> None:
        super().__init__()
        self._relay = relay
        self._client = client
        self._entry = entry
        self._early = early
        self._settled = False
        self._unwanted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the client before anything can be read here: its protocol's reply has to come first."""
        super().connection_made(transport)
        self._client.join(self, self._early)

    def settle(self) -> None:
        """Note that the loop has taken the socket over; what wanted it broken before is done now.

        uvloop loses track of a socket whose transport ends while it is being made from it, and the stray object later
        closes whatever has got its number by then.
        """
        self._settled = True
        if self._unwanted:
            self.reset()

    def reset(self) -> None:
        """Break the connection, as soon as it is made."""
        if self._settled:
            super().reset()
        else:
            self._unwanted = True

    def data_received(self, data: bytes) -> None:
        """Count and pass on to the client."""
        client = self._client
        client.moved_at = asyncio.get_running_loop().time()
        if self._relay.pass_on(self._entry, received=len(data)):
            client.write(data)

    def upload(self, data: bytes) -> None:
        """Count and send."""
        if self._relay.pass_on(self._entry, sent=len(data)):
            self.write(data)
