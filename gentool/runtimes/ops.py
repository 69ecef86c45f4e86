"""The table of operations that families are written in. Each runtime provides a table: XLA's
computes on TensorFlow's tensors, LiteRT's records a graph, numpy's computes on arrays. Tensors also
support Python's operators + - * // %.

Shape letters: N rows, T tokens in a call, L layers, D width, F width of the MLP, H query heads,
G key/value heads, E head size (Ev that of a value), V vocabulary, B prefixes computed together, R
rows of each, P slots of a prefix, M slots of a row's KV cache, S = N*T tokens of all rows, W of
the tokens whose outputs are returned, Q queries of an attention, Y and Z any width. A table may use
one axis [S] for [N, T].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Tensor = Any  # the runtime's

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""attend(q [N, T, H, E], k [N, T, G, E], v [N, T, G, E]) writes keys and values to the KV cache of
the layer and returns the context [N, T, H*E]; it applies scale, causal mask, window, cap, log-n."""


class Ops(NamedTuple):
    """The operations that a family calls."""

    gather: Callable[..., Tensor]  # (table [V, D], ids [...]) -> float32 [..., D]
    rotation: Callable[..., Tensor]  # (positions [...], frequency [E/2], scale) -> cos, sin
    linear: Callable[..., Tensor]  # (x [..., in], weight [out, in], bias [out]=None) -> [..., out]
    rms_norm: Callable[..., Tensor]  # (x [..., D], scale [D], eps, offset = 0.0): by offset + scale
    layer_norm: Callable[..., Tensor]  # (x [..., D], scale [D], bias [D], eps)
    gelu: Callable[..., Tensor]  # (x, "gelu_tanh" or "gelu_erf")
    swiglu: Callable[..., Tensor]  # (gate_up [..., 2F]) -> silu(gate) * up [..., F]
    geglu: Callable[..., Tensor]  # (gate_up [..., 2F]) -> gelu_tanh(gate) * up [..., F]
    split: Callable[..., Any]  # (x [..., sum(sizes)], sizes) -> one tensor a size
    heads: Callable[..., Tensor]  # (x [..., H*E], E) -> [..., H, E]
    rope: Callable[..., Tensor]  # (x [..., H, E], rotation): rotates the halves of each head
    softcap: Callable[..., Tensor]  # (x, cap): cap * tanh(x / cap) in float32; x if cap is None
