"""What one runner lets Workers and sessions reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from clawplane.builder.indexes import PackageIndexes
from clawplane.builder.tools import PythonRuntime, Tools
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.runs import RunSystem
from clawplane.domain.sessions import EgressEntry, EgressRules
from clawplane.egress.hosts import read_destination
from clawplane.egress.ledger import Ledger
from clawplane.egress.relay import Relay
from clawplane.egress.resolver import Resolver
from clawplane.runner.egress import Exits, entries_since
from clawplane.runner.settings import MIB, EgressSettings

Make = Callable[..., Exits]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Exits] = []

    def build(**settings: object) -> Exits:
        resolver = Resolver(lambda name: (ip_address("10.0.0.1"),))
        made.append(Exits(EgressSettings(**settings), control_plane="https://plane.example", resolver=resolver))
        return made[-1]

    yield build
    for exits in made:
        await exits.close()


def worker(exits: Exits, said: list[str] | None = None, **system: object) -> Relay:
    heard: list[str] = [] if said is None else said
    return exits.for_worker(RunSystem(**system), on_refusal=heard.append, on_exhausted=lambda: None)


def allowed(relay: Relay, host: str, port: int) -> bool:
    return relay.rules.judge(read_destination(host, port)).allowed


def anywhere(relay: Relay, host: str, port: int) -> bool:
    return relay.rules.judge(read_destination(host, port)).anywhere


async def test_the_control_plane_is_closed_to_workers_and_sessions(make: Make) -> None:
    exits = make()
    for relay in (worker(exits), exits.for_session(EgressRules(mode="listed", allow=("plane.example",)))):
        assert not allowed(relay, "plane.example", 443)
    assert allowed(worker(exits), "other.example", 443)


async def test_sessions_reach_the_package_indexes_wherever_they_are_and_workers_do_not(
    make: Make, tmp_path: Path
) -> None:
    index = tmp_path / "simple" / "protobuf"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="https://files.corp.example:8443/protobuf-1.whl">protobuf</a>')
    indexes = PackageIndexes("http://10.1.2.3:3141/simple/", extra=((tmp_path / "simple").as_uri(),))
    python = PythonRuntime(Path("/usr/bin/python3"), "cpython", "3.11.2")
    tools = Tools(uv=Path("/nonexistent/uv"), python=python, indexes=indexes, environ={})
    exits = make()
    before = exits.for_session(EgressRules())
    exits.learn_indexes(tools, {"PATH": str(tmp_path)})
    await exits.learned()
    after = exits.for_session(EgressRules())
    assert anywhere(after, "files.corp.example", 8443)
    assert anywhere(after, "10.1.2.3", 3141)
    assert not allowed(after, "10.1.2.3", 22)
    assert not allowed(before, "10.1.2.3", 3141)
    assert not allowed(worker(exits), "10.1.2.3", 3141)


async def test_a_runs_traffic_limit_is_its_relays_budget_in_megabytes(make: Make) -> None:
    relay = worker(make(), max_total_traffic=2)
    entry, _ = relay.ledger.note("a.example", 443, "allowed")
    assert relay.pass_on(entry, received=2 * MIB)
    assert not relay.pass_on(entry, sent=1)
    assert relay.exhausted


async def test_a_region_without_a_proxy_is_told_where_others_have_one(make: Make) -> None:
    said: list[str] = []
    worker(make(), said, proxy_region="DE")
    worker(make(upstreams=("US=http://proxy.example:8080",)), said, proxy_region="US")
    assert said == []
    worker(make(upstreams=("US=http://proxy.example:8080",)), said, proxy_region="DE")
    assert said == ["no proxy is set up for the region DE; connections leave from this host."]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"allow": ("10.0.0.0/8",)}, "CLAWPLANE_EGRESS_ALLOW"),
        ({"deny": ("a b",)}, "CLAWPLANE_EGRESS_DENY"),
        ({"upstreams": ("US=http://ann:hunter2@proxy",)}, "CLAWPLANE_EGRESS_UPSTREAMS"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named_without_its_secrets(settings: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidArgument, match=name) as error:
        Exits(EgressSettings(**settings), control_plane="http://127.0.0.1:3456")
    assert "hunter2" not in f"{error.value} {error.value.hint}"


async def test_a_sessions_rules_that_cannot_be_read_are_refused_with_the_entry(make: Make) -> None:
    with pytest.raises(InvalidArgument, match=r"'http://a'"):
        make().for_session(EgressRules(mode="listed", allow=("http://a",)))


def test_a_ledger_is_told_in_the_words_of_the_contract() -> None:
    ledger = Ledger()
    entry, _ = ledger.note("a.example", 443, "allowed")
    ledger.sent(entry, 5)
    mark = ledger.mark()
    ledger.note("10.0.0.1", 22, "denied", "it is a private address")
    assert entries_since(ledger, mark) == (
        EgressEntry(host="10.0.0.1", port=22, verdict="denied", reason="it is a private address"),
    )
    assert entries_since(ledger)[0] == EgressEntry(host="a.example", port=443, verdict="allowed", sent=5)
