"""What texts a law gives, and how probable each is, without drawing any: best-first expansion of
the tree of tokens. What is not expanded yet is a frontier whose mass is known, so every sum of
found texts is a lower bound, and that sum with the frontier's mass an upper one.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gentool.decoding.engine import Engine
from gentool.decoding.tree import Ids, Leaf, Root, TreeOptions, distribution

BATCH = 16  # nodes of a prompt that are computed together
LITTLE = 64  # and that have at least this part of the mass of the first of them
KEPT = 1 << 12  # likeliest tokens of a node that are remembered; of the others only the mass is


class Opened(NamedTuple):
    """A prefix that is to be computed."""

    ids: Ids
    mass: float


@dataclass
class _Node:
    """A computed prefix: its likeliest tokens, how much mass each continues it with, how many of
    them were looked at, and the mass of all others."""

    ids: Ids
    tokens: np.ndarray  # int32 [K], likeliest first
    masses: np.ndarray  # [K] under the law
    looked: int
    rest: float


class Expansion:
    """The tree of one prompt as far as it is known."""

    def __init__(self, root: Root, index: int, options: TreeOptions) -> None:
        self.root, self.index, self.options = root, index, options
        self.computed = self.tokens = 0  # prefixes, and tokens that went through the engine
        self._nodes: list[_Node] = []
        self._heap: list[tuple[float, int]] = []  # -mass of a node's next token, node
        self._grow(Opened((), 1.0), root.logits)

    @property
    def unseen(self) -> float:
        """The mass of the frontier: of all that was not looked at."""
        return math.fsum(node.rest for node in self._nodes)

    @property
    def complete(self) -> bool:
        """Whether there is no token left to look at."""
        return not self._heap

    def frontier(self) -> list[tuple[Ids, np.ndarray, float]]:
        """The computed prefixes, the tokens after each that were looked at, and the mass of the
        others."""
        return [(n.ids, n.tokens[: n.looked], n.rest) for n in self._nodes if n.rest > 0]

    def look(self, most: int) -> tuple[list[Leaf], list[Opened]]:
        """Looks at tokens in order of their mass: the texts that are over with such a token, and
        up to `most` prefixes, which now have to be computed and added."""
        leaves: list[Leaf] = []
        opened: list[Opened] = []
        least = -self._heap[0][0] / LITTLE if self._heap else 0.0
        while self._heap and len(opened) < most and -self._heap[0][0] >= least:
            _, place = heapq.heappop(self._heap)
            node = self._nodes[place]
            mass = float(node.masses[node.looked])
            ids = (*node.ids, int(node.tokens[node.looked]))
            node.looked += 1
            node.rest = max(0.0, node.rest - mass)
            self._wait(place)
            ended = ids[-1] in self.options.end or self.root.stops(ids)
            if ended or len(ids) >= self.root.max_new_tokens:
                leaves.append(Leaf(self.index, ids, ended, mass))
            else:
                opened.append(Opened(ids, mass))
        return leaves, opened

    def add(self, opened: Opened, logits: np.ndarray) -> list[Leaf]:
        """A prefix with the logits [V] after it; a leaf if nothing may follow it."""
        self.computed += 1
        self.tokens += len(opened.ids)
        return self._grow(opened, logits)

    def _grow(self, opened: Opened, logits: np.ndarray) -> list[Leaf]:
        w = distribution(logits, self.root, opened.ids, self.options)
        if not w.any():
            return [Leaf(self.index, opened.ids, False, opened.mass)]
        left = np.flatnonzero(w)
        kept = left[np.argpartition(-w[left], KEPT)[:KEPT]] if len(left) > KEPT else left
        tokens = kept[np.argsort(-w[kept], kind="stable")]
        masses = w[tokens] * (opened.mass / w.sum())
        rest = opened.mass if len(kept) < len(left) else float(masses.sum())
        self._nodes.append(_Node(opened.ids, tokens.astype(np.int32), masses, 0, rest))
        self._wait(len(self._nodes) - 1)
        return []

    def _wait(self, place: int) -> None:
        """Puts the next token of a node in line, if it has one; if not, nothing may be left."""
        node = self._nodes[place]
        if node.looked < len(node.tokens):
            heapq.heappush(self._heap, (-float(node.masses[node.looked]), place))
        elif node.rest < 1e-12 * node.masses[0]:  # what rounding left
            node.rest = 0.0


def expand(engine: Engine, expansions: Sequence[Expansion], budgets: Sequence[int]) -> list[Leaf]:
    """One step of several trees together, each by at most so many more prefixes; gives the texts
    that it found. A prefix is computed from its prompt on: it has few tokens, and its cells need
    not wait for the frontier to come back to it."""
    leaves: list[Leaf] = []
    calls: dict[tuple[int, int], list[tuple[int, Opened]]] = defaultdict(list)
    for place, (expansion, budget) in enumerate(zip(expansions, budgets, strict=True)):
        found, opened = expansion.look(min(BATCH, budget))
        leaves += found
        for one in opened:
            # to be invariant, a prefix is computed only with those of its own tree and width
            alone = engine.batch_invariant
            calls[(place, _width(one)) if alone else (0, 0)].append((place, one))
    for jobs in calls.values():
        for (place, one), row in zip(jobs, _logits(engine, expansions, jobs), strict=True):
            leaves += expansions[place].add(one, row)
    return leaves


def _width(one: Opened) -> int:
    """The tokens a prefix is padded to: few shapes."""
    return 1 << (len(one.ids) - 1).bit_length()


def _logits(
    engine: Engine, expansions: Sequence[Expansion], jobs: Sequence[tuple[int, Opened]]
) -> np.ndarray:
    """The logits [N, V] after each prefix of a tree, which is given by its place."""
    tokens = np.zeros((len(jobs), max(_width(one) for _, one in jobs)), int)
    for row, (_, one) in enumerate(jobs):
        tokens[row, : len(one.ids)] = one.ids
    _, hidden = engine.extend(
        [expansion.root.prefix for expansion in expansions],
        None,
        [place for place, _ in jobs],
        [],
        tokens,
        hidden=True,
    )
    last = np.array([len(one.ids) - 1 for _, one in jobs])
    return engine.logits(hidden[np.arange(len(jobs)), last])
