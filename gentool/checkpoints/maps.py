"""Files mapped into memory: private to the process, so that nothing it does reaches the file."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np


def mapped(path: Path) -> np.ndarray:
    """A file's bytes [size], of which only those that are read take memory."""
    return np.memmap(path, np.uint8, "c") if path.stat().st_size else np.empty(0, np.uint8)


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
