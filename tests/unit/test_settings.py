from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.settings import (
    Connection,
    Secret,
    checked_url,
    data_directory,
    read_connection,
    runner_settings,
    serve_settings,
    state_directory,
    write_connection,
    write_private,
)

TOKEN = "t" * 32


def test_flags_win_over_variables_and_those_over_defaults(tmp_path: Path) -> None:
    variables = {"CLAWPLANE_PORT": "4000", "CLAWPLANE_BIND": "0.0.0.0", "HOME": str(tmp_path)}
    assert serve_settings(environment={"HOME": str(tmp_path)}).port == 3456
    assert serve_settings(environment=variables).port == 4000
    given = serve_settings(port=5000, bind="::1", data=tmp_path / "x", environment=variables)
    assert (given.port, given.bind, given.data) == (5000, "::1", tmp_path / "x")


def test_directories_follow_the_xdg_specification_and_relative_ones_are_ignored(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert data_directory(None, home) == tmp_path / ".local/share/clawplane"
    assert data_directory(None, home | {"XDG_DATA_HOME": "/data"}) == Path("/data/clawplane")
    assert data_directory(None, home | {"XDG_DATA_HOME": "data"}) == tmp_path / ".local/share/clawplane"
    assert data_directory(None, home | {"CLAWPLANE_DATA": "/own"}) == Path("/own")
    assert data_directory(Path("near"), home) == Path.cwd() / "near"
    assert state_directory(home | {"XDG_STATE_HOME": "/state"}) == Path("/state/clawplane")


def test_a_user_without_a_home_is_told_to_name_a_directory() -> None:
    with pytest.raises(InvalidArgument, match="home") as raised:
        data_directory(Path("~no-such-user-anywhere"), {})
    assert "--data" in raised.value.hint


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"CLAWPLANE_PORT": "0"}, "CLAWPLANE_PORT"),
        ({"CLAWPLANE_PORT": "http"}, "CLAWPLANE_PORT"),
        ({"CLAWPLANE_MAX_BODY_BYTES": "1e9"}, "CLAWPLANE_MAX_BODY_BYTES"),
        ({"CLAWPLANE_MAX_SUBTASKS": "-1"}, "CLAWPLANE_MAX_SUBTASKS"),
        ({"CLAWPLANE_LINK_SECONDS": "9" * 5000}, "CLAWPLANE_LINK_SECONDS"),
        ({"CLAWPLANE_BODY_SECONDS": "0"}, "CLAWPLANE_BODY_SECONDS"),
        ({"CLAWPLANE_UNREAD_SECONDS": "0"}, "CLAWPLANE_UNREAD_SECONDS"),
        ({"CLAWPLANE_MONTH_RULE": "maybe"}, "CLAWPLANE_MONTH_RULE"),
        ({"CLAWPLANE_LOG": "loud"}, "CLAWPLANE_LOG"),
        ({"CLAWPLANE_OWNER": "a~b"}, "CLAWPLANE_OWNER"),
        ({"CLAWPLANE_PUBLIC_URL": "example.com"}, "CLAWPLANE_PUBLIC_URL"),
        ({"CLAWPLANE_API_KEY": "tiny1"}, "CLAWPLANE_API_KEY"),
        ({"CLAWPLANE_API_KEY": "schlüssel" * 4}, "CLAWPLANE_API_KEY"),
        ({"CLAWPLANE_API_KEY": "two words " * 4}, "CLAWPLANE_API_KEY"),
    ],
)
def test_a_variable_of_the_control_plane_that_is_wrong_is_named_with_the_way_out(
    variables: dict[str, str], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgument, match=named) as raised:
        serve_settings(environment={"HOME": str(tmp_path)} | variables)
    assert raised.value.hint
    if named.endswith("KEY"):
        assert next(iter(variables.values())) not in raised.value.message + raised.value.hint


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"slots": 0}, "--slots"),
        ({"slots": 10**9}, "--slots"),
        ({"drain_seconds": -1.0}, "--drain"),
        ({"drain_seconds": float("nan")}, "--drain"),
        ({"url": "localhost:3456"}, "--url"),
        ({"log_level": "loud"}, "--log"),
        ({"token_file": Path("/nowhere/token")}, "/nowhere/token"),
    ],
)
def test_a_flag_of_a_runner_that_is_wrong_is_named(flags: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=named):
        runner_settings(environment={"HOME": str(tmp_path), "CLAWPLANE_RUNNER_TOKEN": TOKEN}, **flags)


@pytest.mark.parametrize(("port", "good"), [(1, True), (65_535, True), (0, False), (70_000, False), (-1, False)])
def test_a_port_is_one_that_a_client_can_reach(port: int, good: bool, tmp_path: Path) -> None:
    if good:
        assert serve_settings(port=port, environment={"HOME": str(tmp_path)}).port == port
    else:
        with pytest.raises(InvalidArgument, match="--port"):
            serve_settings(port=port, environment={"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:1234"),
        ("::", "http://[::1]:1234"),
        ("fd00::1", "http://[fd00::1]:1234"),
        ("host.local", "http://host.local:1234"),
    ],
)
def test_this_host_reaches_the_server_wherever_it_listens(bind: str, url: str, tmp_path: Path) -> None:
    settings = serve_settings(bind=bind, port=1234, environment={"HOME": str(tmp_path)})
    assert settings.local_url == settings.url == url


def test_clients_are_told_the_public_address_and_this_host_uses_its_own(tmp_path: Path) -> None:
    public = {"CLAWPLANE_PUBLIC_URL": "https://claw.example/", "HOME": str(tmp_path)}
    settings = serve_settings(port=1234, environment=public)
    assert settings.url == "https://claw.example"
    assert settings.local_url == "http://127.0.0.1:1234"


@pytest.mark.parametrize("text", ["http://h", "https://h:1/base/", "http://[::1]:3456", "http://127.0.0.1:3456"])
def test_an_address_of_a_server_is_accepted_without_its_slash(text: str) -> None:
    assert checked_url("X", text) == text.rstrip("/")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h:1",
        "ftp://h",
        "http://",
        "http:///x",
        "http://h:99999",
        "http://h:0",
        "http://[::1",
        "http://h/?a=b",
        "http://a b",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="X is not an http"):
        checked_url("X", text)


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidArgument) as raised:
        checked_url("X", "http://me:hunter2@h")
    assert "hunter2" not in str(raised.value) + raised.value.hint


def test_a_token_comes_from_a_file_first_and_never_shows_itself(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"  {'f' * 32}\n")
    environment = {"HOME": str(tmp_path), "CLAWPLANE_RUNNER_TOKEN": TOKEN}
    settings = runner_settings(token_file=tmp_path / "token", environment=environment)
    assert settings.token == "f" * 32
    assert "ffff" not in repr(settings)
    assert runner_settings(environment=environment).token == TOKEN


@pytest.mark.parametrize(
    "content", [b"", b"tiny1", b"\xff" * 40, b"two words and more of them", b"a" * 20 + b"\n" + b"b" * 20]
)
def test_a_file_that_holds_no_token_is_refused_without_showing_its_content(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InvalidArgument) as raised:
        runner_settings(token_file=tmp_path / "token", environment={"HOME": str(tmp_path)})
    if content:
        assert content.decode("latin-1") not in str(raised.value)


def test_a_secret_hides_itself_in_a_repr_and_is_text_otherwise() -> None:
    assert repr(Secret("hunter2")) == "'***'"
    assert Secret("hunter2") == "hunter2"


def test_a_private_file_is_readable_by_its_owner_only_and_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "secret"
    write_private(file, "one")
    write_private(file, "two")
    assert file.read_text() == "two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == ["secret"]


def test_what_a_server_left_is_found_by_data_directory_first_and_by_state_directory_else(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    write_connection(Connection(url="http://127.0.0.1:1", key="one"), tmp_path / "first", environment)
    write_connection(Connection(url="http://127.0.0.1:2", key="two"), tmp_path / "second", environment)
    latest = read_connection(environment)
    chosen = read_connection(environment | {"CLAWPLANE_DATA": str(tmp_path / "first")})
    assert latest is not None
    assert chosen is not None
    assert (latest.key, chosen.key) == ("two", "one")


def test_a_server_whose_user_has_no_writable_home_still_leaves_its_address_in_its_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environment = {"XDG_STATE_HOME": str(tmp_path / "file")}
    write_connection(Connection(url="http://127.0.0.1:1", key="k"), tmp_path / "data", environment)
    assert json.loads((tmp_path / "data" / "connection.json").read_text())["key"] == "k"


def test_what_the_operator_decides_about_the_network_is_read_and_its_secrets_stay_hidden(tmp_path: Path) -> None:
    environment = {
        "HOME": str(tmp_path),
        "CLAWPLANE_RUNNER_TOKEN": TOKEN,
        "CLAWPLANE_EGRESS": "Listed",
        "CLAWPLANE_EGRESS_ALLOW": "a.example:443, 10.0.0.5",
        "CLAWPLANE_EGRESS_DENY": "*:25,b.example",
        "CLAWPLANE_EGRESS_UPSTREAMS": "US=http://ann:hunter2@proxy:8080",
    }
    egress = runner_settings(environment=environment).egress
    assert (egress.mode, egress.allow, egress.deny) == ("listed", ("a.example:443", "10.0.0.5"), ("*:25", "b.example"))
    assert egress.upstreams == ("US=http://ann:hunter2@proxy:8080",)
    assert "hunter2" not in repr(egress)
    with pytest.raises(InvalidArgument, match="CLAWPLANE_EGRESS is unknown"):
        runner_settings(environment=environment | {"CLAWPLANE_EGRESS": "open"})


def test_sessions_have_settings_on_both_sides(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    bounds = serve_settings(
        environment=home | {"CLAWPLANE_SESSIONS_PER_OWNER": "5", "CLAWPLANE_SESSION_PLACING_SECONDS": "60"}
    ).sessions
    assert (bounds.per_owner, bounds.waiting, bounds.placing, bounds.linking) == (5, 100, 60, 2)
    runner = home | {"CLAWPLANE_RUNNER_TOKEN": TOKEN}
    chosen = runner_settings(
        environment=runner | {"CLAWPLANE_SESSION_READY": "bare full", "CLAWPLANE_SESSION_SPILL_BYTES": "1000"}
    ).sessions
    assert (chosen.ready, chosen.spill, chosen.save_seconds) == (("bare", "full"), 1000, 10)
    assert runner_settings(environment=runner | {"CLAWPLANE_SESSION_PROFILES": "bare"}).sessions.ready == ()


def test_a_profile_that_is_not_offered_cannot_be_kept_ready(tmp_path: Path) -> None:
    variables = {"HOME": str(tmp_path), "CLAWPLANE_RUNNER_TOKEN": TOKEN, "CLAWPLANE_SESSION_PROFILES": "bare"}
    with pytest.raises(InvalidArgument, match="CLAWPLANE_SESSION_READY has a profile that is not offered: full"):
        runner_settings(environment=variables | {"CLAWPLANE_SESSION_READY": "full"})
