"""What no training document may hold, kept for evaluation: ten pairs of numbers that are never
added (in words neither), formats and orders of capitals, words that are put into no category, nouns
that are not asked for their measure word as 一（ ）花, sentences that nobody judges, dates and
quantities. Changing any of it makes earlier models incomparable.
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

# Words that no document puts into a category, each of a category that others show.
CATEGORY_WORDS: frozenset[str] = frozenset(
    "芒果 柿子 菠萝 茄子 韭菜 洋葱 狐狸 斑马 骆驼 喜鹊 天鹅 蚂蚁 "
    "轮船 地铁 紫色 律师 画家 古筝 沙发 篮球".split()
)
CATEGORY_FORMAT = "{x}|{y}"

# Nouns that stand in no 一（ ）花, though their measure words are told in other ways.
MEASURE_NOUNS: frozenset[str] = frozenset(
    "书 牛 马 飞机 山 河 花 树 衣服 鞋 帽子 信 歌 电影 文章 房子 电脑 老师 井 绳子 画 镜子".split()
)

# Month and day of dates that no document writes in two ways, or gives the next day of.
DATES: frozenset[tuple[int, int]] = frozenset(
    [(1, 17), (2, 9), (3, 8), (4, 23), (5, 4), (6, 12), (7, 21), (8, 19), (9, 10), (10, 6)]
)

# Numbers of larger units that no document turns into smaller ones.
QUANTITIES: frozenset[int] = frozenset((6, 11, 15))

# Two ways to tell a problem of words and its answer that never occur.
PROBLEM_FORMATS: tuple[str, ...] = ("{x} 答案是{y}", "Q：{x}\nA：{y}")

# Sentences with their side; none can be put together from the words of facts.SENTIMENTS.
SENTIMENTS: tuple[tuple[str, bool], ...] = (
    ("早上的豆浆又香又浓，喝完很舒服。", True),
    ("这把椅子坐久了腰疼，太差劲了。", False),
    ("牙刷很软，刷得很干净，全家都在用。", True),
    ("收到的杯子有裂缝，联系店家也不理。", False),
    ("花很新鲜，女朋友非常开心。", True),
    ("灯不亮，说明书也看不懂，很失望。", False),
    ("游乐场很好玩，孩子不想回家。", True),
    ("停车很难，排队两个小时，太累了。", False),
    ("理发师手艺很好，剪得很漂亮。", True),
    ("水管又漏水了，修了三次都没修好。", False),
    ("这支笔写起来很流畅，很喜欢。", True),
    ("被子太薄，晚上冷得睡不着。", False),
    ("导游很热情，一路上讲得很有趣。", True),
    ("门锁是坏的，一点也不安全。", False),
    ("面包松软可口，每天都来买。", True),
    ("米饭是硬的，菜里还有头发。", False),
    ("地铁很方便，十分钟就到公司。", True),
    ("网速太慢，看视频总是卡。", False),
    ("画面很美，音乐也好听，还想再看一遍。", True),
    ("歌手跑调，现场很混乱，后悔买票。", False),
)
