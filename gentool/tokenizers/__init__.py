"""Text to ids and back. A tokenizer is what `Tokenizer` says; a kind is a module with `load`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gentool.config import TokenizerConfig

KINDS = {"sentencepiece": "gentool.tokenizers.sentencepiece"}


class Tokenizer(Protocol):
    """`piece` gives the bytes an id adds after a previous one (None at the start of a text), so
    that any sequence of ids is the text of its joined bytes; ids that are only marks add none."""

    n_vocab: int
    end: tuple[int, ...]  # ids that end a text

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, token: int, previous: int | None) -> bytes: ...


def joined(tokenizer: Tokenizer, ids: Sequence[int], previous: int | None = None) -> bytes:
    """The bytes that `ids` add to a text that ends in `previous`."""
    return b"".join(map(tokenizer.piece, ids, [previous, *ids]))


def load(config: TokenizerConfig, folder: Path) -> Tokenizer:
    """Opens the tokenizer a model's YAML names; its paths start at `folder`."""
    tokenizer: Tokenizer = import_module(KINDS[config.kind]).load(config, folder)
    return tokenizer
