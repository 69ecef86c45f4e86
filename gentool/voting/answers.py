"""From the text of a sample to an answer that can be compared: one path for votes, labels and
choices. Knows no model; what the text was cut at is the caller's."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from gentool.errors import UsageError

# Brackets and quotes, each opening one before the one that closes it.
PAIRS = "()（）[]［］{}｛｝【】《》〈〉「」『』“”‘’«»‹›〔〕〖〗\"\"''``＂＂＇＇"
CLOSED_BY = dict(zip(PAIRS[::2], PAIRS[1::2], strict=True))
OPENED_BY = {closing: opening for opening, closing in CLOSED_BY.items()}

PUNCTUATION = {"Po", "Pd", "Ps", "Pe", "Pi", "Pf"}  # general categories of Unicode
WORTHY = set("%‰#&@*/\\§％＃＆＠＊／＼")  # punctuation that is part of an answer
GRADE = re.compile(r"[A-Z]{1,2}[-－]")  # A- is not A, a blood group AB- is not AB

APOSTROPHE = re.compile(r"[A-Za-zÀ-ÿ]['’＇][A-Za-zÀ-ÿ]")  # don't

ARABIC = re.compile(r"([-+−]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?")
DIGITS = "零一二三四五六七八九"
UNITS = {"亿": 10**8, "万": 10**4, "千": 10**3, "百": 10**2, "十": 10}  # largest first
LONGEST = 48  # characters of a Chinese number with units; the longest sensible one has 37
WRITTEN: dict[str, str] = {
    **dict(zip("〇○壹贰貳叁叄肆伍陆陸柒捌玖", "零零一二二三三四五六六七八九", strict=True)),
    **dict(zip("拾佰仟萬億點負兩", "十百千万亿点负两", strict=True)),
    **{"廿": "二十", "卅": "三十", "卌": "四十"},
}
SAME_NUMERAL = str.maketrans(WRITTEN)
WORDS = set("伍陆陸")  # alone they are names and land before they are numbers

PASSES = 4  # some characters are simplified in two steps, 薴 to 苧 to 苎


class Rule(NamedTuple):
    """How an answer is cut out of a text, and what makes two of them the same."""

    regex: str = ""
    simplified: bool = False


PLAIN = Rule()


def answer(text: str, rule: Rule = PLAIN) -> str | None:
    """The answer in the form that is compared; None where there is none."""
    found = cut(unicodedata.normalize("NFKC", text), rule.regex)
    if found is None:
        return None
    found = bare(found)
    if rule.simplified:
        found = bare(simplified(found))
    return number(found) or None


def spelling(text: str, rule: Rule = PLAIN) -> str:
    """The answer as it was written, for people; empty where there is none."""
    found = answer(text, rule)
    if found is None:
        return ""
    written = bare(cut(text, rule.regex) or "")
    # a regex is meant for NFKC, and may find something else in what was written; so may `bare`
    if answer(written, rule._replace(regex="")) != found:
        written = bare(cut(unicodedata.normalize("NFKC", text), rule.regex) or "")
    return written


def cut(text: str, regex: str) -> str | None:
    """Group 1 of the first match, the whole match where the regex has no group."""
    if not regex:
        return text
    found = compiled(regex).search(text)
    return found and found[min(found.re.groups, 1)]


@cache
def compiled(regex: str) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what may change in a later Python works in this one
            return re.compile(regex)
    except re.error as e:
        where = "" if e.pos is None else f" at character {e.pos}"
        problem = f"{e.msg}{where}"
    except (OverflowError, RecursionError):
        problem = "too large"
    raise UsageError(
        f"the answer regex '{regex}' is not one: {problem}",
        r"it is a regular expression of Python, as in '答案是(\S+)'",
    )


def bare(text: str) -> str:
    """Without blanks and punctuation around it, and with one blank for several inside; where all
    is punctuation it stays."""
    text = " ".join(text.split())
    inner = text
    while (stripped := _stripped(inner)) != inner:
        inner = stripped
    return inner or text


def _stripped(text: str) -> str:
    """A bracket goes with its partner if the two are outermost, or has none: f(x) is left alone."""
    partner = _partners(text)
    start, end = 0, len(text)
    while start < end:
        if partner.get(start) == end - 1:
            start, end = start + 1, end - 1
        elif _is_outer(text[end - 1]) and end - 1 not in partner:
            if GRADE.fullmatch(text, start, end):
                break
            end -= 1
        elif _is_outer(text[start]) and start not in partner:
            if _begins_number(text, start):
                break
            start += 1
        else:
            break
    return text[start:end].strip()


def _partners(text: str) -> dict[int, int]:
    """Where brackets and quotes that belong together stand, both ways."""
    partner: dict[int, int] = {}
    waiting: list[int] = []
    opened: dict[str, int] = {}  # how many of each are waiting
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
    marks = unicodedata.category(c) in PUNCTUATION and c not in WORTHY
    return marks or c.isspace() or c in CLOSED_BY


def _begins_number(text: str, at: int) -> bool:
    """-3 and .5 keep their first character, ——3 and …5 do not."""
    before = text[at - 1] if at else ""
    return before not in {*"-－.．"} and bool(re.match(r"[-－]?[.．]?\d", text[at : at + 3]))


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
    """Traditional characters as simplified ones."""
    convert = _converter()
    try:
        for _ in range(PASSES):
            text = convert(text)
    except UnicodeEncodeError:  # half a surrogate pair: OpenCC takes UTF-8
        pass
    return text


def number(text: str) -> str:
    """A text that is all a number in plain Arabic digits, any other as it is."""
    return _arabic(text) or _chinese(text.translate(SAME_NUMERAL), text in WORDS) or text


def _arabic(text: str) -> str:
    """Without thousands commas, a plus sign and leading zeros; what follows a point stays."""
    found = ARABIC.fullmatch(text)
    if not found or not (found[2] or found[3]):
        return ""
    sign, whole, fraction = found[1], found[2].replace(",", ""), found[3] or ""
    return _signed(sign in {"-", "−"}, (whole.lstrip("0") or "0") + fraction)


def _signed(negative: bool, digits: str) -> str:
    return f"-{digits}" if negative and digits.strip("0.") else digits


def _chinese(text: str, is_word: bool) -> str:
    """A number with units or digit by digit, 负 and 点 allowed; empty for 万一 and 三点."""
    whole, point, fraction = text.removeprefix("负").partition("点")
    if is_word or (point and not _all_digits(fraction)):
        return ""
    if _all_digits(whole):
        digits = _digits(whole).lstrip("0") or "0"
    else:
        value = _with_units(whole) if len(whole) <= LONGEST else None
        if value is None:
            return ""
        digits = str(value)
    return _signed(text.startswith("负"), digits + ("." + _digits(fraction) if point else ""))


def _all_digits(text: str) -> bool:
    return bool(text) and not text.strip(DIGITS)


def _digits(text: str) -> str:
    return "".join(str(DIGITS.index(c)) for c in text)


def _with_units(text: str) -> int | None:
    """一百零五 and 一百五, which is 150; None for what nobody would write, as 百一, 一千千."""
    if len(text) == 1 and text in DIGITS[1:]:
        return DIGITS.index(text)
    unit = next((u for u in UNITS if u in text), None)
    if unit is None:
        return None
    size = UNITS[unit]
    head, _, tail = text.partition(unit)
    if head and head in "一二三四五六七八九两" and (head != "两" or size > 10):
        times: int | None = DIGITS.index("二" if head == "两" else head)
    elif size == 10:
        times = 1 if not head else None
    else:
        # 万亿 counts in 亿, the other units stand behind a digit or, 万 and 亿, behind less of them
        times = _with_units(head) if size >= 10**4 else None
    rest = _rest(tail, size)
    return None if times is None or rest is None else times * size + rest


def _rest(tail: str, size: int) -> int | None:
    """What stands behind a unit: 零 where at least one unit is left out, a lone digit in tens."""
    if not tail:
        return 0
    if len(tail) == 1 and tail in DIGITS[1:]:
        return DIGITS.index(tail) * (size // 10)
    skips = tail.startswith("零")
    value = _with_units(tail[skips:])
    return value if value is not None and value < size // (10 if skips else 1) else None
