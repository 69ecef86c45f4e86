"""The loop over the layers of a transformer, for all families and runtimes. The caller decides how
a layer is run: compiled, recorded, or with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from gentool.config.model import Arch
from gentool.runtimes.ops import Ops, Tensor


class Params(NamedTuple):
    """A model's weights: those outside the layers, and a dict for each layer."""

    top: dict[str, Tensor]
    layers: tuple[dict[str, Tensor], ...]


RunLayer = Callable[[int, dict[str, Tensor], Tensor, Any], Tensor]
"""run_layer(index, weights, x [..., D], positional) -> x [..., D], through the family's `layer`."""


def forward(
    family: ModuleType,
    ops: Ops,
    arch: Arch,
    params: Params,
    ids: Tensor,
    positions: Tensor,
    run_layer: RunLayer,
) -> Tensor:
    """ids and positions [...] to the residual stream x [..., D] after the last layer."""
    positional = family.positional(ops, arch, params.top, positions)
    x = family.embed(ops, arch, params.top, ids, positional)
    for index, weights in enumerate(params.layers):
        x = run_layer(index, weights, x, positional)
    return x
