"""Normalization of answers: one character for all variants that mean the same, as NFKC does it,
but numbers never run together and a superscript or a minus sign is never lost.

| written | NFKC | here | because |
|---|---|---|---|
| １２, 𝟏𝟐, ⼗⼆ | 12, 12, 十二 | the same | only the shape differs |
| 10², 2ⁿ, ㎡ | 102, 2n, m2 | 10², 2ⁿ, m² | a superscript is an exponent |
| H₂O, x₁₂ | H2O, x12 | the same | commonly written so |
| 10₂, log₂8, xₙ₊₁ | 102, log28, xn+1 | 10₂, log₂8, xₙ₊₁ | the digits are no one number |
| ½, 1½ | 1⁄2, 11⁄2 | 1/2, 1 1/2 | 1½ is not 11/2 |
| ①, ①②, 3㋀ | 1, 12, 31月 | 1, 1 2, 3 1月 | ①② is not ⑫ |
| Ⅻ, ⅠⅡ | XII, III | XII, I II | ⅠⅡ is not Ⅲ |
| –72, −72, －72, —72 | –72, −72, -72, —72 | -72 | a single dash before a digit |
| 1 000 (thin or no-break) | 1 000 | 1000 | a separator of thousands |
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import NamedTuple

HYPHENS = "-‐‑‒–−﹣－"  # written for a minus sign in front of anything
DASHES = HYPHENS + "—―"  # also written for one in front of a digit
SIGN = re.compile(
    rf"(?<![{DASHES}])(?:[{DASHES}](?=[.．]?\d)|[{HYPHENS}](?=[A-Za-zΑ-Ωα-ω(√∞$¥€£]))"
)

NUMERALS = set("0123456789零〇○一二三四五六七八九十百千万亿两点负廿卅卌")
# Soft hyphen, zero-width space, marks of direction, word joiner, byte order mark.
INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u2060\ufeff"))
SLASHES = str.maketrans("⁄∕", "//")
SPACED_THOUSANDS = re.compile(r"(?<![0-9])[0-9]{1,3}(?:[\u00a0\u2009\u202f][0-9]{3})+(?![0-9])")
ADJACENT_ROMAN = re.compile(r"(?<=[Ⅰ-Ⅸⅰ-ⅸ])(?=[Ⅰ-Ⅸⅰ-ⅸ])")
SUBSCRIPT = "₀-₉ₐ-ₜᵢ-ᵪⱼ"
# A run of subscripts that is read on its own: no digit and no other subscript stands beside it.
LONE_SUBSCRIPT = re.compile(rf"(?<![0-9.,₊-₎{SUBSCRIPT}])[{SUBSCRIPT}]+(?![0-9₊-₎{SUBSCRIPT}])")


class _Form(NamedTuple):
    """The text that replaces a character, and whether it is a number of its own."""

    text: str
    number: bool = False


def normalized(text: str) -> str:
    """`text` with one character for all variants that mean the same; see the table above. A
    normalized text is its own normalization."""
    text = SPACED_THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = ADJACENT_ROMAN.sub(" ", text.translate(INVISIBLE))
    if not unicodedata.is_normalized("NFKC", text):
        text = LONE_SUBSCRIPT.sub(
            lambda match: unicodedata.normalize("NFKC", match[0]), _fold(text)
        )
        text = unicodedata.normalize("NFC", text)
    return SIGN.sub("-", text.translate(SLASHES))


def _fold(text: str) -> str:
    """The compatibility form of each character, with a blank between numbers."""
    folded: list[str] = []
    end, number = "", False  # the last character so far, and whether a number of its own ends in it
    for c in unicodedata.normalize("NFD", text):
        form = _form(c)
        if (number or form.number) and form.text[:1] in NUMERALS and end in NUMERALS | {".", ","}:
            folded.append(" ")
        folded.append(form.text)
        end, number = form.text[-1:] or end, form.number
    return "".join(folded)


@cache
def _form(c: str) -> _Form:
    """The form of a character without canonical decomposition."""
    tag, *codes = unicodedata.decomposition(c).split() or [""]
    if tag in ("", "<super>", "<sub>"):
        return _Form(c)
    parts = unicodedata.normalize("NFD", "".join(chr(int(code, 16)) for code in codes))
    text = "".join(_form(part).text for part in parts)
    if tag == "<fraction>":
        return _Form(text, number=True)
    enclosed = tag in ("<circle>", "<square>") or (tag == "<compat>" and len(text) > 1)
    return _Form(text, number=enclosed and not NUMERALS.isdisjoint(text))


def is_minus_sign(text: str, at: int) -> bool:
    """Whether a minus sign and not a dash or a bullet stands at `at`: -3, –x, -√2, but not ——3."""
    before = text[at - 1] if at else ""
    return before not in {*DASHES, ".", "．"} and bool(SIGN.match(text, at))
