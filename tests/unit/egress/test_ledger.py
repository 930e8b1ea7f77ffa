from __future__ import annotations

from clawplane.egress.ledger import OTHERS, Entry, Ledger


def test_bytes_and_connections_are_summed_by_host_port_and_verdict() -> None:
    ledger = Ledger()
    for _ in range(2):
        entry, _first = ledger.note("example.com", 443, "allowed")
        ledger.sent(entry, 10)
        ledger.received(entry, 100)
    ledger.note("example.com", 22, "denied", "it is on the deny list")
    assert ledger.since() == (
        Entry("example.com", 443, "allowed", 2, 20, 200),
        Entry("example.com", 22, "denied", 1, reason="it is on the deny list"),
    )
    assert ledger.total == 220


def test_since_tells_only_what_happened_after_the_mark() -> None:
    ledger = Ledger()
    long, first = ledger.note("long.example", 443, "allowed")
    assert first
    ledger.note("old.example", 443, "allowed")
    mark = ledger.mark()
    ledger.received(long, 5)
    assert ledger.note("new.example", 80, "failed", "refused")[1]
    assert not ledger.note("new.example", 80, "failed", "timed out")[1]
    assert ledger.since(mark) == (
        Entry("long.example", 443, "allowed", 0, 0, 5),
        Entry("new.example", 80, "failed", 2, reason="timed out"),
    )


def test_a_guest_that_tries_many_hosts_does_not_make_the_ledger_grow() -> None:
    ledger = Ledger(most=10)
    for number in range(1000):
        ledger.note(f"h{number}.example", 80, "denied", "no")
    entries = ledger.since()
    assert len(entries) == 11
    assert entries[-1] == Entry(OTHERS, 0, "denied", 990, reason="no")
