"""Probabilities of given continuations of a prompt, and draws among them. Their tokens form a trie,
computed level by level on the engine: tokens that continuations share are computed once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.sampling import draw as invert
from gentool.decoding.sampling import finite, normalized
from gentool.errors import UsageError


def masses(
    engine: Engine,
    prefix: Prefix,
    logits: np.ndarray,
    choices: Sequence[Sequence[int]],
    end: frozenset[int] | None = None,
) -> list[float]:
    """The natural log-probability of each choice, one or more tokens, after a computed prompt whose
    last logits are [1, V]. With `end` it is that of the choice followed by any of these tokens. A
    node of the trie is a row of `extend` if a token comes after it. UsageError for a choice that
    does not fit into the context behind the prompt."""
    max_length, context = max(map(len, choices)), engine.arch.n_ctx
    if prefix.length + max_length > context:
        raise UsageError(
            f"a choice has {max_length} tokens after a prompt of {prefix.length}, the context is"
            f" {context}",
            "shorten the choice or the prompt",
        )
    totals = [0.0] * len(choices)
    ends = None if end is None else sorted(end)
    nodes = [list(range(len(choices)))]  # of this level: the choices that go through each
    rows, current = None, logits  # [nodes, V]
    for depth in range(max_length + 1):
        children: dict[tuple[int, int], list[int]] = {}  # (node, token) -> choices through it
        for node, (through, row) in enumerate(zip(nodes, finite(current), strict=True)):
            logprobs = normalized(row[None])[0]  # [V]
            for index in through:
                choice = choices[index]
                if depth == len(choice):
                    totals[index] += float(np.logaddexp.reduce(logprobs[ends]))
                    continue
                totals[index] += float(logprobs[choice[depth]])
                if depth + 1 < len(choice) or ends is not None:
                    children.setdefault((node, choice[depth]), []).append(index)
        if not children:
            break
        rows, out = engine.extend(
            [prefix],
            rows,
            [0] * len(children),
            [node for node, _ in children],
            np.array([[token] for _, token in children]),
            max_new_tokens=max_length,
        )
        nodes, current = list(children.values()), out[:, 0]
    return totals


def shares(masses: Sequence[float]) -> np.ndarray:
    """The probability of each choice among the choices: softmax of log-probabilities, float64."""
    weights = np.exp(np.array(masses) - max(masses))
    return weights / weights.sum()


def draw(masses: Sequence[float], u: np.ndarray) -> list[int]:
    """Draws an index into the choices for each random number u [N], by their shares."""
    cumulated = np.cumsum(shares(masses))
    return [invert(cumulated, float(x)) for x in u]
