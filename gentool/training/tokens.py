"""The token arrays of a run, made once from the corpus and kept in its folder, and the windows of
them that a step trains on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gentool.errors import GentoolError, UsageError
from gentool.training import corpus, run_folder, vocabulary
from gentool.training.packing import Batch
from gentool.training.recipe import Recipe
from gentool.training.run_folder import TOKENS, VOCABULARY
from gentool.training.synthetic import documents as synthetic
from gentool.training.synthetic import held_out

SYNTHETIC = "synthetic"  # the name of the made documents among the sources
HELD_OUT = "-held-out"  # ends the names of token files that are never trained on


class Texts(NamedTuple):
    """The documents of a source; `cut` if its file had no blank line and was cut into them."""

    train: list[str]
    held_out: list[str]
    cut: bool


def prepare(recipe: Recipe, data: Path, run: Path) -> Iterator[str]:
    """Makes run/tokenizer.model and run/tokens/NAME.npy where they are missing, and yields a line
    on each thing it does. A file that exists is complete."""
    folder, model = run / TOKENS, run / VOCABULARY
    run_folder.make_folder(folder)
    names, shares = _shares(recipe)
    paths = [folder / f"{name}{part}.npy" for name in names for part in ("", HELD_OUT)]
    if model.exists() and all(path.exists() for path in paths):
        return
    yield "reading the corpus"
    texts = {name: _read(recipe, data, name) for name in names}
    for name, source in texts.items():
        if source.cut:
            count = len(source.train) + len(source.held_out)
            yield f"{name} has no blank lines: it is cut into {count:,} documents"
    if not model.exists():
        yield from _train_vocabulary(recipe, texts, dict(zip(names, shares, strict=True)), model)
    for name in names:
        for part, documents in (("", texts[name].train), (HELD_OUT, texts[name].held_out)):
            ids = vocabulary.encode(model, documents)
            content = _array_file(ids)
            path = folder / f"{name}{part}.npy"
            run_folder.write(path, partial(Path.write_bytes, data=content))
            if not part:
                each = sum(map(len, documents)) / max(1, len(ids))
                yield f"{name}: {len(ids):,} tokens, {each:.2f} characters each"
        if not texts[name].held_out:
            yield f"{name}: no document is held out, of {len(texts[name].train):,}"


def _array_file(ids: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    file = io.BytesIO()  # numpy writes other files by itself, and does not say why a disk refuses
    np.save(file, ids)
    return file.getvalue()


def _read(recipe: Recipe, data: Path, name: str) -> Texts:
    """The documents of a source, without the lines that are kept for evaluation."""
    if name == SYNTHETIC:
        made = synthetic.documents(recipe.seed, recipe.data.synthetic_documents)
        return Texts(*corpus.split(made), cut=False)
    source = corpus.read(data, name)
    documents = filter(None, map(held_out.without, source.documents))
    parts = corpus.split(documents)  # by the text as it is in the file
    if name in recipe.data.without_speakers:
        parts = corpus.Split(*(list(map(corpus.without_speakers, part)) for part in parts))
    return Texts(*parts, cut=source.cut)


def _train_vocabulary(
    recipe: Recipe, texts: dict[str, Texts], shares: dict[str, float], target: Path
) -> Iterator[str]:
    """Writes the vocabulary, and yields what of the text it is trained on and covers."""
    size = recipe.arch.n_vocab
    documents = _proportional(texts, shares, recipe)
    lines, cut = vocabulary.sample_lines(documents, recipe.pieces.sample_characters, recipe.seed)
    characters = sum(map(len, lines))
    available = sum(len(document) for source in texts.values() for document in source.train)
    yield (
        f"training a vocabulary of {size:,} pieces on {characters:,} of {available:,} characters"
    )
    if cut:
        yield (
            f"{cut:,} lines are cut at sentence ends for the vocabulary: SentencePiece drops lines"
            f" over {vocabulary.MAX_LINE_BYTES:,} bytes or with {vocabulary.RESERVED}"
        )
    if spaces := sum(line.count(vocabulary.SPACE) for line in lines):
        yield f"{vocabulary.SPACE} (U+2581), {spaces:,} times in the text, is read as a space"
    model = vocabulary.train(lines, size, recipe.pieces)
    run_folder.write(target, lambda path: path.write_bytes(model))
    covered = vocabulary.coverage(model, lines)
    yield (
        f"{covered.covered:,} of {covered.characters:,} characters are pieces, {covered.share:.2%}"
        " of the text; the others are written as bytes"
    )


def _proportional(texts: dict[str, Texts], shares: dict[str, float], recipe: Recipe) -> list[str]:
    """Documents whose characters follow the shares of the mixture, for the vocabulary."""
    rng = np.random.default_rng(recipe.seed)
    total = sum(shares.values())
    sample: list[str] = []
    for name, share in shares.items():
        missing = recipe.pieces.sample_characters * share / total
        for index in rng.permutation(len(texts[name].train)):
            if missing <= 0:
                break
            sample.append(texts[name].train[index])
            missing -= len(sample[-1])
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
    arrays = [_load(run / TOKENS / f"{name}{suffix}.npy") for name in names]
    usable = [i for i, array in enumerate(arrays) if len(array) > 2 * length]
    if not suffix and len(usable) < len(names):
        small = next(i for i in range(len(names)) if i not in usable)
        raise UsageError(
            f"{names[small]} has {len(arrays[small]):,} tokens, fewer than two windows of {length}",
            f"drop {names[small]} from data.sources, add text, or lower arch.n_ctx",
        )
    arrays, shares = [arrays[i] for i in usable], [shares[i] for i in usable]
    plan = corpus.plan([len(a) for a in arrays], shares, length, count, seed) if arrays else []
    return Windows(arrays, plan, length)


def _load(path: Path) -> np.ndarray:
    """The token ids of a source, mapped from their file."""
    try:
        ids: np.ndarray = np.lib.format.open_memmap(path, mode="r")
        if ids.ndim == 1 and ids.dtype == np.uint16:
            return ids
        reason = f"{ids.dtype} of shape {ids.shape}"
    except OSError as e:
        reason = e.strerror or "it is damaged"
    except (ValueError, EOFError, SyntaxError):
        reason = "it is damaged"
    raise GentoolError(f"cannot read {path}: {reason}", "remove it, and it is made again")


def held_out_batches(recipe: Recipe, run: Path, size: int) -> list[Batch]:
    """Four fixed batches of held-out windows, or none where there is too little text."""
    drawn = windows(recipe, run, HELD_OUT, 4 * size, seed=0)
    return [batch(drawn, number, size) for number in range(len(drawn.plan) // size)]


def batch(drawn: Windows, number: int, size: int) -> Batch:
    """Batch `number` of `size` windows. A window is one text, whatever documents it spans."""
    rows = [
        drawn.arrays[w.source][w.start : w.start + drawn.length + 1]
        for w in drawn.plan[number * size : (number + 1) * size]
    ]
    ids = np.stack(rows).astype(np.int32)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    positions = np.broadcast_to(np.arange(drawn.length, dtype=np.int32), inputs.shape)
    learnt = np.ones(inputs.shape, np.float32)
    return Batch(inputs, targets, positions, np.zeros_like(inputs), learnt)
