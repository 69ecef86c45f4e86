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
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from gentool.cli.board import Board, aligned, table_of
from gentool.cli.neutral import neutral
from gentool.cli.signals import Signals
from gentool.cli.status import StatusLine, bar, parts
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from rich.console import Console as Rich

Color = Literal["auto", "always", "never"]
Show = Callable[[int, int, float, str], None]
Report = Callable[[int, int], None]  # done, total

MAX_ERROR = 3000  # characters of an error or a hint

STDOUT = "standard output"
LOADING_SECONDS = 0.3
DIM, NOT_DIM = "\x1b[2m", "\x1b[22m"
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal
FIRST_LINE_SECONDS = LINE_SECONDS  # what takes less needs none


def _shortened(text: str) -> str:
    """`text` without its middle where a value in it is too long for an error."""
    return (
        text if len(text) <= MAX_ERROR else f"{text[: MAX_ERROR // 2]} … {text[-MAX_ERROR // 2 :]}"
    )


def colored(choice: Color, terminal: bool) -> bool:
    """Whether to write in colour: --color, else only on a terminal that wants it."""
    if choice != "auto":
        return choice == "always"
    return terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


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
        self._status = StatusLine(self._write_raw)

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
        with self._room(), self._writing():
            while data:
                written = self._out.write(data)
                if written is None:  # the reader of a non-blocking pipe is behind
                    select.select([], [self._out], [])
                data = data[written or 0 :]
            if text:
                self._line_open = not text.endswith(("\n", "\0"))

    def _room(self) -> contextlib.AbstractContextManager[None]:
        """Moves the status out of the way of a result on the same terminal."""
        if not self.on_terminal:
            return contextlib.nullcontext()
        return self._status.hidden(lambda: self._line_open)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Writes a table as a part of the result: the first column left, the others right."""
        self.write("".join(f"{line}\n" for line in aligned([columns, *rows])))

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
        """Shows what gentool logs meanwhile, of its cache or of a model's files, as notes. A model
        that is read twice is warned of once."""
        import logging

        shown = set()

        class Notes(logging.Handler):
            def emit(handler, record: logging.LogRecord) -> None:
                text = f"warning: {record.getMessage()}"
                if text not in shown:
                    self.note(text)
                shown.add(text)

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
        self._print_line(_shortened(message), "error:", "bold red")
        self._print_line(_shortened(hint), "hint:", "bold cyan")

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
            rich.print(table_of(board, sys.stderr.isatty(), rich.width))
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
                table = table_of(few, True, rich.width)
                live.update(Group(table, Text(neutral(board.footer))))

            yield show

    def loading(self, name: str) -> contextlib.AbstractContextManager[Report]:
        """Names on a terminal what is loaded."""
        return self.waiting(f"loading {name} …")

    @contextlib.contextmanager
    def waiting(self, text: str) -> Iterator[Report]:
        """Says on a terminal what takes longer than LOADING_SECONDS, and erases the line
        afterwards. Gives a function that shows how much is done: weights are quantised or packed
        for minutes when a large model is opened for the first time."""

        def report(done: int, total: int) -> None:
            self._status.show(f"{text} {100 * done // max(1, total)} %")

        with self._status.shown(text, LOADING_SECONDS, self._has_status):
            yield report

    @property
    def _has_status(self) -> bool:
        """Whether a line of status can be shown."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

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
        with self._status.hidden():
            self._write_raw(text)

    def _write_raw(self, text: str) -> None:
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
    def progress(self, unit: str = "step", title: str = "starting …") -> Iterator[Show]:
        """Yields a function of steps done, all steps, seconds left and a text: it shows a bar on a
        terminal, below what is printed, else a line now and then. What is not known is 0 or NaN. A
        step is one `unit`; until the first is done, a terminal shows the `title`."""
        if self.quiet:
            yield lambda done, steps, left, text: None
        elif self._has_status:
            with self._status.shown(title, LOADING_SECONDS):
                yield lambda *state: self._status.show(bar(unit, *state))
        else:
            yield self._lines(unit)

    def _lines(self, unit: str) -> Show:
        next_line, shown = 0.0, False

        def show(done: int, steps: int, left: float, text: str) -> None:
            nonlocal next_line, shown
            next_line = next_line or time.monotonic() + FIRST_LINE_SECONDS
            if time.monotonic() >= next_line or (shown and done == steps):
                next_line, shown = time.monotonic() + LINE_SECONDS, True
                self.note(", ".join(parts(unit, done, steps, left, text)))

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
