"""Block signals by number.

The functions of the signal module make an enum member of each signal that they return, by way of an exception for each
that has no name: 0.15 ms for a full mask, twice in every frame that an interpreter writes. Those below it do not.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any, Final

_below: Any = sys.modules["_signal"]
change_mask: Final[Callable[[int, Any], Any]] = _below.pthread_sigmask
"""Change the calling thread's mask and return the set of numbers that it held."""
ALL: Final[frozenset[int]] = frozenset(_below.valid_signals())
BLOCK, SET = int(signal.SIG_BLOCK), int(signal.SIG_SETMASK)
