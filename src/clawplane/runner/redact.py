"""Keep this runner's own secrets, and credentials in addresses, out of every log line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MASK: Final = "***"
_SHORTEST: Final = 8
"""Shorter values are no secrets worth the name, and masking them would garble ordinary text."""

_USERINFO: Final = re.compile(r"(?<=://)[^\s/@:]{0,256}:[^\s/@]{1,512}(?=@)")


class Redactor:
    """Masks known values anywhere in a text; `addresses` masks `user:password` of URLs as well."""

    def __init__(self, secrets: Iterable[str], *, addresses: bool = False) -> None:
        self._secrets = tuple(sorted({each for each in secrets if len(each) >= _SHORTEST}, key=len, reverse=True))
        self._addresses = addresses

    def clean(self, text: str) -> str:
        """Return `text` with what must not be seen replaced by ***."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        if self._addresses and "://" in text:
            text = _USERINFO.sub(MASK, text)
        return text
