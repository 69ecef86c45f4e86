"""A training run in a folder of its own: vocabulary, tokens, steps, checkpoints, exported model.
Run again with the same recipe it continues where it was, even after kill -9: the checkpoint is
replaced atomically and the order of the windows follows from the recipe alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gentool import registry
from gentool.config.lookup import FOLDER_FILE
from gentool.config.model import ModelConfig, TokenizerConfig
from gentool.errors import GentoolError, UsageError
from gentool.models import load_family
from gentool.training import step, tokens
from gentool.training.recipe import Optimizer, Recipe

CHECKPOINT_SECONDS = 120.0


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
    yield from map(Note, tokens.prepare(recipe, data, run))
    o, length = recipe.optimizer, recipe.arch.n_ctx
    per_step = o.batch * length
    steps = max(1, o.tokens // per_step)
    limit = hours * 3600 if hours else math.inf
    windows = tokens.windows(recipe, run, "", steps * o.batch, recipe.seed)
    held_out = [
        tokens.stack(part, 0, o.batch) for part in tokens.held_out_batches(recipe, run, o.batch)
    ]
    family = load_family(recipe.family)
    state = step.initial(family, recipe.arch, recipe.seed)
    done, seconds = _restore(run, state)
    if done:
        yield Note(f"resumed at step {done} of {steps} after {seconds / 60:.0f} minutes")
    functions = step.make(family, recipe.arch, state, o)
    saved = time.monotonic()
    try:
        while done < steps and seconds < limit:
            with _undisturbed():
                began = time.monotonic()
                rate = learning_rate(o, max(done / steps, seconds / limit))
                ids = tf.constant(tokens.stack(windows, done, o.batch))
                learnt = functions.train(ids, tf.constant(rate), tf.constant(done + 1.0))
                loss, norm = map(float, learnt)
                if not math.isfinite(norm):
                    raise GentoolError(
                        f"step {done} has loss {loss} and a gradient of norm {norm}",
                        f"lower optimizer.learning_rate, now {o.learning_rate}; {run} is as before",
                    )
                took = time.monotonic() - began
                done, seconds = done + 1, seconds + took
                measured = None
                if time.monotonic() - saved > CHECKPOINT_SECONDS or done == steps:
                    if held_out:
                        losses = [functions.losses(tf.constant(x)).numpy() for x in held_out]
                        measured = float(np.mean([part.mean() for part in losses]))
                    _save(run, state, done, seconds)
                    saved = time.monotonic()
                left = max(0.0, min((steps - done) * seconds / done, limit - seconds))
                speed = per_step / took
                progress = Progress(done, steps, done * per_step, loss, rate, speed, left, measured)
                _log(run, progress, seconds)
            yield progress
    finally:
        _save(run, state, done, seconds)
    _export(recipe, run, state)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until a step is over, so that what is saved is what was logged."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    came: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda it, frame: came.append(it)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _claim(run: Path, recipe: Recipe) -> None:
    """Makes the run folder, or checks that it belongs to this recipe."""
    run.mkdir(parents=True, exist_ok=True)
    mine = recipe.model_dump_json(indent=1)
    note = run / "recipe.json"
    if not note.exists():
        part = note.with_suffix(".part")
        part.write_text(mine, "utf-8")
        part.replace(note)
    elif note.read_text("utf-8") != mine:
        raise UsageError(f"{run} was begun with another recipe", "give another --out folder")


def _save(run: Path, state: step.State, done: int, seconds: float) -> None:
    """Replaces the checkpoint in one step, so that one is always whole."""
    tensors = {
        f"{kind}/{name}": variable.numpy()
        for kind, group in state._asdict().items()
        for name, variable in group.items()
    }
    part = run / "checkpoint.part"
    try:
        save_file(tensors, part, {"step": str(done), "seconds": str(seconds)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(run / "checkpoint.safetensors")
    except (OSError, SafetensorError) as e:
        part.unlink(missing_ok=True)
        raise GentoolError(
            f"cannot save {run / 'checkpoint.safetensors'}: {e}",
            "free some space; the same command continues from the last checkpoint",
        ) from None


def _restore(run: Path, state: step.State) -> tuple[int, float]:
    """Fills `state` from the checkpoint, if there is one; gives steps and seconds spent."""
    path = run / "checkpoint.safetensors"
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, "numpy") as file:
            for kind, group in state._asdict().items():
                for name, variable in group.items():
                    variable.assign(file.get_tensor(f"{kind}/{name}"))
            metadata = file.metadata()
        return int(metadata["step"]), float(metadata["seconds"])
    except (OSError, SafetensorError, KeyError, ValueError) as e:
        raise GentoolError(f"cannot continue from {path}: {e}", "remove it to start anew") from None


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
    shutil.copyfile(run / tokens.VOCABULARY, folder / "tokenizer.model")
    model = ModelConfig(
        name=recipe.name,
        family=recipe.family,
        checkpoint="model.safetensors",
        arch=recipe.arch,
        tokenizer=TokenizerConfig(kind="sentencepiece", model="tokenizer.model", add_bos=True),
        sampling=recipe.sampling,
        folder=folder,
    )
    (folder / FOLDER_FILE).write_text(registry.text(registry.with_sums(model)), "utf-8")
