"""`gentool convert`: a model of any readable form in, a folder that opens at once out."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from gentool.cli.console import Console
from gentool.cli.flags import ADAPTER, SET
from gentool.cli.options import Command, argument, flag, group, repeated
from gentool.cli.values import one_of

EXAMPLES = """
gentool convert CPM/ cpm-lm
gentool convert CPM/ cpm-lm --set arch.n_head=32 --precision fp16
gentool convert BASE/ adapted --adapter LORA/
gentool complete -m cpm-lm/ "今天天气不错"
"""


DTYPE = one_of("auto", "fp32", "fp16", "bf16", "int8", "int4")


@dataclass(frozen=True)
class ModelFlags:
    """What is changed on the way."""

    set: tuple[tuple[str, str], ...] = repeated(*SET)
    adapter: tuple[str, ...] = repeated(*ADAPTER)
    precision: str | None = flag(
        "--precision",
        "NAME",
        "fp32, fp16, bf16, int8, int4; auto keeps the checkpoint's dtype",
        "auto",
        DTYPE,
    )


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    source: str = argument("source", "SRC")
    target: str = argument("target", "DST")
    model: ModelFlags = group("Model", ModelFlags)


def convert(console: Console, flags: Flags) -> None:
    """Writes a model as a folder that is mapped instead of read, and prints the folder's path.

    SRC is a name, a folder or a YAML file, as for --model. DST does not exist yet: it appears when
    it is complete, and not at all after an error. Its weights have the precision they had, or the
    one asked for; its gentool.yaml has every number, and the SHA-256 of its files.
    """
    from gentool.config import lookup

    model = lookup.load(flags.source, dict(flags.model.set), flags.model.adapter)

    from gentool import convert

    began, first = 0.0, 0
    with console.progress("MB") as show:
        for part in convert.convert(model, Path(flags.target), flags.model.precision or "auto"):
            began, first = began or time.monotonic(), first or part.done  # files are open now
            took, done = time.monotonic() - began, max(1, part.done - first)
            left = took / done * (part.size - part.done)
            size = -(-part.size // 10**6)
            done = size if part.done == part.size else part.done // 10**6  # only once the last
            show(done, size, left, part.tensor)
    console.write(os.path.join(flags.target, "") + "\n")  # a folder, whatever names there are


command = Command(convert, Flags, EXAMPLES)
