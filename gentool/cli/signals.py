"""Ctrl-C and SIGTERM. Both raise an exception wherever the program is, of which TensorFlow may make
another on its way: so what was received is remembered.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from gentool.errors import Exit

STOP_SECONDS = 2.0  # for what is in flight, where the run ends itself


class Signals:
    """The signals of one run of the program, in the order they were received, as exit codes."""

    def __init__(self) -> None:
        self.received: list[Exit] = []
        self._deferred = False

    def listen(self) -> None:
        """Handles both from now on; Ctrl-C only if whoever started the program did not have it
        ignored."""
        signal.signal(signal.SIGTERM, self._terminate)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only records the first signal meanwhile: the run ends itself. Another ends it at once."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def interrupted(self, failure: BaseException) -> bool:
        """Whether Ctrl-C is behind a failure."""
        return isinstance(failure, KeyboardInterrupt) or Exit.INTERRUPTED in self.received

    @contextlib.contextmanager
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

    def _interrupt(self, signum: int, frame: object) -> None:
        _end_numpy_import(signum)
        self.received.append(Exit.INTERRUPTED)
        if not self._waits():
            raise KeyboardInterrupt

    def _terminate(self, signum: int, frame: object) -> None:
        _end_numpy_import(signum)
        self.received.append(Exit.TERMINATED)
        if not self._waits():
            sys.exit(Exit.TERMINATED)

    def _waits(self) -> bool:
        """Whether the run will end itself."""
        return self._deferred and len(self.received) == 1


def _end_numpy_import(signum: int) -> None:
    """Ends the process while numpy is imported, whose C code would print the exception."""
    numpy = sys.modules.get("numpy")
    if numpy and getattr(numpy.__spec__, "_initializing", False):
        end_quietly()
        os.kill(os.getpid(), signum)


def end_quietly() -> None:
    """From now on both end the process at once, without a traceback: before the program listens,
    and when its result is done. Ignored signals stay ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
