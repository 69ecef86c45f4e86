"""Files mapped into memory: private to the process, so that nothing it does reaches the file."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np

# Linux refuses a private map of more than its memory, as if all of it would be written. Not every
# Python names the flag that says otherwise.
NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


def mapped(path: Path) -> np.ndarray:
    """A file's bytes [size], of which only those that are read take memory: the file may be larger
    than that."""
    if not path.stat().st_size:
        return np.empty(0, np.uint8)
    if not NO_RESERVE:
        return np.memmap(path, np.uint8, "c")
    with path.open("rb") as file:
        flags, access = mmap.MAP_PRIVATE | NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        return np.frombuffer(mmap.mmap(file.fileno(), 0, flags=flags, prot=access), np.uint8)


def forget(array: np.ndarray) -> None:
    """Gives back the memory of an array that is a view of a file, until it is read again."""
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if not isinstance(owner, mmap.mmap) or not array.size:
        return
    first, last = np.lib.array_utils.byte_bounds(array)
    begin = np.frombuffer(owner, np.uint8).ctypes.data
    page = mmap.PAGESIZE
    start, end = -(-(first - begin) // page) * page, (last - begin) // page * page
    if start < end:
        owner.madvise(mmap.MADV_DONTNEED, start, end - start)
