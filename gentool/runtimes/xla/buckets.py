"""Buckets: the static shapes that requests are padded to. Every shape costs one compilation, so
there are few.
"""

from __future__ import annotations

MIN_TOKENS = 16  # shorter prompts and tails share one program
BLOCK_ROWS = 8  # rows of a block with --batch-invariant, always exactly this number


def tokens(count: int) -> int:
    """The bucket for `count` tokens: the next power of two."""
    return max(MIN_TOKENS, 1 << (count - 1).bit_length())


def rows(count: int) -> int:
    """The bucket for `count` rows: a power of two up to 128, then a multiple of 64."""
    return 1 << (count - 1).bit_length() if count <= 128 else -(-count // 64) * 64
