"""`gentool score`: texts in, how probable the model finds them out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from gentool.batch.answers import dumped
from gentool.cli.console import Console
from gentool.cli.flags import COUNT, OUTPUT_FILE, ModelFlags
from gentool.cli.inputs import (
    ESCAPE,
    ROWS_FROM_0,
    RowsError,
    escaped,
    line_count,
    read,
    stream,
    whole,
    with_escapes,
)
from gentool.cli.lines import first_window
from gentool.cli.options import Command, argument, flag, group, switch
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from gentool.batch.lines import Line, LineReader
    from gentool.config.model import ModelConfig
    from gentool.generation.score import Score
    from gentool.generation.session import Model

EXAMPLES = r"""
gentool score "今天天气不错"
gentool score "今天天气不错" --tokens
gentool score --lines -f sentences.txt | sort -rn
gentool score --jsonl -f documents.jsonl --stride 128 -o scored.jsonl
"""

SCORE_KEYS = set(
    "row model precision error logprob n_tokens n_characters perplexity perplexity_character"
    " bits_per_character unscored stride ids tokens logprobs".split()
)
JSONL_HINT = 'a line is {"text": "…"}, other keys are kept'


@dataclass(frozen=True)
class TextFlags:
    """Where the texts come from."""

    file: str | None = flag("-f --file", "FILE", "read the text from a file")
    lines: bool | None = switch("--lines", "every line is a text and gets one line of output")
    escape: bool | None = switch(*ESCAPE)
    jsonl: bool | None = switch(
        "--jsonl", 'every line is a JSON object with a "text", and gets its score'
    )


@dataclass(frozen=True)
class ScoreFlags:
    """How a long text is read."""

    stride: int | None = flag(
        "--stride",
        "N",
        "tokens from window to window, where a text is longer than the context",
        "half the context",
        COUNT,
    )


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    tokens: bool | None = switch("--tokens", "print id, log-probability and text of every token")
    json: bool | None = switch("--json", "print one object a text")
    output: str | None = flag(*OUTPUT_FILE)


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    text: str | None = argument("text", "[TEXT|-]", required=False)
    source: TextFlags = group("Text", TextFlags)
    model: ModelFlags = group("Model", ModelFlags)
    score: ScoreFlags = group("Score", ScoreFlags)
    output: OutputFlags = group("Output", OutputFlags)


class Row(NamedTuple):
    """A text, the object it came in, and what was wrong with that."""

    number: int
    text: str
    fields: Mapping[str, object] = {}
    problem: str = ""


def score(console: Console, flags: Flags) -> None:
    """Prints the log-probability and perplexity of a text under the model.

    Logarithms are natural but for bits. Where the tokenizer puts no start token before a text, its
    first token has nothing to be predicted from and is left out, with its characters. Of a text
    longer than the context every token is predicted once, from at least the context less --stride.

    --lines prints log-probability, tokens, characters, perplexity per token and per character, bits
    per character and the text, separated by tabs. A row that fails is reported on stderr and has no
    numbers; the exit code is 4. --jsonl and --json print the same as objects; an object of --jsonl
    keeps its other keys, or has an error. With --tokens they have ids, tokens and logprobs too.
    """
    if flags.source.escape and flags.source.jsonl:
        raise UsageError("--escape is for text, JSON has its own escapes", "drop it")
    if flags.source.lines and flags.source.jsonl:
        raise UsageError("both --lines and --jsonl are given", "drop one")
    if flags.output.tokens and flags.source.lines and not flags.output.json:
        raise UsageError("--tokens with --lines is a table a line", "add --json")
    if flags.source.lines or flags.source.jsonl:
        score_lines(console, flags)
        return
    source = read(console, flags.text, flags.source.file, "text", "score")
    row = Row(0, whole(source, "text", bool(flags.source.escape)))
    config = flags.model.config()
    model = opened(console, flags, config)
    with console.progress("text", "scoring …"):
        score = scored(model, row, flags)
    console.write(output_of(score, row, model, flags))


def opened(console: Console, flags: Flags, config: ModelConfig) -> Model:
    """The model; the file for the result is empty then."""
    from gentool.generation import score as scores

    scores.check_stride(flags.score.stride, config.arch.n_ctx)
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
    model = flags.model.open(console, config)
    _ = model.tokenizer  # without one no row can be scored
    console.overwrite()
    console.detail(model.describe())
    return model


def score_lines(console: Console, flags: Flags) -> None:
    """Scores every line of the input, as it is read."""
    from gentool.batch.lines import LineReader

    with stream(console, flags.text, flags.source.file, "text", "score") as source:
        config = flags.model.config()
        total, reader = line_count(source), LineReader(source.file, marked=not source.typed)
        first = first_window(reader)
        if first is None:
            empty(console, flags)
            return
        model = opened(console, flags, config)
        failed, done, began = 0, 0, time.monotonic()
        with console.progress("line", "scoring …") as show:
            for line in chain(first, lines_of(reader)):
                row = (parsed if flags.source.jsonl else plain)(line, flags.source)
                try:
                    text = output_of(scored(model, row, flags), row, model, flags)
                except GentoolError as e:
                    failed += 1
                    hint = "; ".join(filter(None, [e.hint, ROWS_FROM_0]))
                    console.error(f"row {row.number} of {source.name}: {e.message}", hint)
                    as_json = bool(flags.output.json or flags.source.jsonl)
                    text = failed_output(row, e.message, as_json)
                console.write(text)
                done += 1
                seconds = time.monotonic() - began
                left = seconds / done * (total - done) if total else math.nan
                show(done, total, left, f"{done / seconds:.1f} lines/s")
        if failed:
            raise RowsError(f"{failed} of {done} lines failed", "see above what is wrong with each")


def empty(console: Console, flags: Flags) -> None:
    """Checks the flags, and writes the result of no text."""
    from gentool.generation import score as scores

    scores.check_stride(flags.score.stride, flags.model.config().arch.n_ctx)
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
        console.overwrite()


def lines_of(reader: LineReader) -> Iterator[Line]:
    """The lines that are left."""
    while (window := first_window(reader)) is not None:
        yield from window


def plain(line: Line, flags: TextFlags) -> Row:
    """The row in a line of text, or its problem."""
    if line.problem:
        return Row(line.number, "", problem=line.problem)
    try:
        text = line.data.decode("utf-8")
        return Row(line.number, with_escapes(text) if flags.escape else text)
    except UnicodeDecodeError as e:
        return Row(line.number, "", problem=f"not UTF-8 (byte {e.start})")
    except UsageError as e:
        return Row(line.number, "", problem=f"{e.message}; {e.hint}")


def parsed(line: Line, flags: TextFlags) -> Row:
    """The row in a line of JSON, or its problem."""
    from gentool.batch.rows import json_object

    number = line.number
    if line.problem:
        return Row(number, "", problem=line.problem)
    try:
        fields = json_object(line.data.decode("utf-8"))
    except UnicodeDecodeError as e:
        return Row(number, "", problem=f"not UTF-8 (byte {e.start})")
    if isinstance(fields, str):
        return Row(number, "", problem=fields)
    text = fields.get("text")
    if not isinstance(text, str):
        return Row(
            number, "", kept(fields), 'no "text"' if text is None else 'the "text" is no text'
        )
    return Row(number, text, kept(fields))


def kept(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of a row without those that a score has: an error or numbers of an earlier run
    must not stand beside the numbers or the error of this one."""
    return {key: value for key, value in fields.items() if key not in SCORE_KEYS}


def scored(model: Model, row: Row, flags: Flags) -> Score:
    if row.problem:
        raise UsageError(row.problem, JSONL_HINT if flags.source.jsonl else "")
    invariant = bool(flags.model.batch_invariant)
    return model.score(row.text, flags.score.stride, batch_invariant=invariant)


def output_of(score: Score, row: Row, model: Model, flags: Flags) -> str:
    if flags.output.json or flags.source.jsonl:
        keys = {"text": row.text, "row": row.number}
        keys |= {"model": model.config.name, "precision": model.precision}
        return dumped({**row.fields, **keys, **record(score, bool(flags.output.tokens))})
    if flags.source.lines:
        return "\t".join([*map(_number, numbers(score)), escaped(row.text)]) + "\n"
    return table(score) if flags.output.tokens else summary(score)


def failed_output(row: Row, problem: str, as_json: bool) -> str:
    """The line of a text that failed."""
    if as_json:
        text = {} if row.problem else {"text": row.text}
        return dumped({**row.fields, **text, "row": row.number, "error": problem})
    return "\t" * 6 + escaped(row.text) + "\n"


def numbers(score: Score) -> list[float | None]:
    return [
        score.total,
        score.n_tokens,
        score.n_characters,
        score.perplexity,
        score.perplexity_character,
        score.bits_per_character,
    ]


def summary(score: Score) -> str:
    """A number a line."""
    names = ["log-probability", "tokens", "characters", "perplexity per token"]
    names += ["perplexity per character", "bits per character"]
    rows = dict(zip(names, map(_number, numbers(score)), strict=True))
    if score.stride:
        rows["stride of the windows"] = str(score.stride)
    if score.unscored:
        rows["not scored, as it is first"] = escaped(score.unscored)
    width = max(map(len, rows))
    return "".join(f"{name:{width}}  {value}\n" for name, value in rows.items())


def table(score: Score) -> str:
    """A token a line: id, log-probability if it has one, text."""
    rows = zip(score.ids, score.logprobs, score.tokens, strict=True)
    return "".join(f"{id}\t{_number(p)}\t{escaped(text)}\n" for id, p, text in rows)


def record(score: Score, tokens: bool) -> dict[str, object]:
    fields: dict[str, object] = {
        "logprob": score.total,
        "n_tokens": score.n_tokens,
        "n_characters": score.n_characters,
        "perplexity": _finite(score.perplexity),
        "perplexity_character": _finite(score.perplexity_character),
        "bits_per_character": score.bits_per_character,
        "unscored": score.unscored,
        "stride": score.stride,
    }
    if tokens:
        fields |= {"ids": score.ids, "tokens": score.tokens, "logprobs": score.logprobs}
    return fields


def _number(x: float | None) -> str:
    if x is None:
        return ""
    return str(x) if isinstance(x, int) else f"{x:.6g}"


def _finite(x: float | None) -> float | None:
    """JSON has no infinity."""
    return x if x is not None and math.isfinite(x) else None


command = Command(score, Flags, EXAMPLES)
