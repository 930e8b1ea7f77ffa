"""What the SDK's calls say reaches the shipper, and what is beyond reason does not."""

from __future__ import annotations

import pytest

from clawplane.domain.clock import ManualClock
from clawplane.runner.jobs import sdk
from clawplane.runner.jobs.sdk import SubtaskVoice
from clawplane.runner.redact import Redactor
from clawplane.runner.room import Room
from clawplane.runner.shipping import Shipper
from clawplane.sdk.subtask import HeaderItem


@pytest.fixture
async def sent() -> list[tuple[list, list, object]]:
    return []


@pytest.fixture
async def shipper(sent) -> Shipper:
    def send(rows, logs, header) -> int:
        sent.append((list(rows), list(logs), header))
        return len(sent)

    made = Shipper(send, room=Room(1 << 30), clock=ManualClock(), redactor=Redactor([]))
    made.open()
    return made


async def test_an_empty_input_is_an_empty_object(shipper) -> None:
    assert SubtaskVoice(b"", shipper).input_json() == "{}"
    assert SubtaskVoice(b'{"a":1}', shipper).input_json() == '{"a":1}'


async def test_a_row_that_is_no_object_is_kept_with_a_warning(shipper, sent) -> None:
    assert (await SubtaskVoice(b"", shipper).push("[1]")).code == 0
    shipper.flush()
    rows, logs, _ = sent[0]
    assert [row.body for row in rows] == [b"[1]"]
    assert logs[0].type == 3


async def test_a_row_beyond_the_limit_is_refused_with_a_code(shipper, sent, monkeypatch) -> None:
    monkeypatch.setattr(sdk, "LARGEST_ROW", 100)
    answer = await SubtaskVoice(b"", shipper).push('{"a":"' + "x" * 200 + '"}')
    assert answer.code == 413
    assert "larger than 100 bytes" in answer.message
    shipper.flush()
    assert sent == []


async def test_a_header_beyond_reason_is_left_out_with_a_warning(shipper, sent) -> None:
    await SubtaskVoice(b"", shipper).set_header([HeaderItem("", "k", "text")] * 100_000)
    shipper.flush()
    assert sent[0][2] is None
    assert "table header" in sent[0][1][0].content


async def test_a_column_without_a_format_is_text(shipper, sent) -> None:
    await SubtaskVoice(b"", shipper).set_header([HeaderItem("L", "k", "")])
    shipper.flush()
    assert sent[0][2][0].format == "text"


async def test_after_the_lease_is_lost_a_guest_hears_a_code_and_no_failure(shipper, sent) -> None:
    shipper.lose()
    voice = SubtaskVoice(b"", shipper)
    assert (await voice.push("{}")).code == 410
    await voice.log(2, "x")
    await voice.set_header([HeaderItem("L", "k", "text")])
    shipper.flush()
    assert sent == []
