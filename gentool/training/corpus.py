"""Text files to documents, documents to tokens, tokens to windows. A file holds documents separated
by blank lines (FILE.txt, or FILE.txt.zst). One document in a hundred, chosen by the hash of its
text, is held out of everything: of the vocabulary, of training, of the mixture.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gentool.errors import GentoolError, UsageError

HELD_OUT_PERCENT = 1


def is_held_out(document: str) -> bool:
    """Whether this document belongs to the held-out one per cent, by SHA-256 of its text."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


def documents(folder: Path, name: str) -> Iterator[str]:
    """The documents of folder/name.txt or folder/name.txt.zst, in order."""
    paragraphs: list[str] = []
    path = locate(folder, name)
    try:
        for line in _lines(path):
            if line.strip():
                paragraphs.append(line.rstrip("\n"))
            elif paragraphs:
                yield "\n".join(paragraphs)
                paragraphs = []
    except (UnicodeDecodeError, EOFError, OSError) as e:
        raise GentoolError(f"cannot read {path}: {e}", "it must be UTF-8 text") from None
    if paragraphs:
        yield "\n".join(paragraphs)


def locate(folder: Path, name: str) -> Path:
    """The file of a source."""
    for path in (folder / f"{name}.txt", folder / f"{name}.txt.zst"):
        if path.is_file():
            return path
    raise UsageError(
        f"{folder} has no {name}.txt and no {name}.txt.zst",
        "give the corpus with --data DIR, or drop the source from the recipe",
    )


def _lines(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        with path.open(encoding="utf-8") as file:
            yield from file
        return
    try:
        import zstandard
    except ImportError:
        raise GentoolError(
            f"reading {path} needs zstandard", "pip install 'gentool[train]'"
        ) from None
    with path.open("rb") as file:
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
        try:
            yield from io.TextIOWrapper(reader, encoding="utf-8")
        except zstandard.ZstdError as e:
            raise OSError(e) from None


class Split(NamedTuple):
    train: list[str]
    held_out: list[str]


def split(texts: Iterable[str]) -> Split:
    """Documents divided by `is_held_out`."""
    parts = Split([], [])
    for text in texts:
        (parts.held_out if is_held_out(text) else parts.train).append(text)
    return parts


class Window(NamedTuple):
    """One training example: tokens [start, start + length + 1) of a source."""

    source: int
    start: int


def plan(sizes: list[int], shares: list[float], length: int, count: int, seed: int) -> list[Window]:
    """`count` windows over sources of `sizes` tokens, drawn by `shares`. Each source is walked
    through in epochs: a fresh offset and a fresh order each time, every token once an epoch.
    The whole plan follows from its arguments, so a resumed run continues where it was."""
    rng = np.random.default_rng(seed)
    weights = np.asarray(shares, np.float64)
    chosen = rng.choice(len(sizes), size=count, p=weights / weights.sum())
    starts = np.empty(count, np.int64)
    for source, size in enumerate(sizes):
        where = np.flatnonzero(chosen == source)
        if len(where) and size < 2 * length + 1:
            raise UsageError(
                f"a source has {size} tokens, fewer than two windows of {length}",
                "drop it from data.sources or add text",
            )
        drawn: list[np.ndarray] = []
        while sum(map(len, drawn)) < len(where):
            offset = int(rng.integers(length))
            drawn.append(offset + length * rng.permutation((size - 1 - offset) // length))
        if drawn:
            starts[where] = np.concatenate(drawn)[: len(where)]
    return [Window(int(s), int(t)) for s, t in zip(chosen, starts, strict=True)]
