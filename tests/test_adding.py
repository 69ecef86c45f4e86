"""How to add a family, a format of weights and a tokenizer: by the steps that the docstrings of
their rooms name, a file and a row each, on a copy of the package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gentool

TOYS = Path(__file__).parent / "toys"
# the toy -> its file in the package, the file with its row, the line before which it goes, the row
STEPS = {
    "toy_family": ("models/toy_family.py", "config/model.py", '    "gpt2": "learned",\n',
                   '    "toy_family": "learned",\n'),
    "toy_tokenizer": ("tokenizers/toy_tokenizer.py", "config/model.py", '"cpm", "huggingface"',
                      '"toy_tokenizer", '),
    "toy_format": ("checkpoints/toy_format.py", "checkpoints/__init__.py",
                   '    "safetensors": Format(',
                   '    "toy": Format("toy_format", (".npz",)),\n'),
}  # fmt: skip
YAML = """\
name: toy
family: toy_family
checkpoint: weights.npz
arch: {n_layer: 2, n_head: 2, d_model: 4, d_ff: 4, n_vocab: 5, n_ctx: 8}
tokenizer: {kind: toy_tokenizer, model: characters.txt}
"""
PROGRAM = """
import json, gentool
model = gentool.load("toy")
ids = model.tokenizer.encode("天地")
sample = model.complete("天地", temperature=0, max_tokens=3)[0]
print(json.dumps([ids, model.logits(ids).tolist(), list(sample.ids), sample.text]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the package with the three toys, and beside it a model that is made of them."""
    package = tmp_path / "gentool"
    shutil.copytree(Path(gentool.__file__).parent, package, ignore=lambda *_: ["__pycache__"])
    for toy, (place, table, before, row) in STEPS.items():
        shutil.copy(TOYS / f"{toy}.py", package / place)
        source = (package / table).read_text("utf-8")
        assert source.count(before) == 1
        (package / table).write_text(source.replace(before, row + before), "utf-8")
    model = tmp_path / "toy"
    model.mkdir()
    (model / "gentool.yaml").write_text(YAML, "utf-8")
    (model / "characters.txt").write_text("天地玄黄宇", "utf-8")
    random = np.random.default_rng(0)
    shapes = {"words": (5, 4), "places": (8, 4), "qkv.0": (12, 4), "qkv.1": (12, 4)}
    weights = {name: random.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    np.savez(model / "weights.npz", **weights)
    return tmp_path


def by_hand(weights: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The toy family's logits [T, V], in numpy."""
    x = weights["words"][ids] + weights["places"][: len(ids)]  # [T, D]
    for layer in range(2):
        q, k, v = np.split(x @ weights[f"qkv.{layer}"].T, 3, axis=-1)
        q, k, v = (part.reshape(len(ids), 2, 2) for part in (q, k, v))  # [T, H, E]
        scores = np.einsum("the,she->hts", q, k) / np.sqrt(2)
        scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        context = np.einsum("hts,she->the", p / p.sum(axis=-1, keepdims=True), v)
        x = x + context.reshape(len(ids), 4)
    return x @ weights["words"].T


def test_a_family_a_format_and_a_tokenizer_are_a_file_and_a_row_each(folder: Path) -> None:
    run = [sys.executable, "-c", PROGRAM]
    env = {"PYTHONPATH": str(folder), "PATH": "", "HOME": str(folder)}
    done = subprocess.run(run, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ids, logits, new, text = json.loads(done.stdout)
    weights = dict(np.load(folder / "toy" / "weights.npz"))
    assert ids == [0, 1]
    np.testing.assert_allclose(logits, by_hand(weights, ids), rtol=1e-4, atol=1e-5)
    for _ in range(3):
        ids.append(int(by_hand(weights, ids)[-1].argmax()))
    assert new == ids[2:]
    assert text == "".join("天地玄黄宇"[id] for id in new)
