"""Profiles: what is told when their packages cannot be had."""

from __future__ import annotations

import os

import pytest

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.tools import find_tools
from clawplane.domain.clock import SystemClock
from clawplane.runner.build_launcher import BuildLauncher
from clawplane.runner.sessions.profiles import ProfileFailed, Profiles


@pytest.fixture
async def profiles(sandbox, tmp_path):
    """Profiles on a host whose package index does not answer."""
    index = {"UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple", "UV_INDEX": "", "UV_HTTP_RETRIES": "0"}
    tools = find_tools({"PATH": os.environ["PATH"], "HOME": str(tmp_path), **index})
    made = Profiles(
        sandbox,
        EnvironmentCache(tmp_path / "environments", tools),
        BuildLauncher(sandbox, seconds=60),
        tools.python,
        offered=("bare", "data"),
        memory=tmp_path / "profiles.json",
        max_age_days=30,
        clock=SystemClock(),
    )
    yield made
    await made.close()


async def test_the_bare_profile_needs_no_package_index(profiles):
    assert (await profiles.ensure("bare")).site_directories == ()


async def test_a_profile_that_cannot_be_installed_says_so_with_the_installers_words(profiles):
    with pytest.raises(ProfileFailed, match="The profile data is not available") as failed:
        await profiles.ensure("data")
    assert "Failed to fetch" in failed.value.message
    assert "bare" in failed.value.hint
    with pytest.raises(ProfileFailed):  # told again at once, and not tried again for a while
        await profiles.ensure("data")


async def test_a_profile_that_is_not_offered_is_refused_with_those_that_are(profiles):
    with pytest.raises(ProfileFailed, match="full") as failed:
        await profiles.ensure("full")
    assert "bare, data" in failed.value.hint
