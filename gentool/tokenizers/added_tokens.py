"""Added tokens: tokens that a folder declares outside its vocabulary file, in added_tokens.json and
in added_tokens_decoder of tokenizer_config.json, and the special tokens those files name. A text
that spells one becomes its id, as in transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gentool.errors import ModelError

ADDED = "added_tokens.json"
CONFIG = "tokenizer_config.json"
SPECIAL_MAP = "special_tokens_map.json"
COMPANIONS = (ADDED, CONFIG, SPECIAL_MAP)  # are read where they lie beside a vocabulary file
SPECIAL_KEYS = tuple(f"{name}_token" for name in "bos eos unk sep pad cls mask".split())
MAX_BYTES = 1 << 24  # of each of these files
MAX_ID = 1 << 24
MAX_TOKENS = 1 << 16
MAX_LENGTH = 1000  # characters of a token
FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


class AddedToken(NamedTuple):
    """`lstrip` and `rstrip` take the white space before and behind a token into it; a `single_word`
    one is only read between spaces. `normalized` ones are read after normalization."""

    id: int
    text: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False


class Declared(NamedTuple):
    """What the files beside a vocabulary declare: added tokens by text, and the texts of special
    tokens (bos_token and its like), which may be pieces of the vocabulary."""

    added: Mapping[str, AddedToken]
    special: tuple[str, ...]


def declared(vocabulary: Path) -> Declared:
    """The added and special tokens that the files beside `vocabulary` declare.

    Raises:
        ModelError: a file holds wrong types, or two declarations contradict each other.
    """
    added_path, config_path = vocabulary.with_name(ADDED), vocabulary.with_name(CONFIG)
    config = read_json(config_path)
    decoder = _mapping(config, "added_tokens_decoder", config_path)
    tokens: dict[str, AddedToken] = {}
    for key, entry in decoder.items():
        number = int(key) if key.isascii() and key.isdigit() and len(key) < 9 else -1
        name = f"added_tokens_decoder: {key[:40]}"
        entry = {"content": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict):
            raise _wrong(config_path, name, entry)
        token = _token(config_path, name, number, entry)
        if token.text in tokens:
            raise _wrong(config_path, name, token.text, "is the text of two tokens")
        tokens[token.text] = token
    special = [*_special(config, config_path), *_special_map(vocabulary.with_name(SPECIAL_MAP))]
    by_id = {token.id: token for token in tokens.values()}
    for text, number in read_json(added_path).items():
        flags = {"special": text in special, "normalized": text not in special}
        token = _token(added_path, text[:40], number, {"content": text, **flags})
        other = tokens.get(text) or by_id.get(token.id)
        if other and (other.id, other.text) != (token.id, text):
            raise ModelError(
                f"{added_path}: {text!r} is token {token.id}, but {CONFIG} has"
                f" added_tokens_decoder: {other.id}: {other.text!r}",
                "restore both files from their source",
            )
        tokens.setdefault(text, token)
        by_id.setdefault(token.id, token)
    if len(tokens) > MAX_TOKENS or len(by_id) < len(tokens):
        raise ModelError(
            f"{added_path}: {len(tokens)} added tokens with {len(by_id)} ids are not supported",
            f"an id is one token's, and there are at most {MAX_TOKENS}",
        )
    return Declared(tokens, tuple(dict.fromkeys(special)))


def _token(path: Path, name: str, number: object, entry: Mapping[str, Any]) -> AddedToken:
    text = entry.get("content")
    if not isinstance(text, str) or not 0 < len(text) <= MAX_LENGTH:
        raise _wrong(path, f"{name}: content", text)
    if type(number) is not int or not 0 <= number < MAX_ID:
        raise _wrong(path, name, number, "is no token id")
    flags = {flag: entry.get(flag, False) for flag in FLAGS}
    for flag, value in flags.items():
        if type(value) is not bool:
            raise _wrong(path, f"{name}: {flag}", value)
    return AddedToken(number, text, **flags)


def _special(data: Mapping[str, Any], path: Path) -> Iterator[str]:
    """The texts of the special tokens in a file."""
    more = data.get("additional_special_tokens") or []
    if not isinstance(more, list):
        raise _wrong(path, "additional_special_tokens", more)
    pairs = [(key, data.get(key)) for key in SPECIAL_KEYS]
    for key, value in [*pairs, *(("additional_special_tokens", value) for value in more)]:
        text = value.get("content") if isinstance(value, dict) else value
        if text is not None and not isinstance(text, str):
            raise _wrong(path, key, value)
        if text:
            yield text


def _special_map(path: Path) -> Iterator[str]:
    yield from _special(read_json(path), path)


def _mapping(data: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = data.get(key)
    if value is not None and not isinstance(value, dict):
        raise _wrong(path, key, value)
    return value or {}


def _wrong(path: Path, key: str, value: object, problem: str = "has the wrong type") -> ModelError:
    shown = repr(value)[:80] if not isinstance(value, dict | list) else type(value).__name__
    return ModelError(f"{path}: {key} {shown} {problem}", "restore the file from its source")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where there is no file."""
    if not os.path.lexists(path):
        return {}
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ValueError(f"{size} bytes are too many")
        data = json.loads(path.read_bytes())
        json.dumps(data, ensure_ascii=False).encode()
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "restore the file") from None
    except UnicodeEncodeError:
        problem = f"{path} has half a surrogate pair, which is no text"
        raise ModelError(problem, "restore the file from its source") from None
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not JSON: {e}", "restore the file from its source") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no mapping", "restore the file from its source")
    return data


def renamed(tokens: Mapping[str, AddedToken], names: Mapping[str, str]) -> dict[str, AddedToken]:
    """The tokens by other texts, where `names` has some."""
    texts = {text: names.get(text, text) for text in tokens}
    return {texts[text]: token._replace(text=texts[text]) for text, token in tokens.items()}


class Splitter:
    """Splits a text at added tokens as the slow tokenizers of transformers do: at the leftmost
    token, of those the longest."""

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = tokens
        self._lengths: dict[str, list[int]] = {}  # by first character, longest first
        for text in tokens:
            self._lengths.setdefault(text[0], []).append(len(text))
        for first, lengths in self._lengths.items():
            self._lengths[first] = sorted(set(lengths), reverse=True)

    def split(self, text: str) -> Iterator[str | int]:
        """Texts between added tokens, none of them empty, and the ids of the tokens."""
        parts = self._cut(text)
        for at, part in enumerate(parts):
            token = self._tokens.get(part)
            if token is None:
                continue
            left = parts[at - 1] if at else ""
            right = parts[at + 1] if at + 1 < len(parts) else ""
            if token.rstrip and right:
                parts[at + 1] = right = right.lstrip()
            if token.lstrip and left:
                parts[at - 1] = left = left.rstrip()
            # part of a word: it joins its left neighbour, else its right one, and the text stays
            # cut on its other side
            if token.single_word and left and left[-1] != " ":
                parts[at - 1], parts[at] = left + part, ""
            elif token.single_word and right and right[0] != " ":
                parts[at], parts[at + 1] = "", part + right
        for part in filter(None, parts):
            yield self._tokens[part].id if part in self._tokens else part

    def _cut(self, text: str) -> list[str]:
        """The added tokens in a text, and the texts before, between and behind them."""
        parts, start, at = [], 0, 0
        while at < len(text):
            lengths = self._lengths.get(text[at], ())
            length = next((n for n in lengths if text[at : at + n] in self._tokens), 0)
            if length:
                parts += [text[start:at], text[at : at + length]]
                start = at + length
            at += length or 1
        return [part for part in (*parts, text[start:]) if part]
