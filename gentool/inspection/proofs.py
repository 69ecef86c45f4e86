"""Proofs that a token can, or can never, have the largest logit. They hold for the stored weights
in real arithmetic: every comparison leaves room for the rounding of the sums that it is made of.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from gentool.inspection.output_layer import ROW_BLOCK, OutputLayer, normalized, project

U32, U64 = 2.0**-24, 2.0**-53  # unit roundoff of float32 and float64
SAFETY = 8  # times the textbook bound of a dot product, (n + 4) * u * |a| . |b|
SHORTER = 1e-6  # of its length, that n may be by the norm's eps
MAX_NEAR = 256  # rivals that are compared in float64 for one token


class Witness(NamedTuple):
    """A residual stream x [D] after which the token alone has the largest logit."""

    token: int
    x: np.ndarray


class Combination(NamedTuple):
    """Weights of other rows whose average is at least the token's logit at every x."""

    token: int
    support: np.ndarray  # ids
    shares: np.ndarray  # positive, of sum 1

    def reason(self) -> str:
        return f"always below the largest of {len(self.support)} tokens"


class Duplicate(NamedTuple):
    """The row equals that of a lower id, which greedy decoding takes instead."""

    token: int
    of: int

    def reason(self) -> str:
        return f"its row of the head equals that of token {self.of}"


Proof = Witness | Combination | Duplicate


class Rows(NamedTuple):
    """The distinct rows of a head: their ids, and what their logits are made of. The logit of row j
    is weight[j] @ (gain * n) + constants[j]."""

    layer: OutputLayer
    ids: np.ndarray  # [U]
    weight: np.ndarray  # [U, D] in the file's dtype
    constants: np.ndarray  # [U] float64: weight @ shift + bias
    longest: float  # norm of the longest row
    biased: bool  # whether the constants differ: the length of n matters

    def exact(self, rows: np.ndarray | int) -> np.ndarray:
        """weight * gain [..., D] of rows in float64, which two 24-bit numbers multiply exactly."""
        return self.weight[rows].astype(np.float64) * self.layer.gain


def lowest_equal(matrix: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Of each row of a matrix [V, D] with a bias [V]: the lowest id [V] whose row equals it."""
    first: dict[bytes, int] = {}
    lowest = np.empty(len(matrix), int)
    for start in range(0, len(matrix), ROW_BLOCK):
        stop = start + ROW_BLOCK
        block = matrix[start:stop] + matrix.dtype.type(0)  # -0 becomes 0
        for id, (row, added) in enumerate(zip(block, bias[start:stop] + 0.0, strict=True), start):
            digest = hashlib.blake2b(row.tobytes() + added.tobytes(), digest_size=16).digest()
            lowest[id] = first.setdefault(digest, id)
    return lowest


def distinct_rows(layer: OutputLayer) -> tuple[Rows, list[Duplicate]]:
    """The rows of a head without those that equal an earlier one, and the latter."""
    lowest = lowest_equal(layer.weight, layer.bias)
    ids = np.flatnonzero(lowest == np.arange(len(lowest)))
    repeated = np.flatnonzero(lowest < np.arange(len(lowest)))
    duplicates = [Duplicate(int(id), int(lowest[id])) for id in repeated]
    weight = layer.weight[ids] if duplicates else layer.weight
    constants, longest = np.empty(len(ids)), 0.0
    for start in range(0, len(ids), ROW_BLOCK):
        block = weight[start : start + ROW_BLOCK].astype(np.float64)
        constants[start : start + ROW_BLOCK] = block @ layer.shift
        longest = max(longest, float(np.linalg.norm(block, axis=1).max()))
    constants += layer.bias[ids]
    biased = bool((layer.shift != 0).any() or (layer.bias != layer.bias[0]).any())
    return Rows(layer, ids, weight, constants, longest, biased), duplicates


def logits(rows: Rows, hidden: np.ndarray) -> np.ndarray:
    """float32 logits [B, U] of hidden states [B, D]."""
    out = np.empty((len(hidden), len(rows.ids)), np.float32)
    hidden = hidden.astype(np.float32)
    for start in range(0, len(rows.ids), ROW_BLOCK):
        block = rows.weight[start : start + ROW_BLOCK].astype(np.float32, copy=False)
        np.matmul(hidden, block.T, out=out[:, start : start + ROW_BLOCK])
    bias = rows.layer.bias[rows.ids]
    return out + bias.astype(np.float32) if bias.any() else out


def win(rows: Rows, tokens: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether it is proven that the rows `tokens` [B] have the largest logits after the residual
    streams x [B, D], and the strongest rival [B] of each. float32 decides where the margin is
    larger than its rounding; rivals nearer than that are compared in float64. A state so small that
    the norm's eps makes n shorter proves nothing."""
    layer = rows.layer
    n = normalized(layer, x)
    full = np.linalg.norm(n, axis=1) > (1 - SHORTER) * min(layer.radius, layer.width**0.5)
    scaled = n * layer.gain
    hidden = scaled + layer.shift
    size = np.linalg.norm(np.abs(scaled) + np.abs(layer.shift), axis=1)  # [B]
    largest_bias = float(np.abs(layer.bias).max())
    bound = SAFETY * (layer.width + 4) * (rows.longest * size + largest_bias)  # in roundings
    scores = logits(rows, hidden)
    at = np.arange(len(tokens))
    own = scores[at, tokens].copy()
    scores[at, tokens] = -np.inf
    rivals = scores.argmax(axis=1)
    lead = own - scores[at, rivals]
    proven = lead > 2 * U32 * bound
    for index in np.flatnonzero(~proven & (lead > -2 * U32 * bound)):
        near = np.flatnonzero(scores[index] >= own[index] - 2 * U32 * bound[index])
        if len(near) <= MAX_NEAR:
            both = rows.weight[np.append(near, tokens[index])].astype(np.float64)
            exact = both @ hidden[index] + layer.bias[rows.ids[np.append(near, tokens[index])]]
            proven[index] = (exact[-1] - exact[:-1]).min() > 2 * U64 * bound[index]
            rivals[index] = near[exact[:-1].argmax()]
    return proven & full, rivals


def combination(rows: Rows, token: int, support: np.ndarray, shares: np.ndarray) -> bool:
    """Whether it is proven that an average of the rows `support` is never below the row `token`.
    Where the constants differ, `shares` prove it: the mean lead of `token` is v.n + c, at most
    radius * |v| + c. Else exact shares near the given ones must exist, see `_inside`."""
    if not rows.biased:
        return _inside(rows, token, support)
    layer = rows.layer
    if not np.isfinite(layer.radius):
        return False
    own, others = rows.exact(token), rows.exact(support)
    lead = project(layer, shares @ (own - others))
    constant = shares @ (rows.constants[token] - rows.constants[support])
    longest = float(np.linalg.norm(np.abs(layer.gain)))
    size = 2 * rows.longest * (np.linalg.norm(layer.shift) + layer.radius * longest)
    size += 2 * float(np.abs(layer.bias).max())
    rounding = SAFETY * (layer.width + len(support) + 4) * U64 * size
    return bool(layer.radius * np.linalg.norm(lead) + constant + rounding < 0)


def _inside(rows: Rows, token: int, support: np.ndarray) -> bool:
    """Whether the row `token` is proven to be an average with positive weights of the rows
    `support`, the corners of a simplex. The weights solve a square system; that its exact solution
    is within `error` of the computed one follows from an approximate inverse (Rump, Verification
    methods, Acta Numerica 2010)."""
    used = rows.layer.gain != 0
    columns = np.vstack([rows.exact(support)[:, used].T, np.ones(len(support))])
    if rows.layer.norm == "layer" and used.all():  # n has mean 0: a multiple of 1 adds nothing
        ones = np.append(np.ones(used.sum()), 0.0)
        columns = np.column_stack([columns, ones])
    size = len(columns)
    if columns.shape[1] != size:
        return False
    target = np.append(rows.exact(token)[used], 1.0)
    try:
        inverse = np.linalg.inv(columns)
    except np.linalg.LinAlgError:
        return False
    shares = inverse @ target
    rounding = SAFETY * (size + 4) * U64
    defect = np.abs(np.eye(size) - inverse @ columns)
    defect += rounding * (np.abs(inverse) @ np.abs(columns))
    contraction = defect.sum(axis=1).max()
    if not contraction < 0.5:
        return False
    residual = np.abs(target - columns @ shares)
    residual += rounding * (np.abs(columns) @ np.abs(shares) + np.abs(target))
    error = (np.abs(inverse) @ residual).max() / (1 - contraction) * (1 + rounding)
    return bool((shares[: len(support)] > error).all())
