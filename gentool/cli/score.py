"""`gentool score`: texts in, how probable the model finds them out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import click

from gentool.cli import flags as tables
from gentool.cli import options
from gentool.cli.console import Console
from gentool.cli.prompts import RowsError, Source, escaped, lines, read, whole
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from gentool.generation.score import Score
    from gentool.generation.session import Model

EXAMPLES = r"""
gentool score "今天天气不错"
gentool score "今天天气不错" --tokens
gentool score --lines -f sentences.txt | sort -rn
gentool score --jsonl -f documents.jsonl --stride 128 -o scored.jsonl
"""

TEXT = [
    options.option("-f --file", "FILE", "read the text from a file"),
    options.switch("--lines", "every line is a text and gets one line of output"),
    options.switch("--jsonl", 'every line is a JSON object with a "text", and gets its score'),
]

SCORE = [
    options.option(
        "--stride",
        "N",
        "tokens from window to window, where a text is longer than the context",
        "half the context",
        tables.COUNT,
    ),
]

OUTPUT = [
    options.switch("--tokens", "print id, log-probability and text of every token"),
    options.switch("--json", "print one object a text"),
    options.option("-o --output", "FILE", "write the result to a file", "stdout"),
]

JSONL_HINT = 'a line is {"text": "…"}, other keys are kept'


@dataclass(frozen=True)
class Flags:
    """What the command line and the environment said; None is nothing."""

    text: str | None
    file: str | None
    lines: bool | None
    jsonl: bool | None
    model: str | None
    set: tuple[tuple[str, str], ...]
    precision: str | None
    xla: bool | None
    batch_invariant: bool | None
    stride: int | None
    tokens: bool | None
    json: bool | None
    output: str | None


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
    per character and the text, parted by tabs. A line that fails is told on stderr and has no
    numbers; the exit code is 4. --jsonl and --json print the same as objects; an object of --jsonl
    keeps its other keys, or has an error. With --tokens they have ids, tokens and logprobs too.
    """
    from gentool.config import lookup

    if flags.lines and flags.jsonl:
        raise UsageError("both --lines and --jsonl are given", "drop one")
    if flags.tokens and flags.lines and not flags.json:
        raise UsageError("--tokens with --lines is a table a line", "add --json")
    source = read(flags.text, flags.file, "text", "score")
    rows = list(rows_of(source, flags))
    chosen = lookup.load(flags.model or tables.DEFAULT_MODEL, dict(flags.set))

    from gentool.generation import score as scores

    scores.check_stride(flags.stride, chosen.arch.n_ctx)
    if flags.output not in (None, "-"):
        console.redirect(flags.output)
    if not rows:
        console.overwrite()
        return

    from gentool.generation import opening

    model = opening.open_model(chosen, flags.precision, flags.xla)
    _ = model.tokenizer  # without one no row can be scored
    console.overwrite()
    console.detail(model.describe())
    failed = 0
    for row in rows:
        try:
            found = scored(model, row, flags.stride)
        except GentoolError as e:
            if not (flags.lines or flags.jsonl):
                raise
            failed += 1
            console.error(f"line {row.number + 1} of {source.name}: {e.message}", e.hint)
            console.write(unscored(row, e.message, bool(flags.json or flags.jsonl)))
        else:
            console.write(shown(found, row, model, flags))
    if failed:
        raise RowsError(
            f"{failed} of {len(rows)} lines failed", "see above what is wrong with each"
        )


def rows_of(source: Source, flags: Flags) -> Iterator[Row]:
    if flags.jsonl:
        parts = source.data.removesuffix(b"\n").split(b"\n") if source.data else []
        yield from (parsed(number, line) for number, line in enumerate(parts))
    elif flags.lines:
        yield from (Row(*prompt) for prompt in lines(source))
    else:
        yield Row(0, whole(source, "text"))


def parsed(number: int, line: bytes) -> Row:
    """A line of JSON, whatever is in it."""
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as e:
        return Row(number, "", problem=f"not UTF-8 (byte {e.start})")
    except (ValueError, RecursionError) as e:
        return Row(number, "", problem=f"not JSON: {e}")
    if not isinstance(fields, dict):
        return Row(number, "", problem="not a JSON object")
    text = fields.get("text")
    if not isinstance(text, str):
        return Row(number, "", fields, 'no "text"' if text is None else 'the "text" is no text')
    return Row(number, text, fields)


def scored(model: Model, row: Row, stride: int | None) -> Score:
    if row.problem:
        raise UsageError(row.problem, JSONL_HINT)
    return model.score(row.text, stride)


def shown(found: Score, row: Row, model: Model, flags: Flags) -> str:
    if flags.json or flags.jsonl:
        keys = {"text": row.text, "row": row.number}
        keys |= {"model": model.config.name, "precision": model.precision}
        return dumped({**row.fields, **keys, **record(found, bool(flags.tokens))})
    if flags.lines:
        return "\t".join([*map(_number, numbers(found)), escaped(row.text)]) + "\n"
    return table(found) if flags.tokens else summary(found)


def unscored(row: Row, problem: str, as_json: bool) -> str:
    """The line of a text that failed."""
    if as_json:
        text = {} if row.problem else {"text": row.text}
        return dumped({**row.fields, **text, "row": row.number, "error": problem})
    return "\t" * 6 + escaped(row.text) + "\n"


def numbers(found: Score) -> list[float | None]:
    return [
        found.total,
        found.n_tokens,
        found.n_characters,
        found.perplexity,
        found.perplexity_character,
        found.bits_per_character,
    ]


def summary(found: Score) -> str:
    """A number a line."""
    names = ["log-probability", "tokens", "characters", "perplexity per token"]
    names += ["perplexity per character", "bits per character"]
    rows = dict(zip(names, map(_number, numbers(found)), strict=True))
    if found.stride:
        rows["stride of the windows"] = str(found.stride)
    if found.unscored:
        rows["not scored, as it is first"] = escaped(found.unscored)
    width = max(map(len, rows))
    return "".join(f"{name:{width}}  {value}\n" for name, value in rows.items())


def table(found: Score) -> str:
    """A token a line: id, log-probability if it has one, text."""
    rows = zip(found.ids, found.logprobs, found.tokens, strict=True)
    return "".join(f"{id}\t{_number(p)}\t{escaped(text)}\n" for id, p, text in rows)


def record(found: Score, tokens: bool) -> dict[str, object]:
    made: dict[str, object] = {
        "logprob": found.total,
        "n_tokens": found.n_tokens,
        "n_characters": found.n_characters,
        "perplexity": _finite(found.perplexity),
        "perplexity_character": _finite(found.perplexity_character),
        "bits_per_character": found.bits_per_character,
        "unscored": found.unscored,
        "stride": found.stride,
    }
    if tokens:
        made |= {"ids": found.ids, "tokens": found.tokens, "logprobs": found.logprobs}
    return made


def dumped(record: Mapping[str, object]) -> str:
    """A line of JSON, with escapes only where a text is not Unicode."""
    line = json.dumps(record, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError:
        line = json.dumps(record)
    return line + "\n"


def _number(x: float | None) -> str:
    if x is None:
        return ""
    return str(x) if isinstance(x, int) else f"{x:.6g}"


def _finite(x: float | None) -> float | None:
    """JSON has no infinity."""
    return x if x is not None and math.isfinite(x) else None


command = options.Command(
    score,
    Flags,
    EXAMPLES,
    arguments=[click.Argument(["text"], required=False, metavar="[TEXT|-]")],
    groups={
        "Text": TEXT,
        "Model": tables.MODEL,
        "Score": SCORE,
        "Output": OUTPUT,
        "General": tables.GENERAL,
    },
)
