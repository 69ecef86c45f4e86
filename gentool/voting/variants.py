"""Variants of a few-shot prompt: each example left out, and the examples in other orders."""

from __future__ import annotations

import random
from typing import NamedTuple

from gentool.voting.examples import FewShotPrompt, assemble

MAX_ORDERS = 8


class Variant(NamedTuple):
    """A changed prompt, and what was changed in words."""

    name: str
    prompt: str


def variants(prompt: FewShotPrompt, seed: int) -> list[Variant]:
    """The prompt without each of its examples, then with all of them in up to MAX_ORDERS other
    orders, drawn with `seed`."""
    examples = prompt.examples
    changed = [
        Variant(f"without {example.strip()}", assemble(prompt, examples[:at] + examples[at + 1 :]))
        for at, example in enumerate(examples)
    ]
    rng, unchanged = random.Random(seed), tuple(range(len(examples)))
    orders: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    for _ in range(4 * MAX_ORDERS):  # few examples have few orders
        order = tuple(rng.sample(unchanged, len(unchanged)))
        if order != unchanged and len(orders) < MAX_ORDERS:
            orders[order] = None
    for order in orders:
        name = "in order " + " ".join(str(at + 1) for at in order)
        changed.append(Variant(name, assemble(prompt, [examples[at] for at in order])))
    return changed
