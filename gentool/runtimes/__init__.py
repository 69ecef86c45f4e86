"""Runtimes: what runs a step of a model. The engine knows rows, prefixes, parents and lengths; a
runtime knows arrays, their padding and how products are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # importing this room costs nothing
    import numpy as np

    from gentool.config.model import Arch

PrefixCache = Any  # keys and values of a computed prompt, without a row axis; never changed
RowCache = Any  # keys and values that rows have beyond their prefixes; changed in place


class Runtime(Protocol):
    """One open model. Logits are float32 and finite unless the weights are broken. Arrays that are
    given back may be the runtime's own memory: they are not written, those of `prefill` can be
    kept, those of `step` are valid until its next call."""

    arch: Arch

    def prefill(
        self, ids: np.ndarray, start: int, prefix: PrefixCache | None, every: bool, hidden: bool
    ) -> tuple[PrefixCache, np.ndarray]:
        """Computes ids [T] at positions start.. after `prefix` of `start` tokens; gives the longer
        prefix (the given one stays valid) and logits [1, V] after the last id, or [T, V] after each
        when `every`; or the `hidden` states [1 or T, D] that `head` takes."""
        ...

    def rows(
        self, prefixes: Sequence[PrefixCache], max_new_tokens: int, batch_invariant: bool
    ) -> RowCache:
        """A cache without rows, whose rows will continue `prefixes`."""
        ...

    def join(self, cache: RowCache, prefixes: Sequence[PrefixCache]) -> None:
        """Adds prefixes that new rows may name, after those there are."""
        ...

    def move(
        self, cache: RowCache, owner: np.ndarray, parents: np.ndarray, new_tokens: int
    ) -> None:
        """Row i becomes a copy of the former row parents[i] (-1: a new row of prefix owner[i]), and
        `new_tokens` more tokens will fit. Rows not named are freed."""
        ...

    def shrinks(self, rows: int, wanted: int) -> bool:
        """Whether dropping to `wanted` rows of `rows` is faster than computing all of them on."""
        ...

    def step(
        self, cache: RowCache, tokens: np.ndarray, positions: np.ndarray, hidden: bool
    ) -> np.ndarray:
        """Appends tokens [N, T] at positions [N, T]; gives logits [N, T, V] or hidden [N, T, D]."""
        ...

    def rewind(self, cache: RowCache, lengths: np.ndarray) -> None:
        """Forgets what rows have beyond `lengths` [N] tokens after their prefixes."""
        ...

    def head(self, hidden: np.ndarray, batch_invariant: bool) -> np.ndarray:
        """Logits [N, V] of hidden states [N, D]."""
        ...

    def describe(self) -> str:
        """How it computes, in a few words for -v."""
        ...
