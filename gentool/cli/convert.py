"""`gentool convert`: a model of any readable form in, a folder that opens at once out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import click

from gentool.cli import flags as tables
from gentool.cli import options
from gentool.cli.console import Console

EXAMPLES = """
gentool convert CPM/ cpm-lm
gentool convert CPM/ cpm-lm --set arch.n_head=32 --precision fp16
gentool complete -m cpm-lm/ "今天天气不错"
"""


@dataclass(frozen=True)
class Flags:
    """What the command line and the environment said; None is nothing."""

    source: str
    target: str
    set: tuple[tuple[str, str], ...]
    precision: str | None


def convert(console: Console, flags: Flags) -> None:
    """Writes a model as a folder that is mapped instead of read, and prints the folder's path.

    SRC is a name, a folder or a YAML file, as for --model. DST does not exist yet: it appears when
    it is complete, and not at all after an error. Its weights have the precision they had, or the
    one asked for; its gentool.yaml has every number, and the SHA-256 of its files.
    """
    from gentool.config import lookup

    model = lookup.load(flags.source, dict(flags.set))

    from gentool import convert

    began, first = 0.0, 0
    with console.progress("MB") as show:
        for part in convert.convert(model, Path(flags.target), flags.precision or "auto"):
            began, first = began or time.monotonic(), first or part.done  # files are open now
            took, done = time.monotonic() - began, max(1, part.done - first)
            left = took / done * (part.size - part.done)
            size = -(-part.size // 10**6)
            done = size if part.done == part.size else part.done // 10**6  # only once the last
            show(done, size, left, part.tensor)
    console.write(os.path.join(flags.target, "") + "\n")  # a folder, whatever names there are


command = options.Command(
    convert,
    Flags,
    EXAMPLES,
    arguments=[
        click.Argument(["source"], metavar="SRC"),
        click.Argument(["target"], metavar="DST"),
    ],
    groups={"Model": [tables.SET, tables.STORED], "General": tables.GENERAL},
)
