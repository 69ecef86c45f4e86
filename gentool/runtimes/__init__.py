"""Runtimes run the steps of a model. The engine keeps rows, prefixes, parents and lengths; a
runtime keeps the arrays of the KV cache and their padding, and computes the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # importing this room costs nothing
    import numpy as np

    from gentool.config.model import Arch

PrefixCache = Any  # KV cache of a computed prompt, without a row axis; never changed
RowCache = Any  # KV cache of the rows' own tokens, after their prefixes; changed in place


class Runtime(Protocol):
    """An open model. Logits are float32 and finite unless the weights are broken. Returned arrays
    may be the runtime's own memory: do not write to them; those of `prefill` can be kept, those of
    `step` are valid until its next call."""

    arch: Arch

    def prefill(
        self,
        ids: np.ndarray,
        start: int,
        prefix: PrefixCache | None,
        all_positions: bool,
        hidden: bool,
    ) -> tuple[PrefixCache, np.ndarray]:
        """Computes ids [T] at positions start.. after `prefix` of `start` tokens. Returns the
        longer prefix (the given one stays valid) and logits [1, V] after the last id, or [T, V]
        after each with `all_positions`; or, with `hidden`, the hidden states [1 or T, D] that
        `head` takes."""
        ...

    def crop(self, prefix: PrefixCache, length: int) -> PrefixCache:
        """The first `length` tokens of a prefix, which stays valid."""
        ...

    def rows(
        self, prefixes: Sequence[PrefixCache], max_new_tokens: int, batch_invariant: bool
    ) -> RowCache:
        """A KV cache without rows, whose rows will continue `prefixes`."""
        ...

    def join(self, cache: RowCache, prefixes: Sequence[PrefixCache]) -> None:
        """Appends prefixes that new rows may continue."""
        ...

    def move(
        self, cache: RowCache, owner: np.ndarray, parents: np.ndarray, new_tokens: int
    ) -> None:
        """Makes row i a copy of the former row parents[i] (-1: a new row of prefix owner[i]), with
        room for `new_tokens` more tokens. Rows that are no parent are freed."""
        ...

    def worth_shrinking(self, rows: int, wanted: int) -> bool:
        """Whether reducing `rows` rows to `wanted` is faster than computing all of them."""
        ...

    def step(
        self, cache: RowCache, tokens: np.ndarray, positions: np.ndarray, hidden: bool
    ) -> np.ndarray:
        """Computes tokens [N, T] at positions [N, T] and appends them to the KV cache; returns
        logits [N, T, V], or hidden states [N, T, D] with `hidden`."""
        ...

    def rewind(self, cache: RowCache, lengths: np.ndarray) -> None:
        """Drops the tokens of rows beyond `lengths` [N] tokens after their prefixes."""
        ...

    def row_prefix(self, cache: RowCache, row: int, length: int) -> PrefixCache:
        """The prefix of a row and the first `length` of its own tokens, copied, as a prefix."""
        ...

    def head(self, hidden: np.ndarray, batch_invariant: bool) -> np.ndarray:
        """Logits [N, V] of hidden states [N, D]."""
        ...

    def describe(self) -> str:
        """How the runtime computes, in a few words for -v."""
        ...
