"""Texts as rows of one length: several texts in a row, none of which sees another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Text(NamedTuple):
    """The ids of a text, and which of them are learnt; the first is only ever read."""

    ids: Sequence[int]
    learnt: Sequence[bool]


class Batch(NamedTuple):
    """Rows of packed texts, int32 [N, T]: ids, the ids that follow them, their positions in their
    text, the number of their text in the row; and float32 [N, T]: 1 where the next id is learnt."""

    ids: Any
    targets: Any
    positions: Any
    segments: Any
    learnt: Any


def pack(texts: Sequence[Text], length: int) -> Batch:
    """All texts in rows of `length`, in as few as best fit decreasing finds. A longer text is cut,
    and its parts overlap by the one token that the later part only reads."""
    parts = [part for text in texts for part in _parts(text, length)]
    parts.sort(key=lambda part: -len(part.ids))
    rows: list[list[Text]] = []
    spaces: list[list[int]] = [[] for _ in range(length + 1)]  # rows by the space left in them
    for part in parts:
        size = len(part.ids) - 1
        space = next((s for s in range(size, length) if spaces[s]), length)
        row = spaces[space].pop() if space < length else len(rows)
        rows[row : row + 1] = [[*rows[row], part] if row < len(rows) else [part]]
        spaces[space - size].append(row)
    ids, targets, positions, segments = np.zeros((4, len(rows), length), np.int32)
    packed = Batch(ids, targets, positions, segments, np.zeros(ids.shape, np.float32))
    for index, row_parts in enumerate(rows):
        start = 0
        for number, part in enumerate(row_parts, 1):
            size = len(part.ids) - 1
            place = index, slice(start, start + size)
            packed.ids[place], packed.targets[place] = part.ids[:-1], part.ids[1:]
            packed.positions[place], packed.segments[place] = np.arange(size), number
            packed.learnt[place] = part.learnt[1:]
            start += size
    return packed


def _parts(text: Text, length: int) -> Iterator[Text]:
    """A text in parts of at most length + 1 ids, of which some are learnt."""
    for start in range(0, len(text.ids) - 1, length):
        end = start + length + 1
        part = Text(text.ids[start:end], text.learnt[start:end])
        if any(part.learnt[1:]):
            yield part


def digest(rows: Batch) -> str:
    """The SHA-256 of packed rows."""
    sha = hashlib.sha256()
    for array in rows:
        sha.update(str(array.shape).encode() + array.tobytes())
    return sha.hexdigest()


def drawn(rows: Batch, number: int, size: int, seed: int) -> Batch:
    """Batch `number` of `size` rows: every epoch takes each row once, in an order of its own."""
    count = len(rows.ids)
    indexes = range(number * size, (number + 1) * size)
    orders = {
        epoch: np.random.default_rng([seed, epoch]).permutation(count)
        for epoch in {index // count for index in indexes}
    }
    chosen = [orders[index // count][index % count] for index in indexes]
    return Batch(*(array[chosen] for array in rows))


def in_order(rows: Batch, size: int, most: int) -> list[Batch]:
    """The rows in at most `most` batches of `size`, the last filled with rows of nothing."""
    missing = -len(rows.ids) % size
    padded = [np.pad(array, ((0, missing), (0, 0))) for array in rows]
    count = min(most, len(padded[0]) // size)
    return [
        Batch(*(array[number * size : (number + 1) * size] for array in padded))
        for number in range(count)
    ]
