"""The steps of a training run, with checkpoints in its folder. Started again a run continues from
its last checkpoint, even after kill -9, and ends with the same weights as one that was never
stopped: the checkpoint is replaced atomically, and what a step learns follows from its number.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError, safe_open

from gentool.checkpoints import safetensors
from gentool.errors import GentoolError
from gentool.training import run_folder, step
from gentool.training.packing import Batch
from gentool.training.recipe import Optimizer
from gentool.training.run_folder import BEST, CHECKPOINT

CHECKPOINT_SECONDS = 120.0


class Note(NamedTuple):
    """A line for the user: what is prepared, what was resumed."""

    text: str


class Progress(NamedTuple):
    """One optimiser step. `loss` is in nats a token, None where a float16 step overflowed;
    `held_out` too, on the steps that measured it."""

    step: int
    steps: int
    tokens: int
    loss: float | None
    rate: float
    tokens_per_second: float
    seconds_left: float
    held_out: float | None


class Job(NamedTuple):
    """What a run does: `batches` gives those of a step, `held_out` are evaluated every
    `evaluate_every` steps, after which the best weights are kept, or with each checkpoint. A run
    ends after `steps`, or after so many `hours` of steps, where the rate then ends, too."""

    model: step.Model
    state: step.State
    optimizer: Optimizer
    steps: int
    batches: Callable[[int], Sequence[Batch]]
    held_out: Sequence[Batch]
    evaluate_every: int | None
    hours: float | None = None


class Done(NamedTuple):
    """How far a run is: steps, their seconds and tokens, and the best held-out loss."""

    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best: float = math.inf


def learning_rate(o: Optimizer, done: float) -> float:
    """The rate when `done` (0 to 1) of the run is over: linear warm-up, full, then a cosine."""
    if done < o.warmup:
        return o.learning_rate * (done + 1e-3) / (o.warmup + 1e-3)
    falls = o.warmup + o.stable
    phase = max(0.0, done - falls) / (1 - falls)
    return o.learning_rate * (o.final + (1 - o.final) * 0.5 * (1 + math.cos(math.pi * phase)))


def run(folder: Path, job: Job) -> Iterator[Note | Progress]:
    """The steps of a run that are left. Then the state's weights are the best ones, or the last
    where no best ones are kept."""
    limit = job.hours * 3600 if job.hours else math.inf
    done = _restore(folder, job.state)
    if done.steps:
        minutes = done.seconds / 60
        yield Note(f"resumed at step {done.steps} of {job.steps} after {minutes:.0f} minutes")
        run_folder.trim_log(folder, done.steps)
    functions = step.make(job.model, job.state, job.optimizer)
    if not done.steps and job.held_out and job.evaluate_every:
        yield Note(f"held-out loss {_evaluate(functions, job.held_out):.3f} before the first step")
    saved, saved_steps = time.monotonic(), done.steps
    try:
        while done.steps < job.steps and done.seconds < limit:
            with _signals_deferred():
                progress, done = _step(job, functions, done, limit)
                due = time.monotonic() - saved > CHECKPOINT_SECONDS or done.steps == job.steps
                every = job.evaluate_every
                if job.held_out and (done.steps % every == 0 if every else due):
                    progress = progress._replace(held_out=_evaluate(functions, job.held_out))
                # before the checkpoint: what the log has of later steps is dropped
                row = progress._asdict() | {"seconds": round(done.seconds, 1)}
                run_folder.log(folder, row)
                loss = progress.held_out
                if every and loss is not None and loss < done.best:
                    done = done._replace(best=loss)
                    _save_best(folder, job.state, done.steps)
                if due:
                    _save(folder, job.state, done)
                    saved, saved_steps = time.monotonic(), done.steps
            yield progress
    finally:
        if done.steps > saved_steps:  # until the first step the recipe may still change
            _save(folder, job.state, done)
    if math.isfinite(done.best):
        yield Note(_restore_best(folder, job.state, done))


def _step(job: Job, functions: step.Functions, done: Done, limit: float) -> tuple[Progress, Done]:
    """One step."""
    start = time.monotonic()
    o, number = job.optimizer, done.steps
    rate = learning_rate(o, max(number / job.steps, done.seconds / limit))
    batches = job.batches(number)
    tokens = int(sum(batch.learnt.sum() for batch in batches))
    loss, norm = functions.train(batches, float(max(1, tokens)), rate, number + 1)
    if not math.isfinite(norm):
        if o.precision != "fp16":
            raise GentoolError(
                f"step {number} has loss {loss} and a gradient of norm {norm}",
                f"lower the learning rate, now {o.learning_rate}, and give another folder",
            )
        if float(job.state.counters["loss_scale"]) < 1:
            raise GentoolError(
                f"step {number} overflows in fp16 with every loss scale", "give --precision bf16"
            )
    duration = time.monotonic() - start
    done = done._replace(
        steps=number + 1, seconds=done.seconds + duration, tokens=done.tokens + tokens
    )
    left = (job.steps - done.steps) * done.seconds / done.steps
    progress = Progress(
        step=done.steps,
        steps=job.steps,
        tokens=done.tokens,
        loss=loss if math.isfinite(loss) else None,
        rate=rate,
        tokens_per_second=tokens / duration,
        seconds_left=max(0.0, min(left, limit - done.seconds)),
        held_out=None,
    )
    return progress, done


def _evaluate(functions: step.Functions, batches: Sequence[Batch]) -> float:
    """The mean loss of the tokens that are learnt in these batches."""
    tokens = sum(float(batch.learnt.sum()) for batch in batches)
    return sum(map(functions.loss, batches)) / tokens


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


def _groups(state: step.State) -> dict[str, dict[str, tf.Variable]]:
    """All variables of a state, by the first part of their names in a checkpoint."""
    return {"weights": state.weights, **state.slots, "counters": state.counters}


def _save(folder: Path, state: step.State, done: Done) -> None:
    """Replaces the checkpoint in one step, so that one is always complete."""
    metadata = {name: str(value) for name, value in done._asdict().items()}
    _write(folder / CHECKPOINT, _groups(state), metadata)


def _save_best(folder: Path, state: step.State, steps: int) -> None:
    """Keeps the weights as they are."""
    _write(folder / BEST, {"weights": state.weights}, {"steps": str(steps)})


def _write(
    path: Path, groups: Mapping[str, Mapping[str, tf.Variable]], metadata: Mapping[str, str]
) -> None:
    """Writes variables to a file, one after the other: they fill the memory already."""
    variables = {f"{k}/{name}": v for k, group in groups.items() for name, v in group.items()}
    tensors = {name: (np.dtype(np.float32), tuple(v.shape)) for name, v in variables.items()}

    def content(part: Path) -> None:
        with part.open("wb") as file:
            for _ in safetensors.write(file, tensors, lambda n: variables[n].numpy(), metadata):
                pass

    run_folder.write(path, content)


def _restore(folder: Path, state: step.State) -> Done:
    """Fills `state` from the checkpoint, if there is one."""
    path = folder / CHECKPOINT
    if not path.exists():
        return Done()
    metadata = _fill(path, _groups(state), Done._fields)
    return Done(
        int(metadata["steps"]),
        float(metadata["seconds"]),
        int(metadata["tokens"]),
        float(metadata["best"]),
    )


def _restore_best(folder: Path, state: step.State, done: Done) -> str:
    """Fills the weights of `state` with the best ones; a line that says whose they are."""
    metadata = _fill(folder / BEST, {"weights": state.weights}, ("steps",))
    best = f"held-out loss {done.best:.3f} is the best"
    return f"kept the weights of step {metadata['steps']}, whose {best}"


def _fill(
    path: Path, groups: Mapping[str, Mapping[str, tf.Variable]], keys: Sequence[str]
) -> dict[str, str]:
    """Fills variables from a file, and gives its metadata, numbers under `keys`."""
    try:
        with safe_open(path, "numpy") as file:
            for kind, group in groups.items():
                for name, variable in group.items():
                    value = file.get_tensor(f"{kind}/{name}")
                    if value.dtype != np.float32:  # TensorFlow would convert it
                        raise ValueError(f"{kind}/{name} is {value.dtype}")
                    variable.assign(value)
            metadata: dict[str, str] = file.metadata()
        for key in keys:
            float(metadata[key])
        return metadata
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise GentoolError(
            f"cannot continue from {path}: {e}", "remove it to start again"
        ) from None
