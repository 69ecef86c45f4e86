"""Bits per character on the held-out documents of a recipe's sources: of a gentool model, and of a
character 5-gram model trained on the training documents of the same sources, each once.

    python tests/bench/heldout.py configs/train/tiny-zh.yaml --data CORPUS --model tiny-zh --ngram

Both are scored on exactly the same text: of each source whole held-out documents in file order, as
many as fit in --characters (at least one). Every character counts, newlines too; the end of a
document does not. Synthetic documents take no part. A source without held-out documents is left
out of the averages.

A model is given the ids of its tokenizer for a whole document, in windows of n_ctx tokens that
advance by half, so that a token sees at least n_ctx / 2 tokens before it where there are so many.
Its bits are those of this one way to split the text into tokens: an upper bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import kneser_ney
import numpy as np

import gentool
from gentool.errors import GentoolError
from gentool.training import corpus, recipe
from gentool.training.synthetic import held_out

Bits = Callable[[str], float]  # of one document


class Source(NamedTuple):
    share: float
    held_out: list[str]
    characters: int


def read(mixture: recipe.Mixture, data: Path, cap: int) -> tuple[dict[str, Source], list[str]]:
    """The held-out text of each source that has some, and the training documents of all."""
    sources: dict[str, Source] = {}
    training: list[str] = []
    for name, share in mixture.sources.items():
        parts = corpus.split(map(held_out.without, corpus.read(data, name).documents))
        training += parts.train
        if chosen := first(parts.held_out, cap):
            sources[name] = Source(share, chosen, sum(map(len, chosen)))
    return sources, training


def first(texts: list[str], cap: int) -> list[str]:
    """The first documents that have at most `cap` characters together, or the first one alone."""
    chosen: list[str] = []
    for text in texts:
        if chosen and sum(map(len, chosen)) + len(text) > cap:
            break
        chosen.append(text)
    return chosen


def ngram_bits(training: list[str], order: int) -> Bits:
    model = kneser_ney.train(training, order)
    return lambda text: -float(kneser_ney.log2_probabilities(model, text)[:-1].sum())


def model_bits(name: str, precision: str) -> Bits:
    model: Any = gentool.load(name, precision=precision)
    length = model.config.arch.n_ctx

    def bits(text: str) -> float:
        ids = model.tokenizer.encode(text)
        total, scored = 0.0, 1  # the first id is <s>, given
        for start in range(0, len(ids), length // 2):
            if scored == len(ids):
                break
            end = min(start + length, len(ids) - 1)  # row t has the logits of id t + 1
            rows = np.asarray(model.logits(ids[start:end]), np.float64)[scored - start - 1 :]
            top = rows.max(axis=-1, keepdims=True)
            norm = top[:, 0] + np.log(np.exp(rows - top).sum(axis=-1))
            wanted = rows[np.arange(len(rows)), ids[scored : end + 1]]
            total += float((norm - wanted).sum())
            scored = end + 1
        return total / np.log(2)

    return bits


def per_character(bits: Bits, sources: Mapping[str, Source], what: str) -> dict[str, float]:
    """Bits per character by source; shows progress on stderr."""
    result = {}
    for name, source in sources.items():
        start = time.monotonic()
        result[name] = sum(map(bits, source.held_out)) / source.characters
        note(f"{what}: {name} {result[name]:.3f} ({time.monotonic() - start:.1f} s)")
    return result


def report(
    sources: Mapping[str, Source], columns: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """Per source and averaged, plainly and by the recipe's shares."""
    shares = [source.share for source in sources.values()]
    return {
        "sources": {
            name: {"documents": len(s.held_out), "characters": s.characters, "share": s.share}
            | {what: values[name] for what, values in columns.items()}
            for name, s in sources.items()
        },
        "average": {w: float(np.mean(list(v.values()))) for w, v in columns.items()},
        "by share": {
            w: float(np.average(list(v.values()), weights=shares)) for w, v in columns.items()
        },
    }


def table(result: dict[str, Any], columns: list[str]) -> str:
    head = f"{'bits per character':28}{'documents':>10}{'characters':>12}{'share':>7}"
    lines = [head + "".join(f"{what:>12}" for what in columns)]
    for name, row in result["sources"].items():
        line = f"{name:28}{row['documents']:10}{row['characters']:12}{row['share']:7g}"
        lines.append(line + "".join(f"{row[what]:12.3f}" for what in columns))
    for name in ("average", "by share"):
        lines.append(f"{name:57}" + "".join(f"{result[name][what]:12.3f}" for what in columns))
    return "\n".join(lines)


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per character on held-out text.")
    parser.add_argument("recipe", type=Path, help="the recipe: sources and shares")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--model", help="a model's name, folder or YAML file")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], help="a column each (fp32)", metavar="P"
    )
    parser.add_argument("--ngram", action="store_true", help="the 5-gram too (6 GB, minutes)")
    parser.add_argument(
        "--characters", type=int, default=40_000, help="of each source (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not (options.model or options.ngram):
        parser.error("nothing to measure: give --model, --ngram or both")
    sources, training = read(recipe.load(options.recipe).data, options.data, options.characters)
    columns: dict[str, dict[str, float]] = {}
    if options.model:
        for precision in options.precision:
            what = "model" if options.precision == ["fp32"] else precision
            bits = model_bits(options.model, precision)
            columns[what] = per_character(bits, sources, f"{options.model} {precision}")
    if options.ngram:
        note(f"5-gram: training on {sum(map(len, training)):,} characters")
        columns["5-gram"] = per_character(ngram_bits(training, 5), sources, "5-gram")
    result = report(sources, columns)
    print(json.dumps(result, indent=1) if options.json else table(result, list(columns)))


if __name__ == "__main__":
    try:
        main()
    except GentoolError as e:
        sys.exit(f"error: {e.message}\nhint: {e.hint}")
