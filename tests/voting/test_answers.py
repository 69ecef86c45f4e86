"""What is the same answer and what is not."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.errors import UsageError
from gentool.voting import answers
from gentool.voting.answers import AnswerRule, answer, spelling
from gentool.voting.characters import DASHES, normalized
from gentool.voting.numbers import is_number

# text -> answer
TRIMMED = {
    "北京": "北京",
    " 北京 ": "北京",
    "北京。": "北京",
    "北京！！": "北京",
    "“北京”": "北京",
    "“北京。”": "北京",
    "「北京」，": "北京",
    "（北京）": "北京",
    "(北京": "北京",
    "北京）": "北京",
    "——北京": "北京",
    "《红楼梦》": "红楼梦",
    "…北京…": "北京",
    "·北京·": "北京",
    "`x`": "x",
    "Ｎｅｗ　Ｙｏｒｋ": "New York",
    "New \t  York\r": "New York",
    # what is inside, or belongs to what is inside, stays
    "f(x)": "f(x)",
    "(a)(b)": "(a)(b)",
    "((a))": "a",
    "中国（北京）": "中国(北京)",
    "他说“好”": "他说“好”",
    "don't": "don't",
    "'don't'": "don't",
    "‘don’t’": "don’t",
    "AT&T": "AT&T",
    "C++": "C++",
    "C#": "C#",
    "A+": "A+",
    "A-": "A-",
    "AB-": "AB-",
    "10%": "10%",
    "#1": "#1",
    "12:30": "12:30",
    "主语，关系，宾语": "主语,关系,宾语",
    # all of it is punctuation
    "。": "。",
    "?!": "?!",
    "（）": "()",
    "-": "-",
}
ARABIC = {
    "007": "7",
    "0": "0",
    "000": "0",
    "+5": "5",
    "-5": "-5",
    "−5": "-5",
    "－５": "-5",
    "--5": "5",
    "——5": "5",
    "-5。": "-5",
    "-0": "0",
    "5.": "5",
    "...5": "5",
    ".5": "0.5",
    "-.5": "-0.5",
    "3.50": "3.50",
    "-0.0": "0.0",
    "1,000": "1000",
    "1，000，000": "1000000",
    "12,345.60": "12345.60",
    "1,00": "1,00",
    "3,5,7": "3,5,7",
    "1e5": "1e5",
    "3/4": "3/4",
    "3个": "3个",
    "①": "1",
    "0" * 5000 + "1" * 5000: "1" * 5000,
}
CHINESE = {
    "零": "0",
    "一": "1",
    "壹": "1",
    "十": "10",
    "十二": "12",
    "一十二": "12",
    "二十": "20",
    "廿": "20",
    "廿一": "21",
    "卅": "30",
    "九十九": "99",
    "壹佰": "100",
    "两百": "200",
    "兩百": "200",
    "一百零五": "105",
    "一百〇五": "105",
    "一百五": "150",
    "一百五十": "150",
    "一百一十": "110",
    "一百十五": "115",
    "两千五": "2500",
    "一千零五": "1005",
    "一千零五十": "1050",
    "叁仟肆佰": "3400",
    "伍拾陆": "56",
    "一万": "10000",
    "十万": "100000",
    "三万五千": "35000",
    "三万五": "35000",
    "一万五百": "10500",
    "一万零五百": "10500",
    "一萬": "10000",
    "一百二十万五千": "1205000",
    "三千零五万": "30050000",
    "一亿三": "130000000",
    "一亿零五百": "100000500",
    "三万亿": "3000000000000",
    "九千九百九十九万九千九百九十九亿九千九百九十九万九千九百九十九": "9999999999999999",
    "二〇二四": "2024",
    "二○二四": "2024",
    "二零二四": "2024",
    "〇〇七": "7",
    "一一": "11",
    "负三": "-3",
    "负零": "0",
    "三点五": "3.5",
    "零点五": "0.5",
    "三点一四": "3.14",
    "三点五零": "3.50",
    "负二十点零五": "-20.05",
    "“十二”。": "12",
    "㈠": "1",
    "一" * 5000: "1" * 5000,
}
# Made of the same characters, and no numbers.
NO_NUMBERS = (
    *"百 千 万 亿 点 两 半 负 伍 陆 万一 百一 百万 亿万 万万 千千万万 三三两两 两两 两十".split(),
    *"二十两 一五一十 一百零 二十零 一百一百 一千零五百 一万零五千 十零五 零一百 十十".split(),
    # about so many; as substrings of the digits these were once read as their first one
    *"二三十 一二百 三四千 五六万 七八亿 九两十 二三十五".split(),
    *"一亿亿 三点 三点十 点五 一点点 三点五点 负负三 三十而立 七上八下 十二个 第一 三月".split(),
    "一万" * 30,
    "万" * 9000,
    "亿一" * 20000,
)
PLAIN = {**TRIMMED, **ARABIC, **CHINESE}


@pytest.mark.parametrize("text", PLAIN, ids=lambda text: text[:20])
def test_what_an_answer_becomes(text):
    assert answer(text) == PLAIN[text]


@pytest.mark.parametrize("text", NO_NUMBERS, ids=lambda text: text[:20])
def test_words_of_numerals_stay(text):
    assert answer(text) == text


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u3000"])
def test_nothing_is_no_answer(text):
    assert answer(text) is None
    assert spelling(text) == ""


numerals = st.text("零〇一二三四五六七八九十百千万亿两点负廿壹佰陆0123456789,.+-−", max_size=10)
punctuated = st.text("ab北三5 .-+()（）“”\"''‘’「」。，…—%#\u3000\n", max_size=12)
texts = st.one_of(st.text(), numerals, punctuated)


@given(texts)
def test_an_answer_is_its_own_answer(text):
    found = answer(text)
    if found is not None:
        assert found and answer(found) == found


@given(texts)
def test_the_spelling_is_a_piece_of_the_text_with_the_same_answer(text):
    found = spelling(text)
    sources = (text, normalized(text))
    assert any(found in " ".join(source.split()) for source in sources)
    assert (answer(found) if found else None) == answer(text)


@given(st.integers(0, 10**16 - 1))
def test_every_number_is_read_back(number):
    assert answer(in_chinese(number)) == str(number)
    assert answer(f"{number:,}") == str(number)
    assert answer("".join("〇一二三四五六七八九"[int(c)] for c in str(number))) == str(number)


def in_chinese(number: int) -> str:
    """As a schoolbook writes it, so that reading is checked against writing."""
    for size, unit in ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if number >= size:
            times, rest = divmod(number, size)
            zero = "零" if 0 < rest < size // 10 else ""
            return in_chinese(times) + unit + zero + (in_chinese(rest) if rest else "")
    return "零一二三四五六七八九"[number]


# Variants of characters: what is one answer, and what only NFKC makes one

SAME = {
    "12": ("１２", "𝟏𝟐", "𝟙𝟚", "⑫", "⑿", "⒓", "⼗⼆", "1\u200b2", "\ufeff12", "1\u00ad2"),
    "-72": (
        "-72",
        "−72",
        "–72",
        "—72",
        "‒72",
        "‐72",
        "‑72",
        "﹣72",
        "－７２",
        "―72",
        " –72。",
        "(–72)",
    ),
    "-3": ("-三", "–三", "−三", "负三", "負叁"),
    "-0.5": ("–.5", "—0.5", "-零点五"),
    "x=-3": ("x=–3", "x=−3", "ｘ＝－３"),
    "-x": ("−x", "–x", "－ｘ"),
    "-∞": ("−∞", "–∞"),
    "A-": ("A–", "A−", "Ａ－"),
    "COVID-19": ("COVID–19", "COVID‑19"),
    "1/2": ("½", "1⁄2", "1∕2", "１／２"),
    "1 1/2": ("1½", "1 ½", "１½", "1 1⁄2"),
    "2/3": ("⅔", "2⁄3"),
    "1/7": ("⅐", "⅟7"),
    "H2O": ("H₂O", "Ｈ₂Ｏ"),
    "C6H12O6": ("C₆H₁₂O₆",),
    "x12": ("x₁₂",),
    "5m²": ("5㎡", "５ｍ²"),
    "m/s": ("㎧", "m∕s"),
    "XII": ("Ⅻ", "ⅩⅡ"),
    "1": ("①", "⑴", "⒈", "㈠", "㊀", "１"),
    "10": ("㊉", "⑩", "〸"),
    "1000": ("1,000", "1，000", "1\u2009000", "1\u202f000", "1\u00a0000"),
    "12345678": ("12,345,678", "12\u202f345\u202f678"),
    "3.5": ("３．５", "三点五"),
    "北京": ("\ufeff北京", "北\u200b京", "北京\u200e"),
    "fi": ("ﬁ",),
}
APART = [
    ("10²", "102", "10₂", "10^2", "10"),
    ("5³", "53", "5"),
    ("10⁻³", "10-3", "10³", "103"),
    ("2ⁿ", "2n"),
    ("x²", "x2", "x₂y"),
    ("2³4", "2³⁴", "234"),
    ("㎡", "m2"),
    ("Cl⁻", "Cl-", "Cl"),
    ("1010₂", "10102"),
    ("log₂8", "log28"),
    ("0.₃", "0.3"),
    ("xₙ₊₁", "xn+1"),
    ("1½", "11⁄2", "1/2"),
    ("½3", "1/23"),
    ("①②", "⑫"),
    ("1①", "11"),
    ("㊀㊁", "一二"),
    ("㊉㊀", "十一"),
    ("⒈5", "1.5"),
    ("⒈⒉", "1.2"),
    ("🄂5", "1,5", "15"),
    ("1㋀", "11月"),
    ("2㏠", "21日"),
    ("3㍙", "31点"),
    ("ⅠⅡ", "Ⅲ"),
    ("–72", "72"),
    ("—72", "72"),
    ("–72度", "72度"),
    ("-三", "三"),
    ("–十二", "十二"),
    ("-x", "x"),
    ("-√2", "√2"),
    ("−∞", "∞", "-∞°"),
    ("-(a+b)", "a+b"),
    ("-$5", "$5"),
    ("+x", "-x"),
    ("5‰", "5‱", "5%", "5"),
    ("f′", "f″", "f"),
    ("3,5", "3.5", "35"),
    ("1 000", "1000", "1 0"),  # a plain blank: may be two numbers
    ("3．5", "35"),
]


@pytest.mark.parametrize("normal", SAME)
def test_variants_of_an_answer_are_one(normal):
    assert {answer(text) for text in (normal, *SAME[normal])} == {normal}


@pytest.mark.parametrize("texts", APART, ids="|".join)
def test_answers_that_differ_stay_apart(texts):
    assert len({answer(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("——72", "72"), ("--72", "72"), ("- 72", "72"), ("–北京", "北京"), ("—Paris", "Paris")],
)
def test_a_dash_or_a_bullet_is_no_minus(text, expected):
    assert answer(text) == expected


VALUES = [c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] == "N"]
VALUES += [c for c in map(chr, range(0xA0, 0x20000)) if unicodedata.decomposition(c)[:1] == "<"]


def test_no_character_makes_a_number_longer_unless_it_is_a_digit():
    for c in VALUES:
        for text in ("1" + c, c + "1", "1" + c + "1"):
            if is_number(answer(text) or "") and answer(text) not in ("1", "-1"):
                assert unicodedata.normalize("NFKC", c) in [*"0123456789."], text
                assert unicodedata.category(c) in ("Nd", "Po"), text


def test_other_characters_are_as_nfkc_has_them():
    tags = ("<super>", "<sub>", "<fraction>", "<circle>", "<square>", "<compat>", "<noBreak>")
    for c in map(chr, range(0xA0, 0x30000)):
        if c not in DASHES and c not in "\u00ad\u200b\u200e\u200f\u2060\u2044\u2215\ufeff":
            if not unicodedata.decomposition(c).startswith(tags):
                assert normalized(c + "北") == unicodedata.normalize("NFKC", c + "北"), repr(c)


@given(
    st.text(st.sampled_from("1２①²₂½⅟⒈㋀一㊀Ⅰ–—-−.,/⁄ \u00a0x\u0301\u1fc1\u200b가각"), max_size=8)
)
def test_a_normalized_text_is_its_own_normalization(text):
    assert normalized(normalized(text)) == normalized(text)


def test_single_numerals_are_the_numbers_unicode_says():
    for c in "零〇一二三四五六七八九十廿卅卌壹贰叁肆柒捌玖拾":
        assert answer(c) == str(int(unicodedata.numeric(c)))


# Written as it was


@pytest.mark.parametrize(
    ("text", "rule", "shown"),
    [
        (" 十二。", AnswerRule(), "十二"),
        ("（Ｐａｒｉｓ）", AnswerRule(), "Ｐａｒｉｓ"),
        ("1,000", AnswerRule(), "1,000"),
        ("答案是：十二。", AnswerRule("答案是.(.*)"), "十二"),
        # the regex fits only what NFKC made of the text
        ("答案：十二", AnswerRule("答案:(.*)"), "十二"),
        ("价格＄５", AnswerRule(r"\$[0-9]"), "$5"),
        ("不知道", AnswerRule("答案.(.*)"), ""),
    ],
)
def test_people_see_what_was_written(text, rule, shown):
    assert spelling(text, rule) == shown


# Regular expressions


@pytest.mark.parametrize(
    ("text", "regex", "found"),
    [
        ("所以答案是12。", r"答案是(\S+)", "12"),
        ("先是7，后来是12", "[0-9]+", "7"),
        ("不知道", r"答案是(\S+)", None),
        ("答案是", "答案是(.*)", None),
        ("b", "(a)|b", None),
        ("选Ａ", "[ABCD]", "A"),
        ("x\n答案：三", r"(?m)^答案:(.*)$", "3"),
    ],
)
def test_a_regex_cuts_the_answer_out(text, regex, found):
    assert answer(text, AnswerRule(regex)) == found


@pytest.mark.parametrize(
    ("regex", "problem"),
    [
        ("(", "character 0"),
        ("ab[", "character 2"),
        ("*", "character 0"),
        ("(?P<1>a)", "character 4"),
        ("a{99999999999999999999}", "too large"),
    ],
)
def test_a_wrong_regex_is_named(regex, problem):
    with pytest.raises(UsageError) as e:
        answer("北京", AnswerRule(regex))
    assert regex in e.value.message and problem in e.value.message and e.value.hint


def test_a_regex_python_warns_of_is_used():
    assert answer("x[", AnswerRule("[[]")) == "["


# Traditional and simplified


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("臺灣", "台湾"),
        ("頭髮", "头发"),
        ("後面。", "后面"),
        ("乾隆", "乾隆"),
        ("薴", "苎"),
        ("三萬", "30000"),
    ],
)
def test_traditional_is_simplified_when_asked(text, found):
    pytest.importorskip("opencc")
    assert answer(text, AnswerRule(simplified=True)) == found
    if "萬" not in text:
        assert answer(text) == text.rstrip("。")


@given(st.one_of(texts, st.text("臺灣髮發乾後麵薴幺麽萬億 。", max_size=8)))
def test_a_simplified_answer_is_its_own_answer(text):
    pytest.importorskip("opencc")
    rule = AnswerRule(simplified=True)
    found = answer(text, rule)
    if found is not None:
        assert answer(found, rule) == found


def test_what_is_no_unicode_is_not_simplified():
    pytest.importorskip("opencc")
    assert answer("臺\ud800", AnswerRule(simplified=True)) == "臺\ud800"


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    answers._converter.cache_clear()
    try:
        with pytest.raises(UsageError) as e:
            answer("臺灣", AnswerRule(simplified=True))
        assert e.value.hint == "pip install 'gentool[chinese]'"
        assert answer("臺灣") == "臺灣"
    finally:
        answers._converter.cache_clear()
