"""`gentool complete`: prompts in, continuations out."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gentool.cli.console import Console
from gentool.cli.flags import (
    OUTPUT_FILE,
    UP_TO_64,
    ChatFlags,
    DrawFlags,
    GrammarFlags,
    ModelFlags,
    PromptFlags,
    SearchFlags,
    flag_name,
    sampling_params,
    search,
)
from gentool.cli.inputs import Prompt, RowsError, escaped, read_prompts
from gentool.cli.options import Command, argument, flag, group, sampling_group, switch
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from gentool.config.model import ModelConfig
    from gentool.generation.request import Chunk, Request, Sample
    from gentool.generation.session import Model

EXAMPLES = r"""
gentool complete "今天天气不错"
gentool complete "从前有座山，" --top-k 5 --min-tokens 128 --max-tokens 256 --stop 。 --include-stop
echo 今天天气不错 | gentool complete - --seed 1 --json
gentool complete -f letter.txt --var name=小明
gentool complete --lines -f questions.txt --temperature 0 --stop '\n' -o answers.txt
"""


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    echo: bool | None = switch(
        "--echo/--no-echo", "print the prompt before its continuation", "off"
    )
    stream: bool | None = switch(
        "--stream/--no-stream", "print one sample while it grows", "on a terminal"
    )
    json: bool | None = switch("--json", "print one object a prompt")
    logprobs: int | None = flag(
        "--logprobs", "K", "with --json: each token and the K most probable", "off", UP_TO_64
    )
    null: bool | None = switch("-0 --null", "end samples with NUL, escape nothing")
    output: str | None = flag(*OUTPUT_FILE)


@dataclass(frozen=True)
class MessageFlags:
    """Whether a prompt is a message."""

    chat: bool | None = switch("--chat", "the prompt is a message: one answer, no conversation")


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    prompt: str | None = argument("prompt", "[PROMPT|-]", required=False)
    source: PromptFlags = group("Prompt", PromptFlags)
    message: MessageFlags = group("Prompt", MessageFlags)
    chat: ChatFlags = group("Prompt", ChatFlags)
    model: ModelFlags = group("Model", ModelFlags)
    draw: DrawFlags = group("Sampling", DrawFlags)
    sampling: Mapping[str, Any] = sampling_group("Sampling", "distribution", "logits")
    search: SearchFlags = group("Search", SearchFlags)
    grammar: GrammarFlags = group("Search", GrammarFlags)
    length: Mapping[str, Any] = sampling_group("Length", "length")
    output: OutputFlags = group("Output", OutputFlags)


def complete(console: Console, flags: Flags) -> None:
    """Continues a prompt: an argument as it is typed, standard input, or a file.

    Prints the continuation only. Several samples, and --lines, take one line each, with newline
    and backslash escaped as \\n and \\\\. --json gives prompt, row, model, seed, precision, law
    (the sampling parameters) and samples, each with text, ids, logprob and finish (eos, stop or
    length).

    Filters work in Hugging Face's order: repetition, presence and frequency penalties, n-grams,
    bias, temperature, top-k, top-p, min-p, typical. Top-k keeps ties, top-p the token that crosses
    P. Repetition and n-grams look at prompt and output, presence and frequency at the output.

    --alternatives prints the probability of each before its text; --json gives a beam's score.
    """
    prompts = read_prompts(console, flags.prompt, flags.source)
    config = flags.model.config()
    request = requested(flags, prompts, config)
    if flags.output.logprobs is not None and not flags.output.json:
        raise UsageError(f"--logprobs is {flags.output.logprobs}, without --json", "add --json")
    flags.grammar.check()
    check_chat(flags, config)
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
    if not prompts:
        console.overwrite()
        return
    model = flags.model.open(console, config)
    if flags.message.chat:
        request = with_messages(request, model, flags.chat)
    console.overwrite()
    console.detail(f"{model.describe()}, seed {request.seed}")
    meter = Meter(flags.grammar)
    for text in texts(console, flags, prompts, request, model, meter):
        console.write(text)
    console.detail(str(meter))
    console.after(f"seed {request.seed}{meter.cut_note(request.sampling.max_tokens)}")
    meter.check()


def requested(flags: Flags, prompts: Sequence[Prompt], config: ModelConfig) -> Request:
    """The request that the flags make."""
    from gentool.generation.request import Request

    n, seed, alternatives = flags.draw.n, flags.draw.seed, flags.search.alternatives
    logprobs = flags.output.logprobs
    return Request(
        prompts=tuple(prompt.text for prompt in prompts),
        rows=tuple(prompt.row for prompt in prompts),
        n=alternatives or flags.search.n_best or n or 1,
        sampling=sampling_params(config, {**flags.sampling, **flags.length}),
        seed=secrets.randbits(32) if seed is None else seed,
        batch_invariant=bool(flags.model.batch_invariant),
        search=search(flags.search, n, flags.grammar, flags.sampling),
        logprobs=0 if alternatives and logprobs is None else logprobs,
        regex=flags.grammar.regex,
        json_schema=flags.grammar.json_schema,
    )


def check_chat(flags: Flags, config: ModelConfig) -> None:
    """Raises an error, before a model is opened, where flags are without --chat, or a model is
    without a template."""
    for name, value in vars(flags.chat).items():
        if value is not None and not flags.message.chat:
            raise UsageError(f"{flag_name(name)} is for messages", "add --chat")
    if flags.chat.system == "":
        raise UsageError("--system is empty", "leave it out, or give text")
    if flags.message.chat:
        from gentool.generation.chat import template_of

        template_of(config, flags.chat.chat_template)


def with_messages(request: Request, model: Model, flags: ChatFlags) -> Request:
    """The request with each prompt as a message through the model's chat template."""
    system = [] if flags.system is None else [{"role": "system", "content": flags.system}]
    prompts = []
    for prompt in request.prompts:
        messages: list[Mapping[str, Any]] = [*system, {"role": "user", "content": prompt}]
        prompts.append(tuple(model.chat_ids(messages, template=flags.chat_template)))
    ends = model.answer_ends(flags.chat_template)
    return replace(ends.of(request), prompts=tuple(prompts))


def texts(
    console: Console,
    flags: Flags,
    prompts: Sequence[Prompt],
    request: Request,
    model: Model,
    meter: Meter,
) -> Iterator[str]:
    """The output, part by part: JSON, one sample as it grows, or a line a sample."""
    chunks = meter.watch(model.stream(request))
    echo, null = bool(flags.output.echo), bool(flags.output.null)
    if flags.output.json:
        keys = {
            "model": model.config.name,
            "seed": request.seed,
            "precision": model.precision,
            "law": asdict(request.sampling),
        }
        return json_lines(chunks, prompts, request.n, keys)
    if request.n > 1 or flags.source.lines or flags.search.alternatives:
        return sample_lines(chunks, prompts, request.n, echo, null)
    grown = one_sample(chunks, prompts[0].text if echo else "", "\0" if null else "\n")
    stream = console.on_terminal if flags.output.stream is None else flags.output.stream
    return grown if stream else iter(["".join(grown)])


def one_sample(chunks: Iterable[Chunk], echo: str, end: str) -> Iterator[str]:
    """The text of one sample, chunk by chunk."""
    yield echo
    for chunk in chunks:
        yield chunk.text
    yield end


def sample_lines(
    chunks: Iterable[Chunk], prompts: Sequence[Prompt], n: int, echo: bool, null: bool
) -> Iterator[str]:
    """One sample a line, newline and backslash escaped; or raw, each ended by NUL."""
    for prompt, samples in in_order(chunks, prompts, n):
        for sample in samples:
            text = prompt.text + sample.text if echo else sample.text
            if sample.steps:  # of alternatives
                yield f"{math.exp(sample.steps[0].chosen.logprob):.4f}\t"
            yield f"{text}\0" if null else escaped(text) + "\n"


def json_lines(
    chunks: Iterable[Chunk], prompts: Sequence[Prompt], n: int, keys: dict[str, object]
) -> Iterator[str]:
    """One JSON object a prompt."""
    for prompt, samples in in_order(chunks, prompts, n):
        fields = [sample_fields(sample) for sample in samples]
        record = {"prompt": prompt.text, "row": prompt.row, **keys, "samples": fields}
        yield json.dumps(record, ensure_ascii=False) + "\n"


def sample_fields(sample: Sample) -> dict[str, object]:
    """A sample as JSON has it: its score where that is another number, its steps if there are."""
    fields: dict[str, object] = {
        "text": sample.text,
        "ids": sample.ids,
        "logprob": sample.logprob,
        "finish": sample.finish,
    }
    if sample.score != sample.logprob:
        fields["score"] = sample.score
    if sample.steps:
        fields["steps"] = [
            vars(step.chosen) | {"top": [vars(top) for top in step.top_logprobs]}
            for step in sample.steps
        ]
    return fields


def in_order(
    chunks: Iterable[Chunk], prompts: Sequence[Prompt], n: int
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
    """Counts tokens, seconds, and texts that were cut, while chunks pass through."""

    def __init__(self, grammar: GrammarFlags) -> None:
        self._grammar = grammar
        self.tokens, self.first, self.seconds = 0, 0.0, 0.0
        self.texts = self.cut = self.broken = 0  # broken: cut before they matched the grammar

    def watch(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        start = time.monotonic()
        for chunk in chunks:
            self.seconds = time.monotonic() - start
            self.first = self.first or self.seconds
            if chunk.done:
                cut = chunk.done.finish == "length"
                self.texts, self.cut = self.texts + 1, self.cut + cut
                self.broken += cut and not matches(chunk.done.text, self._grammar)
                self.tokens += len(chunk.done.ids)
            yield chunk

    def cut_note(self, max_tokens: int) -> str:
        """What to say of texts that were cut; nothing where none was."""
        which = "" if self.texts == 1 else f"{self.cut} of {self.texts} texts "
        return f"; {which}cut at --max-tokens {max_tokens}" if self.cut else ""

    def check(self) -> None:
        """Raises an error where texts were cut before they matched the grammar."""
        name = "--regex" if self._grammar.json_schema is None else "--json-schema"
        if not self.broken:
            return
        if self.texts == 1:
            raise GentoolError(f"the text was cut before it matched {name}", "raise --max-tokens")
        raise RowsError(
            f"{self.broken} of {self.texts} texts were cut before they matched {name}",
            "raise --max-tokens",
        )

    def __str__(self) -> str:
        speed = self.tokens / self.seconds if self.seconds else 0.0
        return (
            f"{self.tokens} tokens in {self.seconds:.2f} s, {speed:.1f} tokens/s,"
            f" the first after {self.first:.2f} s"
        )


def matches(text: str, grammar: GrammarFlags) -> bool:
    """Whether a text that was cut is whole nevertheless."""
    if grammar.json_schema is not None:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
    if grammar.regex is not None:
        try:
            return bool(re.fullmatch(grammar.regex, text))
        except re.error:  # Python's are not quite the library's
            return False
    return True


command = Command(complete, Flags, EXAMPLES)
