"""The KV cache of one growing text, such as a conversation: of the next prompt only the tokens that
follow its longest common prefix with the text are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gentool.decoding.engine import Engine, Prefix


class PromptCache:
    """The ids of a computed text, and their prefix. `reused` and `computed` count the tokens of the
    last prompt that were in the cache and that were not."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._prefix: Prefix | None = None
        self.reused = self.computed = 0

    def prefill(self, engine: Engine, ids: Sequence[int]) -> tuple[Prefix, np.ndarray]:
        """The prefix of ids [T] and float32 logits [1, V] after the last one, which is always
        computed."""
        self.reused = min(common_prefix(self._ids, ids), len(ids) - 1)
        self.computed = len(ids) - self.reused
        known = engine.crop(self._prefix, self.reused) if self._prefix and self.reused else None
        prefix, logits = engine.prefill(ids[self.reused :], known)
        self.keep(ids, prefix)
        return prefix, logits

    def keep(self, ids: Sequence[int], prefix: Prefix) -> None:
        """Takes over a computed text."""
        self._ids, self._prefix = list(ids), prefix

    def clear(self) -> None:
        """Forgets the text."""
        self._ids, self._prefix = [], None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the longest common prefix."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))
