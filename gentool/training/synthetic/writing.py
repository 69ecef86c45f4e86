"""How the examples of a synthetic document are put together."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from gentool.training.synthetic.formats import SEPARATORS, Weighted

MIN_CHARACTERS = 20
MAX_CHARACTERS = 400
MIN_EXAMPLES = 2
MAX_EXAMPLES = 14

Task = Callable[[random.Random, int], str]


def pick(rng: random.Random, table: Weighted) -> str:
    return rng.choices(tuple(table), tuple(table.values()))[0]


def join(rng: random.Random, examples: Sequence[str]) -> str:
    """Put one separator between the examples, dropping those beyond the longest document. It closes
    the last one, too: whatever is asked, the separator follows the answer."""
    content = "".join(examples)
    if "\n" not in content and all(example.endswith("。") for example in examples):
        separator = rng.choice(("\n", ""))
    elif any(mark in content for mark in "\n，；。？ "):
        # Only a line break sets such examples apart clearly; plain blanks leave the choice open.
        separator = "\n"
        if not any(mark in content for mark in "\n，；。？") and rng.random() < 0.3:
            separator = rng.choice(("，", "；"))
    else:
        separator = pick(rng, SEPARATORS)
    kept = list(examples)
    while sum(map(len, kept)) + len(separator) * len(kept) >= MAX_CHARACTERS:
        kept.pop()
    return separator.join(kept) + ("。" if separator in ("，", "；") else separator.rstrip(" "))


def pairs_document(
    rng: random.Random, form: str, pairs: Sequence[tuple[str, str]], **extra: str
) -> str:
    return join(rng, [form.format(x=x, y=y, **extra) for x, y in pairs])
