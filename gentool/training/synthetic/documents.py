"""Short synthetic few-shot documents made from general facts.

A model of a few million parameters learns to follow the pattern of a prompt only when it has met
many small patterns. Each document picks a task, a format of that task and a handful of examples.
Some additions, capital formats and orders of countries are held out, so that a later evaluation
can tell rule from memory; they stand in held_out.py.
"""

import random
from collections.abc import Callable, Iterator, Sequence

from gentool.training.synthetic import everyday, held_out
from gentool.training.synthetic.facts import (
    BLAME,
    CAPITALS,
    CYCLES,
    FAMOUS_CAPITALS,
    MEASURES,
    NAMES,
    OPPOSITES,
    PERIODIC_CHARACTERS,
    PHRASES,
    PRAISE,
    RUNS,
    SENTIMENTS,
    TRANSLATIONS,
)
from gentool.training.synthetic.formats import (
    ADDITION_FORMATS,
    CAPITAL_FORMATS,
    CAPITAL_SENTENCES,
    CHINESE_ADDITION_FORMATS,
    COPY_FORMATS,
    FIRST_FORMATS,
    LAST_FORMATS,
    MAPPING_FORMATS,
    MEASURE_FORMATS,
    NEXT_FORMATS,
    OPPOSITE_FORMATS,
    REVERSE_CAPITAL_FORMATS,
    REVERSE_FORMATS,
    SENTIMENT_FORMATS,
    SENTIMENT_LABELS,
    TRANSLATION_FORMATS,
)
from gentool.training.synthetic.writing import (
    MAX_CHARACTERS,
    MAX_EXAMPLES,
    MIN_CHARACTERS,
    MIN_EXAMPLES,
    Task,
    join,
    pairs_document,
    pick,
)

_CHINESE_DIGITS = "零一二三四五六七八九"
_WORDS = tuple(dict.fromkeys([*MEASURES, *TRANSLATIONS, *(x for pair in OPPOSITES for x in pair)]))
_LONG_WORDS = tuple(word for word in _WORDS if len(word) > 1)
_THINGS = tuple(noun for noun in MEASURES if len(noun) > 1)
_REVERSIBLE_WORDS = tuple(word for word in _LONG_WORDS if word != word[::-1])
_COUNTRIES = tuple(CAPITALS)
_COUNTRY_WEIGHTS = tuple(2 if country in FAMOUS_CAPITALS else 1 for country in _COUNTRIES)
_OPPOSITES = (*OPPOSITES, *((right, left) for left, right in OPPOSITES))


def chinese_number(number: int) -> str:
    """Write a number from 0 to 199 in Chinese."""
    if number >= 100:
        rest = number - 100
        if rest == 0:
            return "一百"
        link = "零" if rest < 10 else "一" if rest < 20 else ""
        return "一百" + link + chinese_number(rest)
    tens, ones = divmod(number, 10)
    if tens == 0:
        return _CHINESE_DIGITS[ones]
    head = "十" if tens == 1 else _CHINESE_DIGITS[tens] + "十"
    return head + (_CHINESE_DIGITS[ones] if ones else "")


def _sums(rng: random.Random, count: int, largest: int) -> list[tuple[int, int]]:
    """Draw pairs of operands, none of them held out; sometimes one operand counts up."""
    if rng.random() < 0.25:
        fixed, start = rng.randint(0, largest), rng.randint(0, largest // 2)
        swapped = rng.random() < 0.25
        run = [(b, fixed) if swapped else (fixed, b) for b in range(start, largest + 1)]
        return [pair for pair in run if pair not in held_out.FORBIDDEN_OPERANDS][:count]
    pairs: list[tuple[int, int]] = []
    one_digit = largest > 10 and rng.random() < 0.4
    while len(pairs) < count:
        pair = (rng.randint(0, largest), rng.randint(0, 9 if one_digit else largest))
        if pair not in held_out.FORBIDDEN_OPERANDS and pair not in pairs:
            pairs.append(pair)
    return pairs


def _addition_of(rng: random.Random, count: int, largest: int) -> str:
    chinese = rng.random() < 0.15
    form = pick(rng, CHINESE_ADDITION_FORMATS if chinese else ADDITION_FORMATS)
    write: Callable[[int], str] = chinese_number if chinese else str
    pairs = _sums(rng, count, largest)
    return join(rng, [form.format(a=write(a), b=write(b), c=write(a + b)) for a, b in pairs])


def _addition(rng: random.Random, count: int) -> str:
    return _addition_of(rng, count, 10)


def _addition_wide(rng: random.Random, count: int) -> str:
    return _addition_of(rng, count, rng.choice((20, 50, 99, 99)))


def _has_held_out_order(countries: Sequence[str]) -> bool:
    return any(
        tuple(countries[i : i + 4]) in held_out.FORBIDDEN_ORDERS for i in range(len(countries) - 3)
    )


def _draw_countries(rng: random.Random, count: int) -> list[str]:
    """Draw different countries in an order that is not held out."""
    while True:
        drawn = rng.choices(_COUNTRIES, _COUNTRY_WEIGHTS, k=count)
        countries = list(dict.fromkeys(drawn))
        if len(countries) >= MIN_EXAMPLES and not _has_held_out_order(countries):
            return countries


def _capitals(rng: random.Random, count: int) -> str:
    countries = _draw_countries(rng, count)
    kind = rng.random()
    if kind < 0.35:
        # Facts told in prose; half of the time the phrasing varies within the document.
        forms = [pick(rng, CAPITAL_SENTENCES) for _ in countries]
        if rng.random() < 0.5:
            forms = forms[:1] * len(countries)
    else:
        table = CAPITAL_FORMATS if kind < 0.88 else REVERSE_CAPITAL_FORMATS
        forms = [pick(rng, table)] * len(countries)
    facts = zip(forms, countries, strict=True)
    return join(rng, [form.format(country=c, capital=CAPITALS[c]) for form, c in facts])


def _opposites(rng: random.Random, count: int) -> str:
    pool: Sequence[tuple[str, str]] = _OPPOSITES
    if rng.random() < 0.5:
        length = rng.choice((1, 2))
        pool = [pair for pair in pool if len(pair[0]) == length]
    # Some words have two opposites; one document gives only one of them.
    pairs = tuple(dict(rng.sample(pool, count)).items())
    return pairs_document(rng, pick(rng, OPPOSITE_FORMATS), pairs)


def _measures(rng: random.Random, count: int) -> str:
    form = pick(rng, MEASURE_FORMATS)
    asked = held_out.MEASURE_NOUNS if "（" in form or "(" in form else frozenset()
    pairs = rng.sample([pair for pair in MEASURES.items() if pair[0] not in asked], count)
    return pairs_document(rng, form, pairs)


def _translations(rng: random.Random, count: int) -> str:
    pool = PHRASES if rng.random() < 0.15 else tuple(TRANSLATIONS.items())
    return pairs_document(rng, pick(rng, TRANSLATION_FORMATS), rng.sample(pool, count))


def _opinion(rng: random.Random, good: bool) -> str:
    """One or two clauses that agree."""
    subjects, praise, blame = rng.choice(SENTIMENTS)
    said = rng.sample((praise if good else blame).split(), 2)
    alone = PRAISE if good else BLAME
    text = rng.choice(subjects.split()) + said[0]
    more = rng.random()
    if more < 0.2:
        return text + "，" + said[1]
    if more < 0.5:
        return text + "，" + rng.choice(alone)
    return rng.choice(alone) if more > 0.95 else text


def _sentiments(rng: random.Random, count: int) -> str:
    positive, negative = rng.choice(SENTIMENT_LABELS)
    pairs: dict[str, str] = {}
    end = rng.choice(("", "", "。", "！"))
    # With one label only, a document would show a constant instead of a choice.
    while len(pairs) < min(count, 10) or len(set(pairs.values())) < 2:
        good = rng.random() < 0.5
        pairs[_opinion(rng, good) + end] = positive if good else negative
    form = pick(rng, SENTIMENT_FORMATS)
    return pairs_document(rng, form, tuple(pairs.items()), p=positive, n=negative)


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 5)))


def _copy_rule(rng: random.Random, count: int) -> str:
    """Apply one rule - repeat, take an end, turn round - to each of several words."""
    rule = rng.choice(("copy", "copy", "first", "last", "reverse"))
    wordings = {
        "copy": COPY_FORMATS,
        "first": FIRST_FORMATS,
        "last": LAST_FORMATS,
        "reverse": REVERSE_FORMATS,
    }
    latin = rng.random() < 0.2
    if latin:
        items = [_letters(rng) for _ in range(count)]
    else:
        pool = {"copy": _WORDS, "reverse": _REVERSIBLE_WORDS}.get(rule, _LONG_WORDS)
        items = rng.sample(pool, count)
    results = {
        "copy": items,
        "first": [item[0] for item in items],
        "last": [item[-1] for item in items],
        "reverse": [item[::-1] for item in items],
    }[rule]
    # The worded formats speak of Chinese characters, which letters are not.
    bare = rng.random() < 0.5 or (latin and rule != "copy")
    form = pick(rng, MAPPING_FORMATS if bare else wordings[rule])
    return pairs_document(rng, form, tuple(zip(items, results, strict=True)))


def _pick_from_list(rng: random.Random, count: int) -> str:
    """Repeat the first or the last word of short lists."""
    position = rng.choice((0, -1))
    pairs = []
    for _ in range(count):
        words = rng.sample(_WORDS, rng.randint(2, 4))
        pairs.append((" ".join(words), words[position]))
    return pairs_document(rng, pick(rng, MAPPING_FORMATS), pairs)


def _periodic(rng: random.Random, count: int) -> str:
    """Repeat short cycles of characters or words, one cycle to a line."""
    blank = rng.random() < 0.4
    lines = []
    for _ in range(min(count, 6)):
        period = rng.randint(2, 4)
        cycle = rng.sample(_WORDS if blank else PERIODIC_CHARACTERS, period)
        length = period * rng.randint(2, 5) + rng.randint(0, period - 1)
        lines.append((" " if blank else "").join((cycle * 6)[:length]))
    return "\n".join(_fitting(lines))


def _recall(rng: random.Random, count: int) -> str:
    """Say who has what, then ask for some of it again."""
    names = rng.sample(NAMES, min(count, 6))
    owned = dict(zip(names, rng.sample(_THINGS, len(names)), strict=True))
    form = rng.choice(("{}：{}", "{}={}", "{}->{}", "{}喜欢{}", "{}有{}"))
    separator = rng.choice(("\n", " ", "，", "；"))
    asked = rng.sample(names, rng.randint(1, len(names)))
    return separator.join(form.format(name, owned[name]) for name in [*names, *asked])


def _copying(rng: random.Random, count: int) -> str:
    return rng.choice((_copy_rule, _copy_rule, _pick_from_list, _periodic, _recall))(rng, count)


def _fitting(lines: list[str]) -> list[str]:
    """Drop the last lines beyond the longest document."""
    while len("\n".join(lines)) > MAX_CHARACTERS:
        lines = lines[:-1]
    return lines


def _sequence(rng: random.Random) -> list[str]:
    """One stretch of a known sequence."""
    length = rng.randint(5, 12)
    kind = rng.choice(("numbers", "numbers", "chinese", "cycle", "run"))
    if kind == "numbers":
        step, start = rng.choice((1, 1, 2, 5, 10)), rng.randint(0, 100)
        if step > 1 and rng.random() < 0.7:
            start -= start % step
        return [str(start + step * i) for i in range(length)]
    if kind == "chinese":
        start = rng.randint(1, 40)
        return [chinese_number(start + i) for i in range(length)]
    if kind == "cycle":
        items = rng.choice(tuple(CYCLES.values()))
        start = rng.randrange(len(items))
        return [items[(start + i) % len(items)] for i in range(length)]
    items = rng.choice(tuple(RUNS.values()))
    start = rng.randrange(len(items) - 4)
    return list(items[start : start + length])


def _next(rng: random.Random, count: int) -> str:
    if rng.random() < 0.4:
        sequence = _sequence(rng)
        pairs = list(zip(sequence, sequence[1:], strict=False))
        rng.shuffle(pairs)
        return pairs_document(rng, pick(rng, NEXT_FORMATS), pairs[:count])
    separator = rng.choice(("，", "、", " ", "，", ", "))
    return "\n".join(_fitting([separator.join(_sequence(rng)) for _ in range(min(count, 6))]))


# Task -> share of the documents, in percent.
TASK_SHARE: dict[str, tuple[Task, int]] = {
    "addition": (_addition, 17),
    "addition_wide": (_addition_wide, 9),
    "calculations": (everyday.calculations, 4),
    "word_problems": (everyday.word_problems, 7),
    "capitals": (_capitals, 17),
    "opposites": (_opposites, 6),
    "measures": (_measures, 6),
    "copying": (_copying, 6),
    "next": (_next, 4),
    "translations": (_translations, 7),
    "sentiments": (_sentiments, 8),
    "categories": (everyday.categories, 5),
    "dates": (everyday.dates, 3),
    "units": (everyday.units, 1),
}


def documents(seed: int, count: int) -> Iterator[str]:
    """Yield ``count`` few-shot documents, always the same ones for a seed."""
    rng = random.Random(seed)
    tasks = [task for task, _ in TASK_SHARE.values()]
    shares = [share for _, share in TASK_SHARE.values()]
    for _ in range(count):
        task = rng.choices(tasks, shares)[0]
        while True:
            document = task(rng, rng.randint(MIN_EXAMPLES, MAX_EXAMPLES))
            if MIN_CHARACTERS <= len(document) <= MAX_CHARACTERS:
                yield document
                break
