"""Tasks of everyday life: categories, dates, units, sums told as a story, differences and products.
What held_out.py keeps for evaluation does not occur in them.
"""

from __future__ import annotations

import datetime
import random

from gentool.training.synthetic import held_out
from gentool.training.synthetic.facts import (
    CATEGORIES,
    CYCLES,
    MEASURES,
    MONTH_DAYS,
    NAMES,
    SEASONS,
    THINGS,
    UNITS,
)
from gentool.training.synthetic.formats import (
    ANSWER_FORMATS,
    CALCULATION_FORMATS,
    CATEGORY_FORMATS,
    DATE_PATTERNS,
    NEXT_DAY_FORMATS,
    PROBLEM_FORMATS,
    PROBLEMS,
    UNIT_FORMATS,
)
from gentool.training.synthetic.writing import join, pairs_document, pick

_WORDS = {
    name: tuple(word for word in words if word not in held_out.CATEGORY_WORDS)
    for name, words in CATEGORIES.items()
}
_THINGS = tuple((thing, MEASURES[thing]) for thing in THINGS)
_OTHERS = ("妈妈", "爸爸", "奶奶", "老师", "姐姐", "弟弟")
_OPERATORS = {"-": ("-", "减"), "×": ("×", "乘")}


def categories(rng: random.Random, count: int) -> str:
    """Words of a few categories, or of all, each with the name of its own."""
    names = rng.sample(tuple(_WORDS), rng.choice((2, 2, 3, 3, 4, 5, len(_WORDS))))
    pairs: dict[str, str] = {}
    while len(pairs) < count or len(set(pairs.values())) < 2:
        name = rng.choice(names)
        pairs[rng.choice(_WORDS[name])] = name
    return pairs_document(rng, pick(rng, CATEGORY_FORMATS), tuple(pairs.items()))


def _date(rng: random.Random) -> tuple[int, int, int]:
    while True:
        month = rng.randint(1, 12)
        day = rng.randint(1, MONTH_DAYS[month - 1])
        if (month, day) not in held_out.DATES:
            return rng.randint(1950, 2030), month, day


def dates(rng: random.Random, count: int) -> str:
    """One of: a date in two ways, the next day, days of the week to come, months and seasons."""
    kind = rng.random()
    if kind < 0.5:
        before, after = rng.sample(DATE_PATTERNS[:6], 2)
        if rng.random() < 0.4:
            before, after = rng.choice((DATE_PATTERNS[0], DATE_PATTERNS[1])), DATE_PATTERNS[6]
        pairs = []
        for _ in range(count):
            y, m, d = _date(rng)
            pairs.append((before.format(y=y, m=m, d=d), after.format(y=y, m=m, d=d)))
        return pairs_document(rng, pick(rng, ANSWER_FORMATS), pairs)
    if kind < 0.75:
        pattern = rng.choice(DATE_PATTERNS[6:])
        days = [datetime.date(2023, *_date(rng)[1:]) for _ in range(count)]
        following = [day + datetime.timedelta(1) for day in days]
        texts = [[pattern.format(m=x.month, d=x.day) for x in part] for part in (days, following)]
        form = pick(rng, NEXT_DAY_FORMATS)
        return pairs_document(rng, form, tuple(zip(*texts, strict=True)))
    if kind < 0.9:
        week = CYCLES[rng.choice(("weekdays", "weekdays_short"))]
        form = rng.choice(
            ("{x}再过{n}天是{y}", "{x}的{n}天后是{y}", "问：{x}再过{n}天是哪天？\n答：{y}")
        )
        lines = []
        for _ in range(count):
            start, days_on = rng.randrange(7), rng.randint(1, 6)
            ends = week[(start + days_on) % 7]
            lines.append(form.format(x=week[start], n=days_on, y=ends))
        return join(rng, lines)
    months = rng.sample(range(12), min(count, 12))
    if rng.random() < 0.5:
        form = rng.choice(("{x}有{y}", "{x}→{y}", "{x}：{y}", "问：{x}有多少天？\n答：{y}"))
        pairs = [(f"{m + 1}月", f"{MONTH_DAYS[m]}天") for m in months if m != 1]
    else:
        form = rng.choice(("{x}是{y}", "{x}→{y}", "{x}：{y}", "问：{x}是什么季节？\n答：{y}"))
        pairs = [(f"{m + 1}月", f"{SEASONS[m]}天") for m in months]
    return pairs_document(rng, form, pairs)


def units(rng: random.Random, count: int) -> str:
    """So many of a larger unit in a smaller one, or the other way; one pair of units or several."""
    chosen = rng.sample(UNITS, rng.choice((1, 1, 2, len(UNITS))))
    form, back = pick(rng, UNIT_FORMATS), rng.random() < 0.3
    lines: list[str] = []
    for number in rng.sample([n for n in range(1, 21) if n not in held_out.QUANTITIES], count):
        larger, smaller, each = rng.choice(chosen)
        sides = [(f"{number}{larger}", larger), (f"{number * each}{smaller}", smaller)]
        (x, _), (y, unit) = sides[::-1] if back else sides
        lines.append(form.format(x=x, y=y, u=unit.removeprefix("个")))
    return join(rng, lines)


def _operands(rng: random.Random, operator: str, largest: int) -> tuple[int, int, int]:
    """a, b and the result; what is held out of the additions is held out of every +."""
    while True:
        a, b = rng.randint(1, largest), rng.randint(1, largest)
        if operator == "+" and (a, b) not in held_out.FORBIDDEN_OPERANDS:
            return a, b, a + b
        if operator == "-" and b <= a:
            return a, b, a - b
        if operator == "×" and max(a, b) < 10:
            return a, b, a * b


def word_problems(rng: random.Random, count: int) -> str:
    """Little stories that ask for one sum, difference or product."""
    form, operators = pick(rng, PROBLEM_FORMATS), rng.choice(("+", "-", "+-", "+-", "+-×", "×"))
    largest = rng.choice((10, 10, 20))
    one = {o: rng.choice(PROBLEMS[o]) for o in operators} if rng.random() < 0.5 else {}
    with_unit = rng.random() < 0.4
    lines = []
    for _ in range(min(count, 7)):
        operator = rng.choice(operators)
        a, b, c = _operands(rng, operator, largest)
        thing, unit = rng.choice(_THINGS)
        name, other = rng.choice(NAMES), rng.choice((*_OTHERS, *NAMES))
        while other == name:
            other = rng.choice(NAMES)
        story = one.get(operator) or rng.choice(PROBLEMS[operator])
        asked = "元" if "多少元" in story else unit
        x = story.format(a=a, b=b, n=name, o=other, x=thing, u=unit)
        lines.append(form.format(x=x, y=f"{c}{asked}" if with_unit else c))
    return join(rng, lines)


def calculations(rng: random.Random, count: int) -> str:
    """Differences within twenty and the products of digits."""
    operator = rng.choice("--×")
    sign, word = _OPERATORS[operator]
    form, largest = pick(rng, CALCULATION_FORMATS), rng.choice((10, 20))
    sums = [_operands(rng, operator, largest) for _ in range(count)]
    return join(
        rng, [form.format(a=a, b=b, c=c, o=sign, w=word) for a, b, c in dict.fromkeys(sums)]
    )
