"""Which tokens can have the largest logit (Grivas et al., Low-Rank Softmax Can Have Unargmaxable
Classes in Theory but Rarely in Practice, ACL 2022). A few directions prove most tokens possible; an
ascent corrects those that fail; a linear program on the rivals met so far decides the rest.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gentool.inspection.output_layer import OutputLayer, project
from gentool.inspection.proofs import (
    Combination,
    Duplicate,
    Proof,
    Rows,
    Witness,
    combination,
    distinct_rows,
    logits,
    win,
)

BLOCK_LOGITS = 1 << 24  # logits computed at a time
SAMPLED_ROWS = 1 << 15  # of a covariance
CUTOFF = 1e-10  # of eigenvalues, of the largest
LARGE = 1e3  # times the normalised state: beside it a norm's eps is nothing
ASCENT_STEPS = 100
BALL_STEPS = 300
BISECTIONS = 40
ADDED = 64  # rivals that a linear program gets after each solution
MAX_ROUNDS = 200  # of a linear program
ZERO = 1e-7  # HiGHS' own tolerance

Show = Callable[[int, int, float, str], None]


class _Geometry(NamedTuple):
    """Mean and square root of the pseudo-inverse covariance of the rows [U, D] times gain, in the
    space of the normalised state."""

    mean: np.ndarray  # [D]
    root: np.ndarray  # [D, D]


class Reachable(NamedTuple):
    """How many tokens are possible, why others are not, and which are undecided; by id."""

    possible: int
    impossible: tuple[Combination | Duplicate, ...]
    unknown: tuple[int, ...]


def sorted_out(proofs: Iterable[Proof], n_vocab: int) -> Reachable:
    """The verdicts of proofs about the tokens below `n_vocab`."""
    possible, impossible = set[int](), list[Combination | Duplicate]()
    for proof in proofs:
        if isinstance(proof, Witness):
            possible.add(proof.token)
        else:
            impossible.append(proof)
    decided = possible | {proof.token for proof in impossible}
    unknown = tuple(token for token in range(n_vocab) if token not in decided)
    return Reachable(len(possible), tuple(sorted(impossible, key=lambda p: p.token)), unknown)


def has_scipy() -> bool:
    """Whether linear programs can be solved."""
    return importlib.util.find_spec("scipy") is not None


def proofs(layer: OutputLayer, seconds: float, show: Show) -> Iterator[Proof]:
    """A proof for each token that is decided within `seconds`; the others are unknown. `show` gets
    the tokens decided, all tokens, the seconds left and what is done. Without scipy there are no
    linear programs."""
    deadline = time.monotonic() + seconds
    total = len(layer.weight)
    rows, duplicates = distinct_rows(layer)
    yield from duplicates
    geometry = _geometry(rows)
    block = max(1, min(len(rows.ids), BLOCK_LOGITS // len(rows.ids)))
    done, undecided = len(duplicates), list[int]()
    for start in range(0, len(rows.ids), block):
        if time.monotonic() > deadline:
            return
        tokens = np.arange(start, min(start + block, len(rows.ids)))
        for directions in (_whitened, _centred, _own):
            x = _states(layer, directions(rows, geometry, tokens))
            proven, _ = win(rows, tokens, x)
            for index in np.flatnonzero(proven):
                yield Witness(int(rows.ids[tokens[index]]), x[index])
            done += int(proven.sum())
            tokens = tokens[~proven]
            if not len(tokens):
                break
        undecided += tokens.tolist()
        show(done, total, max(0.0, deadline - time.monotonic()), "directions")
    for start in range(0, len(undecided), block):
        tokens = np.array(undecided[start : start + block])
        rivals: dict[int, list[int]] = {token: [] for token in tokens.tolist()}
        for ascent in (_ascent, _ascent_in_ball) if rows.biased else (_ascent,):
            for token, proof in ascent(rows, geometry, np.array([*rivals]), rivals, deadline):
                done += 1
                del rivals[token]
                yield proof
            show(done, total, max(0.0, deadline - time.monotonic()), "ascent")
        for token, met in rivals.items() if has_scipy() else ():
            if time.monotonic() > deadline:
                return
            decided = _program(rows, token, met, deadline)
            if decided:
                done += 1
                yield decided
            show(done, total, max(0.0, deadline - time.monotonic()), "linear programs")


def _geometry(rows: Rows) -> _Geometry:
    """Of every row, or of SAMPLED_ROWS evenly spread ones."""
    step = -(-len(rows.ids) // SAMPLED_ROWS)
    sample = project(rows.layer, rows.exact(np.arange(0, len(rows.ids), step)))
    mean = sample.mean(axis=0)
    sample -= mean
    values, vectors = np.linalg.eigh(sample.T @ sample / len(sample))
    kept = values > max(CUTOFF * values[-1], 0)
    root = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    return _Geometry(mean, root)


def _whitened(rows: Rows, geometry: _Geometry, tokens: np.ndarray) -> np.ndarray:
    """Of tokens [B]: the directions [B, D] in which their rows are far out of all rows' cloud."""
    return (rows.exact(tokens) - geometry.mean) @ geometry.root @ geometry.root


def _centred(rows: Rows, geometry: _Geometry, tokens: np.ndarray) -> np.ndarray:
    """Of tokens [B]: their rows less the mean row [B, D]."""
    return rows.exact(tokens) - geometry.mean


def _own(rows: Rows, geometry: _Geometry, tokens: np.ndarray) -> np.ndarray:
    """Of tokens [B]: their rows [B, D]."""
    return rows.exact(tokens)


def _states(layer: OutputLayer, directions: np.ndarray) -> np.ndarray:
    """Residual streams [B, D] that are normalised to `directions`."""
    directions = project(layer, directions)
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    length[length == 0] = 1
    return directions * (LARGE * layer.width**0.5 / length)


def _ascent(
    rows: Rows,
    geometry: _Geometry,
    tokens: np.ndarray,
    rivals: dict[int, list[int]],
    deadline: float,
) -> Iterator[tuple[int, Proof]]:
    """Witnesses of the rows `tokens` [B]; the others meet their strongest `rivals`. Gilbert (1966)
    steps to the point nearest 0 in the hull of a row's leads over its rivals, here whitened."""
    nearest = (rows.exact(tokens) - geometry.mean) @ geometry.root  # [B, D]
    for _ in range(ASCENT_STEPS):
        x = _states(rows.layer, nearest @ geometry.root)
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


def _ascent_in_ball(
    rows: Rows,
    geometry: _Geometry,
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
    average, constant = _leads(rows, tokens, first)
    path = [(tokens, first, np.ones(len(tokens)))]
    for _ in range(BALL_STEPS):
        x = _states(layer, average)
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
        lead, added = _leads(rows, tokens, strongest)
        share = _best_share(layer.radius, average, lead - average, added - constant)
        average = average + share[:, None] * (lead - average)
        constant = constant + share * (added - constant)
        path.append((tokens, strongest, share))


def _leads(rows: Rows, tokens: np.ndarray, rivals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """v [B, D] and c [B] of the leads v.n + c of tokens over rivals."""
    lead = project(rows.layer, rows.exact(tokens) - rows.exact(rivals))
    return lead, rows.constants[tokens] - rows.constants[rivals]


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


def _program(rows: Rows, token: int, met: list[int], deadline: float) -> Proof | None:
    """A proof for one row from linear programs on its rivals, more of them each time; None where
    rounding, the length of n or the time leaves it undecided."""
    layer, id = rows.layer, int(rows.ids[token])
    rivals, tangents = list(dict.fromkeys(met)), np.empty((0, layer.width))
    for _ in range(MAX_ROUNDS):
        left = deadline - time.monotonic()
        solution = _largest_lead(rows, token, rivals, tangents, left) if left > 0 else None
        if solution is None:
            return None
        x = _states(layer, solution.direction[None])
        proven, _ = win(rows, np.array([token]), x)
        if proven[0]:
            return Witness(id, x[0])
        used = solution.shares > ZERO * solution.shares.max()
        support, shares = np.array(rivals)[used], solution.shares[used]
        if solution.lead <= ZERO and combination(rows, token, support, shares):
            return Combination(id, rows.ids[support], shares)
        scores = _scores(rows, x[0])
        stronger = np.flatnonzero(scores >= scores[token])
        stronger = np.setdiff1d(stronger, [token, *rivals])
        length = float(np.linalg.norm(solution.direction))
        outside = rows.biased and length > 1 + ZERO
        if outside:
            tangents = np.vstack([tangents, solution.direction / length])
        if not len(stronger) and not outside:
            return None
        rivals += stronger[np.argsort(-scores[stronger])[:ADDED]].tolist()
    return None


def _scores(rows: Rows, x: np.ndarray) -> np.ndarray:
    """float32 logits [U] after a residual stream x [D] of `_states`."""
    n = x / LARGE
    return logits(rows, (n * rows.layer.gain + rows.layer.shift)[None])[0]


class _Solution(NamedTuple):
    direction: np.ndarray  # [D] of n
    lead: float
    shares: np.ndarray  # of the rivals, of sum 1: the average that bounds the lead


def _largest_lead(
    rows: Rows, token: int, rivals: list[int], tangents: np.ndarray, seconds: float
) -> _Solution | None:
    """The n, in units of its length, at which the smallest lead of a row over `rivals` is largest;
    None without a solution in time. n is in a cube around all that it can be, and on this side of
    the planes `tangents` [M, D] to the sphere. Leads are in units of what they can be at most."""
    from scipy.optimize import linprog

    width, radius = rows.layer.width, rows.layer.radius
    radius = radius if np.isfinite(radius) else 1.0
    leads, constants = _leads(rows, np.full(len(rivals), token), np.array(rivals))
    units = radius * np.linalg.norm(leads, axis=1)
    units[units == 0] = 1
    above = np.column_stack([leads * (-radius / units[:, None]), np.ones(len(rivals))])
    inside = np.column_stack([tangents, np.zeros(len(tangents))])
    result: Any = linprog(
        np.append(np.zeros(width), -1.0),
        A_ub=np.vstack([above, inside]),
        b_ub=np.append(constants / units, np.ones(len(tangents))),
        bounds=[(-1, 1)] * width + [(None, None)],
        method="highs-ds",
        options={"time_limit": seconds},
    )
    if result.status != 0:
        return None
    weights = np.maximum(-result.ineqlin.marginals[: len(rivals)], 0) / units
    if not weights.sum() > 0:
        return None
    direction = project(rows.layer, result.x[:width])
    return _Solution(direction, float(result.x[width]), weights / weights.sum())
