from __future__ import annotations

import asyncio
import socket

import pytest

from clawplane.egress.hosts import read_destination
from clawplane.egress.protocol import Credentials
from clawplane.egress.rules import OperatorRules
from clawplane.egress.upstream import Upstreams, read_proxy
from clawplane.egress.ways import Denied, Direct


async def shout(reader, writer) -> None:
    while block := await reader.read(65536):
        writer.write(block.upper())
    writer.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
async def upstream(outside):
    """Another relay plays the upstream proxy: it knows far.example, and wants a login."""
    return await outside(credentials=Credentials("ann", "p@ss"))


@pytest.fixture
def addresses(upstream) -> dict[str, str]:
    login = "ann:p%40ss"
    return {
        "socks5": f"socks5://{login}@127.0.0.1:{upstream.socks_port}",
        "http": f"http://{login}@127.0.0.1:{upstream.http_port}",
    }


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_connections_of_a_region_leave_through_its_proxy_which_resolves_the_names(
    outside, far, names, resolver, upstream, addresses, scheme
) -> None:
    way = Upstreams.read([f"us={addresses[scheme]}"]).way("US", Direct(resolver))
    out, port = await outside(way=way, trusted=()), await far(shout)
    code, reader, writer = await out.socks("Far.Example", port)
    assert code == 0
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"HELLO"
    writer.close()
    assert upstream.relay.ledger.since()[0].host == "far.example"


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_what_a_server_says_first_is_not_lost_on_the_way(outside, far, resolver, addresses, scheme) -> None:
    async def greet(reader, writer) -> None:
        writer.write(b"220 ready")
        writer.close()

    way = Upstreams.read([f"*={addresses[scheme]}"]).way("", Direct(resolver))
    out, port = await outside(way=way, trusted=()), await far(greet)
    for _ in range(10):
        code, reader, writer = await out.socks("far.example", port)
        assert (code, await reader.read()) == (0, b"220 ready")
        writer.close()


async def test_private_places_are_refused_before_the_upstream_proxy_hears_of_them(
    outside, resolver, upstream, addresses
) -> None:
    way = Upstreams.read([f"US={addresses['socks5']}"]).way("US", Direct(resolver))
    out = await outside(way=way, trusted=())
    for host in ("127.0.0.1", "10.0.0.1", "localhost", "router", "db.internal"):
        code, _, writer = await out.socks(host, 80)
        writer.close()
        assert code == 2
    assert upstream.relay.ledger.since() == ()


async def test_a_host_that_the_operator_trusts_is_reached_directly(outside, far, resolver, upstream, addresses) -> None:
    way = Upstreams.read([f"US={addresses['socks5']}"]).way("US", Direct(resolver))
    out, port = await outside(way=way, trusted=("far.example",)), await far(shout)
    code, _, writer = await out.socks("far.example", port)
    writer.close()
    assert (code, upstream.relay.ledger.since()) == (0, ())


async def test_a_proxy_that_cannot_be_used_is_passed_over(outside, far, resolver, addresses) -> None:
    bad = [
        f"US=socks5://127.0.0.1:{closed_port()}",
        f"US=http://127.0.0.1:{closed_port()}",
        "US=" + addresses["socks5"].replace("ann", "eve"),
        "US=" + addresses["http"].replace("ann", "eve"),
    ]
    way = Upstreams.read([*bad, f"US={addresses['socks5']}"]).way("US", Direct(resolver))
    out, port = await outside(way=way, trusted=()), await far(shout)
    for _ in range(5):
        code, _, writer = await out.socks("far.example", port)
        writer.close()
        assert code == 0
    way = Upstreams.read(bad).way("US", Direct(resolver))
    out = await outside(way=way, trusted=())
    code, _, writer = await out.socks("far.example", port)
    writer.close()
    assert code == 1
    assert "no upstream proxy of the region could be used" in out.refusals[0]
    assert "eve" not in out.refusals[0]


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_a_destination_that_the_upstream_proxy_cannot_reach_is_a_failure_of_its_own(
    outside, resolver, upstream, addresses, scheme
) -> None:
    way = Upstreams.read([f"US={addresses[scheme]}"]).way("US", Direct(resolver))
    with pytest.raises(OSError, match="could not reach it"):
        await way.connect(read_destination("unknown.example", 80), OperatorRules.read().rules())
    with pytest.raises(Denied):
        await way.connect(read_destination("10.0.0.1", 80), OperatorRules.read().rules())


async def test_something_that_is_no_proxy_is_noticed(far, resolver) -> None:
    async def babble(reader, writer) -> None:
        await reader.read(1)
        writer.write(b"x" * 100_000)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()

    port = await far(babble)
    for scheme in ("socks5", "http"):
        way = Upstreams.read([f"US={scheme}://127.0.0.1:{port}"]).way("US", Direct(resolver))
        with pytest.raises(OSError, match="no upstream proxy"):
            await way.connect(read_destination("far.example", 80), OperatorRules.read().rules())


def test_a_region_without_proxies_uses_those_of_all_regions_or_none(resolver) -> None:
    direct = Direct(resolver)
    assert Upstreams.read(["US=http://a:1"]).way("DE", direct) is direct
    assert Upstreams.read(["US=http://a:1", "*=http://b:1"]).way("DE", direct) is not direct
    assert Upstreams().way("US", direct) is direct


@pytest.mark.parametrize(
    "entry",
    ["http://a:1", "USA=http://a:1", "US=ftp://a:1", "US=http://ann:secret@a", "US=http://ann:secret@a:1/x",
     "US=http://ann:secret@a:x", "US=", "=http://a:1", "US=http://:1"],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_refused_without_showing_its_password(entry: str) -> None:
    with pytest.raises(ValueError, match="upstream proxy") as error:
        Upstreams.read([entry])
    assert "secret" not in str(error.value)


def test_a_proxys_password_is_not_in_its_repr() -> None:
    proxy = read_proxy("socks5h://ann:s%3Acret@proxy.example:1080")
    assert (proxy.scheme, proxy.user, proxy.password) == ("socks5", "ann", "s:cret")
    assert "cret" not in repr(proxy)
