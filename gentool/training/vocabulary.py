"""Trains the tokenizer, and encodes documents with it. SentencePiece unigram with byte fallback:
characters without a piece of their own are written as bytes, so any text can be encoded.

SentencePiece drops some lines without a message. Lines are cut here so that none is dropped.
"""

from __future__ import annotations

import collections
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import sentencepiece

from gentool.errors import GentoolError, UsageError
from gentool.training.corpus import sentences
from gentool.training.recipe import VocabularyOptions

BOS, EOS = 1, 2  # <s> starts every document, </s> ends it
MAX_LINE_BYTES = 4192  # SentencePiece drops longer lines
RESERVED = "\u2585"  # SentencePiece drops lines that contain it
SPACE = "\u2581"  # SentencePiece's own sign of a space, decoded as one
BYTE_AND_CONTROL_PIECES = 256 + 4  # <unk>, <s>, </s> and the newline


class Lines(NamedTuple):
    """The lines that the vocabulary is trained on, and how many lines were cut for it."""

    lines: list[str]
    cut: int


class Coverage(NamedTuple):
    """How much of a text has pieces of its own; the rest is written as bytes."""

    characters: int  # distinct
    covered: int  # of these
    share: float  # of the text


def sample_lines(documents: Sequence[str], characters: int, seed: int) -> Lines:
    """The lines of random documents until they have so many characters, each at most
    MAX_LINE_BYTES long: longer ones are cut at sentence ends, never inside a character."""
    lines: list[str] = []
    taken = cut = 0
    for index in np.random.default_rng(seed).permutation(len(documents)):
        for line in documents[index].split("\n"):
            parts = list(_cut(line))
            lines += parts
            cut += len(parts) > 1
            taken += len(line)
        if taken >= characters:
            break
    return Lines(lines, cut)


def _cut(line: str) -> Iterator[str]:
    """A line in parts that SentencePiece does not drop."""
    if len(line.encode()) <= MAX_LINE_BYTES and RESERVED not in line:
        yield line
        return
    part, size = "", 0
    for sentence in filter(None, line.split(RESERVED)):
        for piece in _short(sentence):
            more = len(piece.encode())
            if size + more > MAX_LINE_BYTES:
                yield part
                part, size = "", 0
            part, size = part + piece, size + more
        if part:
            yield part
        part, size = "", 0


def _short(text: str) -> Iterator[str]:
    """The sentences of a text; one that is too long in parts of as many characters as fit."""
    for sentence in sentences(text):
        while len(sentence.encode()) > MAX_LINE_BYTES:
            fits = len(sentence.encode()[:MAX_LINE_BYTES].decode(errors="ignore"))
            yield sentence[:fits]
            sentence = sentence[fits:]
        yield sentence


def train(lines: Sequence[str], size: int, options: VocabularyOptions) -> bytes:
    """A SentencePiece model of `size` pieces, learnt from lines of `sample_lines`.

    Raises UsageError if the text has too few different pieces, or too many characters.
    """
    if not any(lines):
        raise UsageError("the corpus has no text to train on", "add text to the sources")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            character_coverage=options.character_coverage,
            max_sentence_length=MAX_LINE_BYTES,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=["\n"],
            max_sentencepiece_length=8,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as e:
        raise _cannot_learn(str(e), size, lines, options) from None
    return model.getvalue()


def _cannot_learn(
    reason: str, size: int, lines: Sequence[str], options: VocabularyOptions
) -> UsageError:
    """SentencePiece's reason in our words."""
    count = sum(map(len, lines))
    text = f"{count:,} characters of text"
    if largest := re.search(r"too high .* <= (\d+)", reason):
        return UsageError(
            f"arch.n_vocab is {size}: {text} give a vocabulary of at most {largest[1]} pieces",
            f"set arch.n_vocab to {largest[1]} or less, or add text",
        )
    if required := re.search(r"required_chars\. \d+ vs (\d+)", reason):
        characters = int(required[1]) - BYTE_AND_CONTROL_PIECES
        return UsageError(
            f"arch.n_vocab is {size}: the text has {characters} characters to be pieces, which"
            f" with bytes and control pieces are {required[1]}",
            f"set arch.n_vocab to {required[1]} or more, or pieces.character_coverage"
            f" below {options.character_coverage}",
        )
    short = reason.rpartition(") ] ")[2] or reason
    return UsageError(
        f"a vocabulary of {size} pieces cannot be learnt from {text}: {short.strip()}",
        "change arch.n_vocab, or add text",
    )


def coverage(model: bytes, lines: Iterable[str]) -> Coverage:
    """How much of the lines has pieces of its own."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        counts.update(line)
    unknown = processor.unk_id()
    covered = {c: n for c, n in counts.items() if c == " " or processor.PieceToId(c) != unknown}
    share = sum(covered.values()) / max(1, counts.total())
    return Coverage(len(counts), len(covered), share)


def encode(model: Path, documents: Iterable[str]) -> np.ndarray:
    """All documents as one array of uint16 ids, each between <s> and </s>."""
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (OSError, RuntimeError):
        raise GentoolError(
            f"{model} is not a SentencePiece model", "remove it, and it is trained again"
        ) from None
    rows = processor.Encode(list(documents), add_bos=True, add_eos=True, num_threads=-1)
    return np.concatenate([np.empty(0, np.uint16), *(np.asarray(row, np.uint16) for row in rows)])
