"""`gentool complete`: prompts in, continuations out."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gentool.cli import flags as tables
from gentool.cli import options
from gentool.cli.console import Console
from gentool.cli.prompts import Prompt, escaped, read_prompts
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.generation.request import Chunk, Sample

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
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    logit_bias: tuple[tuple[int, float], ...]
    ban: tuple[str, ...]
    seed: int | None
    stratified: bool | None
    lookup: int | None
    beams: int | None
    n_best: int | None
    beam_rule: str | None
    length_penalty: float | None
    early_stopping: str | None
    beam_groups: int | None
    diversity_penalty: float | None
    penalty_alpha: float | None
    alternatives: int | None
    choice: tuple[str, ...]
    regex: str | None
    json_schema: str | None
    max_tokens: int | None
    min_tokens: int | None
    stop: tuple[str, ...]
    include_stop: bool | None
    echo: bool | None
    stream: bool | None
    json: bool | None
    logprobs: int | None
    null: bool | None
    output: str | None


def complete(console: Console, flags: Flags) -> None:
    """Continues a prompt: an argument as it is typed, standard input, or a file.

    Prints the continuation only. Several samples, and --lines, take one line each, with newline
    and backslash escaped as \\n and \\\\. --json gives prompt, row, model, seed, precision and
    samples, each with text, ids, logprob and finish (eos, stop or length).

    Filters work in Hugging Face's order: repetition, presence and frequency penalties, n-grams,
    bias, temperature, top-k, top-p, min-p, typical. Top-k keeps ties, top-p the token that crosses
    P. Repetition and n-grams look at prompt and output, presence and frequency at the output.

    --alternatives prints the probability of each before its text; --json gives a beam's score.
    """
    from gentool.config import lookup

    prompts = read_prompts(flags)
    chosen = lookup.load(flags.model or tables.DEFAULT_MODEL, dict(flags.set))
    sampling = tables.sampling(chosen, flags)
    search = tables.search(flags)
    if flags.logprobs is not None and not flags.json:
        raise UsageError(f"--logprobs is {flags.logprobs}, without --json", "add --json")
    tables.check_grammars(flags)
    seed = secrets.randbits(32) if flags.seed is None else flags.seed
    if flags.output not in (None, "-"):
        console.redirect(flags.output)
    if not prompts:
        console.overwrite()
        return

    from gentool.generation import opening
    from gentool.generation import request as ask

    model = opening.open_model(chosen, flags.precision, flags.xla)
    console.overwrite()
    console.detail(f"{model.describe()}, seed {seed}")
    request = ask.Request(
        prompts=tuple(prompt.text for prompt in prompts),
        rows=tuple(prompt.row for prompt in prompts),
        n=flags.alternatives or flags.n_best or flags.n or 1,
        sampling=sampling,
        seed=seed,
        batch_invariant=bool(flags.batch_invariant),
        search=search,
        logprobs=0 if flags.alternatives and flags.logprobs is None else flags.logprobs,
        regex=flags.regex,
        json_schema=flags.json_schema,
    )
    meter = Meter()
    chunks = meter.watch(model.stream(request))
    if flags.json:
        keys = {"model": chosen.name, "seed": seed, "precision": model.precision}
        texts = objects(chunks, prompts, request.n, keys)
    elif request.n == 1 and not flags.lines and not flags.alternatives:
        texts = alone(chunks, prompts[0].text if flags.echo else "", "\0" if flags.null else "\n")
        if not (console.on_terminal if flags.stream is None else flags.stream):
            texts = iter(["".join(texts)])
    else:
        texts = listed(chunks, prompts, request.n, bool(flags.echo), bool(flags.null))
    for text in texts:
        console.write(text)
    console.detail(str(meter))


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
            if sample.steps:  # of alternatives
                yield f"{math.exp(sample.steps[0].chosen.logprob):.4f}\t"
            yield f"{text}\0" if null else escaped(text) + "\n"


def objects(
    chunks: Iterable[Chunk], prompts: list[Prompt], n: int, keys: dict[str, object]
) -> Iterator[str]:
    """One JSON object a prompt."""
    for prompt, samples in in_order(chunks, prompts, n):
        found = [keys_of(sample) for sample in samples]
        record = {"prompt": prompt.text, "row": prompt.row, **keys, "samples": found}
        yield json.dumps(record, ensure_ascii=False) + "\n"


def keys_of(sample: Sample) -> dict[str, object]:
    """A sample as JSON has it: its score where that is another number, its steps if there are."""
    found: dict[str, object] = {
        "text": sample.text,
        "ids": sample.ids,
        "logprob": sample.logprob,
        "finish": sample.finish,
    }
    if sample.score != sample.logprob:
        found["score"] = sample.score
    if sample.steps:
        found["steps"] = [
            vars(step.chosen) | {"top": [vars(top) for top in step.top_logprobs]}
            for step in sample.steps
        ]
    return found


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
    for index, samples in sorted(done.items()):
        if samples:  # fewer than were asked for, because there are no more
            yield prompts[index], [samples[sample] for sample in sorted(samples)]


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
        "Prompt": tables.PROMPT,
        "Model": tables.MODEL,
        "Sampling": [tables.SAMPLES, *tables.SAMPLING],
        "Search": tables.SEARCH,
        "Length": tables.LENGTH,
        "Output": tables.OUTPUT,
        "General": tables.GENERAL,
    },
)
