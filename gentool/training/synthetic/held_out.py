"""What no training document may hold, kept for evaluation: ten pairs of numbers that are never
added, formats and orders of capitals that never occur. Changing any of it makes earlier models
incomparable.
"""

from __future__ import annotations

import re

# Unordered pairs of operands of which neither order is ever added in a document. Their sums are
# spread from 5 to 18, about half need a carry, and none is trivial by having a zero.
PAIRS: tuple[tuple[int, int], ...] = (
    (2, 3),
    (1, 6),
    (4, 5),
    (2, 8),
    (4, 7),
    (3, 9),
    (6, 7),
    (5, 9),
    (7, 9),
    (8, 10),
)

_ORDERED = [pair for a, b in PAIRS for pair in ((a, b), (b, a))]
_SUMS = "|".join(rf"{a}\s*[+＋加]\s*{b}" for a, b in _ORDERED)
_ADDITION = re.compile(rf"(?<![\d.])(?:{_SUMS})(?!\d)")


def without(document: str) -> str:
    """A document of other origin without the lines that happen to add a held-out pair."""
    if not _ADDITION.search(document):
        return document
    return "\n".join(x for x in document.split("\n") if not _ADDITION.search(x))


# Ways to write a country and its capital that are never used in a document.
CAPITAL_FORMATS: tuple[str, ...] = (
    "{country}——{capital}",
    "{country}|{capital}",
    "{country}，首都{capital}",
)

# Orders of countries that never stand consecutively in a document: three examples, then the
# country that is asked for.
CAPITAL_ORDERS: tuple[tuple[str, str, str, str], ...] = (
    ("法国", "日本", "英国", "德国"),
    ("中国", "美国", "俄罗斯", "法国"),
    ("德国", "意大利", "西班牙", "英国"),
    ("韩国", "泰国", "越南", "日本"),
    ("埃及", "南非", "肯尼亚", "摩洛哥"),
    ("巴西", "阿根廷", "智利", "秘鲁"),
    ("加拿大", "墨西哥", "古巴", "美国"),
    ("瑞典", "挪威", "丹麦", "芬兰"),
    ("希腊", "波兰", "捷克", "匈牙利"),
    ("印度", "巴基斯坦", "尼泊尔", "孟加拉国"),
    ("英国", "法国", "德国", "意大利"),
    ("日本", "韩国", "中国", "俄罗斯"),
    ("荷兰", "比利时", "瑞士", "奥地利"),
    ("伊朗", "伊拉克", "土耳其", "埃及"),
    ("澳大利亚", "新西兰", "加拿大", "英国"),
    ("葡萄牙", "法国", "希腊", "西班牙"),
    ("马来西亚", "菲律宾", "印度尼西亚", "泰国"),
    ("法国", "埃及", "日本", "加拿大"),
    ("意大利", "中国", "泰国", "韩国"),
    ("俄罗斯", "乌克兰", "波兰", "奥地利"),
)

FORBIDDEN_OPERANDS = frozenset(PAIRS) | {(b, a) for a, b in PAIRS}
FORBIDDEN_ORDERS = frozenset(CAPITAL_ORDERS)
