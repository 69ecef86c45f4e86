"""Where the prompts and texts of a command come from: an argument, standard input or a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gentool.errors import Exit, GentoolError, UsageError

if TYPE_CHECKING:
    from gentool.cli.flags import PromptFlags


class Prompt(NamedTuple):
    row: int
    text: str


class Source(NamedTuple):
    """What was read, undecoded, and where from in words."""

    name: str
    data: bytes
    typed: bool  # an argument: nothing is taken away from it


class RowsError(GentoolError):
    """Some rows failed, and were reported; the others are done."""

    exit_code = Exit.SOME_ROWS


def read_prompts(argument: str | None, flags: PromptFlags) -> list[Prompt]:
    """The prompts of `--lines` or the one prompt, and their rows."""
    source = read(argument, flags.file)
    if not flags.lines:
        return [Prompt(flags.row or 0, whole(source))]
    prompts = lines(source)
    if flags.row is not None:
        if flags.row >= len(prompts):
            raise UsageError(
                f"--row is {flags.row}, {source.name} has {len(prompts)} lines", "rows count from 0"
            )
        prompts = [prompts[flags.row]]
    for row, text in prompts:
        if not text:
            where = f"line {row + 1} of {source.name}"
            raise UsageError(f"{where} is empty", "give at least one character")
    return prompts


def read(argument: str | None, file: str | None, what: str = "prompt", to: str = "") -> Source:
    """Standard input is read only for `-`, or when nothing else is given and it is no terminal, so
    a pipe nobody writes to cannot hold up the others. `to` is the command that asks."""
    if argument is not None and file is not None:
        raise UsageError(f"both a {what} ('{argument}') and a file ({file}) are given", "drop one")
    if argument not in (None, "-"):
        try:
            return Source(f"the {what}", argument.encode(), typed=True)
        except UnicodeEncodeError as e:
            raise UsageError(
                f"the {what} is not text (character {e.start})", "give it in the locale's encoding"
            ) from None
    asked = "-" in (argument, file)
    path = None if file == "-" else file
    if path is None and not (sys.stdin and (asked or not sys.stdin.isatty())):
        raise UsageError(
            f"no {what}",
            f'give one, as in gentool {to or "complete"} "今天天气不错", or -f FILE,'
            " or - for stdin",
        )
    name = "standard input" if path is None else path
    try:
        data = sys.stdin.buffer.read() if path is None else Path(path).read_bytes()
    except OSError as e:
        raise UsageError(
            f"cannot read {name}: {e.strerror}", "check the path and its permissions"
        ) from None
    return Source(name, data, typed=False)


def whole(source: Source, what: str = "prompt") -> str:
    """The source as one text; a file loses one final newline."""
    text = _decoded(source)
    if text.endswith("\n") and not source.typed:
        text = text.removesuffix("\n")
    if not text:
        raise UsageError(f"the {what} is empty", "give at least one character")
    return text


def lines(source: Source) -> list[Prompt]:
    """Each line as a text."""
    text = _decoded(source)
    parts = text.removesuffix("\n").split("\n") if text else []
    return [Prompt(row, line.removesuffix("\r")) for row, line in enumerate(parts)]


def _decoded(source: Source) -> str:
    """The text of a source; of a file without a byte order mark, and with \\n as the end of a line:
    to a model, what Windows writes there is other text."""
    try:
        text = source.data.decode("utf-8")
        return text if source.typed else text.removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        raise UsageError(
            f"{source.name} is not UTF-8: byte 0x{source.data[e.start]:02x} at offset {e.start}",
            "convert it, for example with iconv -f GB18030 -t UTF-8",
        ) from None


def escaped(text: str) -> str:
    r"""`text` on one line: \n for a newline, \\ for a backslash."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")
