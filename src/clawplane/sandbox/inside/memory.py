"""Lay out a zygote's memory so that forking it is cheap.

Theory of operation
- Most of what a fork costs is the copying of page tables, entry by entry, and as much again when the fork ends. A huge
  page has one entry in place of 512. A fork that writes into one gets a copy of 4 KiB of it, as before; only the
  entries of that one page are spelled out then.
- Huge pages need regions of 2 MiB that are aligned and hold nothing else. The interpreter takes memory for its objects
  in pieces of 1 MiB, and imports map libraries in between. So before anything large is imported much memory is taken at
  once, which lies together, and freed but for a few objects that keep the pieces; the imports fill them.
- A kernel that does not collapse pages on demand (before Linux 6.1) or has no huge pages leaves all as it was.
"""

from __future__ import annotations

import ctypes
from typing import Final

from clawplane.sandbox import libc

_HUGE: Final = 2 << 20
_COLLAPSE: Final = 25  # MADV_COLLAPSE
_SET_ASIDE: Final = 64 << 20
_BLOCK: Final = 512  # the largest that the interpreter's own allocator serves
_EMPTY: Final = b"".__sizeof__()
_KEPT_EACH: Final = 1000  # a piece of 1 MiB has room for about twice as many
_SMALLEST: Final = 48
_STEP: Final = 16
_POOL: Final = 16 << 10  # the allocator serves one size from each
_POOL_HEAD: Final = 48
_IN_A_ROW: Final = 4
_LARGE: Final = 96 << 10  # below the size from which on the C library asks the kernel each time
_MOST_TRIES: Final = 100_000


def set_aside() -> list[bytes]:
    """Take memory for the objects of later imports; what is returned keeps it from being given back before."""
    count = _SET_ASIDE // _BLOCK
    blocks = [b""] * count  # a list that grows would take memory in between
    for number in range(count):
        blocks[number] = bytes(_BLOCK - _EMPTY)
    return blocks[::_KEPT_EACH]


def make_huge() -> None:
    """Collapse the private memory of this process into huge pages, as far as it goes."""
    with open("/proc/self/maps", encoding="ascii", errors="replace") as file:
        lines = file.read().splitlines()
    for line in lines:
        span, rights, _offset, _device, _inode, *name = line.split(maxsplit=5)
        if rights != "rw-p" or name not in ([], ["[heap]"]):
            continue
        start, end = (int(each, 16) for each in span.split("-"))
        for address in range(-(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE, _HUGE):
            try:
                libc.call("madvise", ctypes.c_void_p(address), ctypes.c_size_t(_HUGE), _COLLAPSE, what="madvise")
            except OSError:
                continue  # nothing there, or no such call


def fill_holes() -> list[bytes]:
    """Take every free place between what is in use, so that forks take fresh memory, which lies together.

    A fork copies each page that it writes to, and holes are all over the place. What is returned keeps those of the
    interpreter's own allocator taken; nothing gives back the C library's.
    """
    _fill_library_holes()
    kept: list[bytes] = []
    for size in range(_SMALLEST, _BLOCK + 1, _STEP):
        kept += _fill_pools(size)
    return kept


def _fill_library_holes() -> None:
    library = ctypes.CDLL(None)
    take, give = library.malloc, library.free
    take.restype, take.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    give.restype, give.argtypes = None, [ctypes.c_void_p]
    last, blocks = 0, []
    for _ in range(_MOST_TRIES):
        blocks.append(take(_LARGE) or 0)
        if blocks[-1] == last + _LARGE + _STEP:
            break  # two in a row: they come from the end of the heap
        last = blocks[-1]
    end = blocks[-2]
    for block in reversed(blocks[-2:]):
        give(block)
    size = _LARGE // 2
    while size >= _SMALLEST:
        for _ in range(_MOST_TRIES):
            address = take(size) or end
            if address >= end:
                give(address)
                break
        size = size // 2 if size > 16 * _BLOCK else size - (256 if size > 2 * _BLOCK else _STEP)


def _fill_pools(size: int) -> list[bytes]:
    """Return objects of this size that fill every page but a fresh one."""
    kept: list[bytes] = []
    fresh = 0
    while fresh < _IN_A_ROW:
        kept.append(bytes(size - _EMPTY))
        offset = id(kept[-1]) % _POOL
        fresh = fresh + 1 if offset == _POOL_HEAD + fresh * size else 0
    del kept[-_IN_A_ROW:]
    return kept
