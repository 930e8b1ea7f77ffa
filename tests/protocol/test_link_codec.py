"""Whatever a runner sends is a frame that can be acted on, or a LinkError; never anything else."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clawplane.domain.batches import Batch, LogLine, ShippedRow
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import Claim, Finish, Outcome
from clawplane.link.codec import MAX_SMALL_FRAME, Codec, LinkError
from clawplane.link.frames import Confirm, Decline, End, Free, Heartbeat, Hello, RunnerFrame, Ship

CODEC = Codec()
CLAIM = Claim(job=JobId(1), fence=2, nonce=3)
FRAMES: list[RunnerFrame] = [
    Hello(protocol=1, runner=RunnerId("R"), name="n", version="0", capabilities=("w",), labels={}, slots={"w": 1}),
    Heartbeat(held=((JobId(1), 2),), free={"w": 1}, beat=4),
    Free(free={}),
    Confirm(claim=CLAIM),
    Decline(claim=CLAIM, reason="full"),
    Ship(batch=Batch(job=JobId(1), fence=2, seq=1, rows=(ShippedRow(b"{}", ("id", "1")),), logs=(LogLine(2, "x", 5),))),
    End(finish=Finish(claim=CLAIM, outcome=Outcome(succeeded=True, reason="exit", exit_code=0))),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_every_frame_survives_the_wire(frame: RunnerFrame) -> None:
    assert CODEC.from_runner(CODEC.encode(frame)) == frame


@given(st.binary(max_size=200))
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\x91" * 5000)
def test_random_bytes_are_a_frame_or_a_link_error(data: bytes) -> None:
    for decode in (CODEC.from_runner, CODEC.from_server):
        with contextlib.suppress(LinkError):
            decode(data)


@given(st.sampled_from(FRAMES), st.data())
def test_damaged_frames_are_a_frame_or_a_link_error(frame: RunnerFrame, data: st.DataObject) -> None:
    raw = bytearray(CODEC.encode(frame))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with contextlib.suppress(LinkError):
        CODEC.from_runner(bytes(raw[:cut]))


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_msgpack_is_a_frame_or_a_link_error(value: object) -> None:
    try:
        data = msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return
    with pytest.raises(LinkError):
        CODEC.from_runner(data)


@pytest.mark.parametrize(
    "frame",
    [
        Confirm(claim=Claim(job=JobId(1 << 53), fence=1, nonce=1)),
        Confirm(claim=Claim(job=JobId(0), fence=1, nonce=1)),
        Confirm(claim=Claim(job=JobId(1), fence=-1, nonce=1)),
        Confirm(claim=Claim(job=JobId(1), fence=1, nonce=1 << 63)),
        Ship(batch=Batch(job=JobId(1), fence=1, seq=0)),
        Ship(batch=Batch(job=JobId(1), fence=1, seq=1, logs=(LogLine(9, "", 0),))),
        Heartbeat(held=((JobId(-4), 1),), free={}),
        Heartbeat(held=(), free={"workers": (1 << 64) - 1}),
        Free(free={"workers": 1 << 40}),
        Free(free={f"c{number}": 1 for number in range(100)}),
        End(finish=Finish(claim=CLAIM, outcome=Outcome(succeeded=True, reason="exit", cpu_ms=1 << 63))),
        End(finish=Finish(claim=CLAIM, outcome=Outcome(succeeded=True, reason="exit", exit_code=1 << 40))),
    ],
)
def test_numbers_that_nobody_handed_out_are_refused(frame: RunnerFrame) -> None:
    with pytest.raises(LinkError, match="out of range"):
        CODEC.from_runner(CODEC.encode(frame))


def test_only_batches_and_ends_may_be_large() -> None:
    big = "x" * MAX_SMALL_FRAME
    with pytest.raises(LinkError, match="longer than"):
        CODEC.from_runner(CODEC.encode(Decline(claim=CLAIM, reason=big)))
    CODEC.from_runner(CODEC.encode(Ship(batch=Batch(job=JobId(1), fence=1, seq=1, logs=(LogLine(2, big, 0),)))))
