"""Models on the LiteRT runtime: from a folder, and random ones of every family."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType

import numpy as np

from gentool import checkpoints, models
from gentool.config import lookup
from gentool.config.model import Arch
from gentool.models import weights
from gentool.runtimes.litert.runtime import LiteRTRuntime, open_runtime

SMALL = {
    "n_layer": 2,
    "n_head": 4,
    "n_kv_head": 2,
    "d_model": 64,
    "d_head": 16,
    "d_ff": 96,
    "n_vocab": 101,
    "n_ctx": 96,
}
LEARNED = {"n_kv_head": 4}
ARCHS = {
    "gpt2": LEARNED,
    "gpt2_ml": LEARNED | {"activation": "gelu_erf"},
    "pangu": LEARNED | {"activation": "gelu_erf"},
    "llama": {"tied_head": False},
    "qwen2": {"log_n": 20},
    "qwen3": {"n_kv_head": 1},
    "gemma": {"d_head": 24},
    "gemma2": {
        "n_layer": 3,
        "window": 5,
        "window_layers": [0, 2],
        "query_scale": 11.0,
        "score_cap": 4.0,
        "logit_cap": 9.0,
    },
}


def opened(model: str, overrides: Mapping[str, object], precision: str) -> LiteRTRuntime:
    """The model of a folder or of a name."""
    config = lookup.load(model, overrides)
    source = checkpoints.open_checkpoint(config.folder / config.checkpoint, config.format)
    family = models.load_family(config.family)
    plan = weights.plan(source, family, config.arch)
    return open_runtime(family, config.arch, plan, source, precision)


class Arrays:
    """A TensorSource of arrays in memory."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays, self.files = arrays, []
        self.shapes = {name: a.shape for name, a in arrays.items()}
        self.dtypes = {name: a.dtype for name, a in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


def arch_of(family: str) -> Arch:
    return Arch(**(SMALL | ARCHS[family]))


def random_weights(family: ModuleType, arch: Arch, seed: int) -> dict[str, np.ndarray]:
    """By flat name; large enough that attention is sharp and each weight counts."""
    rng = np.random.default_rng(seed)
    shapes = dict(family.top_tensors(arch))
    for layer in range(arch.n_layer):
        shapes |= {f"layers.{layer}.{k}": s for k, s in family.layer_tensors(arch, layer).items()}
    found = {}
    for name, shape in shapes.items():
        one = len(shape) == 1 and not name.endswith("bias")
        deviation = 1.0 if "position" in name else 0.2
        found[name] = (rng.normal(0, deviation, shape) + one).astype(np.float32)
    return found


def random_runtime(
    name: str, precision: str = "fp32", threads: int = 1, seed: int = 0
) -> tuple[LiteRTRuntime, dict[str, np.ndarray]]:
    """A family's runtime on random weights, and these."""
    family, arch = models.load_family(name), arch_of(name)
    arrays = random_weights(family, arch, seed)
    source = Arrays(arrays)
    plan = weights.plan(source, family, arch)
    return open_runtime(family, arch, plan, source, precision, threads), arrays
