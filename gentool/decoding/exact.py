"""The probabilities of texts under the sampling distribution, without drawing: best-first expansion
of the tree of tokens. The tokens that are not explored yet are the frontier, whose probability mass
is known: the mass of the complete texts that give an answer is a lower bound of its probability,
and with the frontier's mass added an upper bound.
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

BATCH_PREFIXES = 16  # prefixes of a prompt that are computed together
BATCH_MASS_RATIO = 64  # the first of them has at most this many times the mass of any other
MAX_NODE_TOKENS = 1 << 12  # most probable tokens kept in a node; of the others only the mass is


class PartialText(NamedTuple):
    """A partial continuation of the prompt, which is to be computed."""

    ids: Ids
    mass: float


@dataclass
class _ComputedPrefix:
    """A computed prefix, its most probable next tokens with the mass of each, how many of these are
    explored, and the mass of all unexplored ones."""

    ids: Ids
    tokens: np.ndarray  # int32 [K], most probable first
    masses: np.ndarray  # [K] under the sampling distribution
    explored: int
    unexplored_mass: float


class Expansion:
    """The explored part of the tree of one prompt."""

    def __init__(self, root: Root, index: int, options: TreeOptions) -> None:
        self.root, self.index, self.options = root, index, options
        self.computed = self.tokens = 0  # prefixes, and tokens that went through the engine
        self._nodes: list[_ComputedPrefix] = []
        self._heap: list[tuple[float, int]] = []  # -mass of a node's next token, node
        self._add_node(PartialText((), 1.0), root.logits)

    @property
    def unseen(self) -> float:
        """The mass of the frontier: of all unexplored tokens."""
        return math.fsum(node.unexplored_mass for node in self._nodes)

    @property
    def complete(self) -> bool:
        """Whether no token is left to explore."""
        return not self._heap

    def frontier(self) -> list[tuple[Ids, np.ndarray, float]]:
        """The computed prefixes with unexplored tokens: ids, the explored tokens after each, and
        the mass of the unexplored ones."""
        nodes = [node for node in self._nodes if node.unexplored_mass > 0]
        return [(n.ids, n.tokens[: n.explored], n.unexplored_mass) for n in nodes]

    def explore(self, max_prefixes: int) -> tuple[list[Leaf], list[PartialText]]:
        """Explores tokens in order of their mass. Returns the texts that are complete with such a
        token, and up to `max_prefixes` prefixes that have to be computed and added."""
        leaves: list[Leaf] = []
        pending: list[PartialText] = []
        min_mass = -self._heap[0][0] / BATCH_MASS_RATIO if self._heap else 0.0
        while self._heap and len(pending) < max_prefixes and -self._heap[0][0] >= min_mass:
            _, node_index = heapq.heappop(self._heap)
            node = self._nodes[node_index]
            mass = float(node.masses[node.explored])
            ids = (*node.ids, int(node.tokens[node.explored]))
            node.explored += 1
            node.unexplored_mass = max(0.0, node.unexplored_mass - mass)
            self._enqueue(node_index)
            ended = ids[-1] in self.options.end or self.root.stops(ids)
            if ended or len(ids) >= self.root.max_new_tokens:
                leaves.append(Leaf(self.index, ids, ended, mass))
            else:
                pending.append(PartialText(ids, mass))
        return leaves, pending

    def add(self, prefix: PartialText, logits: np.ndarray) -> list[Leaf]:
        """Adds a prefix with the logits [V] after it; returns it as a leaf if no token is allowed
        after it."""
        self.computed += 1
        self.tokens += len(prefix.ids)
        return self._add_node(prefix, logits)

    def _add_node(self, prefix: PartialText, logits: np.ndarray) -> list[Leaf]:
        w = distribution(logits, self.root, prefix.ids, self.options)
        if not w.any():
            return [Leaf(self.index, prefix.ids, False, prefix.mass)]
        allowed = np.flatnonzero(w)
        kept = allowed
        if len(allowed) > MAX_NODE_TOKENS:
            kept = allowed[np.argpartition(-w[allowed], MAX_NODE_TOKENS)[:MAX_NODE_TOKENS]]
        tokens = kept[np.argsort(-w[kept], kind="stable")]
        masses = w[tokens] * (prefix.mass / w.sum())
        unexplored = prefix.mass if len(kept) < len(allowed) else float(masses.sum())
        self._nodes.append(
            _ComputedPrefix(prefix.ids, tokens.astype(np.int32), masses, 0, unexplored)
        )
        self._enqueue(len(self._nodes) - 1)
        return []

    def _enqueue(self, node_index: int) -> None:
        """Puts the next token of a node into the heap. A node without one has no mass left but for
        rounding, unless it keeps only a part of its tokens."""
        node = self._nodes[node_index]
        if node.explored < len(node.tokens):
            heapq.heappush(self._heap, (-float(node.masses[node.explored]), node_index))
        elif node.unexplored_mass < 1e-12 * node.masses[0]:
            node.unexplored_mass = 0.0


def expand(engine: Engine, expansions: Sequence[Expansion], budgets: Sequence[int]) -> list[Leaf]:
    """Runs one step of several trees together, each by at most its budget of
    prefixes; returns the texts that are complete. A prefix is computed from its prompt on: it is
    short, and so no KV cache has to be kept until the frontier comes back to it."""
    leaves: list[Leaf] = []
    batches: dict[tuple[int, int], list[tuple[int, PartialText]]] = defaultdict(list)
    for tree_index, (expansion, budget) in enumerate(zip(expansions, budgets, strict=True)):
        complete, pending = expansion.explore(min(BATCH_PREFIXES, budget))
        leaves += complete
        for prefix in pending:
            # to be batch-invariant, a prefix is computed only with others of its tree and width
            key = (tree_index, _padded_length(prefix)) if engine.batch_invariant else (0, 0)
            batches[key].append((tree_index, prefix))
    for batch in batches.values():
        logits = _logits(engine, expansions, batch)
        for (tree_index, prefix), row in zip(batch, logits, strict=True):
            leaves += expansions[tree_index].add(prefix, row)
    return leaves


def _padded_length(prefix: PartialText) -> int:
    """The number of tokens that a prefix is padded to: a power of two, so that shapes are few."""
    return 1 << (len(prefix.ids) - 1).bit_length()


def _logits(
    engine: Engine, expansions: Sequence[Expansion], batch: Sequence[tuple[int, PartialText]]
) -> np.ndarray:
    """The logits [N, V] after each prefix of a batch of (index of its tree, prefix)."""
    tokens = np.zeros((len(batch), max(_padded_length(prefix) for _, prefix in batch)), int)
    for row, (_, prefix) in enumerate(batch):
        tokens[row, : len(prefix.ids)] = prefix.ids
    _, hidden = engine.extend(
        [expansion.root.prefix for expansion in expansions],
        None,
        [tree_index for tree_index, _ in batch],
        [],
        tokens,
        hidden=True,
    )
    last = np.array([len(prefix.ids) - 1 for _, prefix in batch])
    return engine.logits(hidden[np.arange(len(batch)), last])
