"""A training run in a folder of its own: vocabulary, tokens, steps, checkpoints, exported model.
Started again with the same recipe it continues from its last checkpoint, even after kill -9: the
checkpoint is replaced atomically, and the order of the windows follows from the recipe alone.
"""

from __future__ import annotations

import json
import math
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
from gentool.errors import GentoolError
from gentool.models import load_family
from gentool.training import run_folder, step, tokens
from gentool.training.recipe import Optimizer, Recipe
from gentool.training.run_folder import CHECKPOINT, LOG, VOCABULARY

CHECKPOINT_SECONDS = 120.0


class Note(NamedTuple):
    """A line for the user: what is prepared, what was resumed."""

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
    """The rate when `done` (0 to 1) of the run is over: linear warm-up, full, then a cosine."""
    if done < o.warmup:
        return o.learning_rate * (done + 1e-3) / (o.warmup + 1e-3)
    falls = o.warmup + o.stable
    phase = max(0.0, done - falls) / (1 - falls)
    return o.learning_rate * (o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * phase)))


def train(recipe: Recipe, data: Path, run: Path, hours: float | None) -> Iterator[Note | Progress]:
    """Trains in folder `run` until the recipe's tokens are used or, if sooner, `hours` of steps
    have passed (the cosine decay then ends there). The finished model is in run/model."""
    with run_folder.locked(run):
        if changed := run_folder.claim(run, recipe):
            yield Note(changed)
        yield from map(Note, tokens.prepare(recipe, data, run))
        yield from _steps(recipe, run, hours)


def _steps(recipe: Recipe, run: Path, hours: float | None) -> Iterator[Note | Progress]:
    """The steps that are left, and the export."""
    o, length = recipe.optimizer, recipe.arch.n_ctx
    per_step = o.batch * length
    steps = max(1, o.tokens // per_step)
    limit = hours * 3600 if hours else math.inf
    windows = tokens.windows(recipe, run, "", steps * o.batch, recipe.seed)
    held_out = [
        tokens.stack(part, 0, o.batch) for part in tokens.held_out_batches(recipe, run, o.batch)
    ]
    if not held_out:
        yield Note("too little text is held out to measure a held-out loss")
    family = load_family(recipe.family)
    state = step.initial(family, recipe.arch, recipe.seed)
    done, seconds = _restore(run, state)
    if done:
        yield Note(f"resumed at step {done} of {steps} after {seconds / 60:.0f} minutes")
    functions = step.make(family, recipe.arch, state, o)
    saved = time.monotonic()
    try:
        while done < steps and seconds < limit:
            with _signals_deferred():
                start = time.monotonic()
                rate = learning_rate(o, max(done / steps, seconds / limit))
                ids = tf.constant(tokens.stack(windows, done, o.batch))
                outputs = functions.train(ids, tf.constant(rate), tf.constant(done + 1.0))
                loss, norm = map(float, outputs)
                if not math.isfinite(norm):
                    elsewhere = " and give another --out folder" if done else ""
                    raise GentoolError(
                        f"step {done} has loss {loss} and a gradient of norm {norm}",
                        f"lower optimizer.learning_rate, now {o.learning_rate}{elsewhere}",
                    )
                duration = time.monotonic() - start
                done, seconds = done + 1, seconds + duration
                measured = None
                if time.monotonic() - saved > CHECKPOINT_SECONDS or done == steps:
                    if held_out:
                        losses = [functions.losses(tf.constant(x)).numpy() for x in held_out]
                        measured = float(np.mean([part.mean() for part in losses]))
                    _save(run, state, done, seconds)
                    saved = time.monotonic()
                left = max(0.0, min((steps - done) * seconds / done, limit - seconds))
                speed = per_step / duration
                progress = Progress(done, steps, done * per_step, loss, rate, speed, left, measured)
                _log(run, progress, seconds)
            yield progress
    finally:
        if done:  # until then the recipe may still change
            _save(run, state, done, seconds)
    _export(recipe, run, state)


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defers Ctrl-C and SIGTERM to the end of a step, so that checkpoint and log agree."""
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield
        return
    received: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.signal(number, lambda it, frame: received.append(it)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])


def _save(run: Path, state: step.State, done: int, seconds: float) -> None:
    """Replaces the checkpoint in one step, so that one is always complete."""
    tensors = {
        f"{kind}/{name}": variable.numpy()
        for kind, group in state._asdict().items()
        for name, variable in group.items()
    }
    metadata = {"step": str(done), "seconds": str(seconds)}
    run_folder.write(run / CHECKPOINT, lambda path: save_file(tensors, path, metadata))


def _restore(run: Path, state: step.State) -> tuple[int, float]:
    """Fills `state` from the checkpoint, if there is one: the steps done and their seconds."""
    path = run / CHECKPOINT
    if not path.exists():
        return 0, 0.0
    try:
        with safe_open(path, "numpy") as file:
            for kind, group in state._asdict().items():
                for name, variable in group.items():
                    value = file.get_tensor(f"{kind}/{name}")
                    if value.dtype != np.float32:  # TensorFlow would convert it
                        raise ValueError(f"{kind}/{name} is {value.dtype}")
                    variable.assign(value)
            metadata = file.metadata()
        return int(metadata["step"]), float(metadata["seconds"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise GentoolError(
            f"cannot continue from {path}: {e}", "remove it to start again"
        ) from None


def _log(run: Path, progress: Progress, seconds: float) -> None:
    """Adds a step to the log."""
    line = progress._asdict() | {"seconds": round(seconds, 1)}
    path = run / LOG
    with run_folder.writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _export(recipe: Recipe, run: Path, state: step.State) -> None:
    """run/model: float16 weights, tokenizer and YAML, as `gentool complete -m` opens them."""
    folder = run / "model"
    run_folder.make_folder(folder)
    half = {name: v.numpy().astype(np.float16) for name, v in state.weights.items()}
    weights, tokenizer = folder / "model.safetensors", folder / VOCABULARY
    run_folder.write(weights, lambda path: save_file(half, path, {"format": "gentool"}))
    run_folder.write(tokenizer, lambda path: shutil.copyfile(run / VOCABULARY, path))
    model = ModelConfig(
        name=recipe.name,
        family=recipe.family,
        checkpoint=weights.name,
        arch=recipe.arch,
        tokenizer=TokenizerConfig(kind="sentencepiece", model=tokenizer.name, add_bos=True),
        sampling=recipe.sampling,
        folder=folder,
    )
    text = registry.text(registry.with_sums(model))
    run_folder.write(folder / FOLDER_FILE, lambda path: path.write_text(text, "utf-8"))
