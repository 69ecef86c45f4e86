"""Where the prompts and texts of a command come from: an argument, standard input or a file."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from gentool.cli.values import unescaped
from gentool.errors import Exit, GentoolError, UsageError, nearest

if TYPE_CHECKING:
    from gentool.cli.console import Console
    from gentool.cli.flags import PromptFlags


BOM = "\ufeff"
ROWS_FROM_0 = "rows count from 0"
ESCAPE = ("--escape", r"read \n \t \r \\ \uXXXX in it as the characters they stand for")


class Prompt(NamedTuple):
    row: int
    text: str


class Source(NamedTuple):
    """What was read, undecoded, and where from in words. What was `typed`, an argument, is taken as
    it is; a file or a pipe loses a byte order mark, and its CRLF line ends become newlines."""

    name: str
    data: bytes
    typed: bool

    def text(self) -> str:
        """The text; raises UsageError where it is not UTF-8."""
        try:
            text = self.data.decode("utf-8")
        except UnicodeDecodeError as e:
            raise UsageError(
                f"{self.name} is not UTF-8: byte 0x{self.data[e.start]:02x} at offset {e.start}",
                "convert it, for example with iconv -f GB18030 -t UTF-8",
            ) from None
        return text if self.typed else text.removeprefix(BOM).replace("\r\n", "\n")


class Stream(NamedTuple):
    """What can be read, and where from in words; see `Source`."""

    name: str
    file: BinaryIO
    typed: bool


class RowsError(GentoolError):
    """Some rows failed, and were reported; the others are done."""

    exit_code = Exit.SOME_ROWS


def read_prompt(console: Console, argument: str | None, flags: PromptFlags) -> Prompt:
    """The one prompt, and its row."""
    source = read(console, argument, flags.file)
    text = whole(source, escape=bool(flags.escape))
    return Prompt(flags.row or 0, *filled(flags.var, [text]))


@contextlib.contextmanager
def stream(
    console: Console,
    argument: str | None,
    file: str | None,
    what: str = "prompt",
    to: str = "complete",
) -> Iterator[Stream]:
    """An argument, a file or standard input, which is read only for `-`, or when nothing else is
    given and it is no terminal: a pipe nobody writes to cannot hold up the others. `to` is the
    command that asks."""
    if argument is not None and file is not None:
        raise UsageError(f"both a {what} ('{argument}') and a file ({file}) are given", "drop one")
    if argument not in (None, "-"):
        try:
            data = argument.encode()
        except UnicodeEncodeError as e:
            raise UsageError(
                f"the {what} is not text (character {e.start})", "give it in the locale's encoding"
            ) from None
        yield Stream(f"the {what}", io.BytesIO(data), typed=True)
        return
    path = None if file == "-" else file
    on_terminal = bool(sys.stdin and sys.stdin.isatty())
    if path is None and (not sys.stdin or (on_terminal and "-" not in (argument, file))):
        raise UsageError(
            f"no {what}",
            f'give one, as in gentool {to} "今天天气不错", or -f FILE, or - for stdin',
        )
    if path is None and on_terminal:
        console.note(f"type the {what}; Ctrl-D on a line of its own ends it")
    if path is None:
        yield Stream("standard input", sys.stdin.buffer, typed=False)
        return
    with _reading(path):
        opened = Path(path).open("rb")
    with opened:
        yield Stream(path, opened, typed=False)


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise UsageError(
            f"cannot read {name}: {e.strerror}", "check the path and its permissions"
        ) from None


def read(
    console: Console,
    argument: str | None,
    file: str | None,
    what: str = "prompt",
    to: str = "complete",
) -> Source:
    """All of what `stream` gives."""
    with stream(console, argument, file, what, to) as source, _reading(source.name):
        return Source(source.name, source.file.read(), source.typed)


def line_count(source: Stream) -> int:
    """The lines of a file; 0 where it has to be read to know."""
    from gentool.batch.lines import count_lines

    try:
        if not stat.S_ISREG(os.fstat(source.file.fileno()).st_mode):
            return 0
        start = source.file.tell()
        count = count_lines(source.file)
        source.file.seek(start)
        return count
    except (OSError, ValueError):
        return 0


def whole(source: Source, what: str = "prompt", escape: bool = False) -> str:
    """The source as one text; a file loses one final newline."""
    text = source.text()
    text = text if source.typed else text.removesuffix("\n")
    text = with_escapes(text) if escape and text else text
    if not text:
        raise UsageError(f"the {what} is empty", "give at least one character")
    return text


def with_escapes(text: str) -> str:
    """The text of --escape with its escapes as the characters they stand for."""
    try:
        return unescaped(text) if text else text
    except ValueError as instead:
        raise UsageError(f"--escape: the text is '{text}'", str(instead)) from None


def filled(variables: Sequence[tuple[str, str]], texts: Sequence[str]) -> list[str]:
    """The texts with each {NAME} of `--var` replaced. Other braces stay; a name that no text has is
    a mistake."""
    from gentool.voting.examples import fill, placeholders

    fields = dict(variables)
    known = {name for text in texts for name in placeholders(text)}
    for name, text in variables:
        if name not in known:
            hint = nearest(name, known, "it has") if known else "write {name} in the prompt"
            raise UsageError(f"--var {name}: no prompt has {{{name}}}", hint)
        if fields[name] != text:
            raise UsageError(f"--var {name} is given twice", "drop one")
    return [fill(text, fields) for text in texts]


def escaped(text: str) -> str:
    r"""`text` on one line: \n for a newline, \\ for a backslash."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")
