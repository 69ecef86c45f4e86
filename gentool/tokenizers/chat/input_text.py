"""Text that knows which of its characters are input, so that what a message says never becomes a
special token, wherever a template puts it. llama.cpp marks the input of its templates likewise.

A method keeps the mark of each character where it can; where it cannot, all characters of its
result are input: a mark is never lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, SupportsIndex

from gentool.tokenizers.chat.limits import MAX_ELEMENTS, TOO_LARGE, LimitReached

INPUT, OWN = b"\1", b"\0"  # marks of a character: of a message, of the template


class InputText(str):
    """A text with a mark for each character. Equal to, and hashed as, the text without marks."""

    _marks: bytes

    def __new__(cls, text: str, marks: bytes | None = None) -> InputText:
        """Without `marks` all characters are input."""
        made = super().__new__(cls, text)
        made._marks = INPUT * len(made) if marks is None else marks
        assert len(made._marks) == len(made)
        return made

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        if len(self) > MAX_ELEMENTS:  # each character becomes a text
            raise LimitReached(TOO_LARGE)
        return (self[at] for at in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> InputText:
        part = key if isinstance(key, slice) else slice(key, key.__index__() + 1 or None)
        return InputText(super().__getitem__(key), self._marks[part])

    def __add__(self, other: str) -> InputText:
        return concat((self, other))

    def __radd__(self, other: str) -> InputText:
        return concat((other, self))

    def __mul__(self, count: SupportsIndex) -> InputText:
        return InputText(super().__mul__(count), self._marks * count.__index__())

    __rmul__ = __mul__

    def strip(self, characters: str | None = None, /) -> InputText:
        return self.lstrip(characters).rstrip(characters)

    def lstrip(self, characters: str | None = None, /) -> InputText:
        return self[len(self) - len(super().lstrip(characters)) :]

    def rstrip(self, characters: str | None = None, /) -> InputText:
        return self[: len(super().rstrip(characters))]

    def removeprefix(self, prefix: str, /) -> InputText:
        return self[len(prefix) :] if prefix and self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> InputText:
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().split(sep, maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(super().rsplit(sep, maxsplit), len(sep or ""))

    def splitlines(self, keepends: bool = False) -> list[str]:
        return self._parts(super().splitlines(keepends), 0)

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        before, middle, behind = self._parts(super().partition(sep), 0)
        return before, middle, behind

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        before, middle, behind = self._parts(super().rpartition(sep), 0)
        return before, middle, behind

    def _parts(self, parts: Sequence[str], gap: int) -> list[str]:
        """These parts of the text, which stand in it in this order and `gap` characters apart; 0:
        as far as it takes, which no part begins with."""
        marked, at = [], 0
        for part in parts:
            at = self.index(part, at)
            marked.append(self[at : at + len(part)])
            at += len(part) + gap
        return list(marked)

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> InputText:
        result = super().replace(old, new, count)
        most = count.__index__()
        if not old:  # `new` before each character, and at the end
            letters: Iterable[str] = itertools.chain(self, [""])
            places = len(self) + 1 if most < 0 else most
            marked = concat(
                part for at, c in enumerate(letters) for part in (new if at < places else "", c)
            )
        else:
            marked = join(new, InputText.split(self, old, most))
        assert marked == result
        return marked

    def join(self, texts: Iterable[str], /) -> InputText:
        return join(self, texts)

    def _cased(self, text: str) -> InputText:
        """What a change of case makes: each character stays where it is, unless one becomes two."""
        return InputText(text, self._marks if len(text) == len(self) else None)

    def lower(self) -> InputText:
        return self._cased(super().lower())

    def upper(self) -> InputText:
        return self._cased(super().upper())

    def title(self) -> InputText:
        return self._cased(super().title())

    def capitalize(self) -> InputText:
        return self._cased(super().capitalize())

    def swapcase(self) -> InputText:
        return self._cased(super().swapcase())

    def casefold(self) -> InputText:
        return self._cased(super().casefold())


def marks(text: str) -> bytes:
    """The marks of a text, one a character; a plain text is the template's own."""
    return text._marks if isinstance(text, InputText) else OWN * len(text)


def own(text: str) -> InputText:
    """A text with its marks, so that its methods keep those of their arguments."""
    return text if isinstance(text, InputText) else InputText(text, OWN * len(text))


def concat(texts: Iterable[str]) -> InputText:
    """The texts behind one another."""
    parts = list(texts)
    return InputText("".join(parts), b"".join(map(marks, parts)))


def join(separator: str, texts: Iterable[str]) -> InputText:
    """The texts with a separator between them."""
    parts = list(texts)
    return InputText(plain(separator).join(parts), marks(separator).join(map(marks, parts)))


def plain(text: str) -> str:
    """A text without marks."""
    return str.__str__(text)


def formatted(make: Callable[..., str], args: Sequence[Any], kwargs: dict[str, Any]) -> InputText:
    """What a template's own format makes of its arguments, with the marks of those that it only
    copies: they are found by formatting stand-ins. If it does more, all of it is input."""
    result = make(*args, **kwargs)
    values = [v for v in (*args, *kwargs.values()) if isinstance(v, InputText)]
    names = {id(value): f"\ue000{number}\ue001" for number, value in enumerate(values)}

    def stand_in(value: Any) -> Any:
        return names.get(id(value), value) if isinstance(value, InputText) else value

    text = make(*map(stand_in, args), **{k: stand_in(v) for k, v in kwargs.items()})
    marked: str = own(text)
    for value in values:
        marked = own(marked).replace(names[id(value)], value)
    return own(marked) if marked == result else InputText(result)
