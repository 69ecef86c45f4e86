"""Which static shapes a request gets. Every shape costs one compilation, so few of them exist."""

from __future__ import annotations

SMALLEST = 16  # tokens: shorter prompts and tails share one program
BLOCK_ROWS = 8  # rows computed together under --batch-invariant, always exactly so many


def tokens(count: int) -> int:
    """The bucket for `count` tokens: the next power of two."""
    return max(SMALLEST, 1 << (count - 1).bit_length())


def rows(count: int) -> int:
    """The bucket for `count` rows: a power of two up to 128, then a multiple of 64."""
    return 1 << (count - 1).bit_length() if count <= 128 else -(-count // 64) * 64
