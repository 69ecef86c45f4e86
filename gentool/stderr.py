"""The silence of libraries that write to file descriptor 2."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

_LOCK = threading.RLock()  # of two threads the second would restore the log of the first


@contextlib.contextmanager
def redirected_stderr(
    show: bool = False, at_exit: Callable[[str], str] | None = None
) -> Iterator[None]:
    """Redirects file descriptor 2 to a file. `show` prints its text if the block fails; else the
    error that the block raises has to say what is wrong. Where the library ends the process inside
    the block, what `at_exit` makes of the last line is printed."""
    with _LOCK:
        try:
            stderr = os.dup(2)
        except OSError:  # it is closed: nothing to redirect
            yield
            return
        try:
            log: BinaryIO = tempfile.TemporaryFile()
        except OSError:  # no folder is writable
            log = open(os.devnull, "w+b")
        with log, _watched(stderr, log, at_exit) if at_exit else contextlib.nullcontext():
            sys.stderr.flush()
            os.dup2(log.fileno(), 2)
            try:
                yield
            except Exception:
                log.seek(0)
                os.write(stderr, log.read() if show else b"")
                raise
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)


@contextlib.contextmanager
def _watched(stderr: int, log: BinaryIO, at_exit: Callable[[str], str]) -> Iterator[None]:
    """Has a second process wait for the end of the block, or of this process."""
    ended, end = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the child calls nothing that another thread may hold
        pid = os.fork()
    if not pid:
        os.close(end)
        if not os.read(ended, 1):  # nobody is left who could write
            lines = os.pread(log.fileno(), 1 << 20, 0).decode("utf-8", "replace").splitlines()
            os.write(stderr, at_exit(lines[-1] if lines else "").encode())
        os._exit(0)
    os.close(ended)
    try:
        yield
    finally:
        os.write(end, b"1")
        os.close(end)
        os.waitpid(pid, 0)
