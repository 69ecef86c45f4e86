"""Files of a run: written whole or not at all, of one recipe, by one process."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gentool.errors import GentoolError, UsageError
from gentool.training import run_folder
from gentool.training.recipe import Recipe

RECIPE = {
    "name": "toy",
    "family": "llama",
    "arch": dict(n_layer=1, n_head=2, d_model=32, d_ff=64, n_vocab=330, n_ctx=32),
    "data": {"sources": {"made": 1}},
    "optimizer": {"tokens": 64000, "batch": 8, "learning_rate": 2e-3},
}


def recipe(**changes: dict[str, object]) -> dict[str, object]:
    changed = {key: {**RECIPE[key], **value} for key, value in changes.items()}
    return Recipe.model_validate(RECIPE | changed).model_dump(mode="json")


def test_a_file_has_the_mode_of_its_neighbours(tmp_path: Path) -> None:
    tensors = {"a": np.zeros(3, np.float32)}
    run_folder.write(tmp_path / "a.safetensors", lambda path: save_file(tensors, path))
    (tmp_path / "plain").write_text("")
    modes = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["a.safetensors", "plain"], modes["plain"])


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(GentoolError) as failure:
        run_folder.write(path, lambda part: Path("/dev/full").write_text("new"))
    assert failure.value.message == f"cannot write {path}: No space left on device"
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


def test_a_checkpoint_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path, limits = tmp_path / "a.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(GentoolError, match=r"cannot write .*a\.safetensors"):
            run_folder.write(path, lambda part: save_file({"a": np.zeros(10_000)}, part))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.safetensors", "old")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(GentoolError, match=f"cannot write {path}: "), run_folder.locked(path):
            pass


def test_a_recipe_may_change_until_something_is_trained(tmp_path: Path) -> None:
    tokens = tmp_path / run_folder.TOKENS
    tokens.mkdir()
    prepared = [tmp_path / run_folder.VOCABULARY, tokens / "made.npy"]

    def prepare() -> None:
        for path in prepared:
            path.write_text("")

    assert run_folder.claim(tmp_path, recipe()) == ""
    prepare()
    assert run_folder.claim(tmp_path, recipe()) == ""
    assert all(path.exists() for path in prepared)

    changed = recipe(optimizer={"learning_rate": 1e-3})
    line = run_folder.claim(tmp_path, changed)
    assert "optimizer.learning_rate was 0.002, is 0.001" in line
    assert all(path.exists() for path in prepared)  # they do not depend on it

    changed = recipe(arch={"n_vocab": 320})
    assert "arch.n_vocab was 330, is 320" in run_folder.claim(tmp_path, changed)
    assert not any(path.exists() for path in prepared)
    assert run_folder.claim(tmp_path, changed) == ""

    (tmp_path / run_folder.CHECKPOINT).write_text("")
    with pytest.raises(UsageError, match="another recipe: arch.n_vocab was 320, is 330"):
        run_folder.claim(tmp_path, recipe())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_recipe_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / run_folder.RECIPE).write_bytes(content)
    with pytest.raises(GentoolError, match=f"cannot read {tmp_path / run_folder.RECIPE}"):
        run_folder.claim(tmp_path, recipe())


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from gentool.training import run_folder\n"
        "with run_folder.locked(pathlib.Path(sys.argv[1])): print('in', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    ) as other:
        assert other.stdout and other.stdout.readline() == b"in\n"
        with pytest.raises(UsageError, match="another process trains in"):
            with run_folder.locked(tmp_path):
                pass
        other.kill()
    with run_folder.locked(tmp_path):
        pass
