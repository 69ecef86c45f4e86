"""Beam search on the engine: `Engine.prefill` computes a prompt once for all of its beams, and
`Engine.extend` reorders the tokens they added. Candidates are ranked on the host in float64, by the
rule of Hugging Face's `generate` or of bert4keras' `beam_search`. The state of a search between two
steps is a value, so searches of several prompts, and of the groups of one prompt, go through the
engine together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.beam_search import BeamSearch
from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.sampling import finite, normalized
from gentool.errors import UsageError

Ends = frozenset[int]  # end tokens
Stops = Callable[[tuple[int, ...]], bool]  # whether the text of new tokens contains a stop string

FLOOR = 1e-12  # what bert4keras adds to a probability before its logarithm

# Scores [N, V] of N beams, the prompt (by index) of each and its new tokens so far, to adjusted
# scores. A pure function: filters that depend on the text so far, and constraints.
Adjust = Callable[[np.ndarray, Sequence[int], Sequence[tuple[int, ...]]], np.ndarray]


class BeamOptions(NamedTuple):
    """A beam search with the lengths of its texts and the number of hypotheses to return."""

    search: BeamSearch
    max_new_tokens: int
    n_best: int = 1
    min_new_tokens: int = 0


class Hypothesis(NamedTuple):
    """A complete text. The log-probabilities are the model's own, before `adjust`."""

    ids: tuple[int, ...]  # new tokens, the end token included
    logprobs: tuple[float, ...]  # of each of them
    score: float  # what hypotheses are ordered by
    ended: bool  # by an end token or a stop string

    @property
    def logprob(self) -> float:
        return math.fsum(self.logprobs)


class Beam(NamedTuple):
    """An unfinished text."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0  # summed scores: log-probabilities, adjusted
    parent: int = 0  # index of the beam it continues, among those before the last step


class SearchState(NamedTuple):
    """The state of one search, of one group of one prompt, between two steps."""

    width: int
    live: tuple[Beam, ...] = (Beam(),)  # best first
    done: tuple[Hypothesis, ...] = ()  # best first
    open: bool = True


def search(
    engine: Engine,
    prefixes: Sequence[Prefix],
    logits: np.ndarray,
    options: BeamOptions,
    end: Ends,
    adjust: Adjust | None = None,
    stops: Sequence[Stops] = (),
) -> list[list[Hypothesis]]:
    """The n best hypotheses of each prompt, best first; fewer where there are no more. `prefixes`
    are B computed prompts, `logits` [B, V] those after each, `end` the end tokens; `stops` says for
    each prompt whether new tokens end a text by a stop string."""
    *_, last = steps(engine, prefixes, logits, options, end, adjust, stops)
    groups, best = options.search.groups, []
    for first in range(0, len(last), groups):
        hypotheses = [h for state in last[first : first + groups] for h in state.done]
        best.append(sorted(hypotheses, key=lambda h: -h.score)[: options.n_best])
    return best


def steps(
    engine: Engine,
    prefixes: Sequence[Prefix],
    logits: np.ndarray,
    options: BeamOptions,
    end: Ends,
    adjust: Adjust | None = None,
    stops: Sequence[Stops] = (),
) -> Iterator[list[SearchState]]:
    """Yields the states of all searches after each step, for B prompts of `groups` each. A search
    keeps its number of rows in the engine to the last step, used or not, so that nothing is
    compiled for fewer."""
    check(options)
    beam_search, context = options.search, engine.arch.n_ctx
    width = beam_search.width // beam_search.groups
    max_lengths = [min(options.max_new_tokens, context - prefix.length) for prefix in prefixes]
    states = [SearchState(width)] * (len(prefixes) * beam_search.groups)
    owner = np.repeat(np.arange(len(prefixes)), beam_search.width)  # [N] prompt of each row
    rows, current = None, logits[owner]  # [N, V]
    while True:
        states = _advance(states, current, options, max_lengths, end, adjust, stops)
        yield states
        if not any(state.open for state in states):
            return
        parents, tokens = np.arange(len(owner)), np.zeros((len(owner), 1), np.int32)
        for first, state in zip(range(0, len(owner), width), states, strict=True):
            for row, beam in enumerate(state.live if state.open else (), start=first):
                parents[row], tokens[row] = first + beam.parent, beam.ids[-1]
        max_new_tokens = min(options.max_new_tokens, context)
        rows, out = engine.extend(
            prefixes, rows, owner, parents, tokens, max_new_tokens=max_new_tokens
        )
        current = out[:, 0]


def _advance(
    states: Sequence[SearchState],
    logits: np.ndarray,
    options: BeamOptions,
    max_lengths: Sequence[int],
    end: Ends,
    adjust: Adjust | None,
    stops: Sequence[Stops],
) -> list[SearchState]:
    """Advances the open searches by one step; logits [N, V] are those of all rows."""
    groups, penalty = options.search.groups, options.search.diversity_penalty
    used = [(i, k) for i, state in enumerate(states) if state.open for k in range(len(state.live))]
    width = len(logits) // len(states)
    logits = logits[[i * width + k for i, k in used]]  # [U, V]
    own = normalized(finite(logits))
    prompts = [i // groups for i, _ in used]
    outputs = [states[i].live[k].ids for i, k in used]
    scores = _scores(own, options, end, adjust, prompts, outputs)
    step, first, advanced = STEPS[options.search.rule], 0, []
    for i, state in enumerate(states):
        if i % groups == 0:
            chosen = np.zeros(logits.shape[-1])  # [V] by how many beams of earlier groups
        if state.open:
            own_rows = slice(first, first + len(state.live))
            first = own_rows.stop
            diverse = scores[own_rows] - penalty * chosen
            # at least `width` of these do not end by a token; those that end by a stop string
            # cannot be counted
            count = (1 + len(end) + bool(stops)) * state.width
            candidates = _candidates(state.live, diverse, own[own_rows], count)
            prompt = i // groups
            stopped = stops[prompt] if stops else _never
            state = step(state, candidates, options, max_lengths[prompt], end, stopped)
            for beam in state.live:
                chosen[beam.ids[-1]] += 1
        advanced.append(state)
    return advanced


def _scores(
    own: np.ndarray,
    options: BeamOptions,
    end: Ends,
    adjust: Adjust | None,
    prompts: Sequence[int],
    outputs: Sequence[tuple[int, ...]],
) -> np.ndarray:
    """What each token adds to a beam's total [U, V], of the model's own log-probabilities."""
    scores = own.copy()
    if options.search.rule == "hf" and len(outputs[0]) < options.min_new_tokens:
        scores[:, sorted(end)] = -np.inf
    if adjust:
        scores = adjust(scores, prompts, outputs)
    if options.search.rule == "bert4keras":
        with np.errstate(invalid="ignore"):  # a beam may have no token left
            floored = np.log(np.exp(normalized(scores)) + FLOOR)
        scores = np.where(scores > -np.inf, floored, -np.inf)  # banned tokens stay banned
    return scores


def _never(ids: tuple[int, ...]) -> bool:
    return False


def _hf(
    state: SearchState,
    candidates: list[Beam],
    options: BeamOptions,
    max_length: int,
    end: Ends,
    stopped: Stops,
) -> SearchState:
    """The state after a step with these best candidates, by Hugging Face's rule."""
    beam_search = options.search
    ended = [beam.ids[-1] in end or stopped(beam.ids) for beam in candidates]
    length = len(state.live[0].ids) + 1
    is_last = length == max_length
    new = [
        Hypothesis(b.ids, b.logprobs, b.total / length**beam_search.length_penalty, has_ended)
        for b, has_ended in zip(candidates[: state.width], ended, strict=False)
        if has_ended or is_last
    ]
    done = tuple(sorted([*state.done, *new], key=lambda h: -h.score)[: state.width])
    pairs = zip(candidates, ended, strict=True)
    live = tuple(beam for beam, has_ended in pairs if not has_ended)[: state.width]
    is_open = bool(live) and not is_last
    if is_open and len(done) == state.width:
        early, penalty = beam_search.early_stopping, beam_search.length_penalty
        best_length = max_length if early == "never" and penalty > 0 else length
        best_possible = live[0].total / best_length**penalty
        is_open = early is not True and best_possible > done[-1].score
    return SearchState(state.width, live, done, is_open)


def _bert4keras(
    state: SearchState,
    candidates: list[Beam],
    options: BeamOptions,
    max_length: int,
    end: Ends,
    stopped: Stops,
) -> SearchState:
    """As `_hf`, by bert4keras' rule."""
    candidates = candidates[: state.width]
    length = len(state.live[0].ids) + 1

    def ended(beam: Beam) -> bool:
        if stopped(beam.ids):
            return True
        ends = sum(token in end for token in beam.ids)
        enough = length >= options.min_new_tokens and ends >= options.search.min_ends
        return enough and beam.ids[-1] in end

    live = tuple(beam for beam in candidates if not ended(beam))
    if candidates and (ended(candidates[0]) or length == max_length):
        best = candidates[0]
        hypothesis = Hypothesis(best.ids, best.logprobs, best.total, ended(best))
        return SearchState(state.width, live, (hypothesis,), False)
    return SearchState(state.width - (len(candidates) - len(live)), live, (), bool(live))


STEPS = {"hf": _hf, "bert4keras": _bert4keras}
NOT_IN_RULE = {  # parameters that a rule does not have
    "hf": ("min_ends",),
    "bert4keras": ("n_best", "length_penalty", "early_stopping", "groups", "diversity_penalty"),
}


def _candidates(
    live: Sequence[Beam], scores: np.ndarray, own: np.ndarray, count: int
) -> list[Beam]:
    """The `count` best continuations of live beams by one token, best first, of the scores and the
    model's own log-probabilities [live, V]."""
    totals = scores + np.array([beam.total for beam in live])[:, None]  # [live, V]
    candidates = []
    for index in largest(totals.ravel(), count):
        row, token = divmod(int(index), totals.shape[1])
        beam = live[row]
        logprobs = (*beam.logprobs, float(own[row, token]))
        candidates.append(Beam((*beam.ids, token), logprobs, float(totals[row, token]), row))
    return candidates


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` largest scores [K], best first, of equal ones the lowest first; never
    one of -inf."""
    threshold = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    indices = np.flatnonzero((scores >= threshold) & (scores > -np.inf))
    return indices[np.argsort(-scores[indices], kind="stable")][:count]


def check(options: BeamOptions) -> None:
    """Raises UsageError for a value out of its range, or one that the rule does not have."""
    beam_search, max_new_tokens, n_best, min_new_tokens = options
    width, groups, diversity = beam_search.width, beam_search.groups, beam_search.diversity_penalty
    length, early = beam_search.length_penalty, beam_search.early_stopping
    early_is_known = isinstance(early, bool) or early == "never"
    divides = groups >= 1 and width % groups == 0
    pays = diversity == 0 or (0 < diversity < math.inf and groups > 1)
    min_fits = 0 <= min_new_tokens <= max_new_tokens
    limits = (
        ("beams", width, width >= 1, "1 or more"),
        ("max_tokens", max_new_tokens, max_new_tokens >= 1, "1 or more"),
        ("n_best", n_best, 1 <= n_best <= width, f"1 to {width}, the beams"),
        ("min_tokens", min_new_tokens, min_fits, f"0 to {max_new_tokens}, max_tokens"),
        ("length_penalty", length, -10 <= length <= 10, "-10 to 10"),
        ("early_stopping", early, early_is_known, "true, false or never"),
        ("beam_groups", groups, divides, f"any divisor of {width}, the beams"),
        ("diversity_penalty", diversity, pays, "0, or more where beam_groups is more than 1"),
        ("beam_rule", beam_search.rule, beam_search.rule in STEPS, " or ".join(STEPS)),
        ("min_ends", beam_search.min_ends, beam_search.min_ends >= 1, "1 or more"),
    )
    for name, value, valid, values in limits:
        if not valid:
            raise UsageError(f"{name} is {value}", f"it can be {values}")
    rule = beam_search.rule
    given = {**vars(beam_search), "n_best": n_best}
    defaults = {**vars(BeamSearch(width)), "n_best": 1}
    for name in NOT_IN_RULE[rule]:
        if given[name] != defaults[name]:
            raise UsageError(
                f"{name} is {given[name]}, which the beam rule {rule} does not know",
                f"leave it out, or take the rule {' or '.join({*STEPS} - {rule})}",
            )
