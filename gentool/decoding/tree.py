"""The samples of a vote as a tree: those with the same tokens so far are one node, computed once,
whose distribution each of them inverts with its own number. So the texts are those of independent
rows, and `extend` computes the distinct unfinished prefixes and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.beam import Adjust, Ends, Stops
from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.filters import Law, weights
from gentool.decoding.sampling import Points, finite

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
    max_new_tokens: int


class TreeOptions(NamedTuple):
    """How texts are drawn or found: the sampling distribution; end tokens, forbidden in the first
    `min_new_tokens`; `max_new_tokens`, the most that any prompt allows."""

    law: Law
    end: Ends
    min_new_tokens: int
    max_new_tokens: int


class Begun(NamedTuple):
    """What is settled before samples are drawn: the tokens each begins with, and which tokens it
    cannot go on with after just these."""

    given: Sequence[Ids] = ()
    barred: Mapping[Ids, np.ndarray] = {}


class Leaf(NamedTuple):
    """A text that is over; or that was cut off at its most tokens, or that nothing may follow:
    then it is not `finished`. Its probability under the law, and the samples that drew it. Of
    samples that were begun it is that of what was drawn."""

    root: int
    ids: Ids
    finished: bool
    mass: float
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


def sample(
    engine: Engine,
    roots: Sequence[Root],
    samples: range,
    options: TreeOptions,
    seed: int,
    strata: int = 0,
    closed: set[int] | None = None,
    begun: Begun | None = None,
) -> Iterator[Level]:
    """Yields level by level what the `samples` of each root say. Between two levels the caller may
    add to `closed` the roots it has seen enough of. One root alone can be `begun`."""
    count, closed = len(samples), set() if closed is None else closed
    index = np.array(list(samples))
    rows = np.repeat(np.array([root.row for root in roots]), count)
    points = Points(seed, strata)
    points.add(rows, np.tile(index, len(roots)))
    nodes = [_Node(r, (), r * count + np.arange(count), 1.0) for r in range(len(roots))]
    logits = np.stack([root.logits for root in roots])  # [nodes, V]
    cache = None
    while True:
        leaves: list[Leaf] = []
        below: list[tuple[int, _Node]] = []  # place of its parent, node
        for place, node, u in _going(nodes, points, closed):
            root, drawn = roots[node.root], list[_Node]()
            w = distribution(logits[place], root, node.ids, options)
            if not w.any():
                leaves.append(_leaf(node, False, index))
                continue
            drawn = _parted(node, w, u, points, begun)
            for child in drawn:
                ended = child.ids[-1] in options.end or root.stops(child.ids)
                if ended or len(child.ids) >= root.max_new_tokens:
                    leaves.append(_leaf(child, ended, index))
                else:
                    below.append((place, child))
        yield _level(leaves, [node for _, node in below], len(roots))
        below = [(place, node) for place, node in below if node.root not in closed]
        if not below:
            return
        nodes = [node for _, node in below]
        cache, out = engine.extend(
            [root.prefix for root in roots],
            cache,
            [node.root for node in nodes],
            [place for place, _ in below],
            np.array([node.ids[-1:] for node in nodes]),
            max_new_tokens=options.max_new_tokens,
        )
        logits = out[:, 0]


def _going(
    nodes: list[_Node], points: Points, closed: set[int]
) -> Iterator[tuple[int, _Node, np.ndarray]]:
    """The nodes of a level that are still wanted, with the numbers their samples draw by."""
    which = np.concatenate([node.which for node in nodes])
    u = points.at(which, np.full(len(which), len(nodes[0].ids)))
    ends = np.cumsum([len(node.which) for node in nodes])
    for place, (node, end) in enumerate(zip(nodes, ends, strict=True)):
        if node.root not in closed:
            yield place, node, u[end - len(node.which) : end]


def _parted(
    node: _Node, w: np.ndarray, u: np.ndarray, points: Points, begun: Begun | None
) -> list[_Node]:
    """The node's samples by the token of weights w [V] that each draws, in order of ids."""
    told = _told(node, begun) if begun else np.full(len(u), -1)
    if begun and node.ids in begun.barred:
        w[begun.barred[node.ids]] = 0
    cumulated = np.cumsum(w)
    drawn = np.searchsorted(cumulated, u * cumulated[-1], side="right")
    low = np.where(drawn > 0, cumulated[drawn - 1], 0.0) / cumulated[-1]
    high = cumulated[np.minimum(drawn, len(w) - 1)] / cumulated[-1]
    points.spread(node.which, low, high)
    drawn = np.where(told >= 0, told, drawn)
    share = np.where(told >= 0, 1.0, high - low)
    ids, first, place = np.unique(drawn, return_index=True, return_inverse=True)
    return [
        _Node(
            node.root,
            (*node.ids, int(id)),
            node.which[place == number],
            node.mass * float(share[first[number]]),
        )
        for number, id in enumerate(ids)
    ]


def _told(node: _Node, begun: Begun) -> np.ndarray:
    """The token each of the node's samples has to go on with [n], -1 where it draws one."""
    step = len(node.ids)
    given = [begun.given[sample] for sample in node.which]
    return np.array([ids[step] if step < len(ids) else -1 for ids in given])


def _leaf(node: _Node, finished: bool, index: np.ndarray) -> Leaf:
    samples = tuple(index[node.which % len(index)].tolist())
    return Leaf(node.root, node.ids, finished, node.mass, samples)


def _level(leaves: list[Leaf], below: list[_Node], roots: int) -> Level:
    rows, distinct = np.zeros((2, roots), int)
    for node in below:
        rows[node.root] += len(node.which)
        distinct[node.root] += 1
    return Level(leaves, rows, distinct)


def distribution(logits: np.ndarray, root: Root, ids: Ids, options: TreeOptions) -> np.ndarray:
    """The weights [V] of the tokens after `ids`, under the law, of the model's logits [V]; all 0
    where none is allowed."""
    own = finite(logits[None]).astype(np.float64)  # which may be changed in place
    allowed = root.adjust(own, [0], [ids])[0]
    if len(ids) < options.min_new_tokens and options.end:
        held = allowed.copy()
        held[sorted(options.end)] = -np.inf
        # a text that is whole has to end, however short it is
        allowed = held if held.max() > -np.inf else allowed
    if allowed.max() == -np.inf:
        return np.zeros(len(allowed))
    if options.law.temperature == 0:
        return np.eye(1, len(allowed), int(allowed.argmax()))[0]
    return weights(allowed, options.law)
