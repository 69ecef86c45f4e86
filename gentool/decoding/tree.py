"""Samples of a prompt as a tree, for votes. Samples with equal tokens so far share a node, which is
computed once; each sample draws its next token from the node's distribution by its own random
number. So the texts are those of independent rows, and `extend` computes only the distinct
unfinished prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gentool.config.sampling import SamplingParams
from gentool.decoding.beam import Adjust, Ends, Stops
from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.filters import weights
from gentool.decoding.sampling import RandomNumbers, finite

Ids = tuple[int, ...]


class Root(NamedTuple):
    """A computed prompt: its prefix (with the KV cache), the logits [V] after it, the first key of
    its random numbers; how filters and constraints adjust logits after it, which texts stop, and
    the most new tokens of a text."""

    prefix: Prefix
    logits: np.ndarray
    rng_row: int
    adjust: Adjust
    stops: Stops
    max_new_tokens: int


class TreeOptions(NamedTuple):
    """How the tree is sampled or expanded: the sampling distribution; end tokens, forbidden in the
    first `min_new_tokens`; `max_new_tokens`, the largest that any prompt allows."""

    sampling: SamplingParams
    end: Ends
    min_new_tokens: int
    max_new_tokens: int


class ForcedPrefixes(NamedTuple):
    """Constraints on samples before they are drawn: sample i begins with the tokens `prefixes[i]`;
    directly after the tokens of a key of `excluded`, its tokens are not drawn."""

    prefixes: Sequence[Ids] = ()
    excluded: Mapping[Ids, np.ndarray] = {}


class Leaf(NamedTuple):
    """A complete text, the samples that drew it, and its probability under the sampling
    distribution. It is not `finished` if it was cut off at the maximum number of tokens, or if no
    token is allowed after it. Forced tokens count as probability 1."""

    root: int
    ids: Ids
    finished: bool
    mass: float
    samples: tuple[int, ...] = ()


class Level(NamedTuple):
    """The result of one step. `rows` unfinished samples of each root continue, as `nodes` distinct
    prefixes, which are computed next if the root is not closed. Both are counts by root."""

    leaves: list[Leaf]
    rows: np.ndarray  # [roots]
    nodes: np.ndarray  # [roots]


class _SharedPrefix(NamedTuple):
    """An unfinished prefix, and the samples that drew it, as indices into all samples."""

    root: int
    ids: Ids
    samples: np.ndarray
    mass: float


def sample(
    engine: Engine,
    roots: Sequence[Root],
    samples: range,
    options: TreeOptions,
    seed: int,
    strata: int = 0,
    closed: set[int] | None = None,
    forced: ForcedPrefixes | None = None,
) -> Iterator[Level]:
    """Yields the `samples` of each root level by level. Between two levels the caller may add roots
    to `closed`, which are then computed no further. `forced` is for a single root."""
    count, closed = len(samples), set() if closed is None else closed
    index = np.array(list(samples))
    rows = np.repeat(np.array([root.rng_row for root in roots]), count)
    numbers = RandomNumbers(seed, strata)
    numbers.add(rows, np.tile(index, len(roots)))
    nodes = [_SharedPrefix(r, (), r * count + np.arange(count), 1.0) for r in range(len(roots))]
    logits = np.stack([root.logits for root in roots])  # [nodes, V]
    cache = None
    while True:
        leaves: list[Leaf] = []
        next_nodes: list[tuple[int, _SharedPrefix]] = []  # index of the parent in `nodes`, node
        for parent, node, u in _open_nodes(nodes, numbers, closed):
            root = roots[node.root]
            w = distribution(logits[parent], root, node.ids, options)
            if not w.any():
                leaves.append(_leaf(node, False, index))
                continue
            for child in _children(node, w, u, numbers, forced):
                ended = child.ids[-1] in options.end or root.stops(child.ids)
                if ended or len(child.ids) >= root.max_new_tokens:
                    leaves.append(_leaf(child, ended, index))
                else:
                    next_nodes.append((parent, child))
        yield _level(leaves, [node for _, node in next_nodes], len(roots))
        next_nodes = [(parent, node) for parent, node in next_nodes if node.root not in closed]
        if not next_nodes:
            return
        nodes = [node for _, node in next_nodes]
        cache, out = engine.extend(
            [root.prefix for root in roots],
            cache,
            [node.root for node in nodes],
            [parent for parent, _ in next_nodes],
            np.array([node.ids[-1:] for node in nodes]),
            max_new_tokens=options.max_new_tokens,
        )
        logits = out[:, 0]


def _open_nodes(
    nodes: list[_SharedPrefix], numbers: RandomNumbers, closed: set[int]
) -> Iterator[tuple[int, _SharedPrefix, np.ndarray]]:
    """Yields the index, the node and its samples' random numbers, where the root is not closed."""
    samples = np.concatenate([node.samples for node in nodes])
    u = numbers.at(samples, np.full(len(samples), len(nodes[0].ids)))
    ends = np.cumsum([len(node.samples) for node in nodes])
    for index, (node, end) in enumerate(zip(nodes, ends, strict=True)):
        if node.root not in closed:
            yield index, node, u[end - len(node.samples) : end]


def _children(
    node: _SharedPrefix,
    w: np.ndarray,
    u: np.ndarray,
    numbers: RandomNumbers,
    forced: ForcedPrefixes | None,
) -> list[_SharedPrefix]:
    """Groups the node's samples by the token that each draws by its number u from weights w [V];
    children are in order of ids."""
    forced_ids = _forced_ids(node, forced) if forced else np.full(len(u), -1)
    if forced and node.ids in forced.excluded:
        w[forced.excluded[node.ids]] = 0
    cumulated = np.cumsum(w)
    drawn = np.searchsorted(cumulated, u * cumulated[-1], side="right")
    low = np.where(drawn > 0, cumulated[drawn - 1], 0.0) / cumulated[-1]
    high = cumulated[np.minimum(drawn, len(w) - 1)] / cumulated[-1]
    numbers.rescale(node.samples, low, high)
    drawn = np.where(forced_ids >= 0, forced_ids, drawn)
    probability = np.where(forced_ids >= 0, 1.0, high - low)
    ids, first, group = np.unique(drawn, return_index=True, return_inverse=True)
    return [
        _SharedPrefix(
            node.root,
            (*node.ids, int(id)),
            node.samples[group == number],
            node.mass * float(probability[first[number]]),
        )
        for number, id in enumerate(ids)
    ]


def _forced_ids(node: _SharedPrefix, forced: ForcedPrefixes) -> np.ndarray:
    """The next token that each of the node's samples must take [n], -1 where it is drawn."""
    step = len(node.ids)
    prefixes = [forced.prefixes[sample] for sample in node.samples]
    return np.array([ids[step] if step < len(ids) else -1 for ids in prefixes])


def _leaf(node: _SharedPrefix, finished: bool, index: np.ndarray) -> Leaf:
    samples = tuple(index[node.samples % len(index)].tolist())
    return Leaf(node.root, node.ids, finished, node.mass, samples)


def _level(leaves: list[Leaf], next_nodes: list[_SharedPrefix], roots: int) -> Level:
    rows, distinct = np.zeros((2, roots), int)
    for node in next_nodes:
        rows[node.root] += len(node.samples)
        distinct[node.root] += 1
    return Level(leaves, rows, distinct)


def distribution(logits: np.ndarray, root: Root, ids: Ids, options: TreeOptions) -> np.ndarray:
    """The unnormalised weights [V] of the tokens after `ids` under the sampling distribution, of
    the model's logits [V]; all 0 where no token is allowed."""
    own = finite(logits[None]).astype(np.float64)  # a copy, which may be changed in place
    allowed = root.adjust(own, [0], [ids])[0]
    if len(ids) < options.min_new_tokens and options.end:
        without_end = allowed.copy()
        without_end[sorted(options.end)] = -np.inf
        # a complete text has to end, however short it is
        allowed = without_end if without_end.max() > -np.inf else allowed
    if allowed.max() == -np.inf:
        return np.zeros(len(allowed))
    if options.sampling.temperature == 0:
        return np.eye(1, len(allowed), int(allowed.argmax()))[0]
    return weights(allowed, options.sampling)
