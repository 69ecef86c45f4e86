"""Numbers in answers: Arabic and Chinese ones as plain Arabic digits."""

from __future__ import annotations

import re

from gentool.voting.characters import DASHES

ARABIC = re.compile(r"([-+−]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(\.[0-9]+)?")
DIGITS = "零一二三四五六七八九"
UNITS = {"亿": 10**8, "万": 10**4, "千": 10**3, "百": 10**2, "十": 10}  # largest first
MAX_LENGTH = 48  # characters of a Chinese number with units; the longest sensible one has 37
VARIANTS: dict[str, str] = {
    **dict(zip("〇○壹贰貳叁叄肆伍陆陸柒捌玖", "零零一二二三三四五六六七八九", strict=True)),
    **dict(zip("拾佰仟萬億點負兩", "十百千万亿点负两", strict=True)),
    **{"廿": "二十", "卅": "三十", "卌": "四十"},
}
STANDARD = str.maketrans(VARIANTS)
WORDS = set("伍陆陸")  # alone they are names and land, not numbers


def number(text: str) -> str:
    """The number in plain Arabic digits if the text is one, else the text."""
    return _arabic(text) or _chinese(text) or text


def is_number(text: str) -> bool:
    """Whether the whole text is a number."""
    return bool(_arabic(text) or _chinese(text))


def _arabic(text: str) -> str:
    """Without thousands commas, a plus sign and leading zeros; zeros after a point stay. Empty if
    the text is no number."""
    match = ARABIC.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return ""
    sign, whole, fraction = match[1], match[2].replace(",", ""), match[3] or ""
    return _signed(sign in {"-", "−"}, (whole.lstrip("0") or "0") + fraction)


def _signed(negative: bool, digits: str) -> str:
    return f"-{digits}" if negative and digits.strip("0.") else digits


def _chinese(text: str) -> str:
    """A number with units or digit by digit, with 负 or a minus sign and 点; empty for 万一 and
    三点."""
    if text in WORDS:
        return ""
    text = text.translate(STANDARD)
    negative = text[:1] in {"负", *DASHES}
    whole, point, fraction = text[negative:].partition("点")
    if point and not _all_digits(fraction):
        return ""
    if _all_digits(whole):
        digits = _digits(whole).lstrip("0") or "0"
    else:
        value = _with_units(whole) if len(whole) <= MAX_LENGTH else None
        if value is None:
            return ""
        digits = str(value)
    return _signed(negative, digits + ("." + _digits(fraction) if point else ""))


def _all_digits(text: str) -> bool:
    return bool(text) and not text.strip(DIGITS)


def _digits(text: str) -> str:
    return "".join(str(DIGITS.index(c)) for c in text)


def _with_units(text: str) -> int | None:
    """The value of 一百零五, and of 一百五, which is 150; None for 百一 and 一千千."""
    if len(text) == 1 and text in DIGITS[1:]:
        return DIGITS.index(text)
    unit = next((u for u in UNITS if u in text), None)
    if unit is None:
        return None
    size = UNITS[unit]
    head, _, tail = text.partition(unit)
    if len(head) == 1 and head in "一二三四五六七八九两" and (head != "两" or size > 10):
        times: int | None = DIGITS.index("二" if head == "两" else head)
    elif size == 10:
        times = 1 if not head else None
    else:
        # 万亿 counts in 亿, the other units stand behind a digit or, 万 and 亿, behind less of them
        times = _with_units(head) if size >= 10**4 else None
    rest = _rest(tail, size)
    return None if times is None or rest is None else times * size + rest


def _rest(tail: str, size: int) -> int | None:
    """The value after a unit: 零 marks units left out, a single digit counts the next unit."""
    if not tail:
        return 0
    if len(tail) == 1 and tail in DIGITS[1:]:
        return DIGITS.index(tail) * (size // 10)
    skips = tail.startswith("零")
    value = _with_units(tail[skips:])
    return value if value is not None and value < size // (10 if skips else 1) else None
