"""The silence of libraries that log to file descriptor 2."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def redirected_stderr() -> Iterator[None]:
    """Redirects file descriptor 2 to a file, whose text is printed only if the block fails."""
    try:
        stderr = os.dup(2)
    except OSError:  # it is closed: nothing to redirect
        yield
        return
    try:
        log: BinaryIO = tempfile.TemporaryFile()
    except OSError:  # no folder is writable
        log = open(os.devnull, "w+b")
    with log:
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
