"""The token arrays of a run, made once from the corpus and kept in its folder, and the windows of
them that a step learns from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gentool.training import corpus
from gentool.training import vocabulary as pieces
from gentool.training.recipe import Recipe
from gentool.training.synthetic import documents as synthetic
from gentool.training.synthetic import held_out

VOCABULARY = "tokenizer.model"
SYNTHETIC = "synthetic"  # the name of the made documents among the sources
HELD_OUT = "-held-out"  # ends the names of token files that are never trained on


def prepare(recipe: Recipe, data: Path, run: Path) -> Iterator[str]:
    """Makes run/tokenizer.model and run/tokens/NAME.npy where they are not yet there, and says what
    it does. A file that exists is complete."""
    folder = run / "tokens"
    folder.mkdir(exist_ok=True)
    names, shares = _shares(recipe)
    missing = [
        n for n in names for part in ("", HELD_OUT) if not (folder / f"{n}{part}.npy").exists()
    ]
    vocabulary = run / VOCABULARY
    if not missing and vocabulary.exists():
        return
    yield "reading the corpus"
    texts = {name: _documents(recipe, data, name) for name in names}
    if not vocabulary.exists():
        yield f"training a vocabulary of {recipe.arch.n_vocab} pieces"
        sample = _proportional(texts, dict(zip(names, shares, strict=True)), recipe)
        part = vocabulary.with_suffix(".part")
        pieces.train(sample, recipe.arch.n_vocab, recipe.pieces, recipe.seed, part)
        part.replace(vocabulary)
    for name in names:
        for suffix, documents in (("", texts[name].train), (HELD_OUT, texts[name].held_out)):
            ids = pieces.encode(vocabulary, documents)
            part = folder / f"{name}{suffix}.part.npy"
            np.save(part, ids)
            part.replace(folder / f"{name}{suffix}.npy")
            if not suffix:
                each = sum(map(len, documents)) / max(1, len(ids))
                yield f"{name}: {len(ids):,} tokens, {each:.2f} characters each"


def _documents(recipe: Recipe, data: Path, name: str) -> corpus.Split:
    if name == SYNTHETIC:
        made = synthetic.documents(recipe.seed, recipe.data.synthetic_documents)
        return corpus.split(made)
    texts = map(held_out.without, corpus.documents(data, name))
    return corpus.split(filter(None, texts))


def _proportional(
    texts: dict[str, corpus.Split], shares: dict[str, float], recipe: Recipe
) -> list[str]:
    """Documents whose characters follow the shares of the mixture, for the vocabulary."""
    rng = np.random.default_rng(recipe.seed)
    total = sum(shares.values())
    sample: list[str] = []
    for name, share in shares.items():
        wanted = recipe.pieces.sample_characters * share / total
        for index in rng.permutation(len(texts[name].train)):
            if wanted <= 0:
                break
            sample.append(texts[name].train[index])
            wanted -= len(sample[-1])
    return sample


def _shares(recipe: Recipe) -> tuple[list[str], list[float]]:
    shares = dict(recipe.data.sources)
    if recipe.data.synthetic:
        shares[SYNTHETIC] = recipe.data.synthetic
    return list(shares), list(shares.values())


class Windows(NamedTuple):
    """Token arrays, and windows of `length` + 1 into them in the order they are drawn."""

    arrays: list[np.ndarray]
    plan: list[corpus.Window]
    length: int


def windows(recipe: Recipe, run: Path, suffix: str, count: int, seed: int) -> Windows:
    """`count` windows over run/tokens/*SUFFIX.npy, drawn by the shares of the mixture; sources
    too small for two windows are left out of the held-out part, which may be tiny."""
    names, shares = _shares(recipe)
    length = recipe.arch.n_ctx
    arrays = [np.load(run / "tokens" / f"{name}{suffix}.npy", mmap_mode="r") for name in names]
    usable = [i for i, a in enumerate(arrays) if not suffix or len(a) > 2 * length]
    arrays, shares = [arrays[i] for i in usable], [shares[i] for i in usable]
    plan = corpus.plan([len(a) for a in arrays], shares, length, count, seed) if arrays else []
    return Windows(arrays, plan, length)


def held_out_batches(recipe: Recipe, run: Path, batch: int) -> list[Windows]:
    """Four fixed batches of held-out windows, or none where there is too little text."""
    drawn = windows(recipe, run, HELD_OUT, 4 * batch, seed=0)
    plans = [drawn.plan[i : i + batch] for i in range(0, len(drawn.plan), batch)]
    return [drawn._replace(plan=plan) for plan in plans]


def stack(drawn: Windows, number: int, batch: int) -> np.ndarray:
    """Batch `number` as int32 ids [N, T+1]."""
    rows = [
        drawn.arrays[w.source][w.start : w.start + drawn.length + 1]
        for w in drawn.plan[number * batch : (number + 1) * batch]
    ]
    return np.stack(rows).astype(np.int32)
