"""A checkpoint is continued from, or refused with its name; the learning rate; what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import TINY

from gentool.errors import GentoolError
from gentool.models import llama
from gentool.training import run_folder, step, trainer
from gentool.training.packing import Batch
from gentool.training.recipe import Optimizer
from gentool.training.run_folder import CHECKPOINT
from gentool.training.trainer import Done, Job, Note, Progress

OPTIMIZER = Optimizer(batch=2, learning_rate=1e-2, dropout=0.1)
DONE = Done(7, 1.5, 99, 2.25)


def test_the_learning_rate_warms_up_and_follows_a_cosine() -> None:
    o = Optimizer(batch=1, learning_rate=2.0, warmup=0.1, final=0.25)
    assert trainer.learning_rate(o, 0.0) < 0.02
    assert trainer.learning_rate(o, 0.1) == pytest.approx(2.0)
    assert trainer.learning_rate(o, 0.55) == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert trainer.learning_rate(o, 1.0) == pytest.approx(0.5)


def test_the_learning_rate_stays_before_it_falls() -> None:
    o = Optimizer(batch=1, learning_rate=1.0, warmup=0.1, stable=0.5, final=0.2)
    assert trainer.learning_rate(o, 0.05) < 1.0
    assert trainer.learning_rate(o, 0.1) == trainer.learning_rate(o, 0.6) == pytest.approx(1.0)
    assert trainer.learning_rate(o, 0.8) == pytest.approx(0.6)
    assert trainer.learning_rate(o, 1.0) == pytest.approx(0.2)


def new_state(seed: int, o: Optimizer = OPTIMIZER) -> step.State:
    return step.variables(step.random_weights(llama, TINY, seed), o)


@pytest.fixture(scope="module")
def state() -> step.State:
    return new_state(0)


def test_a_checkpoint_is_restored_to_the_bit(tmp_path: Path, state: step.State) -> None:
    assert trainer._restore(tmp_path, state) == Done()
    trainer._save(tmp_path, state, DONE)
    other = new_state(1)
    assert trainer._restore(tmp_path, other) == DONE
    for name, variable in state.weights.items():
        np.testing.assert_array_equal(variable.numpy(), other.weights[name].numpy())


@pytest.mark.parametrize("fault", ["empty", "cut", "no metadata", "no tensor", "shape", "type"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, state: step.State, fault: str) -> None:
    path = tmp_path / CHECKPOINT
    trainer._save(tmp_path, state, DONE)
    metadata = {name: str(value) for name, value in DONE._asdict().items()}
    tensors, name = load_file(path), "mean/embedding"
    if fault in ("empty", "cut"):
        path.write_bytes(path.read_bytes()[: 0 if fault == "empty" else -9])
    elif fault == "no metadata":
        save_file(tensors, path)
    elif fault == "no tensor":
        save_file({k: v for k, v in tensors.items() if k != name}, path, metadata)
    else:
        wrong = tensors[name][:-1] if fault == "shape" else tensors[name].astype(np.int64)
        save_file(tensors | {name: wrong}, path, metadata)
    with pytest.raises(GentoolError, match=f"cannot continue from {path}"):
        trainer._restore(tmp_path, state)


def batch(number: int, vocabulary: int = TINY.n_vocab) -> Batch:
    """Two rows of 8 tokens that follow from a number."""
    ids = np.random.default_rng(number).integers(0, vocabulary, (2, 9)).astype(np.int32)
    positions = np.tile(np.arange(8, dtype=np.int32), (2, 1))
    learnt = np.ones((2, 8), np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], positions, np.zeros_like(positions), learnt)


def job(o: Optimizer = OPTIMIZER, steps: int = 6, every: int | None = None) -> Job:
    state = new_state(0, o)
    return Job(
        model=step.Model(llama, TINY, step.all_weights(state, TINY.n_layer)),
        state=state,
        optimizer=o,
        steps=steps,
        batches=lambda number: [batch(number * o.accumulate + i) for i in range(o.accumulate)],
        held_out=[batch(1000)] if every else [],
        evaluate_every=every,
    )


def progress(events: object) -> list[Progress]:
    return [event for event in events if isinstance(event, Progress)]


@pytest.mark.parametrize(
    "changed",
    [{}, {"method": "adafactor", "accumulate": 2}, {"precision": "fp16"}],
    ids=lambda it: " ".join(map(str, it.values())) or "adamw",
)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    """Bit for bit: moments, dropout, loss scale and batches included; and the log has each step
    once."""
    o = OPTIMIZER.model_copy(update=changed)
    whole, first, second = job(o), job(o), job(o)
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    done = progress(trainer.run(tmp_path / "whole", whole))
    assert [it.step for it in done] == list(range(1, 7))

    events = trainer.run(tmp_path / "parts", first)
    for _ in range(3):
        next(events)
    events.close()  # what is saved is step 3
    run_folder.log(tmp_path / "parts", {"step": 4, "loss": 1.0})  # as if it was killed later
    rest = list(trainer.run(tmp_path / "parts", second))
    assert isinstance(rest[0], Note) and "resumed at step 3 of 6" in rest[0].text
    assert [it.loss for it in progress(rest)] == [it.loss for it in done[3:]]
    for name, variable in whole.state.weights.items():
        np.testing.assert_array_equal(variable.numpy(), second.state.weights[name].numpy())
    assert [row["step"] for row in run_folder.logged(tmp_path / "parts")] == list(range(1, 7))


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    """Learning noise by heart makes another noise less likely, at once."""
    chosen = job(steps=8, every=2)
    events = list(trainer.run(tmp_path, chosen))
    losses = {it.step: it.held_out for it in progress(events) if it.held_out is not None}
    assert sorted(losses) == [2, 4, 6, 8]
    best = min(losses, key=lambda number: losses[number])
    assert best < 8
    assert events[-1].text.startswith(f"kept the weights of step {best}, ")
    functions = step.make(chosen.model, chosen.state, chosen.optimizer)
    assert functions.loss(batch(1000)) / 16 == pytest.approx(losses[best], rel=1e-5)


def test_a_loss_that_is_no_number_ends_the_run_and_loses_nothing(tmp_path: Path) -> None:
    o = OPTIMIZER.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    chosen = job(o)
    with pytest.raises(GentoolError, match="step .* has loss .* and a gradient of norm") as failure:
        list(trainer.run(tmp_path, chosen))
    assert "lower the learning rate, now 1e+30" in failure.value.hint
    assert trainer._restore(tmp_path, new_state(0)).steps >= 1


def test_a_loss_scale_halves_when_float16_overflows(tmp_path: Path) -> None:
    """The step changes nothing, and the next one is tried with half the scale."""
    o = OPTIMIZER.model_copy(update={"precision": "fp16"})
    chosen = job(o, steps=2)
    scale = chosen.state.counters["loss_scale"]
    scale.assign(2.0**40)
    before = {name: v.numpy() for name, v in chosen.state.weights.items()}
    list(trainer.run(tmp_path, chosen))
    assert float(scale) == 2.0**38
    for name, variable in chosen.state.weights.items():
        np.testing.assert_array_equal(variable.numpy(), before[name])
    scale.assign(1.0)
    huge = chosen.state.weights["layers.0.down"]
    huge.assign(np.full(huge.shape, np.inf))
    (tmp_path / CHECKPOINT).unlink()
    with pytest.raises(GentoolError, match="overflows in fp16 with every loss scale"):
        list(trainer.run(tmp_path, chosen))
