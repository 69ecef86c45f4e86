"""Few-shot prompts of what was held out of the synthetic documents, with their answers."""

import random
from collections.abc import Sequence

from gentool.training.synthetic import held_out
from gentool.training.synthetic.facts import (
    CAPITALS,
    CATEGORIES,
    FAMOUS_CAPITALS,
    MEASURES,
    NAMES,
    UNITS,
)
from gentool.training.synthetic.formats import (
    CAPITAL_FORMATS,
    DATE_PATTERNS,
    PROBLEMS,
)
from gentool.training.synthetic.writing import (
    pick,
)

HELD_OUT_SEED = 20240
EXAMPLES_PER_ADDITION_PROMPT = 5
ORDERS_PER_HELD_OUT_FORMAT = 10


def held_out_addition_prompts() -> list[tuple[str, str]]:
    """Prompts ending in a held-out addition, in both orders, each with its answer."""
    rng = random.Random(HELD_OUT_SEED)
    prompts = []
    for pair in held_out.PAIRS:
        for a, b in (pair, pair[::-1]):
            examples: list[tuple[int, int]] = []
            while len(examples) < EXAMPLES_PER_ADDITION_PROMPT:
                example = (rng.randint(0, 10), rng.randint(0, 10))
                if example not in held_out.FORBIDDEN_OPERANDS and example not in examples:
                    examples.append(example)
            lines = [f"{x}+{y}={x + y}" for x, y in examples]
            prompts.append(("\n".join([*lines, f"{a}+{b}="]), str(a + b)))
    return prompts


def _capital_prompt(form: str, countries: Sequence[str]) -> tuple[str, str]:
    *examples, asked = countries
    lines = [form.format(country=c, capital=CAPITALS[c]) for c in examples]
    question = form.partition("{capital}")[0].format(country=asked)
    return "\n".join([*lines, question]), CAPITALS[asked]


def held_out_capital_prompts() -> list[tuple[str, str]]:
    """Prompts asking for a capital, each with its answer.

    First every held-out order in a format of the documents, then, for every held-out format,
    some orders drawn as the documents draw theirs.
    """
    rng = random.Random(HELD_OUT_SEED)
    # A blank at the end of a prompt would split tokens unlike in training.
    seen = {form: share for form, share in CAPITAL_FORMATS.items() if " {capital}" not in form}
    prompts = [_capital_prompt(pick(rng, seen), order) for order in held_out.CAPITAL_ORDERS]
    famous = tuple(FAMOUS_CAPITALS)
    for form in held_out.CAPITAL_FORMATS:
        orders: list[tuple[str, ...]] = []
        while len(orders) < ORDERS_PER_HELD_OUT_FORMAT:
            order = tuple(rng.sample(famous, 4))
            if order not in held_out.FORBIDDEN_ORDERS:
                orders.append(order)
        prompts.extend(_capital_prompt(form, order) for order in orders)
    return prompts


def _prompt(
    form: str, examples: Sequence[tuple[str, str]], asked: tuple[str, str]
) -> tuple[str, str]:
    lines = [form.format(x=x, y=y) for x, y in examples]
    question = form.partition("{y}")[0].format(x=asked[0])
    return "\n".join([*lines, question]), asked[1]


def held_out_category_prompts() -> list[tuple[str, str]]:
    """Words never put into a category, after six others, in two formats of the documents and in one
    that they never use."""
    rng = random.Random(HELD_OUT_SEED)
    names = {word: name for name, words in CATEGORIES.items() for word in words}
    known = [word for word in names if word not in held_out.CATEGORY_WORDS]
    prompts = []
    for word in sorted(held_out.CATEGORY_WORDS):
        for form in ("{x}=>{y}", "{x}：{y}", held_out.CATEGORY_FORMAT):
            # Its own category is shown, and two others.
            own = [w for w in known if names[w] == names[word]]
            others = [w for w in known if names[w] != names[word]]
            examples = [*rng.sample(own, 2), *rng.sample(others, 4)]
            rng.shuffle(examples)
            prompts.append(_prompt(form, [(w, names[w]) for w in examples], (word, names[word])))
    return prompts


def held_out_measure_prompts() -> list[tuple[str, str]]:
    """一（ ）花 for nouns that no document asks so, after five others."""
    rng = random.Random(HELD_OUT_SEED)
    known = [noun for noun in MEASURES if noun not in held_out.MEASURE_NOUNS]
    prompts = []
    for noun in sorted(held_out.MEASURE_NOUNS):
        examples = [(n, MEASURES[n]) for n in rng.sample(known, 5)]
        for form in ("一（ ）{x}：{y}", "一（ ）{x}=>{y}"):
            prompts.append(_prompt(form, examples, (noun, MEASURES[noun])))
    return prompts


def held_out_sentiment_prompts() -> list[tuple[str, str]]:
    """The held-out sentences, each after two of either side, in two formats."""
    rng = random.Random(HELD_OUT_SEED)
    sides = "负面", "正面"
    rows = [(text, sides[good]) for text, good in held_out.SENTIMENTS]
    prompts = []
    for row in rows:
        others = [rng.sample([r for r in rows if r != row and r[1] == side], 2) for side in sides]
        for form in ("{x}=>{y}", "评论：{x}\n情感：{y}"):
            examples = [*others[0], *others[1]]
            rng.shuffle(examples)
            prompts.append(_prompt(form, examples, row))
    return prompts


def held_out_date_prompts() -> list[tuple[str, str]]:
    """Dates never written in two ways, from one way to the other, after four others."""
    rng = random.Random(HELD_OUT_SEED)
    prompts = []
    for month, day in sorted(held_out.DATES):
        examples = [
            (rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(24, 28)) for _ in "1234"
        ]
        for before, after in (DATE_PATTERNS[:2], DATE_PATTERNS[1::-1]):
            *shown, asked = (
                (before.format(y=y, m=m, d=d), after.format(y=y, m=m, d=d))
                for y, m, d in [*examples, (rng.randint(1990, 2030), month, day)]
            )
            prompts.append(_prompt("{x}=>{y}", shown, asked))
    return prompts


def held_out_unit_prompts() -> list[tuple[str, str]]:
    """Numbers of a unit never turned into the smaller one, after three others of the same."""
    rng = random.Random(HELD_OUT_SEED)
    numbers = [n for n in range(1, 21) if n not in held_out.QUANTITIES]
    prompts = []
    for larger, smaller, each in UNITS[:16:2]:
        for number in sorted(held_out.QUANTITIES):
            *shown, asked = (
                (f"{n}{larger}", f"{n * each}{smaller}") for n in [*rng.sample(numbers, 3), number]
            )
            prompts.append(_prompt("{x}={y}", shown, asked))
    return prompts


def held_out_problem_prompts() -> list[tuple[str, str]]:
    """Stories that ask for a held-out sum, in a format of the documents and in two never seen."""
    rng = random.Random(HELD_OUT_SEED)
    prompts = []
    for pair in held_out.PAIRS:
        for form in ("问：{x}\n答：{y}", *held_out.PROBLEM_FORMATS):
            rows = []
            operands = [(3, 4), (9, 1), (5, 2), pair]
            for a, b in operands:
                values = {"n": rng.choice(NAMES), "o": "妈妈", "x": "苹果", "u": "个"}
                rows.append((PROBLEMS["+"][0].format(a=a, b=b, **values), str(a + b)))
            prompts.append(_prompt(form, rows[:-1], rows[-1]))
    return prompts
