"""The n-gram model equals its definition, written out with dictionaries, and is a distribution."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import kneser_ney
import numpy as np
import pytest

TOY = [
    "吃葡萄不吐葡萄皮，不吃葡萄倒吐葡萄皮。",
    "四是四，十是十，十四是十四，四十是四十。",
    "八百标兵奔北坡，炮兵并排北边跑。炮兵怕把标兵碰，标兵怕碰炮兵炮。",
    "红凤凰，粉凤凰，红粉凤凰，粉红凤凰。",
    "十四",
    "十四",
]
BEGIN, END = "<", ">"


def reference(texts: list[str], order: int) -> Callable[[str, str], float]:
    """p(symbol, context) by the formulas of Chen & Goodman, one n-gram at a time."""
    plain = [Counter[str]() for _ in range(order + 1)]
    for text in (BEGIN + t + END for t in texts):
        for n in range(1, order + 1):
            plain[n].update(text[i : i + n] for i in range(len(text) - n + 1))
    del plain[1][BEGIN]
    counts: list[Counter[str]] = [Counter() for _ in range(order + 1)]
    counts[order] = plain[order]
    for n in range(order - 1, 0, -1):
        counts[n].update(gram[1:] for gram in plain[n + 1])
        counts[n].update({g: c for g, c in plain[n].items() if g.startswith(BEGIN)})
    alphabet = {character for text in texts for character in text}
    taken = [kneser_ney.discounts(np.array([0, *c.values()])) for c in counts]

    @cache
    def p(symbol: str, context: str) -> float:
        n = len(context) + 1
        if context:
            shorter = p(symbol, context[1:])
        else:
            shorter = 1 / (len(alphabet) + 2)  # the alphabet, the end, all other characters
        here = {g: c for g, c in counts[n].items() if g[:-1] == context}
        total = sum(here.values())
        if not total:
            return shorter
        freed = sum(taken[n][min(c, 3)] for c in here.values())
        count = here.get(context + symbol, 0)
        return float((count - taken[n][min(count, 3)] + freed * shorter) / total)

    return p


@pytest.mark.parametrize("order", [2, 3, 5])
def test_equals_the_definition(order: int) -> None:
    model = kneser_ney.train(TOY, order)
    p = reference(TOY, order)
    for text in [*TOY, "", "皮", "四十是葡萄，十四不吐凤凰", "标标标标标标标兵"]:
        padded = BEGIN + text + END
        wanted = [
            np.log2(p(padded[i], padded[max(0, i - order + 1) : i])) for i in range(1, len(padded))
        ]
        assert kneser_ney.log2_probabilities(model, text) == pytest.approx(wanted)


@pytest.mark.parametrize("context", ["", "葡", "四是四，", "从未见过的", "四是☃", "红粉凤凰，粉"])
def test_probabilities_sum_to_one(context: str) -> None:
    model = kneser_ney.train(TOY)

    def p(text: str) -> float:
        """Of what follows the context: the character after it in `text`, or the end."""
        return float(2 ** kneser_ney.log2_probabilities(model, text)[len(context)])

    seen = sum(p(context + chr(point)) for point in model.alphabet)
    unseen = p(context + "☃") * (kneser_ney.UNICODE - len(model.alphabet))
    assert seen + unseen + p(context) == pytest.approx(1, abs=1e-12)


def test_discounts_by_hand() -> None:
    # n1, n2, n3, n4 = 4, 2, 1, 1: y = 1/2
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4, 9])
    assert kneser_ney.discounts(counts) == pytest.approx([0, 1 / 2, 2 - 3 / 4, 3 - 4 / 2])
    assert kneser_ney.discounts(np.array([1, 1, 2])) == pytest.approx([0, 0.5, 1, 1.5])
