"""The one loop over layers, blind to families and to what a layer does with its cache: inference
and training pass their own `block`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import tensorflow as tf

from gentool.config.model import Arch
from gentool.runtimes.xla.ops import Tensor


class Params(NamedTuple):
    """A model's weights: those outside the layers, and one dict for each layer."""

    top: dict[str, Tensor]
    layers: tuple[dict[str, Tensor], ...]


Block = Callable[[int, dict[str, Tensor], Tensor], Tensor]


def forward(
    family: ModuleType,
    arch: Arch,
    params: Params,
    ids: Tensor,
    positions: Tensor,
    dtype: tf.DType,
    block: Block,
) -> Tensor:
    """ids and positions [N, T] to the stream x [N, T, D] after the last layer; `block` takes a
    layer's index, its weights and x, and gives the new x. All sums along the way are in `dtype`."""
    x = tf.cast(family.embed(arch, params.top, ids, positions), dtype)  # [N, T, D]
    for index, weights in enumerate(params.layers):
        x = block(index, weights, x)
    return x
