"""The linear program of one token: is there a state at which it leads all others? Only rivals that
were met are its constraints; what it finds is checked against all rows, and the stronger ones are
added. Least squares decide it fast; where the length of the state matters, HiGHS may have to.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from gentool.inspection.directions import LARGE, Geometry, leads_over, states
from gentool.inspection.output_layer import project
from gentool.inspection.proofs import Combination, Proof, Rows, Witness, combination, logits, win

MIN_ADDED = 64  # rivals that are added at a time, or D
MAX_ROUNDS = 200
ZERO = 1e-7  # HiGHS' own tolerance, of leads in units of what they can be at most
OUTWARD = 16  # directions in which states of another length are looked for
BELOW = 1e-3  # how far below 0 the constant of an average is to be, in deviations of constants
RESIDUAL = 1e-9  # of a point of length 1 that is in a hull


def decide(
    rows: Rows, geometry: Geometry, token: int, met: list[int], deadline: float
) -> Proof | None:
    """A proof for the row `token`, whose rivals `met` are known; None where rounding, the length of
    n or the time leaves it undecided."""
    rivals, id, scale = list(dict.fromkeys(met)), int(rows.ids[token]), rows.layer.width**0.5
    for _ in range(MAX_ROUNDS):
        if time.monotonic() > deadline:
            return None
        nearest = _nearest(rows, geometry, token, rivals, scale)
        if nearest is None:
            return None
        if nearest.residual <= RESIDUAL * scale:
            support = np.array(rivals)[nearest.shares > 0]
            shares = nearest.shares[nearest.shares > 0]
            proven = combination(rows, token, support, shares)
            return Combination(id, rows.ids[support], shares) if proven else None
        x = states(rows.layer, nearest.direction[None])
        if win(rows, np.array([token]), x)[0][0]:
            return Witness(id, x[0])
        added = _stronger(rows, token, rivals, x[0] / LARGE)
        if nearest.n is not None:
            added += _stronger(rows, token, [*rivals, *added], nearest.n)
        if not added:
            return _in_ball(rows, token, rivals, deadline) if rows.biased else None
        rivals += added
    return None


class _Nearest(NamedTuple):
    """The point of a hull of leads that is nearest to 0: the rivals' shares of it, its distance,
    its direction [D], and, where constants count, a state n [D] of any length."""

    shares: np.ndarray
    residual: float
    direction: np.ndarray
    n: np.ndarray | None


def _nearest(
    rows: Rows, geometry: Geometry, token: int, rivals: list[int], scale: float
) -> _Nearest | None:
    """By non-negative least squares (Lawson & Hanson 1974): either an average of the leads of a row
    over `rivals` is 0, its constant at most 0, or the shortest way from 0 to the leads is a
    direction in which it leads them all. None where the iterations did not end. The leads are
    whitened, their constants are in units of their deviation."""
    from scipy.optimize import nnls

    leads, constants = leads_over(rows, np.full(len(rivals), token), np.array(rivals))
    columns = np.vstack([(leads @ geometry.root).T, np.full(len(rivals), scale)])
    target = np.append(np.zeros(rows.layer.width), scale)
    unit = float(rows.constants.std()) or 1.0
    if rows.biased:
        columns = np.vstack([columns, constants / unit])
        slack = np.append(np.zeros(len(columns) - 1), 1.0)  # the constant may be below its target
        columns, target = np.column_stack([columns, slack]), np.append(target, -BELOW)
    try:
        shares, residual = nnls(columns, target)
    except RuntimeError:
        return None
    way = columns @ shares - target
    direction = geometry.root @ way[: rows.layer.width]
    n = None
    if rows.biased and way[-1] > 0:
        n = direction / (way[-1] / unit)
    return _Nearest(shares[: len(rivals)], float(residual), direction, n)


def _stronger(rows: Rows, token: int, rivals: list[int], n: np.ndarray) -> list[int]:
    """The strongest rows but `rivals` that the row `token` does not lead at n [D]."""
    scores = logits(rows, (n * rows.layer.gain + rows.layer.shift)[None])[0]
    stronger = np.flatnonzero(scores >= scores[token])
    stronger = np.setdiff1d(stronger, [token, *rivals])
    order = np.argsort(-scores[stronger], kind="stable")
    strongest: list[int] = stronger[order[: max(MIN_ADDED, rows.layer.width)]].tolist()
    return strongest


def _in_ball(rows: Rows, token: int, rivals: list[int], deadline: float) -> Proof | None:
    """With constants the length of n counts, which is on a sphere: the program has the cube around
    it, cut off by tangents. A state inside the sphere and one outside it, at both of which the row
    leads, have one on the sphere between them. Where all are inside, others are looked for far out
    in a few directions."""
    layer, id = rows.layer, int(rows.ids[token])
    if not np.isfinite(layer.radius):
        return None
    outer, outward = list[np.ndarray](), list[np.ndarray]()
    inner: _Solution | None = None
    for _ in range(MAX_ROUNDS):
        left = deadline - time.monotonic()
        if left <= 0 or (inner is not None and not outward):
            return None
        away = None if inner is None else (outward[-1], 10 * ZERO)
        solution = _largest_lead(rows, token, rivals, outer, away, left)
        if solution is None:
            return None
        if solution.lead <= ZERO:
            support = np.array(rivals)[solution.shares > 0]
            shares = solution.shares[solution.shares > 0]
            proven = combination(rows, token, support, shares)
            return Combination(id, rows.ids[support], shares) if proven else None
        n = solution.n
        tried = [n] if inner is None else [_crossing(inner.n, n)]
        added = _stronger(rows, token, rivals, n * layer.radius)
        rivals = rivals + added
        if inner is None and not added:  # n is a state that it leads at, of some length
            if np.linalg.norm(n) > 1:
                outer.append(n)
            else:
                inner, outward = solution, _outward(n)
                tried += [_crossing(n, far) for far in outer]
        elif not added:
            outward.pop()
        x = states(layer, np.array(tried))
        wins, _ = win(rows, np.full(len(tried), token), x)
        if wins.any():
            return Witness(id, x[wins.argmax()])
    return None


def _outward(n: np.ndarray) -> list[np.ndarray]:
    """Directions to look for states of another length in, that of n last."""
    random = np.random.default_rng(0).normal(size=(OUTWARD, len(n)))
    return [*random, n]


def _crossing(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Where the line from `inner`, of a length below 1, to `outer` has length 1; `outer` if it ends
    before."""
    step = outer - inner
    square, product = step @ step, inner @ step
    if outer @ outer <= 1 or square == 0:
        return outer
    share = (np.sqrt(product**2 + square * (1 - inner @ inner)) - product) / square
    return inner + share * step


class _Solution(NamedTuple):
    n: np.ndarray  # [D] in units of its length
    lead: float
    shares: np.ndarray  # of the rivals, of sum 1: the average that bounds the lead


def _largest_lead(
    rows: Rows,
    token: int,
    rivals: list[int],
    outer: list[np.ndarray],
    away: tuple[np.ndarray, float] | None,
    seconds: float,
) -> _Solution | None:
    """The n, in units of its length, at which the smallest lead of a row over `rivals` is largest;
    None without a solution in time. n is in a cube around all that it can be, cut off where the
    sphere is between it and `outer`. With `away`: the n farthest out in that direction with at
    least that lead, nothing cut off. Leads are in units of what they can be at most."""
    from scipy.optimize import linprog

    width, radius = rows.layer.width, rows.layer.radius
    leads, constants = leads_over(rows, np.full(len(rivals), token), np.array(rivals))
    units = radius * np.linalg.norm(leads, axis=1)
    units[units == 0] = 1
    above = np.column_stack([leads * (-radius / units[:, None]), np.ones(len(rivals))])
    inside = np.zeros((len(outer), width + 1))
    for plane, n in zip(inside, outer, strict=True):
        plane[:width] = n / np.linalg.norm(n)
    objective, least = np.append(np.zeros(width), -1.0), -np.inf
    if away:
        objective, least = np.append(-away[0], 0.0), away[1]
        inside = inside[:0]
    result: Any = linprog(
        objective,
        A_ub=np.vstack([above, inside]),
        b_ub=np.append(constants / units, np.ones(len(inside))),
        bounds=[(-1, 1)] * width + [(least, None)],
        method="highs-ds",
        options={"time_limit": seconds},
    )
    if result.status != 0:
        return None
    weights = np.maximum(-result.ineqlin.marginals[: len(rivals)], 0) / units
    weights /= weights.sum() or 1.0
    return _Solution(project(rows.layer, result.x[:width]), float(result.x[width]), weights)
