"""Text to ids and back. A tokenizer is what `Tokenizer` says; a kind is a module with `load`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

from gentool.config import TokenizerConfig

KINDS = {"sentencepiece": "gentool.tokenizers.sentencepiece"}


class Tokenizer(Protocol):
    """`piece` gives the bytes an id adds to a text, so that any sequence of ids is the text of its
    joined bytes; ids that are only marks add none."""

    n_vocab: int
    end: tuple[int, ...]  # ids that end a text

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: list[int]) -> str: ...

    def piece(self, token: int) -> bytes: ...


def load(config: TokenizerConfig, folder: Path) -> Tokenizer:
    """Opens the tokenizer a model's YAML names; its paths start at `folder`."""
    tokenizer: Tokenizer = import_module(KINDS[config.kind]).load(config, folder)
    return tokenizer
