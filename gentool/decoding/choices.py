"""How probable given continuations of a prompt are, and draws among them. Their tokens are a trie,
computed level by level on the one engine: what two continuations share is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.sampling import draw as invert
from gentool.decoding.sampling import finite, normalized


def masses(
    engine: Engine,
    prefix: Prefix,
    logits: np.ndarray,
    choices: Sequence[Sequence[int]],
    end: frozenset[int] | None = None,
) -> list[float]:
    """The natural log-probability of each choice, one or more tokens, after a computed prompt whose
    last logits are [1, V]. With `end` it is that of the choice and then any of these tokens. A node
    of the trie is a row for `extend` if something comes after it, and is so once."""
    longest = max(map(len, choices))
    totals = [0.0] * len(choices)
    ends = None if end is None else sorted(end)
    nodes = [list(range(len(choices)))]  # of this level: the choices that go on from each
    rows, current = None, logits  # [nodes, V]
    for depth in range(longest + 1):
        below: dict[tuple[int, int], list[int]] = {}  # (node, token) -> the choices that go on
        for node, (through, row) in enumerate(zip(nodes, finite(current), strict=True)):
            own = normalized(row[None])[0]  # [V]
            for index in through:
                choice = choices[index]
                if depth == len(choice):
                    totals[index] += float(np.logaddexp.reduce(own[ends]))
                    continue
                totals[index] += float(own[choice[depth]])
                if depth + 1 < len(choice) or ends is not None:
                    below.setdefault((node, choice[depth]), []).append(index)
        if not below:
            break
        rows, out = engine.extend(
            [prefix],
            rows,
            [0] * len(below),
            [node for node, _ in below],
            np.array([[token] for _, token in below]),
            max_new_tokens=longest,
        )
        nodes, current = list(below.values()), out[:, 0]
    return totals


def shares(masses: Sequence[float]) -> np.ndarray:
    """The probability of each choice where one of them is what comes: p / sum of p, float64."""
    weights = np.exp(np.array(masses) - max(masses))
    return weights / weights.sum()


def draw(masses: Sequence[float], u: np.ndarray) -> list[int]:
    """An index into the choices for each random number u [N], by their shares."""
    cumulated = np.cumsum(shares(masses))
    return [invert(cumulated, float(x)) for x in u]
