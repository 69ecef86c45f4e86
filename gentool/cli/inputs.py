"""Where the prompts and texts of a command come from: an argument, standard input or a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.options import unescaped
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


class RowsError(GentoolError):
    """Some rows failed, and were reported; the others are done."""

    exit_code = Exit.SOME_ROWS


def read_prompts(console: Console, argument: str | None, flags: PromptFlags) -> list[Prompt]:
    """The prompts of `--lines` or the one prompt, and their rows."""
    source = read(console, argument, flags.file)
    if not flags.lines:
        text = whole(source, escape=bool(flags.escape))
        return [Prompt(flags.row or 0, *filled(flags.var, [text]))]
    prompts = lines(source)
    if flags.escape:
        prompts = [Prompt(row, with_escapes(text)) for row, text in prompts]
    texts = filled(flags.var, [prompt.text for prompt in prompts])
    prompts = [Prompt(prompt.row, text) for prompt, text in zip(prompts, texts, strict=True)]
    if flags.row is not None:
        if flags.row >= len(prompts):
            raise UsageError(
                f"--row is {flags.row}, {source.name} has {len(prompts)} lines", ROWS_FROM_0
            )
        prompts = [prompts[flags.row]]
    for row, text in prompts:
        if not text:
            where = f"row {row} of {source.name}"
            raise UsageError(f"{where} is empty", f"give at least one character; {ROWS_FROM_0}")
    return prompts


def read(
    console: Console,
    argument: str | None,
    file: str | None,
    what: str = "prompt",
    to: str = "complete",
) -> Source:
    """The text of an argument, a file or standard input, which is read only for `-`, or when
    nothing else is given and it is no terminal: a pipe nobody writes to cannot hold up the others.
    `to` is the command that asks."""
    if argument is not None and file is not None:
        raise UsageError(f"both a {what} ('{argument}') and a file ({file}) are given", "drop one")
    if argument not in (None, "-"):
        try:
            return Source(f"the {what}", argument.encode(), typed=True)
        except UnicodeEncodeError as e:
            raise UsageError(
                f"the {what} is not text (character {e.start})", "give it in the locale's encoding"
            ) from None
    path = None if file == "-" else file
    on_terminal = bool(sys.stdin and sys.stdin.isatty())
    if path is None and (not sys.stdin or (on_terminal and "-" not in (argument, file))):
        raise UsageError(
            f"no {what}",
            f'give one, as in gentool {to} "今天天气不错", or -f FILE, or - for stdin',
        )
    if path is None and on_terminal:
        console.note(f"type the {what}; Ctrl-D on a line of its own ends it")
    name = "standard input" if path is None else path
    try:
        data = sys.stdin.buffer.read() if path is None else Path(path).read_bytes()
    except OSError as e:
        raise UsageError(
            f"cannot read {name}: {e.strerror}", "check the path and its permissions"
        ) from None
    return Source(name, data, typed=False)


def whole(source: Source, what: str = "prompt", escape: bool = False) -> str:
    """The source as one text; a file loses one final newline."""
    text = source.text()
    text = text if source.typed else text.removesuffix("\n")
    text = with_escapes(text) if escape and text else text
    if not text:
        raise UsageError(f"the {what} is empty", "give at least one character")
    return text


def lines(source: Source) -> list[Prompt]:
    """Each line as a text."""
    text = source.text()
    parts = text.removesuffix("\n").split("\n") if text else []
    return [Prompt(row, line.removesuffix("\r")) for row, line in enumerate(parts)]


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
