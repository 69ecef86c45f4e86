"""SentencePiece model files (Kudo & Richardson 2018), through their own library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import contents, joined

BLANK = "\u2581"  # how a piece writes a space
BYTE = re.compile("<0x([0-9A-F]{2})>")  # how a piece writes a byte


class SentencePiece:
    """A piece stands for its own characters wherever it is; only the blank that a model with a
    dummy prefix (LLaMA's) puts before every text is not there at the start of one."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, add_bos: bool) -> None:
        self._processor = processor
        self._add_bos = add_bos
        self.n_vocab: int = processor.GetPieceSize()
        self.end: tuple[int, ...] = (processor.eos_id(),) if processor.eos_id() >= 0 else ()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.Encode(text, add_bos=self._add_bos)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token: int, previous: int | None) -> bytes:
        at_start = previous is None or previous == self._processor.bos_id()
        return surface(self._processor, token, at_start)


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
    found, at = set(), 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 != 2:
            raise ValueError("a field that is no message")
        size, at = _varint(data, at)
        at += size
        found.add(key >> 3)
    if at > len(data):
        raise ValueError("the last field is cut off")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number at an offset, and the offset after it."""
    number = 0
    for shift, byte in enumerate(data[at : at + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, at + shift + 1
    raise ValueError("a number is cut off")


def read(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The model in a file; the library checks it when it is given one."""
    sentencepiece.set_min_log_level(3)  # what is wrong is said once, by the error
    data = contents(path)
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
    processor = read(path)
    if config.add_bos and processor.bos_id() < 0:
        raise ModelError(f"{path} has no start token", "set tokenizer.add_bos to false")
    return SentencePiece(processor, bool(config.add_bos))
