"""SentencePiece model files (Kudo & Richardson 2018), through their own library."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece

from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import contents, joined
from gentool.tokenizers.added_tokens import (
    CONFIG,
    AddedToken,
    Declared,
    Splitter,
    declared,
    renamed,
)

BLANK = "\u2581"  # how a piece writes a space
BYTE = re.compile("<0x([0-9A-F]{2})>")  # how a piece writes a byte
# a protocol buffer's field 3 (normalizer_spec) with field 3 (add_dummy_prefix) false
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class SentencePiece:
    """A piece stands for its own characters wherever it is; only the blank that a model with a
    dummy prefix (LLaMA's) puts before every text is not there at the start of one."""

    def __init__(self, data: bytes, path: Path, config: TokenizerConfig, beside: Declared) -> None:
        self._processor = processor = _processor(data, path)
        inner = data + NO_DUMMY_PREFIX  # fields of one number are merged, the last value counts
        without = _processor(inner, path) if config.add_prefix_space is False else None
        self._first = without or processor
        self._later = without or _processor(inner, path)
        self._legacy, self._reads_special = config.legacy, config.special_tokens
        self._unknown = processor.IdToPiece(processor.unk_id()) if processor.unk_id() >= 0 else ""
        new = config.special_tokens and not config.legacy
        has_prefix = new and self._first.Encode("a") != self._later.Encode("a")
        self._prefix = BLANK if has_prefix else ""  # in the place of the dummy prefix
        # transformers' classes of LLaMA and T5 where they are not legacy; Gemma has no prefix
        self._as_llama = has_prefix or (new and without is not None)
        self._add_bos = bool(config.add_bos)
        self.n_vocab: int = processor.GetPieceSize()
        self.start: tuple[int, ...] = (processor.bos_id(),) if self._add_bos else ()
        self.end: tuple[int, ...] = (processor.eos_id(),) if processor.eos_id() >= 0 else ()
        self._added = {token.id: token for token in beside.added.values()}
        tokens = {token.text: token for token in _own(processor, beside.special)}
        for text, token in beside.added.items():
            own = processor.PieceToId(text)
            if token.id < self.n_vocab and processor.IdToPiece(token.id) != text:
                raise ModelError(
                    f"{path.with_name(CONFIG)}: added token {text!r} has the id {token.id} of"
                    f" {processor.IdToPiece(token.id)!r} in {path.name}",
                    "restore both files from their source",
                )
            if token.id >= self.n_vocab and own != processor.unk_id():
                raise ModelError(
                    f"{path.with_name(CONFIG)}: added token {text!r} has the id {token.id},"
                    f" {path.name} has it as {own}",
                    "restore both files from their source",
                )
        self.special: Mapping[str, int] = {text: token.id for text, token in tokens.items()} | {
            text: token.id for text, token in beside.added.items() if token.special
        }
        self._tokens = {**tokens, **beside.added}
        self._special = frozenset(self.special.values())
        self._splitter = Splitter({**(tokens if config.special_tokens else {}), **beside.added})

    def encode(self, text: str) -> list[int]:
        if text and self._as_llama:  # the prefix stands before all, whatever the text begins with
            text = self._prefix + text.replace(BLANK, " ")
        parts = [*self._splitter.split(text)]
        if self._as_llama and parts[:1] in ([BLANK], [" "]) and set(parts[1:2]) & self._special:
            parts = parts[1:]
        ids = list(self.start)
        for number, part in enumerate(parts):
            ids += [part] if isinstance(part, int) else self._encode(part, number == 0)
        return ids

    def encoder(self, names: Mapping[str, str]) -> Callable[[str], list[int]]:
        other = copy.copy(self)
        other.start = ()
        other._splitter = Splitter(renamed(self._tokens, names))
        return other.encode

    def _encode(self, part: str, is_first: bool) -> list[int]:
        """The ids of a text between added tokens."""
        if self._legacy or is_first and not self._as_llama:
            return list(self._first.Encode(part))
        if is_first and self._prefix:
            return list(self._first.Encode(part[1:]) if part[1:] else self._later.Encode(BLANK))
        if part[0] not in (" ", BLANK):
            return list(self._later.Encode(part))
        # a model may remove blanks at the start of a text, but here it has no start
        before = self._later.Encode(self._unknown)
        return list(self._later.Encode(self._unknown + part)[len(before) :])

    def decode(self, ids: Sequence[int]) -> str:
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token: int, previous: int | None) -> bytes:
        if token in self._added:
            added = self._added[token]
            return b"" if added.special else added.text.encode()
        if token == self._processor.unk_id() and self._reads_special:
            return b""
        at_start = previous is None or previous == self._processor.bos_id()
        at_start |= self._legacy and previous in self._added  # as `encode` has it
        return surface(self._first, token, at_start)


def _own(
    processor: sentencepiece.SentencePieceProcessor, special: Sequence[str]
) -> Iterator[AddedToken]:
    """The special tokens among the pieces: control pieces, the unknown one, and those named."""
    for token in range(processor.GetPieceSize()):
        text = processor.IdToPiece(token)
        if processor.IsControl(token) or processor.IsUnknown(token) or text in special:
            yield AddedToken(token, text, special=True)


def surface(
    processor: sentencepiece.SentencePieceProcessor, token: int, at_start: bool = False
) -> bytes:
    """What a piece adds to a text. A control piece or an id beyond the vocabulary adds nothing, an
    unknown one the library's mark."""
    if not 0 <= token < processor.GetPieceSize() or processor.IsControl(token):
        return b""
    text: str = processor.IdToPiece(token)
    if processor.IsByte(token):
        byte = BYTE.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else b""
    if at_start or processor.IsUnknown(token):
        text = processor.Decode([token])
    return text.replace(BLANK, " ").encode()


# fields of the file's protocol buffer: the pieces, how they were trained, how text is normalized
FIELDS = {1, 2, 3}


def fields(data: bytes) -> set[int]:
    """The numbers of the fields of a protocol buffer. The library takes a file that ends between
    two of them, with other settings, so the last must be there."""
    numbers, at = set(), 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 != 2:
            raise ValueError("a field that is no message")
        size, at = _varint(data, at)
        at += size
        numbers.add(key >> 3)
    if at > len(data):
        raise ValueError("the last field is cut off")
    return numbers


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number at an offset, and the offset after it."""
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    raise ValueError("a number is cut off")


def read(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The model in a file."""
    return _processor(contents(path), path)


def _processor(data: bytes, path: Path) -> sentencepiece.SentencePieceProcessor:
    """The model in these bytes; the library checks them."""
    sentencepiece.set_min_log_level(3)  # the error alone reports what is wrong
    try:
        if not fields(data) >= FIELDS:
            raise ValueError("a field is missing")
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        processor.IdToPiece(list(range(processor.GetPieceSize())))  # all are text
    except (OSError, RuntimeError, ValueError):
        raise ModelError(
            f"{path} is not a SentencePiece model", "restore the file from its source"
        ) from None
    return processor


def load(config: TokenizerConfig, folder: Path) -> SentencePiece:
    path = folder / config.model
    data = contents(path)
    processor = _processor(data, path)
    if config.add_bos and processor.bos_id() < 0:
        raise ModelError(f"{path} has no start token", "set tokenizer.add_bos to false")
    return SentencePiece(data, path, config, declared(path))
