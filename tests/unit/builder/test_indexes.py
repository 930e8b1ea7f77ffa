from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from clawplane.builder.access import IndexAccess
from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.gate import Destination
from clawplane.builder.indexes import PackageIndexes, read_indexes
from clawplane.builder.plan import plan_python
from clawplane.builder.tools import Tools


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".config" / "pip").mkdir(parents=True)
    (tmp_path / ".config" / "uv").mkdir()
    return tmp_path


def read(tools: Tools, home: Path, **environ: str) -> PackageIndexes:
    own = {"HOME": str(home), "XDG_CONFIG_DIRS": str(home / "none")}
    return read_indexes(own | environ, uv=tools.uv, python_prefix=home / "none")


def write_pip(home: Path, text: str) -> None:
    (home / ".config" / "pip" / "pip.conf").write_text(text)


def test_pips_configuration_is_translated(tools: Tools, home: Path) -> None:
    certificates = home / "bundle.pem"
    certificates.touch()
    write_pip(
        home,
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url = https://one.example/s\n  https://two.example/s\n"
        f"find-links = /wheels\ntrusted-host = mirror.example\ncert = {certificates}\ntimeout = 99\n",
    )
    found = read(tools, home)
    assert found.default == "https://mirror.example/simple"
    assert found.extra[-2:] == ("https://one.example/s", "https://two.example/s")
    assert (found.links, found.insecure_hosts, found.certificates) == (("/wheels",), ("mirror.example",), certificates)
    assert found.settings == {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_HTTP_TIMEOUT": "99"}


def test_variables_of_uv_win_over_files_and_over_pip(tools: Tools, home: Path) -> None:
    write_pip(home, "[global]\nindex-url = https://file.example/simple\n")
    assert read(tools, home, PIP_INDEX_URL="https://pip.example/simple").default == "https://pip.example/simple"
    (home / ".config" / "uv" / "uv.toml").write_text('[[index]]\nurl = "https://toml.example/simple"\ndefault = true\n')
    assert read(tools, home, PIP_INDEX_URL="https://pip.example/s").default == "https://toml.example/simple"
    assert read(tools, home, UV_DEFAULT_INDEX="https://uv.example/simple").default == "https://uv.example/simple"


def test_an_unconfigured_host_uses_the_index_that_uv_names_itself(tools: Tools, home: Path) -> None:
    default = read(tools, home, PIP_CONFIG_FILE="/dev/null").default
    assert default is not None
    assert default.startswith("https://")


def test_credentials_leave_the_addresses_and_never_show(tools: Tools, home: Path) -> None:
    (home / ".netrc").write_text("machine two.example login bob password hunter3\n")
    found = read(
        tools,
        home,
        UV_DEFAULT_INDEX="https://ann:hunter2@one.example/simple",
        UV_INDEX="private=https://three.example:8443/simple https://two.example/simple",
        UV_INDEX_PRIVATE_USERNAME="cat",
        UV_INDEX_PRIVATE_PASSWORD="hunter4",
    )
    assert found.addresses == (
        "https://one.example/simple",
        "https://three.example:8443/simple",
        "https://two.example/simple",
    )
    assert set(found.authorizations) == {
        Destination("one.example", 443),
        Destination("two.example", 443),
        Destination("three.example", 8443),
    }
    assert "hunter" not in repr(found)
    assert all(value not in repr(found) for value in found.authorizations.values())


def test_an_index_with_credentials_is_asked_in_plain_through_the_gate(tools: Tools, home: Path) -> None:
    found = read(
        tools, home, UV_DEFAULT_INDEX="https://ann:secret@one.example:8443/simple", PIP_CONFIG_FILE="/dev/null"
    )
    access = IndexAccess(found, {})
    assert access.for_installer("https://one.example:8443/simple") == "http://one.example:8443/simple"
    assert access.for_installer("https://other.example/simple") == "https://other.example/simple"


def test_a_broken_configuration_file_is_named(tools: Tools, home: Path) -> None:
    write_pip(home, "no section\n")
    with pytest.raises(ValueError, match=r"pip\.conf: cannot be read"):
        read(tools, home)


def test_the_digest_follows_where_packages_come_from_and_not_how_long_to_wait() -> None:
    base = PackageIndexes(default="https://one.example/simple")
    assert base.digest == dataclasses.replace(base, settings={"UV_HTTP_TIMEOUT": "9"}).digest
    others = [
        dataclasses.replace(base, default="https://two.example/simple"),
        dataclasses.replace(base, extra=("https://two.example/simple",)),
        dataclasses.replace(base, settings={"UV_PRERELEASE": "allow"}),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == 4


async def test_an_index_in_a_directory_works(tmp_path: Path, tools: Tools, index, launcher) -> None:
    for page in (index.root / "simple").iterdir():
        links = "".join(f'<a href="{file.name}">{file.name}</a>\n' for file in page.iterdir())
        (page / "index.html").write_text(links)
    own = dataclasses.replace(
        tools, indexes=PackageIndexes(default=f"file://{index.root}/simple", extra=()), environ={}
    )
    cache = EnvironmentCache(tmp_path / "cache", own)
    environment = await cache.ensure(plan_python(None), launcher=launcher, on_log=lambda line: None)
    assert environment.warm["grpcio"] == "1.85.1"
    assert index.requests == []
    assert own.indexes.directories == (index.root,)
