"""Seal secrets with a key that lies beside the database, in a file that only this user reads.

AES-256-GCM with a random nonce for each secret. Whoever gets hold of the database alone, a copy of it or a backup,
reads no bot token; whoever reads the whole data directory is this user anyway.
"""

from __future__ import annotations

import os
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
        self._cipher = AESGCM(key)

    @classmethod
    def open(cls, path: Path) -> KeyFileSealing:
        """Read the key file, or make it; raises StoreError when it is not a key that only this user reads."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            return cls(_read(path))
        key = os.urandom(_KEY_BYTES)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return cls(key)

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


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        key = file.read(_KEY_BYTES + 1)
    if found.st_mode & 0o077 or found.st_uid not in (os.geteuid(), 0):
        raise StoreError(f"{path} can be read by others.", hint=f"Let only its owner read it: chmod 600 {path}")
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{path} holds no key.", hint="Restore it from a backup; without it stored tokens are lost.")
    return key
