"""Sampling filters: logits to the weights that a token is drawn by, pure, one function a filter. In
order: `adjusted` looks at the row's own text (repetition, presence and frequency penalties, n-gram
bans) and adds the bias; `weights` knows only the row (temperature, top-k, top-p, min-p, typical).
All in float64 on the host, each row by itself; ids are 0-based.

A filter of weights is a function (weights [V], value) -> weights [V] with the name of its field of
`SamplingParams`. It is applied in the order of the fields, where the value is not the default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gentool.config.sampling import SamplingParams, parameters

Ids = Sequence[int] | np.ndarray  # an array is faster: it needs no conversion

WeightFilter = Callable[[np.ndarray, Any], np.ndarray]
LOGIT_FILTERS = ("temperature", "top_k")  # which `weigh` itself applies, to logits
FEW = 512  # up to this number of ids, sorting is faster than splitting


def adjusted(
    logits: np.ndarray, params: SamplingParams, prompts: Sequence[Ids], outputs: Sequence[Ids]
) -> np.ndarray:
    """Logits [N, V] of rows whose text so far is prompt + output, float64 [N, V], -inf where a
    token is banned; the argument itself if no parameter asks for a change. A row whose tokens
    are all banned keeps its most probable one."""
    counted = params.presence_penalty != 0 or params.frequency_penalty != 0
    needs_history = params.repetition_penalty != 1 or params.no_repeat_ngram_size > 0
    if not (counted or needs_history or params.logit_bias):
        return logits
    out = np.array(logits, np.float64, order="C")
    for row, prompt, output in zip(out, prompts, outputs, strict=True):
        text = _joined(prompt, output) if needs_history else None
        if text is not None and params.repetition_penalty != 1:
            _penalise_repetition(row, text, params.repetition_penalty)
        if counted:
            ids, counts = np.unique(np.asarray(output, np.intp), return_counts=True)
            row[ids] -= params.presence_penalty + params.frequency_penalty * counts
        if text is not None and params.no_repeat_ngram_size > 0:
            row[_completed_ngrams(text, params.no_repeat_ngram_size)] = -np.inf
    for id, bias in params.logit_bias.items():
        out[:, id] += bias
    empty = np.flatnonzero(np.isneginf(out.max(axis=-1)))
    best = logits[empty].argmax(axis=-1)
    out[empty, best] = logits[empty, best]
    return out


def _joined(prompt: Ids, output: Ids) -> np.ndarray:
    return np.concatenate([np.asarray(prompt, np.intp), np.asarray(output, np.intp)])


def _penalise_repetition(row: np.ndarray, text: np.ndarray, penalty: float) -> None:
    """Divides the positive and multiplies the negative logits [V] of all ids of a text in place,
    each once however often it occurs (Keskar et al. 2019)."""
    logits = row[text]
    row[text] = np.where(logits < 0, logits * penalty, logits / penalty)


def _completed_ngrams(text: np.ndarray, n: int) -> np.ndarray:
    """The ids that would complete an n-gram that the text [T] already contains."""
    if len(text) < n:
        return text[:0]
    ngrams = np.lib.stride_tricks.sliding_window_view(text, n)  # [T - n + 1, n]
    matches = (ngrams[:, :-1] == text[len(text) - n + 1 :]).all(axis=-1)
    return ngrams[matches, -1]


def keeps_logits(params: SamplingParams) -> bool:
    """Whether the weights of logits are their softmax, up to a factor."""
    unchanged = all(getattr(params, name) == default for name, default, _ in _weight_filters())
    return unchanged and params.temperature == 1 and params.top_k == 0


def weights(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Unnormalised probabilities of logits [..., V] by parameters of positive temperature, float64
    [..., V], 0 where a filter removed the token; the largest of a row is 1."""
    rows = logits.reshape(-1, logits.shape[-1])
    out = np.empty(rows.shape)
    for row, logits_row in zip(out, rows, strict=True):  # a row fits the processor's cache
        row[:] = logits_row
        weigh(row, params)
    return out.reshape(logits.shape)


def weigh(row: np.ndarray, params: SamplingParams) -> None:
    """Replaces logits row [V], float64, by its `weights` in place."""
    best = row.max()
    if best == -np.inf:  # no token is left
        row[0] = best = 0.0
    row -= best
    if params.temperature != 1:
        with np.errstate(over="ignore"):  # to -inf, which is right
            row /= params.temperature
    if 0 < params.top_k < len(row):
        kept = top_k(row, params.top_k)
        few = _narrowed(np.exp(row[kept]), params)
        row[:] = 0
        row[kept] = few
        return
    np.exp(row, out=row)
    narrowed = _narrowed(row, params)
    if narrowed is not row:
        row[:] = narrowed


def _narrowed(w: np.ndarray, params: SamplingParams) -> np.ndarray:
    for name, default, narrow in _weight_filters():
        value = getattr(params, name)
        if value != default:
            w = narrow(w, value)
    return w


@functools.cache
def _weight_filters() -> tuple[tuple[str, object, WeightFilter], ...]:
    """Name, default and function of the filters of weights, in order."""
    return tuple(
        (parameter.name, parameter.default, globals()[parameter.name])
        for parameter in parameters()
        if parameter.flag.stage == "distribution" and parameter.name not in LOGIT_FILTERS
    )


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Ids, ascending, of the k largest logits [V] and of all that equal the k-th."""
    kth = _top_until(logits, np.ones(len(logits)), k)[-1]
    return np.flatnonzero(logits >= logits[kth])


def top_p(w: np.ndarray, p: float) -> np.ndarray:
    """Nucleus sampling: weights [V] with those outside the smallest set of mass >= p at 0. The
    token that crosses p is kept, of equal ones the lowest ids (Holtzman et al. 2020)."""
    kept = _top_until(w, w, p * w.sum())
    out = np.zeros_like(w)
    out[kept] = w[kept]
    return out


def min_p(w: np.ndarray, p: float) -> np.ndarray:
    """Weights [V] with those below p times the largest at 0 (Nguyen et al. 2024)."""
    return np.where(w < p * w.max(), 0.0, w)


def typical_p(w: np.ndarray, p: float) -> np.ndarray:
    """Locally typical sampling: weights [V] with those at 0 whose information is not nearest to the
    entropy, up to mass p. The token that crosses p is kept, and all that are equally near (Meister
    et al. 2022)."""
    ids = np.flatnonzero(w)
    q = w[ids] / w.sum()
    information = -np.log(q)
    entropy = (q * information).sum()
    nearness = -np.abs(information - entropy)
    kept = ids[nearness >= nearness[_top_until(nearness, q, p)[-1]]]
    out = np.zeros_like(w)
    out[kept] = w[kept]
    return out


def _top_until(rank: np.ndarray, w: np.ndarray, mass: float) -> np.ndarray:
    """The smallest set of ids of highest rank [V] whose weights [V] reach `mass`; the last id is
    the one that crosses it, and of equal ranks the lower id goes first. A quickselect: either the
    ids above a pivot reach the mass, and it continues among them, or all of them are selected, and
    it continues among the others."""
    selected: list[np.ndarray] = []
    ids, fraction = np.arange(len(rank)), 32  # 1/32 above the first pivot: top ids mostly suffice
    while len(ids) > FEW:
        sample = np.sort(rank[:: len(rank) // 128])
        is_above = rank >= sample[-(len(sample) // fraction)]
        if is_above.all():
            is_above = rank > sample[0]
            if not is_above.any():
                break  # all are equal
        candidates = np.flatnonzero(is_above)
        mass_above = w[candidates].sum()
        if mass_above < mass:
            mass -= mass_above
            selected.append(ids[candidates])
            candidates = np.flatnonzero(~is_above)
        ids, rank, w = ids[candidates], rank[candidates], w[candidates]
        fraction = 2
    order = np.argsort(-rank, kind="stable")
    last = np.searchsorted(np.cumsum(w[order]), mass)
    return np.concatenate([*selected, ids[order[: last + 1]]])
