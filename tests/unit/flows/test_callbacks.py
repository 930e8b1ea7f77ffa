"""What is owed is delivered once, in order, through restarts, and each delivery leaves its trail."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from receiver import Heard, Say, in_turn, receiver

from clawplane.callbacks.chat import Chat
from clawplane.callbacks.delivery import Courier
from clawplane.callbacks.hook import Hook
from clawplane.callbacks.webhook import Webhooks
from clawplane.domain.callback_ports import CallbackRefused, CallbackUnset
from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_ports import Outbox, Parcel, Poll
from clawplane.domain.host_tasks import GROUPS, NewTask, Prompt, Reach, TaskId, TaskReport, TaskType
from clawplane.domain.ids import JobIds, RunnerId
from clawplane.egress.addresses import why_not_public
from clawplane.egress.resolver import system_lookup
from clawplane.flows import channels
from clawplane.flows.callbacks import Callbacks
from clawplane.store.sealing import KeyFileSealing
from clawplane.store.store import Store, open_store

SECRET = "secret-of-the-webhooks"


class House:
    """A store with its outbox's loop, a clock that stands still, and pauses that are over when the test says so."""

    def __init__(self, store: Store, clock: ManualClock, sealing: KeyFileSealing) -> None:
        self.store = store
        self.clock = clock
        self.sealing = sealing
        self.ids = JobIds()
        self.pauses: asyncio.Queue[float] = asyncio.Queue()
        self.go_on = asyncio.Event()
        self.callbacks: Callbacks | None = None
        self.outbox: Any = None

    async def run(
        self, chat: str, *, token: str = "of-the-environment", hook: str = "", allow: Sequence[str] = ()
    ) -> None:
        """Start the loop as a new process would."""
        await self.stop()
        webhooks = Webhooks(SECRET, judge=why_not_public, lookup=system_lookup, allow=allow)
        self.callbacks = Callbacks(
            outbox=self.outbox or self.store.outbox,
            tasks=self.store.host_tasks,
            events=self.store.task_events,
            courier=Courier(Chat(chat), token=token, hook=Hook(hook, "h") if hook else None, webhooks=webhooks),
            sealing=self.sealing,
            wakeups=self.store.wakeups,
            clock=self.clock,
            pause=self._pause,
        )
        await self.callbacks.start()

    async def stop(self) -> None:
        if self.callbacks is not None:
            await self.callbacks.close()
            self.callbacks = None

    def callbacks_run(self) -> bool:
        """Tell whether something is being delivered."""
        return self.callbacks is not None and bool(self.callbacks._running)

    async def _pause(self, seconds: float) -> None:
        self.pauses.put_nowait(seconds)
        await self.go_on.wait()

    async def later(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.store.wakeups.notify(channels.CALLBACKS)

    async def end_a_task(self, answer: str, *, token: str | None = None, url: str = "", channel: str = "77") -> TaskId:
        """Submit, claim and report a Codex task whose end the server tells."""
        now = self.clock.now_ms()
        prompt = Prompt(cli="codex", prompt="hi", timeout=30_000, session_id=str(uuid.uuid4()))
        new = NewTask(
            id=TaskId(str(uuid.uuid4())),
            job=self.ids.next(now),
            owner="o",
            type=TaskType.CODEX,
            work=prompt,
            created_at=now,
            timeout_ms=120_000,
            session_id=prompt.session_id,
            callback_channel=channel or None,
            callback_token=None if token is None else self.sealing.seal(token),
            callback_url=url,
            deliver_to=channel or None,
        )
        await self.store.host_tasks.submit(new, now=now)
        poll = Poll(runner=RunnerId("poll:1"), reach=Reach(groups=GROUPS), server_delivers=True)
        assert (await self.store.host_tasks.claim([poll], now=now))[0] is not None
        await self.store.host_tasks.report(new.id, TaskReport(stdout=answer, exit_code=0), now=now)
        self.store.wakeups.notify(channels.CALLBACKS)
        return new.id

    async def trail(self, task: TaskId, last: str) -> list[tuple[str, Any]]:
        """Return the callback events of a task once the last one is there."""
        wakeup = self.store.wakeups.listen(channels.EVENTS)
        try:
            while True:
                events = await self.store.task_events.page(task=task, type_="", limit=100, since=0)
                told = [(each.type, each.details) for each in events if each.type.startswith("callback.")]
                if told and told[-1][0] == last:
                    return told
                assert await wakeup.wait(30), told
        finally:
            wakeup.close()


class SlowOutbox:
    """An outbox whose answer about what is due may be held back while the world goes on."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.read = asyncio.Event()
        self.held: asyncio.Event | None = None

    async def due(self, *, now: int, limit: int) -> list[Parcel]:
        found = await self._outbox.due(now=now, limit=limit)
        if self.held is not None:
            self.read.set()
            await self.held.wait()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outbox, name)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = ManualClock()
    store = await open_store(tmp_path, clock=clock)
    house = House(store, clock, KeyFileSealing.open(tmp_path / "sealing.key"))
    try:
        yield house
    finally:
        house.go_on.set()
        await house.stop()
        await store.close()


async def test_an_answer_of_ten_thousand_characters_arrives_whole_and_in_order_with_its_own_token(house: House) -> None:
    text = "".join(f"{number:05} words\n" for number in range(840))
    async with receiver(in_turn(Say())) as chat:
        await house.run(chat.url)
        task = await house.end_a_task(text, token="its-own-token")
        told = await house.trail(task, "callback.sent")
    assert "".join(heard.json["content"] for heard in chat.heard).strip() == text.strip()
    assert {heard.headers["authorization"] for heard in chat.heard} == {"Bot its-own-token"}
    assert told == [
        ("callback.dispatched", {"channel": "77"}),
        ("callback.sent", {"channel": "77", "attempts": 1, "status": 200}),
    ]
    assert await house.store.outbox.due(now=1 << 60, limit=1) == []


async def test_what_was_delivered_while_the_outbox_was_looked_into_is_not_delivered_again(house: House) -> None:
    house.outbox = outbox = SlowOutbox(house.store.outbox)
    answered = asyncio.Event()

    async def play(heard: Heard) -> Say:
        await answered.wait()
        return Say()

    async with receiver(play) as chat:
        await house.run(chat.url)
        first = await house.end_a_task("first")
        while not house.callbacks_run():
            await asyncio.sleep(0)
        outbox.held = asyncio.Event()
        house.clock.advance(1.0)
        second = await house.end_a_task("second")  # somebody looks into the outbox, where the first one still is
        await outbox.read.wait()
        answered.set()
        await house.trail(first, "callback.sent")
        while house.callbacks_run():
            await asyncio.sleep(0)
        outbox.held.set()
        await house.trail(second, "callback.sent")
        assert [heard.json["content"] for heard in chat.heard] == ["first", "second"]


async def test_a_chat_that_is_down_is_tried_five_times_and_then_it_has_failed(house: House) -> None:
    async with receiver(in_turn(Say(500, b"broken"))) as chat:
        await house.run(chat.url)
        task = await house.end_a_task("Done.")
        for tries, wait in enumerate((3, 6, 9, 12), start=1):
            await chat.until(tries)
            await _progressed(house, tries)
            await house.later(wait)
        told = await house.trail(task, "callback.failed")
    assert len(chat.heard) == 5
    assert told == [
        ("callback.dispatched", {"channel": "77"}),
        ("callback.failed", {"channel": "77", "attempts": 5, "status": 500, "error": "500: broken"}),
    ]


async def _progressed(house: House, tries: int) -> None:
    """Wait until the outbox knows of a try."""
    async with asyncio.timeout(30):
        while True:
            parcels = await house.store.outbox.due(now=1 << 60, limit=1)
            if parcels and parcels[0].attempts == tries and parcels[0].next_at > house.clock.now_ms():
                return


async def test_a_rate_limit_is_waited_for_and_holds_the_channel_for_a_message_half_sent(house: House) -> None:
    async with receiver(in_turn(Say(), Say(429, b"", {"Retry-After": "4"}), Say())) as chat:
        await house.run(chat.url)
        task = await house.end_a_task("a" * 2000 + "b" * 100)
        assert await asyncio.wait_for(house.pauses.get(), 30) == 4.0
        other = await house.end_a_task("second message")
        house.go_on.set()
        await house.trail(task, "callback.sent")
        await house.trail(other, "callback.sent")
    assert [heard.json["content"][:6] for heard in chat.heard] == ["aaaaaa", "bbbbbb", "bbbbbb", "second"]


async def test_a_restart_between_chunks_goes_on_with_the_next_one(house: House) -> None:
    async with receiver(in_turn(Say(), Say(503))) as chat:
        await house.run(chat.url)
        task = await house.end_a_task("a" * 2000 + "b" * 2000 + "c")
        await asyncio.wait_for(house.pauses.get(), 30)
        await house.stop()
        house.clock.advance(60)
        chat.player = in_turn(Say())
        await house.run(chat.url)
        told = await house.trail(task, "callback.sent")
    assert [heard.json["content"][0] for heard in chat.heard] == ["a", "b", "b", "c"]
    assert [type_ for type_, _ in told] == ["callback.dispatched", "callback.sent"]


async def test_without_a_token_it_has_failed_at_once_and_nothing_was_sent(house: House) -> None:
    async with receiver(in_turn(Say())) as chat:
        await house.run(chat.url, token="")
        task = await house.end_a_task("Done.")
        told = await house.trail(task, "callback.failed")
    assert chat.heard == []
    assert told[-1][1] == {"channel": "77", "error": "CALLBACK_BOT_TOKEN not set"}


async def test_the_gateway_is_told_first_and_the_chat_when_it_refuses(house: House) -> None:
    async with receiver(in_turn(Say(), Say(401))) as gateway, receiver(in_turn(Say())) as chat:
        await house.run(chat.url, hook=gateway.url)
        first = await house.trail(await house.end_a_task("One."), "callback.sent")
        assert chat.heard == []
        second = await house.trail(await house.end_a_task("Two."), "callback.sent")
    assert first[-1] == ("callback.sent", {"channel": "77", "attempts": 1, "status": 200, "via": "hook"})
    assert [type_ for type_, _ in second] == ["callback.dispatched", "callback.fallback", "callback.sent"]
    assert second[1][1] == {"channel": "77", "from": "hook", "to": "chat", "error": "status 401"}
    assert [heard.json["content"] for heard in chat.heard] == ["Two."]


async def test_a_webhook_gets_the_signed_result(house: House) -> None:
    async with receiver(in_turn(Say())) as hooks:
        await house.run(hooks.url, allow=["127.0.0.1"])
        task = await house.end_a_task("Done.", url=f"{hooks.url}/in?key=hidden", channel="")
        told = await house.trail(task, "callback.sent")
    (heard,) = hooks.heard
    assert heard.json["type"] == "task.completed"
    assert heard.json["result"]["stdout"] == "Done."
    assert heard.headers["clawplane-signature"].startswith("v1=")
    assert told[-1] == ("callback.sent", {"webhook": "127.0.0.1", "attempts": 1, "status": 200})


async def test_a_webhook_into_the_own_network_has_failed(house: House) -> None:
    async with receiver(in_turn(Say())) as hooks:
        await house.run(hooks.url)
        task = await house.end_a_task("Done.", url=hooks.url, channel="")
        told = await house.trail(task, "callback.failed")
    assert hooks.heard == []
    assert "loopback" in told[-1][1]["error"]


async def test_one_channel_that_hangs_does_not_hold_up_another(house: House) -> None:
    hanging = asyncio.Event()

    async def play(heard: Any) -> Say:
        if "/channels/1/" in heard.target:
            await hanging.wait()
        return Say()

    async with receiver(play) as chat:
        await house.run(chat.url)
        slow = await house.end_a_task("slow", channel="1")
        quick = await house.end_a_task("quick", channel="2")
        await house.trail(quick, "callback.sent")
        hanging.set()
        await house.trail(slow, "callback.sent")


async def test_a_token_sealed_with_another_key_is_told_and_not_sent(house: House, tmp_path: Path) -> None:
    async with receiver(in_turn(Say())) as chat:
        await house.run(chat.url)
        ours, house.sealing = house.sealing, KeyFileSealing.open(tmp_path / "another.key")
        task = await house.end_a_task("Done.", token="its-own-token")
        house.sealing = ours
        told = await house.trail(task, "callback.failed")
    assert "key file" in told[-1][1]["error"]
    assert chat.heard == []


async def test_notify_returns_the_status_or_says_what_the_chat_said(house: House) -> None:
    async with receiver(in_turn(Say(204, b""), Say(500, b"upstream broke"))) as chat:
        await house.run(chat.url)
        assert house.callbacks is not None
        assert await house.callbacks.notify("77", "Hello") == 204
        with pytest.raises(CallbackRefused, match=r"^Callback API 500: upstream broke$"):
            await house.callbacks.notify("77", "Hello")
        with pytest.raises(InvalidArgument):
            await house.callbacks.notify("../../../evil?x=1", "Hello")
    assert [heard.target for heard in chat.heard] == ["/channels/77/messages"] * 2
    with pytest.raises(CallbackRefused, match="connection failed"):
        await house.callbacks.notify("77", "Hello")
    await house.run(chat.url, token="")
    with pytest.raises(CallbackUnset, match=r"^CALLBACK_BOT_TOKEN not set$"):
        await house.callbacks.notify("77", "Hello")
