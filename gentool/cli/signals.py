"""Ctrl-C and SIGTERM. Both raise an exception wherever the program is, of which TensorFlow may make
another on its way: so what came is remembered.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from gentool.errors import Exit

came: list[Exit] = []  # what the process is to end with


def listen() -> None:
    """From now on, for Ctrl-C only if whoever started the program has not had it ignored."""
    came.clear()
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def interrupted(failure: BaseException) -> bool:
    """Whether Ctrl-C is behind a failure."""
    return isinstance(failure, KeyboardInterrupt) or Exit.INTERRUPTED in came


def _interrupt(signum: int, frame: object) -> NoReturn:
    came.append(Exit.INTERRUPTED)
    raise KeyboardInterrupt


def _terminate(signum: int, frame: object) -> NoReturn:
    came.append(Exit.TERMINATED)
    sys.exit(Exit.TERMINATED)
