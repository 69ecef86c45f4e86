"""tokenizer.json, and GPT-2's vocab.json with merges.txt, through the `tokenizers` library."""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import tokenizers

from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import MERGES, contents, joined
from gentool.tokenizers.added_tokens import (
    CONFIG,
    FLAGS,
    AddedToken,
    Declared,
    Splitter,
    declared,
    renamed,
)
from gentool.tokenizers.tokenizer_json import MAX_IDS, check, flat, once, with_prefix_space
from gentool.tokenizers.wordpiece import added

BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")  # how a token writes a byte

END_OF_TEXT = "<|endoftext|>"
# tokens that end a text, where a file has them; a model's configuration knows better
ENDS = (
    "</s>",
    "<eos>",
    "[SEP]",
    END_OF_TEXT,
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
)
# how Qwen2 splits a text into words (transformers' Qwen2Converter); a tokenizer.json holds its own
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable ones are themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


ALPHABET = _alphabet()


class HuggingFace:
    """Ids as the library gives them, after what its post-processor puts before a text. What that
    puts behind one is left out: a prompt does not end."""

    def __init__(
        self,
        path: Path,
        tokenizer: tokenizers.Tokenizer,
        decoders: Sequence[Mapping[str, Any]],
        config: TokenizerConfig,
    ) -> None:
        self._path, self._tokenizer, self._decoders = path, tokenizer, decoders
        add_bos = config.add_bos
        self._added = tokenizer.get_added_tokens_decoder()
        self._encode_as = functools.partial(_slow, tokenizer, config)
        if path.name not in MERGES:
            self._encode_as = functools.partial(_fast, tokenizer)
        self._encode = self._encode_as({})
        self._word_pieces = any(step["type"] == "WordPiece" for step in decoders)
        self._dummy_prefix = any(map(_drops_a_blank, decoders))
        first = tokenizer.encode("a")
        marked = zip(first.ids, first.special_tokens_mask, strict=True)
        before = [token for token, mark in takewhile(lambda pair: pair[1], marked)]
        self._start = [] if self._word_pieces else before  # no [CLS]: as wordpiece
        self._before = [] if add_bos is False else self._start
        if add_bos and not self._start:
            raise ModelError(f"{path} adds no start token", "set tokenizer.add_bos to false")
        self.start = tuple(self._before)
        added = {token.content: token_id for token_id, token in self._added.items()}
        # the highest id of the vocabulary itself: a surplus added token, as a padding token that
        # no text holds, needs no row of the embedding
        own = tokenizer.get_vocab(with_added_tokens=False)
        self.n_vocab = 1 + max(own.values())
        self._ids = 1 + max(tokenizer.get_vocab().values())
        self.special: Mapping[str, int] = {
            text: token for text, token in added.items() if self._added[token].special
        }
        ends = map(tokenizer.token_to_id, ENDS)
        self.end = tuple(token for token in ends if token is not None)

    def encode(self, text: str) -> list[int]:
        with _guarded(f"{self._path} cannot encode this text"):
            return [*self._before, *self._encode(text)]

    def encoder(self, names: Mapping[str, str]) -> Callable[[str], list[int]]:
        encode = self._encode_as(names)

        def guarded(text: str) -> list[int]:
            with _guarded(f"{self._path} cannot encode this text"):
                return encode(text)

        return guarded

    def decode(self, ids: Sequence[int]) -> str:
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token: int, previous: int | None) -> bytes:
        if self._word_pieces:
            before = "" if previous is None else self._written(previous)
            return added(before, self._written(token)).encode()
        written = self._bytes_of(token)
        at_start = previous is None or previous in self._start
        return written.removeprefix(b" ") if at_start and self._dummy_prefix else written

    def _written(self, token: int) -> str:
        """A token as the vocabulary writes it; a special one adds nothing to a text."""
        if not 0 <= token < self._ids or token in self._added and self._added[token].special:
            return ""
        return self._tokenizer.id_to_token(token) or ""

    def _bytes_of(self, token: int) -> bytes:
        text = self._written(token)
        if token in self._added:
            return text.encode()
        for step in self._decoders:
            match step["type"]:
                case "ByteLevel" if all(c in ALPHABET for c in text):
                    return bytes(ALPHABET[c] for c in text)
                case "ByteFallback" if byte := BYTE.fullmatch(text):
                    return bytes([int(byte[1], 16)])
                case "Metaspace":
                    text = text.replace(step["replacement"], " ")
                case "Replace":
                    text = text.replace(step["pattern"]["String"], step["content"])
        return text.encode()


def _drops_a_blank(step: Mapping[str, Any]) -> bool:
    """Whether a decoder takes a blank away at the start of a text."""
    if step["type"] == "Metaspace":
        prefix = step.get("add_prefix_space", True)
        return step.get("prepend_scheme", "always" if prefix else "never") != "never"
    return step["type"] == "Strip" and step["start"] > 0


def _fast(tokenizer: tokenizers.Tokenizer, names: Mapping[str, str]) -> Callable[[str], list[int]]:
    """Encodes as the fast tokenizers of transformers do: the library finds added tokens. Special
    ones are found by their `names`, where there are any."""
    if not names:
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)
    other = _without_added_tokens(tokenizer)
    if tokenizer.normalizer:
        other.normalizer = tokenizer.normalizer
    ids = {}  # of added tokens: in the other tokenizer -> in this one
    for number, token in sorted(tokenizer.get_added_tokens_decoder().items()):
        text = names.get(token.content, token.content)
        flags = {flag: getattr(token, flag) for flag in ("lstrip", "rstrip", "single_word")}
        normalized = token.normalized and text == token.content
        other.add_tokens([tokenizers.AddedToken(text, **flags, normalized=normalized)])
        ids[other.token_to_id(text)] = number

    def encode(text: str) -> list[int]:
        found = other.encode(text, add_special_tokens=False).ids
        return [ids.get(token, token) for token in found]

    return encode


def _without_added_tokens(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    other = tokenizers.Tokenizer(tokenizer.model)
    if tokenizer.pre_tokenizer:
        other.pre_tokenizer = tokenizer.pre_tokenizer
    return other


def _added_token(number: int, token: tokenizers.AddedToken) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in FLAGS}
    return AddedToken(number, token.content, **flags)


def _slow(
    tokenizer: tokenizers.Tokenizer, config: TokenizerConfig, names: Mapping[str, str]
) -> Callable[[str], list[int]]:
    """Encodes as the slow tokenizers do that wrote a vocab.json: a prefix space before every text,
    and their rule of where an added token is one. Special ones are found by their `names`, where
    there are any."""
    plain = _without_added_tokens(tokenizer)
    added = tokenizer.get_added_tokens_decoder()
    tokens = {token.content: _added_token(number, token) for number, token in added.items()}
    splitter = Splitter(renamed(tokens, names))

    def encode(text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text) if config.split == "qwen2" else text
        ids: list[int] = []
        for part in splitter.split(f" {text}" if text and config.add_prefix_space else text):
            ids += [part] if isinstance(part, int) else plain.encode(part).ids
        return ids

    return encode


@contextmanager
def _guarded(problem: str) -> Iterator[None]:
    """Makes an error of the library a ModelError; its panics are no `Exception`."""
    try:
        yield
    except (ModelError, TypeError):  # the latter: a text that is not Unicode
        raise
    except BaseException as e:
        if not isinstance(e, Exception) and type(e).__name__ != "PanicException":
            raise
        reason = " ".join(str(e).split())[:200]
        raise ModelError(f"{problem}: {reason}", "restore the file from its source") from None


def load(config: TokenizerConfig, folder: Path) -> HuggingFace:
    path = folder / config.model
    data = _json(path)
    with _guarded(f"{path} is not a tokenizer"):
        if path.name in MERGES:
            tokenizer = _byte_level(path, data, config, declared(path))
            decoders: Sequence[Mapping[str, Any]] = [{"type": "ByteLevel"}]
        else:
            check(path, data)
            if config.add_prefix_space is not None:
                data = with_prefix_space(path, data, config.add_prefix_space)
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            decoders = list(flat(data["decoder"]))
        _add_tokens(path, tokenizer, declared(path))
        if config.split == "qwen2" and not tokenizer.get_added_tokens_decoder():
            tokenizer.add_special_tokens([END_OF_TEXT])  # which no vocab.json of Qwen2 has
        return HuggingFace(path, tokenizer, decoders, config)


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(contents(path), object_pairs_hook=once)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path} is not JSON: {e}", "restore the file from its source") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds no mapping", "restore the file from its source")
    return data


def _add_tokens(path: Path, tokenizer: tokenizers.Tokenizer, beside: Declared) -> None:
    """Adds the tokens that the files beside `path` declare, each with the id that they give."""
    for token in sorted(beside.added.values()):
        known, there = tokenizer.token_to_id(token.text), tokenizer.id_to_token(token.id)
        if known not in (None, token.id) or there not in (None, token.text):
            other = f"{token.text!r} is {known}" if known != token.id else f"it is {there!r}"
            raise ModelError(
                f"{path.with_name(CONFIG)}: added token {token.id} {token.text!r}: in {path.name}"
                f" {other if known is not None else f'that id is {there!r}'}",
                "restore both files from their source",
            )
        added = tokenizers.AddedToken(
            token.text,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            single_word=token.single_word,
            normalized=token.normalized,
            special=token.special,
        )
        add = tokenizer.add_special_tokens if token.special else tokenizer.add_tokens
        add([added])
        if tokenizer.token_to_id(token.text) != token.id:
            raise ModelError(
                f"{path.with_name(CONFIG)}: added token {token.id} {token.text!r} leaves a gap"
                f" after the {tokenizer.token_to_id(token.text)} ids of {path.name}",
                "restore both files from their source",
            )
    named = [text for text in beside.special if tokenizer.token_to_id(text) is not None]
    tokenizer.add_special_tokens(named)


def _byte_level(
    path: Path, vocab: dict[str, Any], config: TokenizerConfig, beside: Declared
) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer of a vocabulary and its merges, which must make all its tokens: so a file
    that lost its end is noticed."""
    other = path.with_name(MERGES[path.name])
    try:
        lines = contents(other).decode().split("\n")
    except UnicodeDecodeError as e:
        raise ModelError(
            f"{other} is not UTF-8 (byte {e.start})", "restore the file from its source"
        ) from None
    parts = [line.split() for line in lines if line and not line.startswith("#version")]
    pairs = [(left, right) for left, right in (part for part in parts if len(part) == 2)]
    made = {left + right for left, right in pairs}
    if wrong := [text for text, token in vocab.items() if type(token) is not int or token < 0]:
        raise ModelError(
            f"{path}: the id of {wrong[0][:80]!r} is {str(vocab[wrong[0]])[:80]}",
            "restore the file from its source",
        )
    if max(vocab.values(), default=MAX_IDS) >= MAX_IDS:
        raise ModelError(f"{path} has no ids below {MAX_IDS}", "restore the file from its source")
    rest = {token for token in vocab if len(token) > 1 and token[0] not in "<["} - made
    rest -= beside.added.keys() | set(beside.special)
    if rest or len(pairs) != len(parts) or not made <= vocab.keys():
        raise ModelError(
            f"{other} does not make the tokens of {path.name}", "restore both from their source"
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, pairs))
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    if config.split == "qwen2":
        split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2_SPLIT), "isolated")
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [split, byte_level(add_prefix_space=False, use_regex=False)]
        )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    names = beside.special or ENDS
    tokenizer.add_special_tokens([end for end in (*names, END_OF_TEXT) if end in vocab])
    if config.add_bos:
        start = next((text for text in beside.special if text in vocab), None) or END_OF_TEXT
        if start not in vocab:
            raise ModelError(f"{path} has no start token", "set tokenizer.add_bos to false")
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, vocab[start])]
        )
    return tokenizer
