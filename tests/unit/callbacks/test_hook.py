"""A gateway is told by the hook that its operator names."""

from __future__ import annotations

import pytest
from receiver import Say, in_turn, receiver

from clawplane.callbacks.answers import NotAllowed
from clawplane.callbacks.hook import Hook, hook_url


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("http://gateway:18789", "http://gateway:18789/hooks/agent"),
        ("http://gateway:18789/", "http://gateway:18789/hooks/agent"),
        ("http://gateway:18789/hooks", "http://gateway:18789/hooks/agent"),
        ("http://gateway:18789/hooks/agent", "http://gateway:18789/hooks/agent"),
        ("http://gateway:18789/mine/wake/?token=x", "http://gateway:18789/mine/wake"),
    ],
)
def test_an_address_is_completed_with_the_gateways_defaults(given: str, full: str) -> None:
    assert hook_url(given) == full


async def test_an_agent_turn_carries_the_message_to_the_channel() -> None:
    async with receiver(in_turn(Say(202))) as played:
        hook = Hook(played.url, "hooks-token")
        answer = await hook.send("slash:77", "Done.")
        await hook.close()
    (heard,) = played.heard
    assert answer.good
    assert heard.target == "/hooks/agent"
    assert heard.headers["authorization"] == "Bearer hooks-token"
    assert heard.json == {
        "message": "Done.",
        "name": "clawplane",
        "wakeMode": "now",
        "deliver": True,
        "channel": "discord",
        "to": "77",
    }


async def test_a_wake_hook_gets_a_line_for_the_main_session() -> None:
    async with receiver(in_turn(Say())) as played:
        hook = Hook(f"{played.url}/hooks/wake", "hooks-token")
        await hook.send("77", "Done.")
        await hook.close()
    assert played.heard[0].json == {"text": "Done.", "mode": "now"}


async def test_a_gateway_is_not_told_a_channel_of_no_allowed_shape() -> None:
    async with receiver(in_turn(Say())) as played:
        hook = Hook(played.url, "hooks-token")
        with pytest.raises(NotAllowed):
            await hook.send("../x", "Done.")
        await hook.close()
    assert played.heard == []
