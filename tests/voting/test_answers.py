"""What is the same answer and what is not."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.errors import UsageError
from gentool.voting import answers
from gentool.voting.answers import Rule, answer, spelling

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
    sources = (text, unicodedata.normalize("NFKC", text))
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


def test_single_numerals_are_the_numbers_unicode_says():
    for c in "零〇一二三四五六七八九十廿卅卌壹贰叁肆柒捌玖拾":
        assert answer(c) == str(int(unicodedata.numeric(c)))


# Written as it was


@pytest.mark.parametrize(
    ("text", "rule", "shown"),
    [
        (" 十二。", Rule(), "十二"),
        ("（Ｐａｒｉｓ）", Rule(), "Ｐａｒｉｓ"),
        ("1,000", Rule(), "1,000"),
        ("答案是：十二。", Rule("答案是.(.*)"), "十二"),
        # the regex fits only what NFKC made of the text
        ("答案：十二", Rule("答案:(.*)"), "十二"),
        ("价格＄５", Rule(r"\$[0-9]"), "$5"),
        ("不知道", Rule("答案.(.*)"), ""),
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
    assert answer(text, Rule(regex)) == found


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
        answer("北京", Rule(regex))
    assert regex in e.value.message and problem in e.value.message and e.value.hint


def test_a_regex_python_warns_of_is_used():
    assert answer("x[", Rule("[[]")) == "["


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
    assert answer(text, Rule(simplified=True)) == found
    if "萬" not in text:
        assert answer(text) == text.rstrip("。")


@given(st.one_of(texts, st.text("臺灣髮發乾後麵薴幺麽萬億 。", max_size=8)))
def test_a_simplified_answer_is_its_own_answer(text):
    pytest.importorskip("opencc")
    rule = Rule(simplified=True)
    found = answer(text, rule)
    if found is not None:
        assert answer(found, rule) == found


def test_what_is_no_unicode_is_not_simplified():
    pytest.importorskip("opencc")
    assert answer("臺\ud800", Rule(simplified=True)) == "臺\ud800"


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opencc", None)
    answers._converter.cache_clear()
    try:
        with pytest.raises(UsageError) as e:
            answer("臺灣", Rule(simplified=True))
        assert e.value.hint == "pip install 'gentool[chinese]'"
        assert answer("臺灣") == "臺灣"
    finally:
        answers._converter.cache_clear()
