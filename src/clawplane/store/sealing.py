"""Seal secrets with a key that lies beside the database, in a file that only this user reads.

AES-256-GCM with a random nonce for each secret. Whoever gets hold of the database alone, a copy of it or a backup,
reads no bot token; whoever reads the whole data directory is this user anyway.
"""

from __future__ import annotations

import hmac
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from clawplane.domain.errors import StoreError

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORM = b"\x01"


class KeyFileSealing:
    """Seals and unseals with one key; see domain.sealing.Sealing."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = AESGCM(key)

    @classmethod
    def open(cls, path: Path) -> KeyFileSealing:
        """Read the key file, or make it; raises StoreError when it is not a key that only this user reads."""
        if not os.path.lexists(path):
            _make(path)
        return cls(_read(path))

    def seal(self, secret: str) -> bytes:
        """Return what may be stored."""
        nonce = os.urandom(_NONCE_BYTES)
        return _FORM + nonce + self._cipher.encrypt(nonce, secret.encode("utf-8", "surrogatepass"), _FORM)

    def unseal(self, sealed: bytes) -> str:
        """Return the secret; raises StoreError when it was sealed with another key, or changed."""
        form, nonce, rest = sealed[:1], sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, rest, form).decode("utf-8", "surrogatepass")
        except (InvalidTag, ValueError):
            raise StoreError(
                "A stored secret cannot be read: the key file beside the database is not the one it was sealed with.",
                hint="Restore sealing.key together with the database.",
            ) from None

    def sign(self, purpose: str, data: bytes) -> bytes:
        """Return 32 bytes that only this key gives, by HMAC-SHA-256 under a key of the purpose's own."""
        return hmac.digest(hmac.digest(self._key, purpose.encode(), "sha256"), data, "sha256")


def _make(path: Path) -> None:
    """Give a whole key its name in one step: a crash leaves none, or all of it. Who comes second keeps the first's."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror}.", hint="It must be a plain file, no link."
        ) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{path} is no plain file.", hint="Remove it; a new key is made at the next start.")
        key = os.read(descriptor, _KEY_BYTES + 1)
    finally:
        os.close(descriptor)
    if found.st_mode & 0o077 or found.st_uid not in (os.geteuid(), 0):
        raise StoreError(f"{path} can be read by others.", hint=f"Let only its owner read it: chmod 600 {path}")
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{path} holds no key.", hint="Restore it from a backup; without it stored tokens are lost.")
    return key
