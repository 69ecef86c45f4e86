"""A small random model, with weights large enough to disagree."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from gentool.config.model import Arch
from gentool.decoding.engine import Engine
from gentool.models import llama, weights
from gentool.models.transformer import Params
from gentool.runtimes.litert.runtime import open_runtime
from gentool.runtimes.xla import backend
from gentool.runtimes.xla import weights as xla_weights
from gentool.runtimes.xla.runtime import XlaRuntime

ON_XLA = os.environ.get("GENTOOL_TEST_RUNTIME") == "xla"  # as `make test-slow` runs the laws again
XLA = False if ON_XLA else None  # of `gentool.load`

TINY = Arch(
    n_layer=2,
    n_head=4,
    n_kv_head=2,
    d_model=32,
    d_head=8,
    d_ff=48,
    n_vocab=96,
    n_ctx=128,
    rope_theta=100.0,
    tied_head=False,
)


def random_weights(arch: Arch, seed: int) -> dict[str, np.ndarray]:
    """LLaMA weights by name; deviation 0.3 makes attention sharp and logits of order 10."""
    rng = np.random.default_rng(seed)
    shapes = dict(llama.top_tensors(arch))
    for layer in range(arch.n_layer):
        shapes |= {f"layers.{layer}.{k}": s for k, s in llama.layer_tensors(arch, layer).items()}
    return {
        name: (rng.normal(0, 0.3, s) + (len(s) == 1)).astype(np.float32)
        for name, s in shapes.items()
    }


class Arrays:
    """A TensorSource of arrays in memory."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays, self.files = arrays, []
        self.shapes = {name: a.shape for name, a in arrays.items()}
        self.dtypes = {name: a.dtype for name, a in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        return self.arrays[name]


def load(source: Arrays, arch: Arch, dtype: str = "float32") -> Params:
    plan = weights.plan(source, llama, arch)
    return xla_weights.load(source, plan, arch.n_layer, tf.as_dtype(dtype))


def traces(function: Any) -> int:
    """How often TensorFlow has traced a function, compiled by XLA or not."""
    return getattr(function, "program", function).experimental_get_tracing_count()


def make_engine(
    arch: Arch,
    arrays: dict[str, np.ndarray],
    chosen: backend.Backend | None = None,
    dtype: str = "float32",
) -> Engine:
    """An engine on LiteRT, or on XLA with the backend `chosen`, or if GENTOOL_TEST_RUNTIME=xla."""
    source = Arrays(arrays)
    if chosen is None and not ON_XLA:
        plan = weights.plan(source, llama, arch)
        return Engine(open_runtime(llama, arch, plan, source, "fp32", 2))
    rule = backend.BackendRule(1, chosen or backend.GRAPH)
    return Engine(XlaRuntime(llama, arch, load(source, arch, dtype), (rule,)))
