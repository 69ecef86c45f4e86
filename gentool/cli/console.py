"""The only place that writes to the terminal. stdout gets the result, in UTF-8, and nothing else;
stderr gets everything else. Text of models, files and errors is never markup, and control and bidi
characters in it are escaped on a terminal.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from gentool.cli.signals import Signals
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from rich.console import Console as Rich
    from rich.table import Table

Color = Literal["auto", "always", "never"]
Show = Callable[[int, int, float, str], None]

BAR = 24  # characters
MAX_FIRST = 40  # characters of the first column of a table
MIN_FIRST = 8  # of that; on a narrow terminal the last numbers make room for it
GAP = 2  # between columns

STDOUT = "standard output"
LOADING_SECONDS = 0.3
ERASE_LINE = "\r\x1b[K"
DIM, NOT_DIM = "\x1b[2m", "\x1b[22m"
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal
FIRST_LINE_SECONDS = 2.0  # what takes less needs none

_BIDI_CODES = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_CONTROL_CODES = [*range(0x20), *range(0x7F, 0xA0), *_BIDI_CODES]
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROL_CODES if chr(code) not in "\n\t"}


def neutral(text: str) -> str:
    """`text` with control and bidi characters as visible escapes, which JSON reads back."""
    return text.translate(_ESCAPED)


def colored(choice: Color, terminal: bool) -> bool:
    """Whether to write in colour: --color, else only on a terminal that wants it."""
    if choice != "auto":
        return choice == "always"
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Board(NamedTuple):
    """A table of cells with a bar at the end of each row, and a line below it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[float, ...]  # 0 to 1
    footer: str


class Console:
    """The streams of this process, and the flags that say what is printed on them."""

    def __init__(self) -> None:
        self.color: Color = "auto"
        self.quiet = self.verbose = self.debug = False
        self.signals = Signals()
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if stream is None:  # closed by the caller: no file opened later may take its number
                os.open(os.devnull, os.O_RDWR)
        sys.stderr = sys.stderr or open(os.devnull, "w")
        if isinstance(sys.stderr, io.TextIOWrapper):
            sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")
        # unbuffered: after a broken pipe there is nothing left to flush at exit
        self._out = io.FileIO(1, "w", closefd=False) if sys.stdout else None
        self._out_name = STDOUT
        self._line_open = False

    def redirect(self, path: str) -> None:
        """Sends the result to a file, whose old content stays until `overwrite`, and locks it."""
        try:
            file = io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT, 0o666), "w")
        except OSError as e:
            raise UsageError(f"cannot write {path}: {e.strerror}", "give another --output") from e
        _lock(file, path)
        self._out, self._out_name = file, path

    def overwrite(self, keep: int = 0) -> None:
        """Empties the file of `redirect` but for its first bytes: from here on there is a
        result."""
        if self._out and self._out_name != STDOUT:
            with contextlib.suppress(OSError):  # a device or a pipe
                self._out.truncate(keep)
                self._out.seek(keep)

    @property
    def on_terminal(self) -> bool:
        """Whether the result goes to a terminal."""
        return bool(self._out and self._out.isatty())

    def write(self, text: str, dim: bool = False) -> None:
        """Writes a part of the result, unbuffered; dim on a terminal that wants colours."""
        if not self._out:
            raise GentoolError("standard output is closed", "open it, or give --output FILE")
        shown = neutral(text) if self.on_terminal else text
        if dim and self.on_terminal and colored(self.color, True):
            shown = f"{DIM}{shown}{NOT_DIM}"
        data = memoryview(shown.encode())
        with self._writing():
            while data:
                written = self._out.write(data)
                if written is None:  # the reader of a non-blocking pipe is behind
                    select.select([], [self._out], [])
                data = data[written or 0 :]
        if text:
            self._line_open = not text.endswith(("\n", "\0"))

    def close(self) -> None:
        """Closes the result; some file systems report only now that it did not fit."""
        if self._out:
            with self._writing():
                self._out.close()

    def release(self) -> None:
        """Closes the file of a result, whatever became of it."""
        if self._out:
            with contextlib.suppress(OSError):
                self._out.close()

    @contextlib.contextmanager
    def log_as_notes(self) -> Iterator[None]:
        """Shows what gentool logs meanwhile, warnings of its cache, as notes."""
        import logging

        class Notes(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:
                self.note(record.getMessage())

        logger, notes = logging.getLogger("gentool"), Notes()
        logger.addHandler(notes)
        try:
            yield
        finally:
            logger.removeHandler(notes)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as e:
            raise GentoolError(
                f"cannot write {self._out_name}: {e.strerror}", "free some space and run again"
            ) from e

    def end_line(self) -> None:
        """Ends an unfinished line of the result, before an error."""
        with contextlib.suppress(OSError, GentoolError):
            if self._line_open:
                self.write("\n")

    def error(self, message: str, hint: str) -> None:
        """Prints an error and its hint; does not exit, and -q does not silence it."""
        self._print_line(message, "error:", "bold red")
        self._print_line(hint, "hint:", "bold cyan")

    def note(self, text: str) -> None:
        """A line on stderr; silent with -q."""
        if not self.quiet:
            self._print_line(text)

    def after(self, text: str) -> None:
        """A dim line below a result that a person reads on a terminal; silent elsewhere."""
        if not self.quiet and self.on_terminal and sys.stderr.isatty():
            self._print_line(text, style="dim")

    def detail(self, text: str) -> None:
        """A line that is printed with -v only."""
        if self.verbose:
            self._print_line(text)

    def board(self, board: Board) -> None:
        """A table on stderr; silent with -q."""
        if not self.quiet:
            shown = io.StringIO()
            rich = self._rich(shown)
            rich.print(_table(board, sys.stderr.isatty(), rich.width))
            lines = [f"{line.rstrip()}\n" for line in shown.getvalue().splitlines()]
            self._write_stderr("".join(lines))
            if board.footer:
                self._print_line(board.footer)

    @contextlib.contextmanager
    def live(self) -> Iterator[Callable[[Board], None]]:
        """Yields a function that shows a board in the place of the one before, on a terminal only;
        nothing of it stays."""
        rich = self._rich()
        if self.quiet or not sys.stderr.isatty() or rich.is_dumb_terminal:
            yield lambda board: None
            return
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text

        with Live(
            console=rich, transient=True, redirect_stdout=False, redirect_stderr=False
        ) as live:

            def show(board: Board) -> None:
                rows = max(1, rich.height - 4)  # what is taller than the screen cannot be redrawn
                few = board._replace(rows=board.rows[:rows], bars=board.bars[:rows])
                table = _table(few, True, rich.width)
                live.update(Group(table, Text(neutral(board.footer))))

            yield show

    def loading(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Names on a terminal what is loaded."""
        return self.waiting(f"loading {name} …")

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Says on a terminal what takes longer than LOADING_SECONDS, and erases the line
        afterwards."""
        if self.quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            yield
            return
        lock, state = threading.Lock(), {"over": False, "shown": False}

        def show() -> None:
            with lock:
                if not state["over"]:
                    state["shown"] = True
                    self._write_stderr(neutral(text))

        timer = threading.Timer(LOADING_SECONDS, show)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                state["over"] = True
                if state["shown"]:
                    self._write_stderr(ERASE_LINE)

    def traceback(self, failure: BaseException) -> None:
        for line in traceback.format_exception(failure):
            for part in line.splitlines():
                self._print_line(part)

    def _print_line(self, text: str, label: str = "", style: str = "") -> None:
        from rich.text import Text

        text = text.replace("\n", " ")
        line = Text(neutral(text) if sys.stderr.isatty() else text, "" if label else style)
        if label:
            line = Text.assemble((label, style), " ", line)
        shown = io.StringIO()
        self._rich(shown).print(line, soft_wrap=True)
        self._write_stderr(shown.getvalue())

    def _write_stderr(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a result must not fail because nobody listens here
            sys.stderr.write(text)
            sys.stderr.flush()

    def _rich(self, file: io.StringIO | None = None) -> Rich:
        """A rich console without markup, emoji and guesses."""
        from rich.console import Console as Rich

        terminal = sys.stderr.isatty()
        color = colored(self.color, terminal)
        return Rich(
            file=file or sys.stderr,
            force_terminal=terminal or color,
            color_system="standard" if color else None,
            no_color=not color,
            markup=False,
            highlight=False,
            emoji=False,
        )

    @contextlib.contextmanager
    def progress(self, unit: str = "step") -> Iterator[Show]:
        """Yields a function of steps done, all steps, seconds left and a text: it shows a bar on a
        terminal, else a line now and then. A step is one `unit`."""
        rich = self._rich()
        if self.quiet:
            yield lambda done, steps, left, text: None
        elif sys.stderr.isatty() and not rich.is_dumb_terminal:
            yield from _bar(rich)
        else:
            yield self._lines(unit)

    def _lines(self, unit: str) -> Show:
        next_line, shown = 0.0, False

        def show(done: int, steps: int, left: float, text: str) -> None:
            nonlocal next_line, shown
            next_line = next_line or time.monotonic() + FIRST_LINE_SECONDS
            if time.monotonic() >= next_line or (shown and done == steps):
                next_line, shown = time.monotonic() + LINE_SECONDS, True
                self.note(f"{unit} {done} of {steps}, {text}, {clock(left)} left")

        return show


def _lock(file: io.FileIO, path: str) -> None:
    """Locks a regular file until it is closed or the process ends, so that two runs never write one
    output. Devices and pipes may be shared, and not every file system has locks."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(
            f"another run of gentool writes to {path}", "wait for it, or give another --output"
        ) from None
    except OSError:
        pass


def _table(board: Board, terminal: bool, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = [[cell.replace("\n", "\\n") for cell in cells] for cells in board.rows]
    rows = [[neutral(cell) if terminal else cell for cell in cells] for cells in rows]
    lines = [list(board.columns), *rows]
    while len(lines[0]) > 2 and _width_left(lines, width) < MIN_FIRST:
        lines = [line[:-1] for line in lines]
    first, bar = _widths(lines, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(lines[0][0], no_wrap=True, overflow="ellipsis", max_width=first)
    for name in lines[0][1:]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for cells, share in zip(lines[1:], board.bars, strict=True):
        drawn = Text("█" * round(share * bar), style="cyan")
        table.add_row(*(Text(cell) for cell in cells), drawn)
    return table


def _widths(lines: Sequence[Sequence[str]], width: int) -> tuple[int, int]:
    """How wide the first column and a full bar are. Numbers are never cut, and bars are all of one
    scale: they take what the first column leaves, or a third, unless that is next to nothing."""
    from rich.cells import cell_len

    first = min(MAX_FIRST, max(cell_len(line[0]) for line in lines))
    left = max(1, _width_left(lines, width))
    bar = min(BAR, max(left - first, left // 3))
    return (left - bar, bar) if bar > GAP else (left, 0)


def _width_left(lines: Sequence[Sequence[str]], width: int) -> int:
    """What the numbers leave of a line."""
    from rich.cells import cell_len

    _, *numbers = (max(map(cell_len, column)) for column in zip(*lines, strict=True))
    return width - GAP - sum(number + GAP for number in numbers)


def _bar(rich: Rich) -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[left]} left", markup=False),
    )
    with Progress(*columns, console=rich, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, left="…")

        def show(done: int, steps: int, left: float, text: str) -> None:
            bar.update(task, completed=done, total=steps, description=text, left=clock(left))

        yield show


def clock(seconds: float) -> str:
    """3725 as 1:02:05."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
