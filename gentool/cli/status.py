"""One line at the bottom of a terminal that says how far a run is. It makes room for what is
printed."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator

from gentool.cli.neutral import neutral

BAR, GAP = 24, 2  # characters of the bar, and between it and the words
ERASE_LINE = "\r\x1b[K"
SHOW_SECONDS = 0.1  # between two lines
STDERR, DEFAULT_WIDTH = 2, 80


class StatusLine:
    """The line; `write` writes to the terminal. A timer of its own shows the first one."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._lock = write, threading.RLock()
        self._text, self._is_shown, self._covered = "", False, False
        self._next = math.inf

    @contextlib.contextmanager
    def shown(self, title: str, after: float, on: bool = True) -> Iterator[None]:
        """Shows the title, or what `show` was given since, once `after` seconds are over; nothing
        stays of it. Nothing is shown where it is not `on`."""
        if not on:
            yield
            return
        self._text, self._next = title, time.monotonic() + after
        timer = threading.Timer(after, self._draw)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._erase()
                self._text, self._next = "", math.inf

    def show(self, text: str) -> None:
        """Shows a text in the place of the one before, unless that is a moment old."""
        self._text = text
        if time.monotonic() >= self._next:
            self._draw()

    @contextlib.contextmanager
    def hidden(self, covered: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Makes room for what is written meanwhile. If its last line is open, which `covered` says
        afterwards, the line stays away until the next time."""
        with self._lock:
            was_shown = self._is_shown or self._covered
            self._erase()
            try:
                yield
            finally:
                self._covered = was_shown and covered()
                if was_shown and not self._covered:
                    self._draw()

    def _erase(self) -> None:
        if self._is_shown:
            self._write(ERASE_LINE)
            self._is_shown = False

    def _draw(self) -> None:
        with self._lock:
            if self._text and not self._covered:
                self._write(ERASE_LINE + cut(neutral(self._text), terminal_width() - 1))
                self._is_shown, self._next = True, time.monotonic() + SHOW_SECONDS


def terminal_width() -> int:
    """The columns of the terminal of stderr."""
    with contextlib.suppress(OSError, ValueError):
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(STDERR).columns
        return columns if columns > 0 else DEFAULT_WIDTH
    return DEFAULT_WIDTH


def cut(text: str, width: int) -> str:
    """The beginning of a text that is at most `width` cells wide."""
    from rich.cells import cell_len, set_cell_size

    text = text.replace("\n", " ")
    return text if cell_len(text) <= width else set_cell_size(text, max(1, width))


def bar(unit: str, done: int, steps: int, left: float, text: str) -> str:
    """How far a run is, as one line with a bar if its length is known and the terminal is wide."""
    from rich.cells import cell_len

    line = "  ".join(parts(unit, done, steps, left, text))
    if not steps or BAR + GAP + cell_len(line) >= terminal_width():
        return line
    filled = round(BAR * min(done, steps) / steps)
    return "━" * filled + "─" * (BAR - filled) + " " * GAP + line


def parts(unit: str, done: int, steps: int, left: float, text: str) -> list[str]:
    """How far a run is, in words."""
    count = f"{unit} {done}" if done else ""
    words = [f"{unit} {done} of {steps}" if steps else count, text]
    words += [f"{clock(left)} left"] if math.isfinite(left) else []
    return [word for word in words if word]


def clock(seconds: float) -> str:
    """3725 as 1:02:05."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
