"""A try says what is to happen next, and forgets nothing that was delivered."""

from __future__ import annotations

import pytest
from receiver import Player, Receiver, Say, in_turn, receiver

from clawplane.callbacks.chat import Chat
from clawplane.callbacks.delivery import TRIES, Attempted, Courier
from clawplane.callbacks.hook import Hook

LIMITED = Say(429, b'{"retry_after": 0.25}', {"Retry-After": "2"})


async def _try(
    player: Player, *, text: str = "Done.", sent: int = 0, tries: int = 0
) -> tuple[Attempted, Receiver, list[int]]:
    kept: list[int] = []

    async def delivered(count: int) -> None:
        kept.append(count)

    async with receiver(player) as played:
        courier = Courier(Chat(played.url), token="token-of-the-environment")
        attempted = await courier.chat("p", "77", text, token="", sent=sent, tries=tries, delivered=delivered)
        await courier.close()
    return attempted, played, kept


async def test_a_long_answer_arrives_whole_and_in_order() -> None:
    text = "".join(f"{number:05} words of the answer\n" for number in range(400))
    attempted, played, kept = await _try(in_turn(Say()), text=text)
    assert "".join(heard.json["content"] for heard in played.heard) == text
    assert (attempted.verdict, attempted.sent, attempted.tries, attempted.status) == ("delivered", 6, 1, 200)
    assert kept == [1, 2, 3, 4, 5]


async def test_a_failure_between_chunks_keeps_what_was_delivered_and_goes_on_behind_it() -> None:
    text = "a" * 2000 + "b" * 2000 + "c" * 10
    attempted, _, kept = await _try(in_turn(Say(), Say(500)), text=text)
    assert (attempted.verdict, attempted.sent, attempted.tries, attempted.wait) == ("later", 1, 1, 3.0)
    assert kept == [1]
    attempted, played, _ = await _try(in_turn(Say()), text=text, sent=1, tries=1)
    assert [heard.json["content"][0] for heard in played.heard] == ["b", "c"]
    assert attempted.verdict == "delivered"


async def test_five_tries_three_six_nine_and_twelve_seconds_apart_are_all() -> None:
    waits = []
    for tries in range(TRIES):
        attempted, _, _ = await _try(in_turn(Say(503)), tries=tries)
        waits.append((attempted.verdict, attempted.wait, attempted.tries))
    assert waits == [("later", 3.0, 1), ("later", 6.0, 2), ("later", 9.0, 3), ("later", 12.0, 4), ("failed", 0.0, 5)]


async def test_a_rate_limit_is_waited_for_as_long_as_it_says_and_is_no_failure() -> None:
    attempted, _, _ = await _try(in_turn(LIMITED), tries=10)
    assert (attempted.verdict, attempted.wait, attempted.status) == ("later", 2.0, 429)
    attempted, _, _ = await _try(in_turn(LIMITED), tries=19)
    assert attempted.verdict == "failed"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 302])
async def test_a_refusal_that_would_not_change_is_not_tried_again(status: int) -> None:
    attempted, _, _ = await _try(in_turn(Say(status, b"Unknown Channel")))
    assert (attempted.verdict, attempted.status, attempted.error) == ("failed", status, f"{status}: Unknown Channel")


async def test_no_answer_is_tried_again() -> None:
    attempted, _, _ = await _try(in_turn(Say(hang_up=True)))
    assert (attempted.verdict, attempted.status) == ("later", 0)
    assert "ended without an answer" in attempted.error


async def _without_keeping(sent: int) -> None:
    return None


async def test_without_any_token_nothing_is_sent_and_it_has_failed() -> None:
    async with receiver(in_turn(Say())) as played:
        courier = Courier(Chat(played.url))
        attempted = await courier.chat("p", "77", "x", token="", sent=0, tries=0, delivered=_without_keeping)
        await courier.close()
    assert (attempted.verdict, attempted.error) == ("failed", "CALLBACK_BOT_TOKEN not set")
    assert played.heard == []


async def test_a_token_of_the_message_wins_over_that_of_the_environment() -> None:
    async with receiver(in_turn(Say())) as played:
        courier = Courier(Chat(played.url), token="environment")
        await courier.chat("p", "77", "x", token="its-own", sent=0, tries=0, delivered=_without_keeping)
        await courier.close()
    assert played.heard[0].headers["authorization"] == "Bot its-own"


async def test_a_hook_that_takes_the_message_spares_the_chat() -> None:
    async with receiver(in_turn(Say(200))) as gateway, receiver(in_turn(Say())) as played:
        courier = Courier(Chat(played.url), token="t", hook=Hook(gateway.url, "h"))
        attempted = await courier.chat("p", "77", "x" * 5000, token="", sent=0, tries=0, delivered=_without_keeping)
        await courier.close()
    assert (attempted.verdict, attempted.via, attempted.skipped) == ("delivered", "hook", "")
    assert gateway.heard[0].json["message"] == "x" * 5000
    assert played.heard == []


async def test_a_hook_that_refuses_is_passed_over_once_and_the_chat_is_told() -> None:
    async with receiver(in_turn(Say(500))) as gateway, receiver(in_turn(Say(503), Say())) as played:
        courier = Courier(Chat(played.url), token="t", hook=Hook(gateway.url, "h"))
        first = await courier.chat("p", "77", "x", token="", sent=0, tries=0, delivered=_without_keeping)
        again = await courier.chat("p", "77", "x", token="", sent=0, tries=1, delivered=_without_keeping)
        await courier.close()
    assert (first.verdict, first.via, first.skipped) == ("later", "chat", "status 500")
    assert (again.verdict, again.skipped) == ("delivered", "")
    assert len(gateway.heard) == 1
    assert len(played.heard) == 2


async def test_a_single_message_is_cut_and_its_answer_returned() -> None:
    async with receiver(in_turn(Say(500, b"broken"))) as played:
        courier = Courier(Chat(played.url), token="t")
        told = await courier.notify("77", "x" * 3000)
        refused = await courier.notify("../x", "x")
        await courier.close()
    assert (told.status, told.text, told.allowed) == (500, "broken", True)
    assert not refused.allowed
    assert [len(heard.json["content"]) for heard in played.heard] == [2000]
