"""A clock that cannot be jerked."""

from __future__ import annotations

from clawplane.flows.steady_clock import SteadyClock


class TwoClocks:
    """A wall clock and a monotonic one that are set apart from each other."""

    def __init__(self) -> None:
        self.wall = 1_780_000_000_000
        self.mono = 1000.0

    def now_ms(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def tick(self, seconds: float) -> None:
        self.wall += round(seconds * 1000)
        self.mono += seconds


def test_it_follows_a_wall_clock_that_behaves() -> None:
    source = TwoClocks()
    steady = SteadyClock(source)
    for _ in range(100):
        source.tick(0.25)
        assert abs(steady.now_ms() - source.wall) <= 1


def test_an_hour_forward_moves_it_by_a_twentieth_of_the_time_that_passes() -> None:
    source = TwoClocks()
    steady = SteadyClock(source)
    before = steady.now_ms()
    source.wall += 3_600_000
    source.tick(12)
    assert 12_000 <= steady.now_ms() - before <= 12_601


def test_an_hour_back_never_makes_it_step_back() -> None:
    source = TwoClocks()
    steady = SteadyClock(source)
    last = steady.now_ms()
    source.wall -= 3_600_000
    for _ in range(50):
        source.tick(0.1)
        assert steady.now_ms() >= last
        last = steady.now_ms()
    assert abs(last - 1_780_000_000_000 - 5000) <= 260


def test_it_reaches_the_walls_time_in_the_end() -> None:
    source = TwoClocks()
    steady = SteadyClock(source)
    source.wall += 10_000
    for _ in range(300):
        source.tick(1)
        steady.now_ms()
    assert abs(steady.now_ms() - source.wall) <= 1


def test_a_suspended_machine_wakes_up_at_the_right_time() -> None:
    source = TwoClocks()
    steady = SteadyClock(source)
    source.tick(8 * 3600)
    assert abs(steady.now_ms() - source.wall) <= 1
