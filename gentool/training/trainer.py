"""A training run in a folder of its own: vocabulary, tokens, steps, checkpoints, exported model.
Run again with the same recipe it continues where it was, even after kill -9: the checkpoint is
replaced atomically and the order of the windows follows from the recipe alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file

from gentool.errors import UsageError
from gentool.models import load_family
from gentool.training import corpus, pieces, step, synthetic
from gentool.training.recipe import Optimizer, Recipe

CHECKPOINT_SECONDS = 120.0
SYNTHETIC = "synthetic"  # the name of the made documents among the sources


class Note(NamedTuple):
    """Something worth a line: what is being prepared, what was resumed."""

    text: str


class Progress(NamedTuple):
    """One optimiser step; `held_out` is in nats a token, on the steps that measured it."""

    step: int
    steps: int
    tokens: int
    loss: float
    rate: float
    tokens_per_second: float
    seconds_left: float
    held_out: float | None


def learning_rate(o: Optimizer, done: float) -> float:
    """The rate when `done` (0 to 1) of the run is over: linear warm-up, then a cosine."""
    if done < o.warmup:
        return o.learning_rate * (done + 1e-3) / (o.warmup + 1e-3)
    phase = (done - o.warmup) / (1 - o.warmup)
    return o.learning_rate * (o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * phase)))


def train(recipe: Recipe, data: Path, run: Path, hours: float | None) -> Iterator[Note | Progress]:
    """Trains in folder `run` until the recipe's tokens or, if sooner, `hours` of stepping are
    spent (the cosine then ends there); the finished model is in run/model."""
    _claim(run, recipe)
    yield from _prepare(recipe, data, run)
    o, length = recipe.optimizer, recipe.arch.n_ctx
    steps = max(1, o.tokens // (o.batch * length))
    names, shares = _shares(recipe)
    arrays = [np.load(run / "tokens" / f"{name}.npy", mmap_mode="r") for name in names]
    plan = corpus.plan([len(a) for a in arrays], shares, length, steps * o.batch, recipe.seed)
    family = load_family(recipe.family)
    state = step.initial(family, recipe.arch, recipe.seed)
    done, seconds = _restore(run, state)
    if done:
        yield Note(f"resumed at step {done} of {steps} after {seconds / 60:.0f} minutes")
    functions = step.make(family, recipe.arch, state, o)
    held_out = _held_out_windows(run, names, shares, length, o.batch)

    def measure() -> float:
        return float(
            np.mean([functions.losses(tf.constant(ids)).numpy().mean() for ids in held_out])
        )

    saved = time.monotonic()
    try:
        while done < steps and (hours is None or seconds < hours * 3600):
            began = time.monotonic()
            spent = max(done / steps, seconds / (hours * 3600) if hours else 0.0)
            rate = learning_rate(o, spent)
            rows = [
                arrays[w.source][w.start : w.start + length + 1]
                for w in plan[done * o.batch : (done + 1) * o.batch]
            ]
            ids = tf.constant(np.stack(rows).astype(np.int32))
            loss, _ = functions.train(ids, tf.constant(rate), tf.constant(done + 1.0))
            if not math.isfinite(float(loss)):
                raise UsageError(
                    f"the loss is {float(loss)} at step {done}",
                    f"lower optimizer.learning_rate ({o.learning_rate})",
                )
            done += 1
            took = time.monotonic() - began
            seconds += took
            measured = None
            if time.monotonic() - saved > CHECKPOINT_SECONDS or done == steps:
                measured = measure()
                _save(run, state, done, seconds)
                saved = time.monotonic()
            left = (steps - done) * took
            if hours:
                left = min(left, hours * 3600 - seconds)
            progress = Progress(
                done,
                steps,
                done * o.batch * length,
                float(loss),
                rate,
                o.batch * length / took,
                max(left, 0.0),
                measured,
            )
            _log(run, progress, seconds)
            yield progress
    finally:
        _save(run, state, done, seconds)
    _export(recipe, run, state)


def _claim(run: Path, recipe: Recipe) -> None:
    """Makes the run folder, or checks that it belongs to this recipe."""
    run.mkdir(parents=True, exist_ok=True)
    mine = recipe.model_dump_json(indent=1)
    note = run / "recipe.json"
    if note.exists() and note.read_text("utf-8") != mine:
        raise UsageError(f"{run} was begun with another recipe", "give another --out folder")
    note.write_text(mine, "utf-8")


def _shares(recipe: Recipe) -> tuple[list[str], list[float]]:
    shares = dict(recipe.data.sources)
    if recipe.data.synthetic:
        shares[SYNTHETIC] = recipe.data.synthetic
    return list(shares), list(shares.values())


def _documents(recipe: Recipe, data: Path, name: str) -> corpus.Split:
    if name == SYNTHETIC:
        made = synthetic.documents(recipe.seed, recipe.data.synthetic_documents)
        return corpus.split(made)
    return corpus.split(map(synthetic.without_held_out, corpus.documents(data, name)))


def _prepare(recipe: Recipe, data: Path, run: Path) -> Iterator[Note]:
    """Vocabulary and token arrays, each made once; a file that exists is complete."""
    folder = run / "tokens"
    folder.mkdir(exist_ok=True)
    names, shares = _shares(recipe)
    missing = [
        n for n in names for part in ("", "-held-out") if not (folder / f"{n}{part}.npy").exists()
    ]
    vocabulary = run / "tokenizer.model"
    if not missing and vocabulary.exists():
        return
    yield Note("reading the corpus")
    texts = {name: _documents(recipe, data, name) for name in names}
    if not vocabulary.exists():
        yield Note(f"training a vocabulary of {recipe.arch.n_vocab} pieces")
        sample = _proportional(texts, dict(zip(names, shares, strict=True)), recipe)
        part = vocabulary.with_suffix(".part")
        pieces.train(sample, recipe.arch.n_vocab, recipe.pieces, recipe.seed, part)
        part.replace(vocabulary)
    for name in names:
        for suffix, documents in (("", texts[name].train), ("-held-out", texts[name].held_out)):
            ids = pieces.encode(vocabulary, documents)
            part = folder / f"{name}{suffix}.part.npy"
            np.save(part, ids)
            part.replace(folder / f"{name}{suffix}.npy")
            if not suffix:
                characters = sum(map(len, documents))
                yield Note(
                    f"{name}: {len(ids):,} tokens, {characters / len(ids):.2f} characters each"
                )


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


def _held_out_windows(
    run: Path, names: list[str], shares: list[float], length: int, batch: int
) -> list[np.ndarray]:
    """Four fixed batches of held-out windows, drawn by the shares of the mixture."""
    arrays = [np.load(run / "tokens" / f"{name}-held-out.npy") for name in names]
    usable = [i for i, a in enumerate(arrays) if len(a) > 2 * length]
    if not usable:
        return []
    plan = corpus.plan(
        [len(arrays[i]) for i in usable], [shares[i] for i in usable], length, 4 * batch, seed=0
    )
    rows = np.stack([arrays[usable[w.source]][w.start : w.start + length + 1] for w in plan])
    return list(rows.astype(np.int32).reshape(4, batch, length + 1))


def _save(run: Path, state: step.State, done: int, seconds: float) -> None:
    """Replaces the checkpoint in one step."""
    tensors = {
        f"{kind}/{name}": variable.numpy()
        for kind, group in state._asdict().items()
        for name, variable in group.items()
    }
    part = run / "checkpoint.part"
    save_file(tensors, part, {"step": str(done), "seconds": str(seconds)})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(run / "checkpoint.safetensors")


def _restore(run: Path, state: step.State) -> tuple[int, float]:
    """Fills `state` from the checkpoint, if there is one; gives steps and seconds spent."""
    path = run / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "numpy") as file:
        for kind, group in state._asdict().items():
            for name, variable in group.items():
                variable.assign(file.get_tensor(f"{kind}/{name}"))
        metadata = file.metadata()
    return int(metadata["step"]), float(metadata["seconds"])


def _log(run: Path, progress: Progress, seconds: float) -> None:
    line = progress._asdict() | {"seconds": round(seconds, 1)}
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _export(recipe: Recipe, run: Path, state: step.State) -> None:
    """run/model: float16 weights, tokenizer and YAML, as `gentool complete -m` opens them."""
    folder = run / "model"
    folder.mkdir(exist_ok=True)
    half = {name: v.numpy().astype(np.float16) for name, v in state.weights.items()}
    save_file(half, folder / "model.safetensors", {"format": "gentool"})
    shutil.copyfile(run / "tokenizer.model", folder / "tokenizer.model")
    config = {
        "name": recipe.name,
        "family": recipe.family,
        "checkpoint": "model.safetensors",
        "arch": recipe.arch.model_dump(),
        "tokenizer": {"kind": "sentencepiece", "model": "tokenizer.model", "add_bos": True},
        "sampling": recipe.sampling.model_dump(exclude_defaults=True),
    }
    text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)
    (folder / "gentool.yaml").write_text(text, "utf-8")
