"""Ctrl-C and SIGTERM. Both raise an exception wherever the program is, of which TensorFlow may make
another on its way: so what was received is remembered.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from gentool.errors import Exit


class Signals:
    """The signals of one run of the program, in the order they were received, as exit codes."""

    def __init__(self) -> None:
        self.received: list[Exit] = []

    def listen(self) -> None:
        """Handles both from now on; Ctrl-C only if whoever started the program did not have it
        ignored."""
        signal.signal(signal.SIGTERM, self._terminate)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)

    def interrupted(self, failure: BaseException) -> bool:
        """Whether Ctrl-C is behind a failure."""
        return isinstance(failure, KeyboardInterrupt) or Exit.INTERRUPTED in self.received

    @contextmanager
    def stoppable(self) -> Iterator[Callable[[], bool]]:
        """Meanwhile Ctrl-C only asks to stop: the function that is yielded says whether it came. A
        second one raises KeyboardInterrupt, and is not `received`: the program may go on."""
        count, before = 0, signal.getsignal(signal.SIGINT)

        def ask(signum: int, frame: object) -> None:
            nonlocal count
            count += 1
            if count > 1:
                raise KeyboardInterrupt

        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, ask)
        try:
            yield lambda: count > 0
        except BaseException as failure:
            if count > 1 and not self.received:
                raise KeyboardInterrupt from failure
            raise
        finally:
            signal.signal(signal.SIGINT, before)

    def _interrupt(self, signum: int, frame: object) -> NoReturn:
        self.received.append(Exit.INTERRUPTED)
        raise KeyboardInterrupt

    def _terminate(self, signum: int, frame: object) -> NoReturn:
        self.received.append(Exit.TERMINATED)
        sys.exit(Exit.TERMINATED)


def end_quietly() -> None:
    """From now on both end the process at once, without a traceback: before the program listens,
    and when its result is done. Ignored signals stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
