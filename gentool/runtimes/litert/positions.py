"""Inputs that depend on positions, computed outside the graph."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes.litert.lower import Weights
from gentool.runtimes.litert.record import Recording
from gentool.runtimes.numpy_ops import arrays

FIRST = 256  # positions whose rotations are computed at once, before more are

Rotations = dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]
"""By the numbers of the cosines and sines among the positional inputs: cosines and sines
[S, 1, 2, E/2], doubled, the first half of the sines negated."""


class TopWeights(dict[str, Any]):
    """The weights outside the layers, read when they are asked for."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __missing__(self, name: str) -> Any:
        self[name] = self._weights.read(name)
        return self[name]


class PositionInputs:
    """The inputs of layers that depend on positions: rotations are kept for all positions so
    far, rows of learned tables are gathered from the file."""

    def __init__(
        self, family: ModuleType, arch: Arch, top: TopWeights, recording: Recording
    ) -> None:
        self._family, self._arch, self._top = family, arch, top
        operands = [operand for attention in recording.attentions for operand in attention]
        self._pairs = sorted({operand.rotation for operand in operands if operand.rotation})
        rotated = {leaf for pair in self._pairs for leaf in pair}
        self._only_rotations = len(rotated) == len(recording.positional)
        self._kept: Rotations = {}
        self._count = 0  # positions kept

    def at(self, positions: np.ndarray) -> tuple[Any, list[np.ndarray], Rotations]:
        """For positions [S]: what `embed` takes, its tensors [S, width] one after the other, and
        the rotations. Where all of them are rotations the first two are empty."""
        rotations: Rotations = {}
        if self._pairs:
            self._grow(int(positions.max(initial=0)) + 1)
            rotations = {
                pair: (cosines[positions], sines[positions])
                for pair, (cosines, sines) in self._kept.items()
            }
        if self._only_rotations:
            return None, [], rotations
        # drafts may go beyond the context, where nothing is drawn from them
        inside = np.minimum(positions, self._arch.n_ctx - 1)
        positional = self._family.positional(arrays, self._arch, self._top, inside)
        return positional, _leaves(positional), rotations

    def _grow(self, count: int) -> None:
        """Keeps the rotations of at least the first `count` positions."""
        if count <= self._count:
            return
        end = max(FIRST, count, min(2 * self._count, self._arch.n_ctx))
        new = np.arange(self._count, end)
        leaves = _leaves(self._family.positional(arrays, self._arch, self._top, new))
        for pair in self._pairs:
            half_cosines, half_sines = (leaves[leaf] for leaf in pair)
            cosines = np.stack([half_cosines, half_cosines], axis=1)[:, None]
            sines = np.stack([-half_sines, half_sines], axis=1)[:, None]
            if self._count:
                before = self._kept[pair]
                cosines = np.concatenate([before[0], cosines])
                sines = np.concatenate([before[1], sines])
            self._kept[pair] = cosines, sines
        self._count = end


def _leaves(positional: Any) -> list[np.ndarray]:
    """The arrays of a nest of tuples."""
    if isinstance(positional, tuple):
        return [leaf for part in positional for leaf in _leaves(part)]
    return [positional]
