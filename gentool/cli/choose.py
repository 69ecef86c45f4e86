"""`gentool choose`: a prompt and continuations of it in, how probable each is out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import click

from gentool.cli import flags as tables
from gentool.cli import options
from gentool.cli.console import Console
from gentool.cli.prompts import escaped, read, whole
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.generation.score import Choice, Normalize

EXAMPLES = r"""
gentool choose "今天天气" --choice 不错 --choice 很好
gentool choose "1+1=" --choice 2 --choice 22 --end --stop '\n'
echo 今天天气 | gentool choose - --choice 不错 --choice 很好 --json
"""


def continuation(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("give text in the locale's encoding") from None
    if not text:
        raise ValueError("give at least one character")
    return text


PROMPT = [
    options.option("-f --file", "FILE", "read the prompt from a file"),
]

CHOICES = [
    options.repeated("--choice", "TEXT", "a continuation", options.Value(continuation)),
    options.switch("--end", "a choice is followed by an end token, or by what begins a --stop"),
    options.repeated(
        "--stop",
        "TEXT",
        r"with --end: what may end a choice; \n \t \r \\ \uXXXX work",
        options.Value(options.unescaped),
    ),
    options.option(
        "--normalize",
        "BY",
        "compare averages: none, by tokens or by characters",
        "none",
        options.one_of("none", "tokens", "characters"),
    ),
]

OUTPUT = [
    options.switch("--json", "print one object with all that is known"),
    options.option("-o --output", "FILE", "write the result to a file", "stdout"),
]


@dataclass(frozen=True)
class Flags:
    """What the command line and the environment said; None is nothing."""

    prompt: str | None
    file: str | None
    choice: tuple[str, ...]
    end: bool | None
    stop: tuple[str, ...]
    normalize: Normalize | None
    model: str | None
    set: tuple[tuple[str, str], ...]
    precision: str | None
    xla: bool | None
    batch_invariant: bool | None
    json: bool | None
    output: str | None


def choose(console: Console, flags: Flags) -> None:
    """Prints the probability of each given continuation of a prompt, the best first.

    A line is the probability, a tab, and the choice, with newline and backslash escaped as \\n and
    \\\\. Probabilities are shares: p of the choice / sum of p of all. --normalize compares the
    choices by p^(1/tokens) or p^(1/characters) instead. --json gives logprob, and its averages,
    too. Where one choice begins another, --end tells them apart.

    A choice's tokens are what encoding it behind the prompt adds to those of the prompt; where that
    changes the prompt's last token, they are the choice's own.
    """
    from gentool.config import lookup

    prompt = whole(read(flags.prompt, flags.file, to="choose"))
    if not flags.choice:
        raise UsageError("no choice", "give some, as in --choice 不错 --choice 很好")
    chosen = lookup.load(flags.model or tables.DEFAULT_MODEL, dict(flags.set))
    if flags.output not in (None, "-"):
        console.redirect(flags.output)

    from gentool.generation import opening

    model = opening.open_model(chosen, flags.precision, flags.xla)
    console.detail(model.describe())
    found = model.choose(
        prompt,
        flags.choice,
        bool(flags.end),
        stop=flags.stop or None,
        normalize=flags.normalize or "none",
        batch_invariant=bool(flags.batch_invariant),
    )
    console.overwrite()
    if not flags.end:
        for shorter, longer in begun(found):
            console.note(f"'{shorter}' begins '{longer}': --end tells them apart")
    if flags.json:
        record = {
            "prompt": prompt,
            "model": chosen.name,
            "precision": model.precision,
            "end": bool(flags.end),
            "normalize": flags.normalize or "none",
            "choices": [vars(choice) for choice in found],
        }
        console.write(json.dumps(record, ensure_ascii=False) + "\n")
        return
    for choice in found:
        console.write(f"{choice.probability:.6g}\t{escaped(choice.text)}\n")


def begun(choices: Sequence[Choice]) -> Iterator[tuple[str, str]]:
    """Choices whose tokens begin those of another one, and such a one."""
    for one, after in pairwise(sorted(choices, key=lambda choice: choice.ids)):
        if after.ids[: len(one.ids)] == one.ids:
            yield one.text, after.text


command = options.Command(
    choose,
    Flags,
    EXAMPLES,
    arguments=[click.Argument(["prompt"], required=False, metavar="[PROMPT|-]")],
    groups={
        "Prompt": PROMPT,
        "Choices": CHOICES,
        "Model": tables.MODEL,
        "Output": OUTPUT,
        "General": tables.GENERAL,
    },
)
