"""Model folders made for a test: a GPT-2 of any size under our own names, and copies of goldens."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np

from gentool.checkpoints import safetensors
from gentool.config.model import Arch
from gentool.models import gpt2

GOLDEN = Path(__file__).parent / "golden"
YAML = """\
name: {name}
family: gpt2
checkpoint: model.safetensors
arch: {{n_layer: {n_layer}, n_head: {n_head}, d_model: {d_model}, d_ff: {d_ff}, n_vocab: {n_vocab},
  n_ctx: {n_ctx}}}
"""


def arch(n_layer: int = 1, d_model: int = 8, n_vocab: int = 16) -> Arch:
    return Arch.model_validate(
        {
            "n_layer": n_layer,
            "n_head": 2,
            "d_model": d_model,
            "d_ff": 4 * d_model,
            "n_vocab": n_vocab,
            "n_ctx": 16,
        }
    )


def shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    found = dict(gpt2.top_tensors(arch))
    for layer in range(arch.n_layer):
        found |= {f"layers.{layer}.{k}": s for k, s in gpt2.layer_tensors(arch, layer).items()}
    return found


def described(folder: Path, arch: Arch) -> Path:
    folder.mkdir()
    text = YAML.format(name=folder.name, **arch.model_dump())
    (folder / "gentool.yaml").write_text(text, "utf-8")
    return folder


def random_gpt2(folder: Path, arch: Arch, dtype: type, **changed: list[float]) -> Path:
    """A folder of random weights; `changed` are first numbers of tensors, `.` written as `_`."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.3, max(map(math.prod, shapes(arch).values()))).astype(dtype)
    found = {name: (np.dtype(dtype), shape) for name, shape in shapes(arch).items()}

    def read(name: str) -> np.ndarray:
        array = noise[: math.prod(found[name][1])].reshape(found[name][1]).copy()
        first = changed.get(name.replace(".", "_"), [])
        array.flat[: len(first)] = first
        return array

    described(folder, arch)
    with (folder / "model.safetensors").open("wb") as file:
        for _ in safetensors.write(file, found, read):
            pass
    return folder


def sparse_gpt2(folder: Path, arch: Arch) -> Path:
    """A folder whose fp32 weights are all 0 and take no space on the disk."""
    header, at = {}, 0
    for name, shape in shapes(arch).items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (at, end)}
        at = end
    text = json.dumps(header).encode()
    described(folder, arch)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return folder


def copied(name: str, to: Path) -> Path:
    """A golden folder that may be changed."""
    return shutil.copytree(GOLDEN / name, to)


def sharded(folder: Path, weights: str = "model.safetensors") -> Path:
    """The folder's one file of weights as two under an index; gives the index."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / weights)
    (folder / weights).unlink()
    names = sorted(arrays)
    places = {name: f"model-{1 + (i % 2)}.safetensors" for i, name in enumerate(names)}
    for place in set(places.values()):
        save_file({n: arrays[n] for n in names if places[n] == place}, folder / place)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index
