"""The one engine under every decoder. `prefill` computes a prompt into a prefix, which has no row
axis; `extend` computes new tokens of many rows that continue prefixes. The engine knows rows,
prefixes, parents and lengths; a runtime knows arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes import PrefixCache, RowCache, Runtime


class Prefix(NamedTuple):
    """A computed prompt: its KV cache, and its tokens."""

    cache: PrefixCache
    length: int


@dataclass
class Rows:
    """The rows of the last `extend`: the prefix that each continues, its tokens beyond that, and
    the KV cache of these."""

    prefixes: list[Prefix]
    owner: np.ndarray  # [N]
    length: np.ndarray  # [N]
    cache: RowCache


@dataclass
class Engine:
    """A runtime, and whether a row's bits may depend on the batch: under `batch_invariant` rows are
    computed in blocks of one fixed shape, where the runtime needs that."""

    runtime: Runtime
    batch_invariant: bool = False

    @property
    def arch(self) -> Arch:
        return self.runtime.arch

    def prefill(
        self,
        ids: Sequence[int],
        prefix: Prefix | None = None,
        every: bool = False,
        hidden: bool = False,
    ) -> tuple[Prefix, np.ndarray]:
        """Computes ids [T] after `prefix`; gives the longer prefix and float32 logits [1, V] after
        the last id, or [T, V] after each of them when `every`; or the `hidden` states [1 or T, D]
        that those come from. They are the runtime's: not to be written."""
        start = prefix.length if prefix else 0
        before = prefix.cache if prefix else None
        cache, out = self.runtime.prefill(np.asarray(ids, np.int32), start, before, every, hidden)
        return Prefix(cache, start + len(ids)), out

    def extend(
        self,
        prefixes: Sequence[Prefix],
        rows: Rows | None,
        owner: Sequence[int] | np.ndarray,
        parents: Sequence[int] | np.ndarray,
        tokens: np.ndarray,
        max_new_tokens: int = 0,
        hidden: bool = False,
    ) -> tuple[Rows, np.ndarray]:
        """Row i continues row parents[i] of `rows`, or joins as a new row of prefix owner[i] where
        that is -1 or there are no rows yet, by tokens[i]: tokens [N, T] to the new rows and float32
        logits [N, T, V], or the `hidden` states [N, T, D] that those come from. `rows` is consumed:
        its KV cache is updated in place; what is given is not to be written. `prefixes` may grow
        from call to call. A first call names `max_new_tokens`, what a row may come to."""
        owner, (n, t) = np.asarray(owner, int), tokens.shape
        if rows is None:
            caches = [prefix.cache for prefix in prefixes]
            cache = self.runtime.rows(caches, max(max_new_tokens, t), self.batch_invariant)
            rows = Rows(list(prefixes), np.zeros(0, int), np.zeros(0, np.int32), cache)
            parents = np.full(n, -1)
        parents = np.asarray(parents, int)
        if len(prefixes) > len(rows.prefixes):
            new = prefixes[len(rows.prefixes) :]
            self.runtime.join(rows.cache, [prefix.cache for prefix in new])
            rows.prefixes += new
        continued = parents >= 0
        if not np.array_equal(owner[continued], rows.owner[parents[continued]]):
            raise ValueError(f"owner {owner} is not that of parents {parents}")
        length = np.zeros(n, np.int32)
        length[continued] = rows.length[parents[continued]]
        self.runtime.move(rows.cache, owner, parents, t)
        start = np.array([prefix.length for prefix in rows.prefixes])[owner] + length  # [N]
        out = self.runtime.step(rows.cache, tokens, start[:, None] + np.arange(t), hidden)
        rows.owner, rows.length = owner, length + np.int32(t)
        return rows, out

    def rewind(self, rows: Rows, lengths: np.ndarray) -> None:
        """Forgets what rows have beyond `lengths` [N] tokens after their prefixes."""
        rows.length = np.minimum(rows.length, lengths).astype(np.int32)
        self.runtime.rewind(rows.cache, rows.length)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """float32 logits [N, V] of hidden states [N, D]."""
        return self.runtime.head(hidden, self.batch_invariant)
