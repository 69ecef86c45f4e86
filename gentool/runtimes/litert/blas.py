"""numpy's matrix products on one thread. Attention has its own threads, each for many small
products; OpenBLAS's would wait for one another in between, on a busy machine for seconds."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

_PREFIX, _SUFFIX = "scipy_openblas_", "64_"  # of the names in the OpenBLAS of numpy's wheels


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """OpenBLAS computes on the thread that calls it while this lasts. A numpy with another library
    is left as it is."""
    functions = _openblas()
    if functions is None:
        yield
        return
    get, set_ = functions
    before = get()
    if before == 1:
        yield
        return
    set_(1)
    try:
        yield
    finally:
        set_(before)


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What gets and sets the number of its threads."""
    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        for path in folder.glob("*openblas*"):
            with contextlib.suppress(OSError, AttributeError):
                library = ctypes.CDLL(str(path))
                return tuple(
                    getattr(library, f"{_PREFIX}{name}_num_threads{_SUFFIX}")
                    for name in ("get", "set")
                )
    return None
