"""What a few-shot prompt could as well have been: each example left out, the examples in other
orders. How an answer's probability moves between them says what it hangs on.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from gentool.voting.examples import Shots, joined

ORDERS = 8


class Variant(NamedTuple):
    name: str
    prompt: str


def variants(shots: Shots, seed: int) -> list[Variant]:
    """The prompt without each of its examples, then with all of them in up to ORDERS other
    orders, drawn with `seed`."""
    examples = shots.examples
    found = [
        Variant(f"without {example.strip()}", joined(shots, examples[:at] + examples[at + 1 :]))
        for at, example in enumerate(examples)
    ]
    rng, as_it_is = random.Random(seed), tuple(range(len(examples)))
    orders: dict[tuple[int, ...], None] = {}  # a set that keeps its order
    for _ in range(4 * ORDERS):  # few examples have few orders
        order = tuple(rng.sample(as_it_is, len(as_it_is)))
        if order != as_it_is and len(orders) < ORDERS:
            orders[order] = None
    for order in orders:
        name = "in order " + " ".join(str(at + 1) for at in order)
        found.append(Variant(name, joined(shots, [examples[at] for at in order])))
    return found
