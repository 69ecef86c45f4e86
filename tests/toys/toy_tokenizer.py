"""A toy tokenizer: the characters of a file, each a token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gentool.config.model import TokenizerConfig


class Characters:
    def __init__(self, characters: str) -> None:
        self._characters, self.n_vocab = characters, len(characters)
        self.start: tuple[int, ...] = ()
        self.end: tuple[int, ...] = ()
        self.special: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self._characters.index(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self._characters[id] for id in ids)

    def piece(self, token: int, previous: int | None) -> bytes:
        return self._characters[token].encode()


def load(config: TokenizerConfig, folder: Path) -> Characters:
    return Characters((folder / config.model).read_text("utf-8"))
