"""Contrastive search (Su et al. 2022): of the k most probable tokens, the one that is probable and
whose hidden state is unlike those of the text so far. Deterministic; one text for a prompt. It
knows ids and end tokens; text, and so stop strings, belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.beam import Adjust
from gentool.decoding.engine import Engine
from gentool.decoding.loop import Token
from gentool.decoding.sampling import finite, normalized, top_k_ids


class ContrastiveOptions(NamedTuple):
    """Parameters of the search. The `k` most probable tokens are candidates; the best has the
    largest (1 - alpha) p - alpha s, p its probability and s the largest cosine similarity between
    its hidden state and that of any token before it, the prompt's included. A text ends with an end
    token (forbidden in the first `min_new_tokens`), after `max_new_tokens`, or with the context."""

    alpha: float
    k: int
    max_new_tokens: int
    min_new_tokens: int = 0


def search(
    engine: Engine,
    ids: Sequence[int],
    options: ContrastiveOptions,
    end: frozenset[int],
    adjust: Adjust | None = None,
    top_logprobs: int = 0,
) -> Iterator[Token]:
    """Yields the tokens after a prompt `ids`; the caller stops the iteration at a stop string. p is
    after `adjust`, which is called for the logits [1, V] of each step with the new tokens so far;
    log-probabilities are the model's own, and so are the `top_logprobs` most probable tokens."""
    n_prompt, context = len(ids), engine.arch.n_ctx
    prefix, hidden = engine.prefill(ids, all_positions=True, hidden=True)  # [T, D]
    max_new_tokens = min(options.max_new_tokens, context - n_prompt)
    k = min(options.k, engine.arch.n_vocab)
    # unit vectors of all tokens
    text_vectors = np.empty((n_prompt + max_new_tokens, engine.arch.d_model))
    text_vectors[:n_prompt] = _unit_vectors(hidden)
    rows, last = None, hidden[-1:]  # [1, D]
    parents = np.zeros(k, int)
    output: list[int] = []
    for step in range(max_new_tokens):
        logits = finite(engine.logits(last))  # [1, V]
        logprobs = normalized(logits[0])
        scores = adjust(logits, [0], [tuple(output)])[0] if adjust else logits[0]
        if step < options.min_new_tokens:
            scores = scores.copy()
            scores[sorted(end)] = -np.inf
        candidates, p = _candidates(scores, k)
        tokens = np.full((k, 1), candidates[0])  # always k rows: nothing is compiled for fewer
        tokens[: len(candidates), 0] = candidates
        rows, states = engine.extend(
            [prefix],
            rows,
            [0] * k,
            parents,
            tokens,
            max_new_tokens=min(options.max_new_tokens, context),
            hidden=True,
        )
        vectors = _unit_vectors(states[: len(candidates), 0])  # [C, D]
        similarity = (vectors @ text_vectors[: n_prompt + step].T).max(axis=-1)  # [C]
        best = int(((1 - options.alpha) * p - options.alpha * similarity).argmax())
        text_vectors[n_prompt + step] = vectors[best]
        parents, last, id = np.full(k, best), states[best], int(candidates[best])
        output.append(id)
        top_ids = top_k_ids(logprobs, top_logprobs) if top_logprobs else ()
        top = tuple((int(i), float(logprobs[i])) for i in top_ids)
        yield Token(0, id, float(logprobs[id]), id in end, top_logprobs=top)
        if id in end:
            return


def _candidates(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most probable ids that are not banned, best first, and their probabilities, of scores
    [V]; at least one id."""
    ids = top_k_ids(scores, k)
    ids = ids[: max(1, int((scores[ids] > -np.inf).sum()))]
    if scores[ids[0]] == -np.inf:  # all are banned
        return ids, np.ones(1)
    return ids, np.exp(normalized(scores))[ids]


def _unit_vectors(hidden: np.ndarray) -> np.ndarray:
    """Hidden states [N, D] divided by their lengths, float64."""
    vectors = hidden.astype(np.float64)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
