"""`gentool choose`: a prompt and continuations of it in, how probable each is out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from gentool.cli.console import Console
from gentool.cli.flags import OUTPUT_FILE, TEXT, ModelFlags
from gentool.cli.inputs import ESCAPE, escaped, read, whole
from gentool.cli.options import Command, argument, flag, group, repeated, switch
from gentool.cli.values import Value, one_of
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


@dataclass(frozen=True)
class PromptFlags:
    """Where the prompt comes from."""

    file: str | None = flag("-f --file", "FILE", "read the prompt from a file")
    escape: bool | None = switch(*ESCAPE)


@dataclass(frozen=True)
class ChoiceFlags:
    """The continuations to score, and how their probabilities are compared."""

    choice: tuple[str, ...] = repeated("--choice", "TEXT", "a continuation", Value(continuation))
    end: bool | None = switch(
        "--end", "end each choice by an end token or the first token of a --stop"
    )
    stop: tuple[str, ...] = repeated(
        "--stop", "TEXT", r"with --end: what may end a choice; \n \t \r \\ \uXXXX work", TEXT
    )
    normalize: Normalize | None = flag(
        "--normalize",
        "BY",
        "compare averages: none, by tokens or by characters",
        "none",
        one_of("none", "tokens", "characters"),
    )


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    json: bool | None = switch("--json", "print one object with every field")
    output: str | None = flag(*OUTPUT_FILE)


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    prompt: str | None = argument("prompt", "[PROMPT|-]", required=False)
    source: PromptFlags = group("Prompt", PromptFlags)
    choices: ChoiceFlags = group("Choices", ChoiceFlags)
    model: ModelFlags = group("Model", ModelFlags)
    output: OutputFlags = group("Output", OutputFlags)


def choose(console: Console, flags: Flags) -> None:
    """Prints the probability of each given continuation of a prompt, the best first.

    A line is the probability, a tab, and the choice, with newline and backslash escaped as \\n and
    \\\\. Probabilities are shares: p of the choice / sum of p of all. --normalize compares the
    choices by p^(1/tokens) or p^(1/characters) instead. --json gives logprob, and its averages,
    too. Where one choice begins another, --end tells them apart.

    A choice's tokens are what encoding it behind the prompt adds to those of the prompt; where that
    changes the prompt's last token, they are the choice's own.
    """
    prompt = whole(
        read(console, flags.prompt, flags.source.file, to="choose"),
        escape=bool(flags.source.escape),
    )
    given, normalize = flags.choices, flags.choices.normalize or "none"
    if not given.choice:
        raise UsageError("no choice", "give some, as in --choice 不错 --choice 很好")
    config = flags.model.config()
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
    model = flags.model.open(console, config)
    console.detail(model.describe())
    choices = model.choose(
        prompt,
        given.choice,
        bool(given.end),
        stop=given.stop or None,
        normalize=normalize,
        batch_invariant=bool(flags.model.batch_invariant),
    )
    console.overwrite()
    if not given.end:
        for shorter, longer in prefixes(choices):
            console.note(f"'{shorter}' begins '{longer}': --end tells them apart")
    if flags.output.json:
        record = {
            "prompt": prompt,
            "model": config.name,
            "precision": model.precision,
            "end": bool(given.end),
            "normalize": normalize,
            "choices": [vars(choice) for choice in choices],
        }
        console.write(json.dumps(record, ensure_ascii=False) + "\n")
        return
    for choice in choices:
        console.write(f"{choice.probability:.6g}\t{escaped(choice.text)}\n")


def prefixes(choices: Sequence[Choice]) -> Iterator[tuple[str, str]]:
    """Pairs of choices, of which the first one's tokens begin those of the second."""
    for shorter, longer in pairwise(sorted(choices, key=lambda choice: choice.ids)):
        if longer.ids[: len(shorter.ids)] == shorter.ids:
            yield shorter.text, longer.text


command = Command(choose, Flags, EXAMPLES)
