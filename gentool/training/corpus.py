"""Text files to documents, documents to a training and a held-out part, tokens to windows.

FILE.txt or FILE.txt.zst holds UTF-8 documents separated by blank lines. A file without blank lines
is cut into documents at line and sentence ends. About one document in a hundred, chosen by the hash
of its text, is held out: it is used for neither the vocabulary nor training.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gentool.errors import GentoolError, UsageError

HELD_OUT_PERCENT = 1
CUT_CHARACTERS = 2000  # of a document cut from a file without blank lines, at least
CHUNK = 1 << 14  # bytes of a file; what they decompress to is held in memory

# Where a sentence ends: its last mark with closing quotation marks, or a full stop before a space.
_SENTENCE_END = re.compile(r"[。！？!?…；;\n]+[”’」』）)\"']*|\.\s+")

# Who speaks: a name and a colon at the start of a line.
_SPEAKER = re.compile(r"^[^\n：。，、；？！“”（）《》【】]{1,20}：[ \t]*(?=\S)", re.MULTILINE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text, each with its end; joined they are the text."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.end()]
        start = end.end()
    if start < len(text):
        yield text[start:]


class Source(NamedTuple):
    """The documents of a file; `cut` if it had no blank line and was cut into them."""

    documents: list[str]
    cut: bool


def read(folder: Path, name: str) -> Source:
    """The documents of folder/name.txt or folder/name.txt.zst, in order.

    Raises UsageError if there is neither, GentoolError if it cannot be read or is not UTF-8.
    """
    documents = paragraphs(lines(locate(folder, name)))
    if len(documents) == 1 and len(documents[0]) >= 2 * CUT_CHARACTERS:
        return Source(_cut(documents[0]), True)
    return Source(documents, False)


def paragraphs(lines: Iterable[str]) -> list[str]:
    """Documents that are separated by blank lines."""
    documents: list[str] = []
    document: list[str] = []
    for line in lines:
        if line.strip():
            document.append(line)
        elif document:
            documents.append("\n".join(document))
            document = []
    if document:
        documents.append("\n".join(document))
    return documents


def _cut(text: str) -> list[str]:
    """A text in documents of at least CUT_CHARACTERS, cut after sentences shorter than that."""
    documents: list[str] = []
    part: list[str] = []
    length = 0
    for sentence in sentences(text):
        for start in range(0, len(sentence), CUT_CHARACTERS):
            part.append(sentence[start : start + CUT_CHARACTERS])
            length += len(part[-1])
            if length >= CUT_CHARACTERS:
                documents.append("".join(part))
                part, length = [], 0
    documents[-1:] = [documents[-1] + "".join(part)]  # a rest makes the last one longer
    return [document.strip("\n") for document in documents]


def locate(folder: Path, name: str) -> Path:
    """The file of a source."""
    for path in (folder / f"{name}.txt", folder / f"{name}.txt.zst"):
        try:
            if path.is_file():
                return path
        except OSError as e:
            raise GentoolError(
                f"cannot read {path}: {e.strerror}", "check the permissions of the folder"
            ) from None
    raise UsageError(
        f"{folder} has no {name}.txt and no {name}.txt.zst",
        "give the corpus with --data DIR, or drop the source from the recipe",
    )


def lines(path: Path) -> Iterator[str]:
    """The lines of a file without their ends (LF, CRLF or CR) and without a byte order mark."""
    rest, number, position = b"", 0, 0
    for chunk in (*_chunks(path), None):
        if chunk is None:
            ended, rest = [rest] if rest else [], b""
        else:
            *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            number += 1
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as e:
                raise GentoolError(
                    f"{path} is not UTF-8: line {number}, byte {position + e.start} of the text"
                    f" is 0x{line[e.start]:02x}",
                    "save it as UTF-8",
                ) from None
            position += len(line) + 1
            text = text.removeprefix("\ufeff") if number == 1 else text
            yield from text.removesuffix("\r").split("\r")


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, decompressed if it is a .zst file."""
    try:
        with path.open("rb") as file:
            chunks = iter(partial(file.read, CHUNK), b"")
            yield from _decompressed(path, chunks) if path.suffix == ".zst" else chunks
    except OSError as e:
        raise GentoolError(
            f"cannot read {path}: {e.strerror}", "check the file and its permissions"
        ) from None


def _decompressed(path: Path, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Zstandard frames, one after another."""
    try:
        import zstandard
    except ImportError:
        raise GentoolError(
            f"reading {path} needs zstandard", "pip install 'gentool[train]'"
        ) from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    frame = None
    try:
        for chunk in chunks:
            while chunk:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(chunk)
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    except zstandard.ZstdError as e:
        raise GentoolError(
            f"cannot decompress {path}: {e}", "compress it again: zstd FILE"
        ) from None
    if frame:
        raise GentoolError(f"{path} ends in the middle of its data", "copy it again, whole")


def without_speakers(document: str) -> str:
    """A dialogue or transcript without the marks of who speaks: 问：, 答：, a name and a colon at
    the start of a line."""
    return _SPEAKER.sub("", document)


def is_held_out(document: str) -> bool:
    """Whether this document belongs to the held-out one per cent, by SHA-256 of its text."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < HELD_OUT_PERCENT


class Split(NamedTuple):
    """Documents to train on and documents to measure with."""

    train: list[str]
    held_out: list[str]


def split(documents: Iterable[str]) -> Split:
    """Documents divided by `is_held_out`."""
    parts = Split([], [])
    for document in documents:
        (parts.held_out if is_held_out(document) else parts.train).append(document)
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
        places = np.flatnonzero(chosen == source)
        if len(places) and size < 2 * length + 1:
            raise UsageError(
                f"a source has {size} tokens, fewer than two windows of {length}",
                "drop it from data.sources or add text",
            )
        epochs: list[np.ndarray] = []
        while sum(map(len, epochs)) < len(places):
            offset = int(rng.integers(length))
            epochs.append(offset + length * rng.permutation((size - 1 - offset) // length))
        if epochs:
            starts[places] = np.concatenate(epochs)[: len(places)]
    return [Window(int(s), int(t)) for s, t in zip(chosen, starts, strict=True)]
