"""The engine under all decoders. `prefill` computes a prompt into a prefix, which has no row axis;
`extend` computes new tokens of many rows that continue prefixes. The engine keeps rows, prefixes,
parents and lengths; a runtime keeps arrays (see `gentool.runtimes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes import PrefixCache, RowCache, Runtime


class Prefix(NamedTuple):
    """A computed prompt: its KV cache and its number of tokens."""

    cache: PrefixCache
    length: int


@dataclass
class Rows:
    """The rows of the last `extend`: the prefix that each continues, the number of its own tokens
    after the prefix, and the KV cache of these."""

    prefixes: list[Prefix]
    owner: np.ndarray  # [N] index of the prefix of each row
    length: np.ndarray  # [N]
    cache: RowCache


@dataclass
class Engine:
    """Computes tokens with a runtime. With `batch_invariant` the results of a row are bitwise
    identical whatever the other rows of the batch: where the runtime needs that, rows are computed
    in blocks of one fixed shape."""

    runtime: Runtime
    batch_invariant: bool = False

    @property
    def arch(self) -> Arch:
        return self.runtime.arch

    def prefill(
        self,
        ids: Sequence[int],
        prefix: Prefix | None = None,
        all_positions: bool = False,
        hidden: bool = False,
    ) -> tuple[Prefix, np.ndarray]:
        """Computes ids [T] after `prefix`. Returns the longer prefix and float32 logits [1, V]
        after the last id, or [T, V] after each with `all_positions`; or, with `hidden`, the hidden
        states [1 or T, D] before the head. The arrays may be the runtime's own memory: do not write
        to them."""
        start = prefix.length if prefix else 0
        kv_cache = prefix.cache if prefix else None
        cache, out = self.runtime.prefill(
            np.asarray(ids, np.int32), start, kv_cache, all_positions, hidden, self.batch_invariant
        )
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
        """Computes tokens [N, T] of N rows. Row i continues row parents[i] of `rows` by tokens[i];
        where that is -1, or `rows` is None, it is a new row of prefix owner[i]. Returns the new
        rows and float32 logits [N, T, V] or, with `hidden`, hidden states [N, T, D] before the
        head; do not write to these. `rows` is consumed: its KV cache is updated in place.
        `prefixes` may grow from call to call. The first call gives `max_new_tokens`, the expected
        maximum of a row."""
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
        if (owner[continued] != rows.owner[parents[continued]]).any():
            raise ValueError(f"owner {owner} is not that of parents {parents}")
        length = np.zeros(n, np.int32)
        length[continued] = rows.length[parents[continued]]
        self.runtime.move(rows.cache, owner, parents, t)
        start = np.array([prefix.length for prefix in rows.prefixes])[owner] + length  # [N]
        out = self.runtime.step(rows.cache, tokens, start[:, None] + np.arange(t), hidden)
        rows.owner, rows.length = owner, length + np.int32(t)
        return rows, out

    def keep_prefixes(self, rows: Rows, kept: Sequence[int]) -> None:
        """Drops all prefixes but those at `kept`, increasing, which take their places in this
        order. No row continues one that is dropped. Those that `extend` does not know yet follow
        them, in their order."""
        kept = [place for place in kept if place < len(rows.prefixes)]
        places = np.full(len(rows.prefixes), -1)
        places[kept] = np.arange(len(kept))
        rows.prefixes, rows.owner = [rows.prefixes[place] for place in kept], places[rows.owner]
        self.runtime.keep_prefixes(rows.cache, kept, places)

    def rewind(self, rows: Rows, lengths: np.ndarray) -> None:
        """Drops the tokens of rows beyond `lengths` [N] tokens after their prefixes."""
        rows.length = np.minimum(rows.length, lengths).astype(np.int32)
        self.runtime.rewind(rows.cache, rows.length)

    def crop(self, prefix: Prefix, length: int) -> Prefix:
        """The first `length` tokens of a prefix, which stays valid."""
        return Prefix(self.runtime.crop(prefix.cache, length), length)

    def row_prefix(self, rows: Rows, row: int, length: int) -> Prefix:
        """The prefix of a row and the first `length` of its own tokens as one prefix, which
        `prefill` and new rows can continue."""
        start = rows.prefixes[rows.owner[row]].length
        return Prefix(self.runtime.row_prefix(rows.cache, row, length), start + length)

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """float32 logits [N, V] of hidden states [N, D]."""
        return self.runtime.head(hidden, self.batch_invariant)
