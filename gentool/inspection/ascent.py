"""Ascents: the direction of a token is corrected by its strongest rival, again and again, for many
tokens at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from gentool.inspection.directions import Geometry, leads_over, states
from gentool.inspection.proofs import Combination, Proof, Rows, Witness, combination, win

STEPS = 100
BALL_STEPS = 60
BISECTIONS = 40


def ascent(
    rows: Rows,
    geometry: Geometry,
    tokens: np.ndarray,
    rivals: dict[int, list[int]],
    deadline: float,
) -> Iterator[tuple[int, Proof]]:
    """Witnesses of the rows `tokens` [B]; the others meet their strongest `rivals`. Gilbert (1966)
    steps to the point nearest 0 in the hull of a row's leads over its rivals, here whitened."""
    nearest = (rows.exact(tokens) - geometry.mean) @ geometry.root  # [B, D]
    for _ in range(STEPS):
        x = states(rows.layer, nearest @ geometry.root)
        proven, strongest = win(rows, tokens, x)
        for index in np.flatnonzero(proven):
            yield int(tokens[index]), Witness(int(rows.ids[tokens[index]]), x[index])
        tokens, nearest, strongest = tokens[~proven], nearest[~proven], strongest[~proven]
        if not len(tokens) or time.monotonic() > deadline:
            return
        for token, rival in zip(tokens.tolist(), strongest.tolist(), strict=True):
            rivals[token].append(rival)
        step = (rows.exact(tokens) - rows.exact(strongest)) @ geometry.root - nearest
        square = np.square(step).sum(axis=1)
        square[square == 0] = 1
        share = np.clip(-(nearest * step).sum(axis=1) / square, 0, 1)
        nearest = nearest + share[:, None] * step


def ascent_in_ball(
    rows: Rows,
    geometry: Geometry,
    tokens: np.ndarray,
    rivals: dict[int, list[int]],
    deadline: float,
) -> Iterator[tuple[int, Proof]]:
    """Proofs for the rows `tokens` [B] of a head with constants. An average v.n + c of leads over
    rivals is at most radius * |v| + c. Each step (Frank & Wolfe 1956) makes that bound as small as
    a share of the lead over the strongest rival, at n = radius * v / |v|, can make it."""
    layer = rows.layer
    if not (np.isfinite(layer.radius) and len(tokens)):
        return
    first = np.array([rivals[token][-1] for token in tokens.tolist()])
    average, constant = leads_over(rows, tokens, first)
    path = [(tokens, first, np.ones(len(tokens)))]
    for _ in range(BALL_STEPS):
        x = states(layer, average)
        proven, strongest = win(rows, tokens, x)
        for index in np.flatnonzero(proven):
            yield int(tokens[index]), Witness(int(rows.ids[tokens[index]]), x[index])
        impossible = layer.radius * np.linalg.norm(average, axis=1) + constant < 0
        for index in np.flatnonzero(impossible & ~proven):
            token = int(tokens[index])
            support, shares = _shares(path, token)
            proven[index] = combination(rows, token, support, shares)
            if proven[index]:
                yield token, Combination(int(rows.ids[token]), rows.ids[support], shares)
        open_ = ~proven
        tokens, strongest, average, constant = (
            array[open_] for array in (tokens, strongest, average, constant)
        )
        if not len(tokens) or time.monotonic() > deadline:
            return
        for token, rival in zip(tokens.tolist(), strongest.tolist(), strict=True):
            rivals[token].append(rival)
        lead, added = leads_over(rows, tokens, strongest)
        share = _best_share(layer.radius, average, lead - average, added - constant)
        average = average + share[:, None] * (lead - average)
        constant = constant + share * (added - constant)
        path.append((tokens, strongest, share))


def _best_share(
    radius: float, average: np.ndarray, step: np.ndarray, slope: np.ndarray
) -> np.ndarray:
    """The share s [B] in [0, 1] with the smallest radius * |average + s * step| + s * slope, by
    bisection of its derivative."""
    square = np.square(step).sum(axis=1)
    inner = (average * step).sum(axis=1)
    start = np.square(average).sum(axis=1)
    low, high = np.zeros(len(step)), np.ones(len(step))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        length = np.sqrt(np.maximum(start + middle * (2 * inner + middle * square), 1e-300))
        rises = radius * (inner + middle * square) / length + slope > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return (low + high) / 2


def _shares(
    path: list[tuple[np.ndarray, np.ndarray, np.ndarray]], token: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rivals of a token and their shares, after all steps of its ascent."""
    total: dict[int, float] = {}
    for tokens, rivals, shares in path:
        index = int(np.searchsorted(tokens, token))
        share = float(shares[index])
        total = {rival: (1 - share) * old for rival, old in total.items()}
        rival = int(rivals[index])
        total[rival] = total.get(rival, 0.0) + share
    return np.array([*total]), np.array([*total.values()])
