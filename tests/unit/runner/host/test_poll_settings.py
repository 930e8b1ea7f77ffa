"""The Task API's variables mean on this runner what the contract says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clawplane.callbacks.ways import Ways, open_courier
from clawplane.domain.errors import InvalidArgument
from clawplane.runner.host.poll_settings import PollSettings, poll_settings

TOKEN = "a-token-of-some-length"


def _settings(**environ: str) -> PollSettings:
    return poll_settings({"WORKER_TOKEN": TOKEN, **environ}, data=Path("/d"), name="n")


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = _settings()
    assert (settings.url, settings.busy_ms, settings.wait_ms) == ("http://127.0.0.1:3456", 500, 30_000)
    assert (settings.host.slots, settings.host.timeout_ms, settings.direct) == (5, 600_000, True)
    assert settings.ways == Ways(chat_api="https://discord.com/api/v10")


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("POLL_INTERVAL", "1", "busy_ms", 50),
        ("POLL_INTERVAL", "100000", "busy_ms", 60_000),
        ("POLL_INTERVAL", "soon", "busy_ms", 500),
        ("LONG_POLL_WAIT", "10", "wait_ms", 1_000),
        ("LONG_POLL_WAIT", "400000", "wait_ms", 300_000),
        ("WORKER_DIRECT_CALLBACK", "off", "direct", False),
        ("WORKER_DIRECT_CALLBACK", "0", "direct", False),
        ("WORKER_DIRECT_CALLBACK", "maybe", "direct", False),
        ("WORKER_DIRECT_CALLBACK", "YES", "direct", True),
        ("WORKER_DIRECT_CALLBACK", "", "direct", True),
        ("WORKER_URL", "http://host:1/base/", "url", "http://host:1/base"),
    ],
)
def test_what_is_out_of_bounds_is_clamped_and_what_is_none_gives_the_default(
    name: str, text: str, field: str, value: Any
) -> None:
    assert getattr(_settings(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("environ", "base", "token"),
    [
        ({"DISCORD_API_BASE_URL": "http://old/api"}, "http://old/api", ""),
        ({"CALLBACK_API_BASE_URL": "http://new", "DISCORD_API_BASE_URL": "http://old"}, "http://new", ""),
        ({"DISCORD_BOT_TOKEN": "old"}, "https://discord.com/api/v10", "old"),
        ({"CALLBACK_BOT_TOKEN": "new", "DISCORD_BOT_TOKEN": "old"}, "https://discord.com/api/v10", "new"),
    ],
)
def test_the_legacy_names_are_real_fallbacks(environ: dict[str, str], base: str, token: str) -> None:
    ways = _settings(**environ).ways
    assert (ways.chat_api, ways.bot_token) == (base, token)


@pytest.mark.parametrize(
    "url", ["host:3456", "ftp://host", "http://", "http://u:p@host", "http://host:99999", "http://h?x"]
)
def test_an_address_that_is_none_is_refused_by_name(url: str) -> None:
    with pytest.raises(InvalidArgument, match="WORKER_URL"):
        _settings(WORKER_URL=url)


def test_no_secret_shows_in_a_repr() -> None:
    settings = _settings(
        CALLBACK_BOT_TOKEN="bot-secret", OPENCLAW_HOOKS_TOKEN="hook-secret", DISCORD_PROXY="http://u:p@x"
    )
    for secret in (TOKEN, "bot-secret", "hook-secret", "u:p"):
        assert secret not in repr(settings)


@pytest.mark.parametrize(
    ("name", "ways"),
    [
        ("CALLBACK_API_BASE_URL", Ways(chat_api="discord.com")),
        ("DISCORD_PROXY", Ways(proxy="127.0.0.1:7897")),
        ("OPENCLAW_HOOKS_URL", Ways(hooks_url="gateway", hooks_token="t")),
    ],
)
def test_a_way_that_leads_nowhere_is_refused_by_name(name: str, ways: Ways) -> None:
    with pytest.raises(ValueError, match=name):
        open_courier(ways)
