"""`gentool complete`: prompts in, continuations out."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from gentool.batch.answers import dumped, sample_fields
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
from gentool.cli.inputs import (
    ROWS_FROM_0,
    Prompt,
    RowsError,
    escaped,
    line_count,
    read_prompt,
    stream,
)
from gentool.cli.meter import Meter
from gentool.cli.options import Command, argument, flag, group, sampling_group, switch
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.batch.answers import Outcome
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

    --lines reads and prints as it goes, whatever is still to come. A line that fails is reported
    on stderr and has an empty line, or with --json an error; the exit code is 4.

    --alternatives prints the probability of each before its text; --json gives a beam's score.
    """
    if flags.output.logprobs is not None and not flags.output.json:
        raise UsageError(f"--logprobs is {flags.output.logprobs}, without --json", "add --json")
    if flags.source.lines:
        complete_lines(console, flags)
        return
    prompt = read_prompt(console, flags.prompt, flags.source)
    config = flags.model.config()
    request = replace(requested(flags, config), prompts=(prompt.text,), rows=(prompt.row,))
    flags.grammar.check()
    check_chat(flags, config)
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
    model = flags.model.open(console, config)
    if flags.message.chat:
        request = with_messages(request, model, flags.chat)
    console.overwrite()
    console.detail(f"{model.describe()}, seed {request.seed}")
    meter = Meter(flags.grammar)
    for text in texts(console, flags, prompt, request, model, meter):
        console.write(text)
    end(console, request, meter)


def end(console: Console, request: Request, meter: Meter) -> None:
    """What is said after the last text."""
    console.detail(str(meter))
    console.after(f"seed {request.seed}{meter.cut_note(request.sampling.max_tokens)}")
    meter.check()


def complete_lines(console: Console, flags: Flags) -> None:
    """Continues every line of the input, in windows."""
    with stream(console, flags.prompt, flags.source.file) as source:
        from gentool.batch.lines import LineReader
        from gentool.batch.tasks import Settings
        from gentool.cli import lines

        config = flags.model.config()
        request = requested(flags, config)
        flags.grammar.check()
        check_chat(flags, config)
        if flags.output.output not in (None, "-"):
            console.redirect(flags.output.output)
        total, reader = line_count(source), LineReader(source.file, marked=not source.typed)
        first = lines.first_window(reader)
        if first is None:
            console.overwrite()
            return
        model = flags.model.open(console, config)
        console.overwrite()
        console.detail(f"{model.describe()}, seed {request.seed}")
        meter = Meter(flags.grammar)
        row, chat = flags.source.row, flags.chat if flags.message.chat else None
        work = lines.Lines(reader, first, Settings(request, "text"), flags.source, chat)
        failed = 0
        with console.progress("line") as show:
            for outcome in work.outcomes(model, source.name):
                if outcome.problem:
                    failed += 1
                    where = f"row {outcome.task.number} of {source.name}"
                    console.error(f"{where}: {outcome.problem}", ROWS_FROM_0)
                meter.count(outcome.samples)
                for text in texts_of(outcome, request, model, flags):
                    console.write(text)
                done = outcome.task.number + 1
                left = meter.seconds / done * (total - done) if total and row is None else math.nan
                show(done, total if row is None else 0, left, meter.speed)
        end(console, request, meter)
        if failed:
            raise RowsError(
                f"{failed} of {work.read} lines failed", "see above what is wrong with each"
            )


def texts_of(outcome: Outcome, request: Request, model: Model, flags: Flags) -> Iterator[str]:
    """The output of a line that is done."""
    text = outcome.task.prompt or ""
    prompt = Prompt(outcome.task.number, text[-1]["content"] if isinstance(text, list) else text)
    if flags.output.json:
        keys = keys_of(request, model)
        if outcome.problem:
            yield dumped(
                {"prompt": prompt.text, "row": prompt.row, **keys, "error": outcome.problem}
            )
        else:
            yield json_line(prompt, outcome.samples, keys)
        return
    null = bool(flags.output.null)
    if outcome.problem:
        yield ("\0" if null else "\n") * request.n
        return
    yield from sample_lines(prompt, outcome.samples, bool(flags.output.echo), null)


def keys_of(request: Request, model: Model) -> dict[str, object]:
    """What every object of --json says."""
    return {
        "model": model.config.name,
        "seed": request.seed,
        "precision": model.precision,
        "law": asdict(request.sampling),
    }


def requested(flags: Flags, config: ModelConfig) -> Request:
    """The request that the flags make, without prompts."""
    from gentool.generation.request import Request

    n, seed, alternatives = flags.draw.n, flags.draw.seed, flags.search.alternatives
    logprobs = flags.output.logprobs
    return Request(
        prompts=(),
        rows=(),
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
    """The request with its prompt as a message through the model's chat template."""
    from gentool.cli.lines import messages

    (prompt,) = request.prompts
    assert isinstance(prompt, str)
    ids = model.chat_ids(messages(prompt, flags), template=flags.chat_template)
    ends = model.answer_ends(flags.chat_template)
    return replace(ends.of(request), prompts=(tuple(ids),))


def texts(
    console: Console, flags: Flags, prompt: Prompt, request: Request, model: Model, meter: Meter
) -> Iterator[str]:
    """The output of one prompt, part by part: JSON, one sample as it grows, or a line a sample."""
    chunks = counted(model.stream(request), meter)
    echo, null = bool(flags.output.echo), bool(flags.output.null)
    grows = console.on_terminal if flags.output.stream is None else flags.output.stream
    one = not (flags.output.json or request.n > 1 or flags.search.alternatives)
    if one and grows:
        yield from one_sample(chunks, prompt.text if echo else "", "\0" if null else "\n")
        return
    if one:
        chunks = watched(console, chunks, request, meter)
        yield "".join(one_sample(chunks, prompt.text if echo else "", "\0" if null else "\n"))
        return
    samples = in_order(watched(console, chunks, request, meter), request.n)
    if flags.output.json:
        yield json_line(prompt, list(samples), keys_of(request, model))
    else:
        yield from sample_lines(prompt, samples, echo, null)


def counted(chunks: Iterable[Chunk], meter: Meter) -> Iterator[Chunk]:
    """Counts the samples that are done while chunks pass through."""
    for chunk in chunks:
        meter.count([chunk.done] if chunk.done else [])
        yield chunk


def watched(
    console: Console, chunks: Iterable[Chunk], request: Request, meter: Meter
) -> Iterator[Chunk]:
    """Shows how far the samples are while chunks pass through."""
    new = 0
    with console.progress("sample") as show:
        for chunk in chunks:
            new += not chunk.done
            share = meter.texts / request.n
            left = meter.seconds / share * (1 - share) if share else math.nan
            text = meter.speed if meter.texts else f"{new} parts of text"
            show(meter.texts, request.n if request.n > 1 else 0, left, text)
            yield chunk


def one_sample(chunks: Iterable[Chunk], echo: str, end: str) -> Iterator[str]:
    """The text of one sample, chunk by chunk."""
    yield echo
    for chunk in chunks:
        yield chunk.text
    yield end


def sample_lines(
    prompt: Prompt, samples: Iterable[Sample], echo: bool, null: bool
) -> Iterator[str]:
    """One sample a line, newline and backslash escaped; or raw, each ended by NUL."""
    for sample in samples:
        text = prompt.text + sample.text if echo else sample.text
        if sample.steps:  # of alternatives
            yield f"{math.exp(sample.steps[0].chosen.logprob):.4f}\t"
        yield f"{text}\0" if null else escaped(text) + "\n"


def json_line(prompt: Prompt, samples: Sequence[Sample], keys: dict[str, object]) -> str:
    """One JSON object a prompt."""
    fields = [sample_fields(sample) for sample in samples]
    return dumped({"prompt": prompt.text, "row": prompt.row, **keys, "samples": fields})


def in_order(chunks: Iterable[Chunk], n: int) -> Iterator[Sample]:
    """The samples of a prompt, each as soon as it and those before are done."""
    done: dict[int, Sample] = {}
    first = 0
    for chunk in chunks:
        if chunk.done:
            done[chunk.sample] = chunk.done
        while first in done:
            yield done.pop(first)
            first += 1
    for sample in sorted(done):  # fewer than were asked for, because there are no more
        yield done[sample]


command = Command(complete, Flags, EXAMPLES)
