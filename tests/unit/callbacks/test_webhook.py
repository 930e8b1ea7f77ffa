"""Notices are signed, and go to no address that the operator would not want."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from receiver import Say, in_turn, receiver

from clawplane.callbacks.answers import CannotConnect, CannotSend, NotAllowed
from clawplane.callbacks.webhook import Address, Webhooks
from clawplane.egress.addresses import why_not_public

SECRET = "a-secret-that-both-sides-know"


def _webhooks(*, allow: Sequence[str] = (), addresses: Sequence[str] = (), secret: str = SECRET) -> Webhooks:
    def lookup(name: str) -> list[Address]:
        return [ip_address(each) for each in addresses]

    return Webhooks(secret, judge=why_not_public, lookup=lookup, allow=allow, clock=lambda: 1_780_000_000.9)


async def test_a_notice_carries_its_id_its_time_and_the_hmac_of_time_and_body() -> None:
    async with receiver(in_turn(Say())) as played:
        webhooks = _webhooks(allow=["127.0.0.1"])
        answer = await webhooks.send(f"{played.url}/in?a=b", b'{"x":1}', delivery="parcel-1")
        await webhooks.close()
    (heard,) = played.heard
    assert answer.good
    assert (heard.method, heard.target, heard.body) == ("POST", "/in?a=b", b'{"x":1}')
    assert heard.headers["clawplane-delivery"] == "parcel-1"
    assert heard.headers["clawplane-timestamp"] == "1780000000"
    wanted = hmac.new(SECRET.encode(), b'1780000000.{"x":1}', hashlib.sha256).hexdigest()
    assert heard.headers["clawplane-signature"] == f"v1={wanted}"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://10.1.2.3/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0/",
    ],
)
async def test_an_address_that_is_not_public_is_refused(url: str) -> None:
    webhooks = _webhooks()
    with pytest.raises(NotAllowed, match="the operator can allow it"):
        await webhooks.send(url, b"{}", delivery="p")
    await webhooks.close()


async def test_a_name_that_leads_into_the_own_network_is_refused() -> None:
    async with receiver(in_turn(Say())) as played:
        webhooks = _webhooks(addresses=["127.0.0.1"])
        with pytest.raises(NotAllowed, match="loopback"):
            await webhooks.send(f"http://looks.public.example:{played.port}/", b"{}", delivery="p")
        await webhooks.close()
    assert played.heard == []


async def test_the_connection_goes_to_the_address_that_was_judged_under_the_name_that_was_asked_for() -> None:
    async with receiver(in_turn(Say())) as played:
        webhooks = _webhooks(addresses=["10.0.0.1", "127.0.0.1"], allow=["127.0.0.0/8"])
        await webhooks.send(f"http://hooks.example:{played.port}/in", b"{}", delivery="p")
        await webhooks.close()
    assert played.heard[0].headers["host"] == f"hooks.example:{played.port}"


@pytest.mark.parametrize("allow", [["*"], ["hooks.internal"], ["127.0.0.0/8"]])
async def test_the_operator_allows_hosts_by_name_by_network_or_all(allow: list[str]) -> None:
    async with receiver(in_turn(Say())) as played:
        webhooks = _webhooks(addresses=["127.0.0.1"], allow=allow)
        assert (await webhooks.send(f"http://hooks.internal:{played.port}/", b"{}", delivery="p")).good
        await webhooks.close()


async def test_the_next_address_is_tried_when_the_first_does_not_answer_the_door() -> None:
    async with receiver(in_turn(Say())) as played:
        webhooks = _webhooks(addresses=["127.0.0.77", "127.0.0.1"], allow=["*"])
        assert (await webhooks.send(f"http://hooks.internal:{played.port}/", b"{}", delivery="p")).good
        await webhooks.close()


async def test_a_notice_that_was_sent_is_not_sent_to_the_next_address_too() -> None:
    async with receiver(in_turn(Say(hang_up=True))) as played:
        webhooks = _webhooks(addresses=["127.0.0.1", "127.0.0.1"], allow=["*"])
        with pytest.raises(CannotSend) as caught:
            await webhooks.send(f"http://hooks.internal:{played.port}/", b"{}", delivery="p")
        await webhooks.close()
    assert not isinstance(caught.value, CannotConnect)
    assert len(played.heard) == 1


@pytest.mark.parametrize("url", ["ftp://x/", "http://", "http://u:p@x/", "nonsense", "http://x/#f", "http://x:99999/"])
async def test_what_is_no_address_is_refused(url: str) -> None:
    webhooks = _webhooks(addresses=["127.0.0.1"])
    with pytest.raises(NotAllowed):
        await webhooks.send(url, b"{}", delivery="p")
    await webhooks.close()


async def test_nothing_is_sent_unsigned() -> None:
    webhooks = _webhooks(secret="", allow=["*"], addresses=["127.0.0.1"])
    with pytest.raises(NotAllowed, match="secret"):
        await webhooks.send("http://hooks.internal/", b"{}", delivery="p")
    await webhooks.close()


async def test_over_tls_the_name_is_asked_for_and_a_certificate_that_nobody_vouches_for_is_refused(
    tmp_path: Path,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    both = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, form, plain
    )
    (tmp_path / "both.pem").write_bytes(both)
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    context.sni_callback = lambda socket, server_name, context: asked.append(server_name)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    webhooks = _webhooks(addresses=["127.0.0.1"], allow=["*"])
    with pytest.raises(CannotConnect):
        await webhooks.send(f"https://hooks.example:{port}/", b"{}", delivery="p")
    await webhooks.close()
    server.close()
    assert asked == ["hooks.example"]
