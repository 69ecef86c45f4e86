"""SentencePiece model files (Kudo & Richardson 2018), through their own library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from gentool.config import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import joined

BLANK = "\u2581"  # how a piece writes a space


class SentencePiece:
    """A model without dummy prefix: every piece stands for its own characters wherever it is."""

    def __init__(self, processor: sentencepiece.SentencePieceProcessor, add_bos: bool) -> None:
        self._processor = processor
        self._add_bos = add_bos
        self.n_vocab: int = processor.GetPieceSize()
        self.end: tuple[int, ...] = (processor.eos_id(),)
        self._pieces = [self._bytes_of(token) for token in range(self.n_vocab)]

    def _bytes_of(self, token: int) -> bytes:
        processor = self._processor
        if processor.IsControl(token):
            return b""
        text: str = processor.IdToPiece(token)
        if processor.IsByte(token):
            return bytes([int(text[3:5], 16)])  # "<0xE4>"
        return text.replace(BLANK, " ").encode()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._processor.Encode(text, add_bos=self._add_bos)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token: int, previous: int | None) -> bytes:
        return self._pieces[token]


def load(config: TokenizerConfig, folder: Path) -> SentencePiece:
    path = folder / config.model
    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError):
        raise ModelError(
            f"{path} is not a SentencePiece model", "restore the file from its source"
        ) from None
    return SentencePiece(processor, config.add_bos)
