"""`gentool complete`: prompts in, continuations out."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from gentool.cli import options
from gentool.console import Console
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.session import Chunk, Sample

EXAMPLES = r"""
gentool complete "今天天气不错"
gentool complete "从前有座山，" --top-k 5 --min-tokens 128 --max-tokens 256 --stop 。 --include-stop
echo 今天天气不错 | gentool complete - --seed 1 --json
gentool complete --lines -f questions.txt --temperature 0 --stop '\n' -o answers.txt
"""


@dataclass(frozen=True)
class Flags:
    """What the command line and the environment said; None is nothing."""

    prompt: str | None
    file: str | None
    lines: bool | None
    row: int | None
    model: str | None
    set: tuple[tuple[str, str], ...]
    precision: str | None
    xla: bool | None
    batch_invariant: bool | None
    n: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int | None
    max_tokens: int | None
    min_tokens: int | None
    stop: tuple[str, ...]
    include_stop: bool | None
    echo: bool | None
    stream: bool | None
    json: bool | None
    null: bool | None
    output: str | None


class Prompt(NamedTuple):
    row: int
    text: str


def complete(console: Console, flags: Flags) -> None:
    """Continues a prompt: an argument as it is typed, standard input, or a file.

    Prints the continuation only. Several samples, and --lines, take one line each, with newline
    and backslash escaped as \\n and \\\\. --json gives prompt, row, model, seed, precision and
    samples, each with text, ids, logprob and finish (eos, stop or length).

    Temperature, top-k and top-p work in this order, as in Hugging Face's library; top-p keeps the
    token that crosses P.
    """
    from gentool import config

    prompts = read_prompts(flags)
    chosen = config.load(flags.model or options.DEFAULT_MODEL, dict(flags.set))
    sampling = options.sampling(chosen, flags)
    seed = secrets.randbits(32) if flags.seed is None else flags.seed
    if flags.output not in (None, "-"):
        console.redirect(flags.output)
    if not prompts:
        console.overwrite()
        return

    from gentool import session

    model = session.open_model(chosen, flags.precision, flags.xla is not False)
    console.overwrite()
    console.detail(f"{model.describe()}, seed {seed}")
    request = session.Request(
        prompts=tuple(prompt.text for prompt in prompts),
        rows=tuple(prompt.row for prompt in prompts),
        n=flags.n or 1,
        sampling=sampling,
        seed=seed,
        batch_invariant=bool(flags.batch_invariant),
    )
    meter = Meter()
    chunks = meter.watch(model.stream(request))
    if flags.json:
        keys = {"model": chosen.name, "seed": seed, "precision": model.precision}
        texts = objects(chunks, prompts, request.n, keys)
    elif request.n == 1 and not flags.lines:
        texts = alone(chunks, prompts[0].text if flags.echo else "", "\0" if flags.null else "\n")
        if not (console.on_terminal if flags.stream is None else flags.stream):
            texts = iter(["".join(texts)])
    else:
        texts = listed(chunks, prompts, request.n, bool(flags.echo), bool(flags.null))
    for text in texts:
        console.write(text)
    console.detail(str(meter))


def read_prompts(flags: Flags) -> list[Prompt]:
    """The prompts and their rows. Standard input is read only for `-`, or when nothing else is
    given and it is no terminal, so a pipe nobody writes to cannot hold up the others."""
    name, text = _source(flags)
    if not flags.lines:
        prompts = [Prompt(flags.row or 0, text)]
    else:
        lines = text.removesuffix("\n").split("\n") if text else []
        prompts = [Prompt(row, line.removesuffix("\r")) for row, line in enumerate(lines)]
        if flags.row is not None:
            if flags.row >= len(prompts):
                raise UsageError(
                    f"--row is {flags.row}, {name} has {len(prompts)} lines", "rows count from 0"
                )
            prompts = [prompts[flags.row]]
    for row, line in prompts:
        if not line:
            where = f"line {row + 1} of {name}" if flags.lines else "the prompt"
            raise UsageError(f"{where} is empty", "give at least one character to continue")
    return prompts


def _source(flags: Flags) -> tuple[str, str]:
    """Where the prompt comes from, in words, and its text."""
    if flags.prompt is not None and flags.file is not None:
        raise UsageError(
            f"both a prompt ('{flags.prompt}') and a file ({flags.file}) are given", "drop one"
        )
    if flags.prompt not in (None, "-"):
        try:
            flags.prompt.encode()
        except UnicodeEncodeError as e:
            raise UsageError(
                f"the prompt is not text (character {e.start})", "give it in the locale's encoding"
            ) from None
        return "the prompt", flags.prompt
    file = None if flags.file == "-" else flags.file
    asked = "-" in (flags.prompt, flags.file)
    if file is None and not (sys.stdin and (asked or not sys.stdin.isatty())):
        raise UsageError(
            "no prompt",
            'give one, as in gentool complete "今天天气不错", or -f FILE, or - for stdin',
        )
    name = "standard input" if file is None else file
    try:
        data = sys.stdin.buffer.read() if file is None else Path(file).read_bytes()
    except OSError as e:
        raise UsageError(
            f"cannot read {name}: {e.strerror}", "check the path and its permissions"
        ) from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(
            f"{name} is not UTF-8: byte 0x{data[e.start]:02x} at offset {e.start}",
            "convert it, for example with iconv -f GB18030 -t UTF-8",
        ) from None
    if flags.lines:
        return name, text
    return name, text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def alone(chunks: Iterable[Chunk], echo: str, end: str) -> Iterator[str]:
    """One sample as it grows."""
    yield echo
    for chunk in chunks:
        yield chunk.text
    yield end


def listed(
    chunks: Iterable[Chunk], prompts: list[Prompt], n: int, echo: bool, null: bool
) -> Iterator[str]:
    """One sample a line, newline and backslash escaped; or raw, each ended by NUL."""
    for prompt, samples in in_order(chunks, prompts, n):
        for sample in samples:
            text = prompt.text + sample.text if echo else sample.text
            yield f"{text}\0" if null else escaped(text) + "\n"


def objects(
    chunks: Iterable[Chunk], prompts: list[Prompt], n: int, keys: dict[str, object]
) -> Iterator[str]:
    """One JSON object a prompt."""
    for prompt, samples in in_order(chunks, prompts, n):
        found = [
            {"text": s.text, "ids": s.ids, "logprob": s.logprob, "finish": s.finish}
            for s in samples
        ]
        record = {"prompt": prompt.text, "row": prompt.row, **keys, "samples": found}
        yield json.dumps(record, ensure_ascii=False) + "\n"


def escaped(text: str) -> str:
    r"""`text` on one line: \n for a newline, \\ for a backslash."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def in_order(
    chunks: Iterable[Chunk], prompts: list[Prompt], n: int
) -> Iterator[tuple[Prompt, list[Sample]]]:
    """Each prompt with its `n` samples, as soon as they and those before are done."""
    done: dict[int, dict[int, Sample]] = defaultdict(dict)
    first = 0
    for chunk in chunks:
        if chunk.done:
            done[chunk.prompt][chunk.sample] = chunk.done
        while len(done[first]) == n:
            samples = done.pop(first)
            yield prompts[first], [samples[index] for index in range(n)]
            first += 1


class Meter:
    """Counts tokens and seconds while chunks pass through."""

    def __init__(self) -> None:
        self.tokens, self.first, self.took = 0, 0.0, 0.0

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        began = time.monotonic()
        for chunk in chunks:
            self.took = time.monotonic() - began
            self.first = self.first or self.took
            self.tokens += len(chunk.done.ids) if chunk.done else 0
            yield chunk

    def __str__(self) -> str:
        speed = f"{self.tokens} tokens in {self.took:.2f} s, {self.tokens / self.took:.1f} tokens/s"
        return f"{speed}, the first after {self.first:.2f} s"


command = options.Command(
    complete,
    Flags,
    EXAMPLES,
    arguments=[click.Argument(["prompt"], required=False, metavar="[PROMPT|-]")],
    groups={
        "Prompt": options.PROMPT,
        "Model": options.MODEL,
        "Sampling": options.SAMPLING,
        "Length": options.LENGTH,
        "Output": options.OUTPUT,
        "General": options.GENERAL,
    },
)
