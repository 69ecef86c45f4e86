"""Contrastive search (Su et al. 2022): of the few likeliest tokens the one that is likely and whose
hidden state is unlike those of the text so far. Deterministic; one text for a prompt. Knows ids and
end tokens; text, and so stop strings, belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.beam import Adjust
from gentool.decoding.engine import Engine
from gentool.decoding.loop import Token
from gentool.decoding.sampling import finite, normalized, top_k_ids


class Contrast(NamedTuple):
    """How to search. The `k` likeliest tokens are candidates; the best has the largest
    (1 - alpha) p - alpha s, p its probability and s the largest cosine between its hidden state
    and that of any token before it, the prompt's included. Ends as a sample does: with an end token
    (forbidden in the first `min_tokens`), after `max_tokens`, or with the context."""

    alpha: float
    k: int
    max_tokens: int
    min_tokens: int = 0


def search(
    engine: Engine,
    ids: Sequence[int],
    how: Contrast,
    end: frozenset[int],
    adjust: Adjust | None = None,
    top_logprobs: int = 0,
) -> Iterator[Token]:
    """Yields the tokens after a prompt `ids` one by one; the caller stops asking when it has seen
    enough. p is after `adjust`, which is called for the logits [1, V] of each step with the new
    tokens so far; the log-probabilities are the model's own, `top_logprobs` of the most probable
    ones recorded."""
    context = engine.arch.n_ctx
    prefix, hidden = engine.prefill(ids, every=True, hidden=True)  # [T, D]
    most = min(how.max_tokens, context - len(ids))
    k = min(how.k, engine.arch.n_vocab)
    before = np.empty((len(ids) + most, engine.arch.d_model))  # directions of all tokens
    before[: len(ids)] = _directions(hidden)
    rows, last = None, hidden[-1:]  # [1, D]
    parents = np.zeros(k, int)
    output: list[int] = []
    for step in range(most):
        logits = finite(engine.logits(last))  # [1, V]
        exact = normalized(logits[0])
        scores = adjust(logits, [0], [tuple(output)])[0] if adjust else logits[0]
        if step < how.min_tokens:
            scores = scores.copy()
            scores[sorted(end)] = -np.inf
        few, p = _candidates(scores, k)
        tokens = np.full((k, 1), few[0])  # always k rows, so that nothing is compiled for fewer
        tokens[: len(few), 0] = few
        rows, states = engine.extend(
            [prefix],
            rows,
            [0] * k,
            parents,
            tokens,
            max_new_tokens=min(how.max_tokens, context),
            hidden=True,
        )
        own = _directions(states[: len(few), 0])  # [C, D]
        likeness = (own @ before[: len(ids) + step].T).max(axis=-1)  # [C]
        best = int(((1 - how.alpha) * p - how.alpha * likeness).argmax())
        before[len(ids) + step] = own[best]
        parents, last, id = np.full(k, best), states[best], int(few[best])
        output.append(id)
        steps = top_k_ids(exact, top_logprobs) if top_logprobs else ()
        shown = tuple((int(i), float(exact[i])) for i in steps)
        yield Token(0, id, float(exact[id]), id in end, top_logprobs=shown)
        if id in end:
            return


def _candidates(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest ids that are not banned, best first, and their probabilities, of scores [V];
    at least one."""
    few = top_k_ids(scores, k)
    few = few[: max(1, int((scores[few] > -np.inf).sum()))]
    if scores[few[0]] == -np.inf:  # nothing is left
        return few, np.ones(1)
    return few, np.exp(normalized(scores))[few]


def _directions(hidden: np.ndarray) -> np.ndarray:
    """Hidden states [N, D] at length 1, float64."""
    exact = hidden.astype(np.float64)
    return exact / np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), 1e-30)
