"""A checkpoint is continued from, or refused with its name; the learning rate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny import TINY

from gentool.errors import GentoolError
from gentool.models import llama
from gentool.training import step, trainer
from gentool.training.recipe import Optimizer
from gentool.training.run_folder import CHECKPOINT


def test_the_learning_rate_warms_up_and_decays() -> None:
    o = Optimizer(tokens=1, batch=1, learning_rate=2.0, warmup=0.1, final=0.25)
    assert trainer.learning_rate(o, 0.0) < 0.02
    assert trainer.learning_rate(o, 0.1) == pytest.approx(2.0)
    assert trainer.learning_rate(o, 0.55) == pytest.approx(2.0 * (0.25 + 0.75 / 2))
    assert trainer.learning_rate(o, 1.0) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def state() -> step.State:
    return step.initial(llama, TINY, 0)


def test_a_checkpoint_is_restored_to_the_bit(tmp_path: Path, state: step.State) -> None:
    assert trainer._restore(tmp_path, state) == (0, 0.0)
    trainer._save(tmp_path, state, 7, 1.5)
    other = step.initial(llama, TINY, 1)
    assert trainer._restore(tmp_path, other) == (7, 1.5)
    for name, variable in state.weights.items():
        np.testing.assert_array_equal(variable.numpy(), other.weights[name].numpy())


@pytest.mark.parametrize("fault", ["empty", "cut", "no metadata", "no tensor", "shape", "type"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, state: step.State, fault: str) -> None:
    path = tmp_path / CHECKPOINT
    trainer._save(tmp_path, state, 7, 1.5)
    tensors, metadata = load_file(path), {"step": "7", "seconds": "1.5"}
    name = "mean/embedding"
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
