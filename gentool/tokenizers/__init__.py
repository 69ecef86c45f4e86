"""Text to ids and back. A tokenizer is what `Tokenizer` says; a kind is a module with `load`.

To add a kind: its name in `gentool.config.model.KINDS`, and the module of that name in this folder
with `load(config, folder) -> Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError

MERGES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}  # vocabulary -> its merges
LARGEST = 1 << 28  # bytes of a tokenizer's file; those of 256k pieces have some 2^25


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


def contents(path: Path) -> bytes:
    """The bytes of a tokenizer's file; a size that no tokenizer has is not read."""
    try:
        size = path.stat().st_size
        if path.is_file() and size <= LARGEST:
            return path.read_bytes()
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "restore the file") from None
    problem = f"has {size} bytes, too many for a tokenizer" if path.is_file() else "is no file"
    raise ModelError(f"{path} {problem}", "name the tokenizer's own file")


def files(config: TokenizerConfig, folder: Path) -> list[Path]:
    """The files a tokenizer is read from."""
    path = folder / config.model
    return [path, path.with_name(MERGES[path.name])] if path.name in MERGES else [path]


def load(config: TokenizerConfig, folder: Path) -> Tokenizer:
    """Opens the tokenizer a model's YAML names; its paths start at `folder`."""
    module = import_module(f"gentool.tokenizers.{config.kind}")
    tokenizer: Tokenizer = module.load(config, folder)
    return tokenizer
