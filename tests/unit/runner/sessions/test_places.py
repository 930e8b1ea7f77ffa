"""The directories of sessions on the runner's disk."""

from __future__ import annotations

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.sessions import SessionOptions
from clawplane.runner.sessions.places import Kept, Places


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path)


def kept(session, workspace, **more):
    return Kept(session=session, owner="o", options=SessionOptions(), workspace=workspace, **more)


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", ".hidden", "a" * 200, "a\0b"])
def test_a_name_that_would_leave_its_place_is_refused(places, name):
    with pytest.raises(InvalidArgument):
        places.named("owner", name)
    with pytest.raises(InvalidArgument):
        places.named(name, "workspace")
    with pytest.raises(InvalidArgument):
        places.saved(name)


def test_a_workspace_goes_with_the_last_session_that_uses_it(places):
    workspace = places.unnamed()
    places.write(kept("parent", workspace))
    places.write(kept("branch", workspace))
    places.forget("parent")
    assert places.path(workspace).is_dir()
    places.forget("branch")
    assert not places.path(workspace).exists()


def test_a_named_workspace_stays_until_it_is_forgotten_by_name(places):
    workspace = places.named("o", "w")
    places.write(kept("s", workspace))
    places.forget("s")
    assert places.path(workspace).is_dir()
    places.forget_named("o", "w")
    assert not places.path(workspace).exists()
    places.forget_named("o", "w")


def test_a_sweep_removes_what_nobody_can_ask_for(places):
    alive, over, orphan = places.unnamed(), places.unnamed(), places.unnamed()
    places.write(kept("alive", alive, expires_at=2000))
    places.write(kept("over", over, expires_at=1000))
    places.path("sessions/half").mkdir()
    assert places.sweep(1500) == ["alive"]
    assert [places.path(each).exists() for each in (alive, over, orphan)] == [True, False, False]
    assert not places.path("sessions/half").exists()


def test_a_record_that_is_damaged_is_no_record(places):
    places.write(kept("s", places.unnamed()))
    places.path("sessions/s/meta").write_bytes(b"{")
    assert places.read("s") is None
