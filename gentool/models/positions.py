"""Position embeddings: rows of learned tables, and rotary embeddings (RoPE)."""

from __future__ import annotations

import math

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes.ops import Ops, Tensor

Rotation = tuple[Tensor, Tensor]  # cosines and sines [..., E/2]


def learned(ops: Ops, arch: Arch, table: Tensor, positions: Tensor) -> Tensor:
    """Rows [..., D] of a position table [n_position, D] at positions [...]. Hierarchical
    decomposition (Su 2020, kexue.fm 7947): with u_i = (p_i - alpha p_0) / (1 - alpha), position
    i n + j of a table of n is alpha u_i + (1 - alpha) u_j, written so that the first n equal
    the table's rows bit for bit."""
    if arch.hierarchical_alpha is None:
        return ops.gather(table, positions)
    alpha, n = arch.hierarchical_alpha, arch.n_position
    far = ops.gather(table, positions // n) - ops.gather(table, 0)
    return ops.gather(table, positions % n) + far * (alpha / (1 - alpha))


def rotary(ops: Ops, arch: Arch, positions: Tensor) -> Rotation:
    """Cosines and sines [..., E/2] of the angles of rotation at positions [...]."""
    scale = arch.rope_scaling.attention_factor if arch.rope_scaling else 1.0
    cosines, sines = ops.rotation(positions, frequencies(arch), scale)
    return cosines, sines


def frequencies(arch: Arch) -> np.ndarray:
    """The frequency of the rotation of each pair of a head, float32 [E/2] (Su et al. 2021). With
    llama3 or yarn scaling, pairs with few turns over the original context rotate `factor` times
    slower, pairs with many turns at their frequency, those between at a mixture (Llama 3's own
    code; Peng et al. 2023)."""
    half = arch.d_head // 2
    # rounded where other float32 code rounds: an ulp is 1e-4 radians at position 1000
    exponents = np.arange(0, arch.d_head, 2, dtype=np.float32) / np.float32(arch.d_head)
    power = (arch.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    unscaled: np.ndarray = np.float32(1) / power
    scaling = arch.rope_scaling
    if scaling is None:
        return unscaled.astype(np.float32)
    if scaling.kind == "linear":
        return (unscaled / scaling.factor).astype(np.float32)
    turns = scaling.original_n_ctx * unscaled / (2 * np.pi)
    few, many = scaling.low_frequency, scaling.high_frequency
    if scaling.kind == "llama3":
        mixture = np.clip((turns - few) / (many - few), 0, 1)
    else:
        # the numbers of the pairs with so many turns, counted from the fastest
        pairs = np.log(scaling.original_n_ctx / (2 * np.pi * np.array([many, few])))
        pairs *= half / math.log(arch.rope_theta)
        first, last = [np.floor(pairs[0]), np.ceil(pairs[1])] if scaling.whole_pairs else pairs
        first, last = max(first, 0), min(last, arch.d_head - 1)
        mixture = 1 - np.clip((np.arange(half) - first) / (last - first or 1e-3), 0, 1)
    return (unscaled * (mixture + (1 - mixture) / scaling.factor)).astype(np.float32)
