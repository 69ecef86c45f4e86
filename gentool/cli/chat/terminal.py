"""The state of the terminal while an answer is printed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

LOCAL_MODES = 3  # index in what tcgetattr gives


@contextlib.contextmanager
def without_echo() -> Iterator[None]:
    """Meanwhile what is typed is kept for the next message, and does not show in the answer."""
    try:
        import termios
    except ImportError:  # Windows
        yield
        return
    try:
        before = termios.tcgetattr(sys.stdin)
        changed = list(before)
        changed[LOCAL_MODES] &= ~termios.ECHO
        termios.tcsetattr(sys.stdin, termios.TCSANOW, changed)
    except termios.error:  # no terminal
        yield
        return
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)
