"""Rendered messages to token ids: a special token is read where the template wrote it, never where
a message spells one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping

from gentool.tokenizers import Tokenizer
from gentool.tokenizers.chat.input_text import INPUT, InputText, marks, plain


def marked_encoder(tokenizer: Tokenizer) -> Callable[[InputText], list[int]]:
    """A function from marked text to ids, without a start token. Special tokens get other names,
    that nobody can guess, and the template's own are written by these."""
    key = secrets.token_hex(8)
    names = {text: f"\ue000{key}.{number}\ue001" for number, text in enumerate(tokenizer.special)}
    encode = tokenizer.encoder(names)

    def encode_marked(text: InputText) -> list[int]:
        parts, at, letters = [], 0, plain(text)
        for start, special in own_specials(text, tokenizer.special):
            parts += [letters[at:start], names[special]]
            at = start + len(special)
        return encode("".join([*parts, letters[at:]]))

    return encode_marked


def own_specials(text: InputText, special: Mapping[str, int]) -> Iterator[tuple[int, str]]:
    """Where a special token stands that no character of is input, and which: the leftmost, of those
    the longest."""
    letters, marked = plain(text), marks(text)
    by_first: dict[str, list[str]] = {}
    for name in sorted(special, key=len, reverse=True):
        by_first.setdefault(name[0], []).append(name)
    end = 0
    for at, letter in enumerate(letters):
        if at < end or letter not in by_first:
            continue
        for name in by_first[letter]:
            end_of_name = at + len(name)
            if letters.startswith(name, at) and INPUT not in marked[at:end_of_name]:
                yield at, name
                end = end_of_name
                break
