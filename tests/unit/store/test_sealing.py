from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from clawplane.domain.errors import StoreError
from clawplane.store.sealing import KeyFileSealing


@pytest.mark.parametrize("secret", ["token", "", "ä\U0001f600", "half \ud83d", "x" * 100_000])
def test_a_sealed_secret_is_read_again_with_the_same_key_file_and_cannot_be_found_in_what_is_stored(
    tmp_path: Path, secret: str
) -> None:
    sealed = KeyFileSealing.open(tmp_path / "key").seal(secret)
    assert KeyFileSealing.open(tmp_path / "key").unseal(sealed) == secret
    assert not secret or secret.encode("utf-8", "surrogatepass") not in sealed


def test_the_same_secret_is_sealed_differently_each_time(tmp_path: Path) -> None:
    sealing = KeyFileSealing.open(tmp_path / "key")
    assert len({sealing.seal("token") for _ in range(50)}) == 50


@pytest.mark.parametrize("at", [0, 1, 12, 13, -1])
def test_whatever_was_changed_in_a_sealed_secret_is_noticed(tmp_path: Path, at: int) -> None:
    sealing = KeyFileSealing.open(tmp_path / "key")
    changed = bytearray(sealing.seal("token"))
    changed[at] ^= 1
    with pytest.raises(StoreError, match="cannot be read"):
        sealing.unseal(bytes(changed))


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" * 13, b"token"])
def test_what_was_never_sealed_is_refused(tmp_path: Path, sealed: bytes) -> None:
    with pytest.raises(StoreError):
        KeyFileSealing.open(tmp_path / "key").unseal(sealed)


def test_another_key_reads_nothing_and_the_error_says_what_to_restore(tmp_path: Path) -> None:
    sealed = KeyFileSealing.open(tmp_path / "one").seal("token")
    with pytest.raises(StoreError) as refusal:
        KeyFileSealing.open(tmp_path / "two").unseal(sealed)
    assert "Restore" in refusal.value.hint
    assert "token" not in str(refusal.value)


def test_the_key_file_is_this_user_s_alone_whatever_the_umask_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        KeyFileSealing.open(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    KeyFileSealing.open(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(StoreError, match="read by others") as refusal:
        KeyFileSealing.open(tmp_path / "key")
    assert "chmod 600" in refusal.value.hint


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_file_that_holds_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(StoreError, match="holds no key"):
        KeyFileSealing.open(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == content


@pytest.mark.parametrize("kind", ["link", "dangling", "directory", "pipe"])
def test_what_is_planted_at_the_place_of_the_key_is_refused(tmp_path: Path, kind: str) -> None:
    key = tmp_path / "key"
    if kind == "link":
        KeyFileSealing.open(tmp_path / "other")
        key.symlink_to(tmp_path / "other")
    elif kind == "dangling":
        key.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        key.mkdir(0o700)
    else:
        os.mkfifo(key, 0o600)
    with pytest.raises(StoreError):
        KeyFileSealing.open(key)
    assert not (tmp_path / "nowhere").exists()
