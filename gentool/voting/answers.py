"""The answer in the text of a sample, in a normal form that is compared. Votes, labels and choices
use the same form."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from gentool.errors import UsageError
from gentool.voting.characters import DASHES, HYPHENS, is_minus_sign, normalized
from gentool.voting.numbers import is_number, number

# Brackets and quotes, each opening one before the one that closes it.
PAIRS = "()（）[]［］{}｛｝【】《》〈〉「」『』“”‘’«»‹›〔〕〖〗\"\"''``＂＂＇＇"
CLOSED_BY = dict(zip(PAIRS[::2], PAIRS[1::2], strict=True))
OPENED_BY = {closing: opening for opening, closing in CLOSED_BY.items()}

PUNCTUATION = {"Po", "Pd", "Ps", "Pe", "Pi", "Pf"}  # general categories of Unicode
KEPT = set("%‰‱#&@*/\\§′″％＃＆＠＊／＼")  # punctuation that is part of an answer
# A- is not A, a blood group AB- is not AB, an ion Cl- is not an atom.
TRAILING_MINUS = re.compile(rf"[A-Z][A-Za-z]?[{HYPHENS}]")

SIGNS = {"负", "負", "+", *DASHES}

APOSTROPHE = re.compile(r"[A-Za-zÀ-ÿ]['’＇][A-Za-zÀ-ÿ]")  # don't

MAX_PASSES = 4  # some characters are simplified in two steps, 薴 to 苧 to 苎


class AnswerRule(NamedTuple):
    """How an answer is extracted from a text, and whether traditional characters are simplified
    before answers are compared. The regex is matched against the normalized text."""

    regex: str = ""
    simplified: bool = False


DEFAULT = AnswerRule()


def answer(text: str, rule: AnswerRule = DEFAULT) -> str | None:
    """The answer in normal form; None if there is none."""
    extracted = extract(normalized(text), rule.regex)
    if extracted is None:
        return None
    stripped = normalized(strip_punctuation(extracted))  # again: what stood around it is gone
    if rule.simplified:
        stripped = strip_punctuation(simplified(stripped))
    if TRAILING_MINUS.fullmatch(stripped):
        return stripped[:-1] + "-"
    return number(stripped) or None


def spelling(text: str, rule: AnswerRule = DEFAULT) -> str:
    """The answer as the text writes it, for people; empty if there is none."""
    normal_form = answer(text, rule)
    if normal_form is None:
        return ""
    written = strip_punctuation(extract(text, rule.regex) or "")
    # the regex is meant for normalized text, and may match elsewhere in the text as it is
    if answer(written, rule._replace(regex="")) != normal_form:
        written = strip_punctuation(extract(normalized(text), rule.regex) or "")
    return written


def extract(text: str, regex: str) -> str | None:
    """Group 1 of the first match, or the whole match if the regex has no group; without a regex the
    text itself. None if nothing matches."""
    if not regex:
        return text
    match = compiled(regex).search(text)
    return match and match[min(match.re.groups, 1)]


@cache
def compiled(regex: str) -> re.Pattern[str]:
    """The compiled regex, or UsageError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about syntax that may change in a later Python
            return re.compile(regex)
    except re.error as e:
        where = "" if e.pos is None else f" at character {e.pos}"
        problem = f"{e.msg}{where}"
    except (OverflowError, RecursionError):
        problem = "too large"
    raise UsageError(
        f"the answer regex '{regex}' is not valid: {problem}",
        r"write a Python regular expression, as in '答案是(\S+)'",
    )


def strip_punctuation(text: str) -> str:
    """The text without blanks and punctuation around it, and with one blank for several inside. A
    text of punctuation alone stays."""
    text = " ".join(text.split())
    inner = text
    while (stripped := _stripped(inner)) != inner:
        inner = stripped
    return inner or text


def _stripped(text: str) -> str:
    """Removes a bracket without a partner, or with it if the two are outermost: f(x) stays."""
    partner = _partners(text)
    start, end = 0, len(text)
    while start < end:
        if partner.get(start) == end - 1:
            start, end = start + 1, end - 1
        elif _is_outer(text[end - 1]) and end - 1 not in partner:
            if TRAILING_MINUS.fullmatch(text, start, end):
                break
            end -= 1
        elif _is_outer(text[start]) and start not in partner:
            if _begins_number(text, start, end):
                break
            start += 1
        else:
            break
    return text[start:end].strip()


def _partners(text: str) -> dict[int, int]:
    """The index of the partner of each bracket or quote that has one."""
    partner: dict[int, int] = {}
    waiting: list[int] = []
    opened: dict[str, int] = {}  # how many of each kind are in `waiting`
    for i, c in enumerate(text):
        if APOSTROPHE.fullmatch(text, max(i - 1, 0), i + 2):
            continue
        opening = OPENED_BY.get(c)
        if opening and opened.get(opening):
            while text[waiting[-1]] != opening:
                opened[text[waiting.pop()]] -= 1
            opened[opening] -= 1
            partner[i] = waiting.pop()
            partner[partner[i]] = i
        elif c in CLOSED_BY:
            waiting.append(i)
            opened[c] = opened.get(c, 0) + 1
    return partner


@cache
def _is_outer(c: str) -> bool:
    """Whether a character is removed at the ends of an answer."""
    marks = unicodedata.category(c) in PUNCTUATION and c not in KEPT
    return marks or c.isspace() or c in CLOSED_BY


def _begins_number(text: str, start: int, end: int) -> bool:
    """Whether a sign or a decimal point of a number stands at `start`: -3, .5, -三, but not ——3 and
    …5."""
    before = text[start - 1] if start else ""
    if before in {*DASHES, ".", "．"}:
        return False
    if text[start] in ".．":
        return text[start + 1 : start + 2].isdecimal()
    rest = text[start + 1 : end]
    chinese = rest[:1] not in SIGNS and is_number(rest)
    return (text[start] in DASHES and chinese) or is_minus_sign(text, start)


@cache
def _converter() -> Callable[[str], str]:
    try:
        import opencc
    except ImportError:
        raise UsageError(
            "comparing traditional with simplified characters needs OpenCC",
            "pip install 'gentool[chinese]'",
        ) from None
    return opencc.OpenCC("t2s").convert


def simplified(text: str) -> str:
    """The text in simplified characters."""
    convert = _converter()
    try:
        for _ in range(MAX_PASSES):
            text = convert(text)
    except UnicodeEncodeError:  # a lone surrogate, which OpenCC cannot encode
        pass
    return text
