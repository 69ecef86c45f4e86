"""The samples of a vote as a tree: those with the same tokens so far are one node, computed once,
whose distribution each of them inverts with its own number. So the texts are those of independent
rows, and `extend` computes the distinct unfinished prefixes and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.beam import Adjust, Ends, Stops
from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.filters import Law, weights
from gentool.decoding.sampling import Points, normalized, numbers

Ids = tuple[int, ...]


class Root(NamedTuple):
    """A prompt that was computed: its cells, the logits [V] after it, the first key of its random
    numbers; what filters and restrictions make of logits after it, which texts are over, and how
    many tokens one may have."""

    prefix: Prefix
    logits: np.ndarray
    row: int
    adjust: Adjust
    stops: Stops
    most: int


class How(NamedTuple):
    """How texts are drawn or found: the law; end tokens, forbidden in the first `least` tokens;
    `room`, the most tokens any prompt could have after it."""

    law: Law
    end: Ends
    least: int
    room: int
    batch_invariant: bool = False


class Leaf(NamedTuple):
    """A text that is over, or that was cut off at its most tokens: then it is not `finished`. Its
    probability under the law, its natural log-probability under the model itself, and the samples
    that drew it."""

    root: int
    ids: Ids
    finished: bool
    mass: float
    logprob: float
    samples: tuple[int, ...] = ()


class Level(NamedTuple):
    """What a step found. Of each root `rows` unfinished samples go on, as `nodes` distinct
    prefixes, which are computed next if the root is not closed."""

    leaves: list[Leaf]
    rows: np.ndarray  # [R]
    nodes: np.ndarray  # [R]


class _Node(NamedTuple):
    """An unfinished prefix, and which of all samples are there."""

    root: int
    ids: Ids
    which: np.ndarray
    mass: float
    logprob: float


def sample(
    engine: Engine,
    roots: Sequence[Root],
    samples: range,
    how: How,
    seed: int,
    strata: int,
    closed: set[int],
    given: Sequence[Ids] = (),
) -> Iterator[Level]:
    """Yields level by level what the `samples` of each root say. Between two levels the caller adds
    to `closed` the roots it has seen enough of. Where tokens are `given`, for each sample, it
    begins with them, and its leaf has the mass of what comes after; none may begin another."""
    count = len(samples)
    keys = np.array([(root.row, sample) for root in roots for sample in samples]).T
    points = Points(seed, keys[0], keys[1], strata)
    nodes = [
        _Node(index, (), index * count + np.arange(count), 1.0, 0.0) for index in range(len(roots))
    ]
    logits = np.stack([root.logits for root in roots])  # [nodes, V]
    tail = None
    while True:
        leaves: list[Leaf] = []
        below: list[_Node] = []
        parents: list[int] = []
        for place, node in enumerate(nodes):
            if node.root in closed:
                continue
            root = roots[node.root]
            for child in _children(node, logits[place], root, how, points, count, given):
                ended = child.ids[-1] in how.end or root.stops(child.ids)
                if not ended and len(child.ids) < root.most:
                    below.append(child)
                    parents.append(place)
                    continue
                drew = tuple(int(keys[1][i]) for i in child.which)
                leaves.append(Leaf(child.root, child.ids, ended, child.mass, child.logprob, drew))
        rows, distinct = np.zeros((2, len(roots)), int)
        for node in below:
            rows[node.root] += len(node.which)
            distinct[node.root] += 1
        yield Level(leaves, rows, distinct)
        kept = [place for place, node in enumerate(below) if node.root not in closed]
        if not kept:
            return
        nodes = [below[place] for place in kept]
        tail, out = engine.extend(
            [root.prefix for root in roots],
            tail,
            [node.root for node in nodes],
            [parents[place] for place in kept],
            np.array([node.ids[-1:] for node in nodes]),
            room=how.room,
            batch_invariant=how.batch_invariant,
        )
        logits = out[:, 0]


def _children(
    node: _Node,
    logits: np.ndarray,
    root: Root,
    how: How,
    points: Points,
    count: int,
    given: Sequence[Ids],
) -> Iterator[_Node]:
    """The node's samples parted by the token each draws, in order of ids."""
    step = len(node.ids)
    cumulated = np.cumsum(distribution(logits, root, node.ids, how))
    own = normalized(logits)
    u = points.at(node.which, np.full(len(node.which), step))
    drawn = np.searchsorted(cumulated, u * cumulated[-1], side="right")
    for place, which in enumerate(node.which):
        if given and step < len(given[which % count]):
            drawn[place] = given[which % count][step]
    low = np.where(drawn > 0, cumulated[drawn - 1], 0.0) / cumulated[-1]
    high = cumulated[drawn] / cumulated[-1]
    points.spread(node.which, low, high)
    for id in np.unique(drawn):
        mine = np.flatnonzero(drawn == id)
        forced = bool(given) and step < len(given[node.which[mine[0]] % count])
        mass = node.mass if forced else node.mass * float(high[mine[0]] - low[mine[0]])
        ids = (*node.ids, int(id))
        yield _Node(node.root, ids, node.which[mine], mass, node.logprob + float(own[id]))


def distribution(logits: np.ndarray, root: Root, ids: Ids, how: How) -> np.ndarray:
    """The weights [V] of the tokens after `ids`, under the law, of the model's logits [V]."""
    own = numbers(logits[None]).astype(np.float64)  # which may be changed in place
    allowed = root.adjust(own, [0], [ids])[0]
    if len(ids) < how.least and how.end:
        held = allowed.copy()
        held[sorted(how.end)] = -np.inf
        # a text that is whole has to end, however short it is
        allowed = held if held.max() > -np.inf else allowed
    if how.law.temperature == 0:
        return np.eye(1, len(allowed), int(allowed.argmax()))[0]
    return weights(allowed, how.law)
