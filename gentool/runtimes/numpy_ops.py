"""The operations of families on numpy arrays in float32: for what a runtime computes outside its
graphs (embeddings, what depends on positions), and to compare other tables with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gentool.runtimes.ops import Ops


def gather(table: np.ndarray, ids: np.ndarray | int) -> np.ndarray:
    """float32 rows [..., D] of table [V, D]; only those are read."""
    return table[ids].astype(np.float32)


def rotation(
    positions: np.ndarray, frequency: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines [..., E/2], times `scale`, of positions [...] times frequency [E/2]."""
    angle = positions[..., None].astype(np.float32) * frequency
    cosines, sines = np.cos(angle), np.sin(angle)
    return (cosines, sines) if scale == 1.0 else (cosines * scale, sines * scale)


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """x [..., in] times weight [out, in] plus bias [out]."""
    y = x @ weight.astype(np.float32).T
    return y if bias is None else y + bias.astype(np.float32)


def rms_norm(x: np.ndarray, scale: np.ndarray, eps: float, offset: float = 0.0) -> np.ndarray:
    """Root-mean-square norm over the last axis (Zhang & Sennrich 2019), times offset + scale."""
    mean = np.square(x).mean(axis=-1, keepdims=True, dtype=np.float32)
    return x / np.sqrt(mean + np.float32(eps)) * (scale.astype(np.float32) + np.float32(offset))


def layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """Layer norm over the last axis, with the biased variance (Ba et al. 2016)."""
    x = x - x.mean(axis=-1, keepdims=True, dtype=np.float32)
    return rms_norm(x, scale, eps) + bias.astype(np.float32)


def gelu(x: np.ndarray, kind: str) -> np.ndarray:
    """x times the normal distribution's Phi(x), or its approximation gelu_tanh."""
    if kind == "gelu_tanh":
        inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
        return x * np.float32(0.5) * (1 + np.tanh(inner))
    erf = np.vectorize(math.erf, otypes=[np.float32])
    return x * np.float32(0.5) * (1 + erf(x / np.float32(math.sqrt(2))))


def swiglu(gate_up: np.ndarray) -> np.ndarray:
    """silu(gate) * up for gate_up [..., 2F]; gives [..., F]."""
    gate, up = np.split(gate_up, 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up


def geglu(gate_up: np.ndarray) -> np.ndarray:
    """gelu_tanh(gate) * up for gate_up [..., 2F]; gives [..., F]."""
    gate, up = np.split(gate_up, 2, axis=-1)
    return gelu(gate, "gelu_tanh") * up


def split(x: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """x [..., sum(sizes)] cut along its last axis."""
    return np.split(x, np.cumsum(sizes)[:-1], axis=-1)


def heads(x: np.ndarray, size: int) -> np.ndarray:
    """x [..., H*E] as [..., H, E]."""
    return x.reshape(*x.shape[:-1], -1, size)


def rope(x: np.ndarray, rotation: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """x [..., H, E] with the halves of each head rotated by cosines and sines [..., E/2]."""
    cosines, sines = (part[..., None, :] for part in rotation)  # [..., 1, E/2]
    left, right = np.split(x, 2, axis=-1)
    rotated = [left * cosines - right * sines, right * cosines + left * sines]
    return np.concatenate(rotated, axis=-1)


def softcap(x: np.ndarray, cap: float | None) -> np.ndarray:
    """cap * tanh(x / cap); x where there is no cap."""
    return x if cap is None else np.float32(cap) * np.tanh(x / np.float32(cap))


arrays = Ops(
    gather=gather,
    rotation=rotation,
    linear=linear,
    rms_norm=rms_norm,
    layer_norm=layer_norm,
    gelu=gelu,
    swiglu=swiglu,
    geglu=geglu,
    split=split,
    heads=heads,
    rope=rope,
    softcap=softcap,
)
