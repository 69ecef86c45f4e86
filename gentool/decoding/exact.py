"""What texts a law gives, and how probable each is, without drawing any: best-first expansion of
the tree of tokens. What is not expanded yet is a frontier whose mass is known, so every sum of
found texts is a lower bound, and that sum with the frontier's mass an upper one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.engine import Engine
from gentool.decoding.sampling import normalized
from gentool.decoding.tree import How, Ids, Leaf, Root, distribution

BATCH = 16  # nodes of a prompt that are computed together
LITTLE = 64  # a node goes with a batch if it has this part of the frontier's mass
KEPT = 1 << 15  # likeliest tokens of a node that are ever looked at; the mass of others is known


class _Node(NamedTuple):
    """A computed prefix: its tokens, likeliest first, and how much mass each continues it with."""

    ids: Ids
    logprob: float  # of the prefix, under the model itself
    tokens: np.ndarray  # [K]
    masses: np.ndarray  # [K] under the law
    rests: np.ndarray  # [K + 1] mass of the tokens from each on, and of those that are not kept
    logprobs: np.ndarray  # [K]


class Opened(NamedTuple):
    """A prefix that is to be computed."""

    ids: Ids
    mass: float
    logprob: float


class Expansion:
    """The tree of one prompt as far as it is known."""

    def __init__(self, root: Root, index: int, how: How) -> None:
        self.root, self.index, self.how = root, index, how
        self.computed = self.tokens = (
            0  # prefixes, and tokens that went through the engine for them
        )
        self._nodes: list[_Node] = []
        self._next: list[int] = []  # of each node, the first token not looked at
        self._heap: list[tuple[float, int]] = []  # -mass of a node's next token, node
        self._grow(Opened((), 1.0, 0.0), root.logits)

    @property
    def unseen(self) -> float:
        """The mass of the frontier: of all that was not found yet."""
        return math.fsum(node.rests[at] for node, at in zip(self._nodes, self._next, strict=True))

    @property
    def complete(self) -> bool:
        """Whether there is nothing to go on from."""
        return not self._heap

    def frontier(self) -> list[tuple[Ids, float]]:
        """The prefixes to go on from, and their masses; tokens that are not kept have none."""
        found = []
        for node, at in zip(self._nodes, self._next, strict=True):
            pairs = zip(node.tokens[at:].tolist(), node.masses[at:].tolist(), strict=True)
            found += [((*node.ids, token), mass) for token, mass in pairs]
        return found

    def look(self, most: int) -> tuple[list[Leaf], list[Opened]]:
        """Looks at tokens in order of their mass: the texts that are over with such a token, and
        up to `most` prefixes, which now have to be computed and added."""
        leaves: list[Leaf] = []
        opened: list[Opened] = []
        least = self.unseen / LITTLE
        while self._heap and len(opened) < most:
            if (leaves or opened) and -self._heap[0][0] < least:
                break
            _, place = heapq.heappop(self._heap)
            node, at = self._nodes[place], self._next[place]
            self._next[place] += 1
            if at + 1 < len(node.tokens):
                heapq.heappush(self._heap, (-float(node.masses[at + 1]), place))
            ids = (*node.ids, int(node.tokens[at]))
            mass, logprob = float(node.masses[at]), node.logprob + float(node.logprobs[at])
            ended = ids[-1] in self.how.end or self.root.stops(ids)
            if ended or len(ids) >= self.root.most:
                leaves.append(Leaf(self.index, ids, ended, mass, logprob))
            else:
                opened.append(Opened(ids, mass, logprob))
        return leaves, opened

    def add(self, opened: Opened, logits: np.ndarray) -> None:
        """A prefix with the logits [V] after it."""
        self.computed += 1
        self.tokens += len(opened.ids)
        self._grow(opened, logits)

    def _grow(self, opened: Opened, logits: np.ndarray) -> None:
        w = distribution(logits, self.root, opened.ids, self.how)
        left = np.flatnonzero(w)
        kept = left[np.argpartition(-w[left], KEPT)[:KEPT]] if len(left) > KEPT else left
        tokens = kept[np.argsort(-w[kept], kind="stable")]
        masses = w[tokens] * (opened.mass / w.sum())
        others = opened.mass * (1 - w[tokens].sum() / w.sum()) if len(kept) < len(left) else 0.0
        rests = np.append(np.cumsum(masses[::-1])[::-1], 0.0) + others
        own = normalized(logits)[tokens]
        self._nodes.append(_Node(opened.ids, opened.logprob, tokens, masses, rests, own))
        self._next.append(0)
        heapq.heappush(self._heap, (-float(masses[0]), len(self._nodes) - 1))


def expand(engine: Engine, expansions: Sequence[Expansion], budgets: Sequence[int]) -> list[Leaf]:
    """One step of several trees together, each by at most so many more prefixes; gives the texts
    that it found. A prefix is computed from its prompt on: it has few tokens, and its cells need
    not wait for the frontier to come back to it."""
    leaves: list[Leaf] = []
    jobs: list[tuple[int, Opened]] = []
    for place, (expansion, budget) in enumerate(zip(expansions, budgets, strict=True)):
        found, opened = expansion.look(min(BATCH, budget))
        leaves += found
        jobs += [(place, one) for one in opened]
    if not jobs:
        return leaves
    width = max(len(one.ids) for _, one in jobs)
    tokens = np.zeros((len(jobs), 1 << (width - 1).bit_length()), int)  # few shapes
    for row, (_, one) in enumerate(jobs):
        tokens[row, : len(one.ids)] = one.ids
    _, hidden = engine.extend(
        [expansion.root.prefix for expansion in expansions],
        None,
        [place for place, _ in jobs],
        [],
        tokens,
        batch_invariant=expansions[0].how.batch_invariant,
        hidden=True,
    )
    last = np.array([len(one.ids) - 1 for _, one in jobs])
    logits = engine.logits(hidden[np.arange(len(jobs)), last])
    for (place, one), row in zip(jobs, logits, strict=True):
        expansions[place].add(one, row)
    return leaves
