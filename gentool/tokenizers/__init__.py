"""Text to token ids and back: the `Tokenizer` interface, and the kinds by their modules.

To add a kind: its name in `gentool.config.model.KINDS`, and the module of that name in this folder
with `load(config, folder) -> Tokenizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers.added_tokens import COMPANIONS

MERGES = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}  # vocabulary -> its merges
MAX_BYTES = 1 << 28  # of a tokenizer's file; those of 256k pieces have some 2^25


class Tokenizer(Protocol):
    """`piece` gives the bytes an id adds after a previous one (None at the start of a text), so
    that any sequence of ids is the text of its joined bytes; ids that are only marks add none."""

    n_vocab: int  # ids of the vocabulary; added tokens may have ids beyond it
    start: tuple[int, ...]  # ids that `encode` puts before every text
    end: tuple[int, ...]  # ids that end a text
    special: Mapping[str, int]  # special tokens by their text

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def piece(self, token: int, previous: int | None) -> bytes: ...

    def encoder(self, names: Mapping[str, str]) -> Callable[[str], list[int]]:
        """As `encode`, but without `start`, and special tokens are read only where a text has their
        names instead of their texts: `names` has one for each of `special`."""
        ...


def special_id(tokenizer: Tokenizer | None, text: str) -> int | None:
    """The id of the special token that `text` is, as a stop, ban or choice text means it."""
    return tokenizer.special.get(text) if tokenizer else None


def repeated_start(tokenizer: Tokenizer, ids: Sequence[int]) -> int | None:
    """The start token that an encoded prompt holds twice: `encode` adds it, and the text spells
    it. None where it does not."""
    count = len(tokenizer.start)
    return ids[count] if count and ids[count : count + 1] == list(tokenizer.start[-1:]) else None


def joined(tokenizer: Tokenizer, ids: Sequence[int], previous: int | None = None) -> bytes:
    """The bytes that `ids` add to a text that ends in `previous`."""
    return b"".join(map(tokenizer.piece, ids, [previous, *ids]))


def contents(path: Path) -> bytes:
    """The bytes of a tokenizer's file; a size that no tokenizer has is not read."""
    try:
        size = path.stat().st_size
        if path.is_file() and size <= MAX_BYTES:
            data = path.read_bytes()
            if data.startswith(b"version https://git-lfs"):
                raise ModelError(f"{path} is a Git LFS pointer, not the file", "run: git lfs pull")
            return data
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "restore the file") from None
    problem = f"has {size} bytes, too many for a tokenizer" if path.is_file() else "is no file"
    raise ModelError(f"{path} {problem}", "name the tokenizer's own file")


def files(config: TokenizerConfig, folder: Path) -> list[Path]:
    """The files that a tokenizer is read from."""
    path = folder / config.model
    merges = [path.with_name(MERGES[path.name])] if path.name in MERGES else []
    beside = [] if config.kind == "cpm" else [path.with_name(name) for name in COMPANIONS]
    return [path, *merges, *(companion for companion in beside if companion.is_file())]


def load(config: TokenizerConfig, folder: Path) -> Tokenizer:
    """Opens the tokenizer a model's YAML names; its paths start at `folder`."""
    module = import_module(f"gentool.tokenizers.{config.kind}")
    tokenizer: Tokenizer = module.load(config, folder)
    return tokenizer
