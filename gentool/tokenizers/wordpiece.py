"""BERT's tokenizer, as GPT2_ML and uer/gpt2-chinese use it: a vocab.txt, words split at blanks,
Chinese characters and punctuation, then the longest pieces from the left.

It is our own code because the ids of `tokenizers` differ: its lower case of Greek, its table of
Chinese characters and its control characters are not those of the original.
"""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import contents, joined
from gentool.tokenizers.added_tokens import AddedToken, Declared, Splitter, declared, renamed

UNKNOWN, END = "[UNK]", "[SEP]"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", END, "[MASK]")
INSIDE = "##"  # what a piece that continues a word begins with
LONGEST_WORD = {"google": 200, "transformers": 100}  # a longer one is unknown

# the blocks whose characters are words of their own: no kana, no hangul, no punctuation
CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Ids of the words of a text; [CLS] and [SEP] are not added."""

    def __init__(self, pieces: Sequence[str], config: TokenizerConfig, beside: Declared) -> None:
        self._pieces = pieces
        self._ids = {piece: token for token, piece in enumerate(pieces)}
        self._longest = max(map(len, pieces))
        self._config = config
        self._max_length = LONGEST_WORD[config.split or "google"]
        self._added = {token.id: token for token in beside.added.values()}
        self.n_vocab = len(pieces)
        self.start: tuple[int, ...] = ()
        self.end: tuple[int, ...] = (self._ids[END],) if END in self._ids else ()
        unknown = self._ids[UNKNOWN]
        named = {text: self._ids.get(text, unknown) for text in SPECIAL}
        named |= {text: self._ids[text] for text in beside.special if text in self._ids}
        added = {text: token.id for text, token in beside.added.items() if token.special}
        self.special: Mapping[str, int] = {
            text: token for text, token in (named | added).items() if token != unknown
        } | {UNKNOWN: unknown}
        tokens = {text: AddedToken(token, text, True) for text, token in named.items()}
        self._tokens = {**tokens, **beside.added}
        self._splitter = Splitter(self._tokens if config.special_tokens else beside.added)
        kept = [token.text for token in beside.added.values() if token.normalized or token.special]
        kept = sorted({*kept, *named, *beside.special}, key=len, reverse=True)
        self._kept = re.compile(f"({'|'.join(map(re.escape, kept))})|.")

    def encode(self, text: str) -> list[int]:
        if self._config.split == "transformers" and self._config.lower_case:
            # letter by letter, and before added tokens are found
            text = self._kept.sub(lambda match: match[1] or match[0].lower(), text)
        ids: list[int] = []
        for part in self._splitter.split(text):
            ids += [part] if isinstance(part, int) else self._encode(part)
        return ids

    def encoder(self, names: Mapping[str, str]) -> Callable[[str], list[int]]:
        other = copy.copy(self)
        other._splitter = Splitter(renamed(self._tokens, names))
        return other.encode

    def _encode(self, text: str) -> list[int]:
        return [token for word in words(text, self._config) for token in self._ids_of(word)]

    def _ids_of(self, word: str) -> list[int]:
        ids, start = [], 0
        while start < len(word) <= self._max_length:
            inside = INSIDE if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (token := self._ids.get(inside + word[start:end])) is not None:
                    break
            else:
                return [self._ids[UNKNOWN]]
            ids.append(token)
            start = end
        return ids or [self._ids[UNKNOWN]]

    def decode(self, ids: Sequence[int]) -> str:
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token: int, previous: int | None) -> bytes:
        before = "" if previous is None else self._written(previous)
        return added(before, self._written(token)).encode()

    def _written(self, token: int) -> str:
        if token in self._added:
            added = self._added[token]
            return f"[{added.text}]" if added.special else added.text  # in brackets: no text
        return self._pieces[token] if 0 <= token < self.n_vocab else ""


def added(before: str, piece: str) -> str:
    """What a piece adds to a text after the piece before it. Pieces in brackets are marks; a blank
    stands only where two words would be one without it."""
    if is_mark(piece):
        return ""
    if piece.startswith(INSIDE) and len(piece) > len(INSIDE):
        return piece[len(INSIDE) :]
    apart = is_mark(before) or stands_alone(before[-1:]) or stands_alone(piece[:1])
    return piece if apart else f" {piece}"


def is_mark(piece: str) -> bool:
    return len(piece) > 2 and piece[0] == "[" and piece[-1] == "]"


def stands_alone(character: str) -> bool:
    """Whether this character, or none at all, is parted from its neighbours without a blank."""
    return not character or is_chinese(character) or is_punctuation(character)


def is_chinese(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in CHINESE)


def is_punctuation(character: str) -> bool:
    """Unicode's punctuation and all of ASCII that is neither letter nor digit, as `$` and `~`."""
    if "!" <= character <= "~":
        return not character.isalnum()
    return unicodedata.category(character).startswith("P")


def words(text: str, config: TokenizerConfig) -> Iterator[str]:
    """The words of a text in the order of the original: cleaned, Chinese characters set apart,
    split at blanks, lowered, without accents (where `strip_accents` is None: if lowered), split at
    punctuation. transformers composes characters (NFC) before it splits at blanks."""
    apart = is_chinese if config.tokenize_chinese_chars else _never
    as_transformers = config.split == "transformers"
    cleaned = (_cleaned(c, as_transformers) for c in text)
    spaced = "".join(f" {c} " if c and apart(c) else c for c in cleaned)
    if as_transformers:
        spaced = unicodedata.normalize("NFC", spaced)
    strip = config.lower_case if config.strip_accents is None else config.strip_accents
    for word in spaced.split():
        word = word.lower() if config.lower_case else word
        if strip:
            parts = unicodedata.normalize("NFD", word)
            word = "".join(c for c in parts if unicodedata.category(c) != "Mn")
        yield from "".join(f" {c} " if is_punctuation(c) else c for c in word).split()


def _never(character: str) -> bool:
    return False


def _cleaned(character: str, as_transformers: bool) -> str:
    """A blank for white space, nothing for a control character; transformers also drops characters
    that are private or not assigned."""
    category = unicodedata.category(character)
    if character in "\t\n\r" or category == "Zs":
        return " "
    control = category[0] == "C" if as_transformers else category in ("Cc", "Cf")
    return "" if character == "\ufffd" or control else character


def load(config: TokenizerConfig, folder: Path) -> WordPiece:
    path = folder / config.model
    try:
        lines = contents(path).decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as e:
        raise ModelError(
            f"{path} is not UTF-8 (byte {e.start})", "restore the file from its source"
        ) from None
    pieces = [line.strip() for line in lines]
    if UNKNOWN not in pieces:
        raise ModelError(f"{path} has no {UNKNOWN}", "restore the file from its source")
    return WordPiece(pieces, config, declared(path))
