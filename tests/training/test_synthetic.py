"""The synthetic documents keep their promises: shape, truth and what is held out."""

import random
import re

import pytest

from gentool.training.synthetic import documents as synthetic
from gentool.training.synthetic import held_out, held_out_prompts
from gentool.training.synthetic.documents import (
    CAPITAL_FORMATS,
    CAPITAL_SENTENCES,
    chinese_number,
    documents,
)
from gentool.training.synthetic.facts import CAPITALS, CATEGORIES, MEASURES, THINGS, UNITS
from gentool.training.synthetic.formats import CATEGORY_FORMATS

CHINESE = {chinese_number(number): number for number in range(200)}
PLUS = r"\s*(?:\+|＋|加上|加|和)\s*"
ARABIC_SUM = re.compile(rf"(?<!\d)(\d+){PLUS}(\d+)(?!\d)([^\d]*)(\d+)?")
NUMERAL = "[零一二三四五六七八九十百]+"
CHINESE_SUM = re.compile(rf"({NUMERAL}){PLUS}({NUMERAL})([^{NUMERAL[1:-2]}]*)({NUMERAL})?")
# Longest first, because some names begin with others.
COUNTRY = re.compile("|".join(sorted(map(re.escape, CAPITALS), key=len, reverse=True)))


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return list(documents(7, 20_000))


def additions(document: str) -> list[tuple[int, int, int | None]]:
    """Every addition of a document as first operand, second operand and stated sum."""
    found: list[tuple[int, int, int | None]] = []
    for a, b, _, c in ARABIC_SUM.findall(document):
        found.append((int(a), int(b), int(c) if c else None))
    for a, b, _, c in CHINESE_SUM.findall(document):
        if a in CHINESE and b in CHINESE:
            found.append((CHINESE[a], CHINESE[b], CHINESE.get(c)))
    return found


def contains_order(names: list[str], order: tuple[str, ...]) -> bool:
    width = len(order)
    return any(tuple(names[i : i + width]) == order for i in range(len(names) - width + 1))


def countries(document: str) -> list[str]:
    """The countries in order; a capital or an answer may name its country once more."""
    names: list[str] = COUNTRY.findall(document)
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


def test_same_seed_same_documents() -> None:
    assert list(documents(3, 500)) == list(documents(3, 500))
    assert list(documents(3, 500)) != list(documents(4, 500))
    assert list(documents(3, 100)) == list(documents(3, 500))[:100]


def test_shape(sample: list[str]) -> None:
    for document in sample:
        assert 20 <= len(document) <= 400
        assert all(line.strip() for line in document.removesuffix("\n").split("\n")), document


def test_parser_of_additions() -> None:
    assert additions("17+6=23，7 + 6 = 13") == [(17, 6, 23), (7, 6, 13)]
    assert additions("十七加六等于二十三；七加六等于十三") == [(17, 6, 23), (7, 6, 13)]
    assert additions("问：7+6=？\n答：13") == [(7, 6, 13)]


def test_additions_are_right_and_not_held_out(sample: list[str]) -> None:
    pairs = {frozenset(pair) for pair in held_out.PAIRS}
    seen: set[tuple[int, int]] = set()
    for document in sample:
        for a, b, c in additions(document):
            assert c == a + b, document
            assert frozenset((a, b)) not in pairs, document
            seen.add((a, b))
    small = {(a, b) for a in range(11) for b in range(11) if frozenset((a, b)) not in pairs}
    assert small <= seen
    assert len(small) == 121 - 2 * len(held_out.PAIRS)


def test_every_capital_is_told_in_a_sentence() -> None:
    text = "\n".join(documents(11, 30_000))
    told = {
        country: {
            form
            for form in CAPITAL_SENTENCES
            if form.format(country=country, capital=capital) in text
        }
        for country, capital in CAPITALS.items()
    }
    assert [country for country, forms in told.items() if len(forms) < 2] == []


def test_held_out_capital_formats(sample: list[str]) -> None:
    assert not set(held_out.CAPITAL_FORMATS) & set(CAPITAL_FORMATS)
    text = "\n".join(sample)
    for form in held_out.CAPITAL_FORMATS:
        for country, capital in CAPITALS.items():
            assert form.format(country=country, capital=capital) not in text


def test_held_out_orders(sample: list[str]) -> None:
    assert contains_order(countries("法国=>巴黎，日本=>东京，新加坡=>新加坡"), ("日本", "新加坡"))
    for document in sample:
        names = countries(document)
        assert not any(contains_order(names, order) for order in held_out.CAPITAL_ORDERS)


def test_held_out_order_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Such an order is too rare to meet by chance, so leave little else to draw.
    order = held_out.CAPITAL_ORDERS[0]
    monkeypatch.setattr(synthetic, "_COUNTRIES", order)
    monkeypatch.setattr(synthetic, "_COUNTRY_WEIGHTS", (1, 1, 1, 1))
    rng = random.Random(0)
    drawn = {tuple(synthetic._draw_countries(rng, 14)) for _ in range(2_000)}
    assert order not in drawn
    assert sum(len(names) == 4 for names in drawn) == 23


def test_addition_prompts() -> None:
    prompts = held_out_prompts.held_out_addition_prompts()
    assert prompts == held_out_prompts.held_out_addition_prompts()
    assert len(prompts) == 2 * len(held_out.PAIRS)
    assert {frozenset(pair) for pair in held_out.PAIRS} == {
        frozenset(map(int, prompt.rsplit("\n", 1)[1].rstrip("=").split("+")))
        for prompt, _ in prompts
    }
    for prompt, answer in prompts:
        sums = additions(prompt + answer)
        assert len(sums) == 6
        assert all(a + b == c for a, b, c in sums)


def test_capital_prompts() -> None:
    prompts = held_out_prompts.held_out_capital_prompts()
    assert prompts == held_out_prompts.held_out_capital_prompts()
    assert len(prompts) == 20 + 3 * held_out_prompts.ORDERS_PER_HELD_OUT_FORMAT
    for (prompt, answer), order in zip(prompts, held_out.CAPITAL_ORDERS, strict=False):
        assert contains_order(countries(prompt), order)
        assert answer == CAPITALS[order[-1]]
    for prompt, answer in prompts:
        assert prompt == prompt.rstrip()
        assert answer == CAPITALS[countries(prompt)[-1]]


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "零"), (10, "十"), (20, "二十"), (99, "九十九"), (105, "一百零五"), (118, "一百一十八")],
)
def test_chinese_number(number: int, written: str) -> None:
    assert chinese_number(number) == written


def test_no_word_is_in_two_categories() -> None:
    words = [word for members in CATEGORIES.values() for word in members]
    assert len(words) == len(set(words))
    assert held_out.CATEGORY_WORDS <= set(words)
    assert set(THINGS) <= set(MEASURES)


def test_held_out_words_are_in_no_category(sample: list[str]) -> None:
    text = "\n".join(sample)
    for form in (*CATEGORY_FORMATS, held_out.CATEGORY_FORMAT):
        for name, words in CATEGORIES.items():
            for word in held_out.CATEGORY_WORDS & set(words):
                line = form.format(x=word, y=name)
                assert not re.search(rf"(?m)^{re.escape(line)}$", text), line
    assert "苹果=>水果" in text


def test_held_out_nouns_are_not_asked_for_their_measure_word(sample: list[str]) -> None:
    asked = set(re.findall(r"一[（(][^）)]*[）)]([^：=→ \n]+)", "\n".join(sample)))
    assert not asked & held_out.MEASURE_NOUNS
    assert len(asked) > 100


def test_held_out_dates_and_quantities(sample: list[str]) -> None:
    text = "\n".join(sample)
    for month, day in held_out.DATES:
        assert not re.search(rf"(?<!\d)\d{{4}}-{month:02}-{day:02}(?!\d)", text)
        assert not re.search(rf"(?<!\d){month}月{day}日的(第二|后一)天", text)
    for larger, smaller, each in UNITS:
        for number in held_out.QUANTITIES:
            line = f"{number}{larger}={number * each}{smaller}"
            assert not re.search(rf"(?m)^{line}$", text)


def test_stories_of_sums_are_right(sample: list[str]) -> None:
    seen = 0
    for document in sample:
        for a, b, c in re.findall(r"有(\d+)[^\d？\n]*又给了他(\d+)[^\d？\n]*？\D*?(\d+)", document):
            seen += 1
            assert int(a) + int(b) == int(c), document
            assert (int(a), int(b)) not in held_out.FORBIDDEN_OPERANDS
    assert seen > 100


def test_the_separator_follows_the_last_answer(sample: list[str]) -> None:
    for document in sample:
        if "=>" in document and document.count("\n") > 1:
            assert document.endswith("\n"), document


@pytest.mark.parametrize("task", ["category", "measure", "sentiment", "date", "unit", "problem"])
def test_prompts_of_everyday_tasks(task: str, sample: list[str]) -> None:
    make = getattr(held_out_prompts, f"held_out_{task}_prompts")
    prompts = make()
    assert prompts == make()
    assert len(prompts) >= 20
    text = "\n".join(sample)
    for prompt, answer in prompts:
        assert prompt == prompt.rstrip() and answer
        assert "\n".join(prompt.split("\n")[-2:]) + answer not in text
