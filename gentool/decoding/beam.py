"""Beam search on the one engine: `Engine.prefill` computes a prompt once for all of its beams, and
`Engine.extend` reorders what they added. Choosing happens on the host in float64, by the rule of
Hugging Face's `generate` or of bert4keras' `beam_search`. What a search knows between two steps is
a value, so searches of several prompts, and of the groups of one prompt, go through the engine
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.sampling import finite, normalized
from gentool.errors import UsageError

Ends = frozenset[int]  # end tokens
Stops = Callable[[tuple[int, ...]], bool]  # whether new tokens hold a text that ends them

FLOOR = 1e-12  # what bert4keras adds to a probability before its logarithm

# Scores [N, V] of N beams, the prompt (by index) of each and what each has added so far, to scores.
# A pure function; the filters that look at a text so far come in here.
Adjust = Callable[[np.ndarray, Sequence[int], Sequence[tuple[int, ...]]], np.ndarray]


class Beams(NamedTuple):
    """How to search. A text ends with an end token, after `max_tokens`, or with the context.

    rule "hf": those of the `width` best candidates of a step that end with an end token become
    hypotheses and are frozen; the `width` best that do not end go on. The best `width` hypotheses
    are kept, by total / tokens**length_penalty, the end token counted. Before `min_tokens` tokens
    the end tokens are forbidden. Once there are `width` hypotheses the search is over: at once, if
    `early_stopping` is True; if False, when the best beam, ended now, would be no better than the
    worst of them; if "never", when no text that continues it can be better.

    `groups` (Vijayakumar et al. 2016) share the width. Within a step they choose in turn, and a
    token costs `diversity_penalty` for every beam of an earlier group that has just gone on by it.
    That stays in the total a group searches and ranks by, and in the score. The `n_best` are the
    best of all groups; two groups may have found the same text.

    rule "bert4keras": the best beam ends the search if it has ended; other ended beams are dropped
    and the width shrinks by them. Ended is what ends with an end token, holds at least `min_ends`
    of them and has at least `min_tokens` tokens; before that they are tokens as any other. The
    score is the total; there is one hypothesis.
    """

    width: int
    max_tokens: int
    n_best: int = 1
    min_tokens: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity_penalty: float = 0.0
    rule: Literal["hf", "bert4keras"] = "hf"
    min_ends: int = 1


class Hypothesis(NamedTuple):
    """A text that a search came to. The log-probabilities are the model's own, before `adjust`."""

    ids: tuple[int, ...]  # new tokens, the end token included
    logprobs: tuple[float, ...]  # of each of them
    score: float  # what hypotheses are ordered by
    ended: bool  # by an end token or a stop

    @property
    def logprob(self) -> float:
        return math.fsum(self.logprobs)


class Beam(NamedTuple):
    """A text that is still growing."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0  # summed scores: log-probabilities, adjusted
    parent: int = 0  # which of the beams before the last step it continues


class Search(NamedTuple):
    """One search between two steps."""

    width: int
    live: tuple[Beam, ...] = (Beam(),)  # best first
    done: tuple[Hypothesis, ...] = ()  # best first
    open: bool = True


def search(
    engine: Engine,
    prefixes: Sequence[Prefix],
    logits: np.ndarray,
    beams: Beams,
    end: Ends,
    adjust: Adjust | None = None,
    stops: Sequence[Stops] = (),
) -> list[list[Hypothesis]]:
    """The n best hypotheses for each prompt, best first; fewer where there are no more. `prefixes`
    are B computed prompts, `logits` [B, V] those after each, `end` the end tokens, `stops` what
    else ends a text, for each prompt."""
    *_, last = steps(engine, prefixes, logits, beams, end, adjust, stops)
    found = []
    for first in range(0, len(last), beams.groups):
        done = [h for group in last[first : first + beams.groups] for h in group.done]
        found.append(sorted(done, key=lambda h: -h.score)[: beams.n_best])
    return found


def steps(
    engine: Engine,
    prefixes: Sequence[Prefix],
    logits: np.ndarray,
    beams: Beams,
    end: Ends,
    adjust: Adjust | None = None,
    stops: Sequence[Stops] = (),
) -> Iterator[list[Search]]:
    """Yields the searches after each step, B prompts of `groups` each. In the engine a search has
    as many rows as at first, used or not, to the last step: so nothing is compiled for fewer."""
    check(beams)
    width, context = beams.width // beams.groups, engine.arch.n_ctx
    most = [min(beams.max_tokens, context - prefix.length) for prefix in prefixes]
    searches = [Search(width)] * (len(prefixes) * beams.groups)
    owner = np.repeat(np.arange(len(prefixes)), beams.width)  # [N] prompt of each row
    rows, current = None, logits[owner]  # [N, V]
    while True:
        searches = _advance(searches, current, beams, most, end, adjust, stops)
        yield searches
        if not any(one.open for one in searches):
            return
        parents, tokens = np.arange(len(owner)), np.zeros((len(owner), 1), np.int32)
        for first, one in zip(range(0, len(owner), width), searches, strict=True):
            for row, beam in enumerate(one.live if one.open else (), start=first):
                parents[row], tokens[row] = first + beam.parent, beam.ids[-1]
        max_new_tokens = min(beams.max_tokens, context)
        rows, out = engine.extend(
            prefixes, rows, owner, parents, tokens, max_new_tokens=max_new_tokens
        )
        current = out[:, 0]


def _advance(
    searches: Sequence[Search],
    logits: np.ndarray,
    beams: Beams,
    most: Sequence[int],
    end: Ends,
    adjust: Adjust | None,
    stops: Sequence[Stops],
) -> list[Search]:
    """One step of the open searches; logits [N, V] are those of all rows."""
    used = [(i, k) for i, one in enumerate(searches) if one.open for k in range(len(one.live))]
    width = len(logits) // len(searches)
    logits = logits[[i * width + k for i, k in used]]  # [U, V]
    own = normalized(finite(logits))
    prompts = [i // beams.groups for i, _ in used]
    scores = _scores(own, beams, end, adjust, prompts, [searches[i].live[k].ids for i, k in used])
    step, at, after = STEPS[beams.rule], 0, []
    for i, one in enumerate(searches):
        if i % beams.groups == 0:
            taken = np.zeros(logits.shape[-1])  # [V] by how many beams of earlier groups
        if one.open:
            mine = slice(at, at + len(one.live))
            at = mine.stop
            diverse = scores[mine] - beams.diversity_penalty * taken
            # of which `width` do not end by a token; those by a text cannot be counted
            count = (1 + len(end) + bool(stops)) * one.width
            grown = _grow(one.live, diverse, own[mine], count)
            prompt = i // beams.groups
            one = step(one, grown, beams, most[prompt], end, stops[prompt] if stops else _never)
            for beam in one.live:
                taken[beam.ids[-1]] += 1
        after.append(one)
    return after


def _scores(
    own: np.ndarray,
    beams: Beams,
    end: Ends,
    adjust: Adjust | None,
    prompts: Sequence[int],
    outputs: Sequence[tuple[int, ...]],
) -> np.ndarray:
    """What each token adds to a beam's total [U, V], from the model's log-probabilities."""
    scores = own.copy()
    if beams.rule == "hf" and len(outputs[0]) < beams.min_tokens:
        scores[:, sorted(end)] = -np.inf
    if adjust:
        scores = adjust(scores, prompts, outputs)
    if beams.rule == "bert4keras":
        with np.errstate(invalid="ignore"):  # a beam may have lost all its tokens
            floored = np.log(np.exp(normalized(scores)) + FLOOR)
        scores = np.where(scores > -np.inf, floored, -np.inf)  # what is banned stays so
    return scores


def _never(ids: tuple[int, ...]) -> bool:
    return False


def _hf(
    one: Search, grown: list[Beam], beams: Beams, most: int, end: Ends, stopped: Stops
) -> Search:
    """The search after a step whose best candidates are `grown`."""
    over = [beam.ids[-1] in end or stopped(beam.ids) for beam in grown]
    length = len(one.live[0].ids) + 1
    last = length == most
    new = [
        Hypothesis(beam.ids, beam.logprobs, beam.total / length**beams.length_penalty, ended)
        for beam, ended in zip(grown[: one.width], over, strict=False)
        if ended or last
    ]
    done = tuple(sorted([*one.done, *new], key=lambda h: -h.score)[: one.width])
    live = tuple(b for b, ended in zip(grown, over, strict=True) if not ended)[: one.width]
    goes_on = bool(live) and not last
    if goes_on and len(done) == one.width:
        longest = most if beams.early_stopping == "never" and beams.length_penalty > 0 else length
        hope = live[0].total / longest**beams.length_penalty
        goes_on = beams.early_stopping is not True and hope > done[-1].score
    return Search(one.width, live, done, goes_on)


def _bert4keras(
    one: Search, grown: list[Beam], beams: Beams, most: int, end: Ends, stopped: Stops
) -> Search:
    """As `_hf`."""
    grown = grown[: one.width]
    length = len(one.live[0].ids) + 1

    def ended(beam: Beam) -> bool:
        if stopped(beam.ids):
            return True
        ends = sum(token in end for token in beam.ids)
        return length >= beams.min_tokens and beam.ids[-1] in end and ends >= beams.min_ends

    live = tuple(beam for beam in grown if not ended(beam))
    if grown and (ended(grown[0]) or length == most):
        best = grown[0]
        found = Hypothesis(best.ids, best.logprobs, best.total, ended(best))
        return Search(one.width, live, (found,), False)
    return Search(one.width - (len(grown) - len(live)), live, (), bool(live))


STEPS = {"hf": _hf, "bert4keras": _bert4keras}
OTHERS = {  # what a rule does not know
    "hf": ("min_ends",),
    "bert4keras": ("n_best", "length_penalty", "early_stopping", "groups", "diversity_penalty"),
}


def _grow(live: Sequence[Beam], scores: np.ndarray, own: np.ndarray, count: int) -> list[Beam]:
    """The `count` best continuations of live beams by one token, best first, of the scores and the
    model's own log-probabilities [live, V]."""
    totals = scores + np.array([beam.total for beam in live])[:, None]  # [live, V]
    grown = []
    for at in largest(totals.ravel(), count):
        row, token = divmod(int(at), totals.shape[1])
        beam = live[row]
        logprobs = (*beam.logprobs, float(own[row, token]))
        grown.append(Beam((*beam.ids, token), logprobs, float(totals[row, token]), row))
    return grown


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Indexes of the `count` largest scores [K], best first, of equal ones the lowest; those of
    -inf never."""
    least = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    found = np.flatnonzero((scores >= least) & (scores > -np.inf))
    return found[np.argsort(-scores[found], kind="stable")][:count]


def check(beams: Beams) -> None:
    """Refuses what cannot be searched, or what the rule does not know."""
    width, most, n_best, least, length, early, groups, diversity, rule, ends = beams
    stops = isinstance(early, bool) or early == "never"
    divides = groups >= 1 and width % groups == 0
    pays = diversity == 0 or (0 < diversity < math.inf and groups > 1)
    limits = (
        ("beams", width, width >= 1, "1 or more"),
        ("max_tokens", most, most >= 1, "1 or more"),
        ("n_best", n_best, 1 <= n_best <= width, f"1 to {width}, the beams"),
        ("min_tokens", least, 0 <= least <= most, f"0 to {most}, max_tokens"),
        ("length_penalty", length, -10 <= length <= 10, "-10 to 10"),
        ("early_stopping", early, stops, "true, false or never"),
        ("beam_groups", groups, divides, f"any divisor of {width}, the beams"),
        ("diversity_penalty", diversity, pays, "0, or more where beam_groups is more than 1"),
        ("beam_rule", rule, rule in STEPS, " or ".join(STEPS)),
        ("min_ends", ends, ends >= 1, "1 or more"),
    )
    for name, value, fine, values in limits:
        if not fine:
            raise UsageError(f"{name} is {value}", f"it can be {values}")
    for name in OTHERS[rule]:
        if (value := getattr(beams, name)) != Beams._field_defaults[name]:
            raise UsageError(
                f"{name} is {value}, which the beam rule {rule} does not know",
                f"leave it out, or take the rule {' or '.join({*STEPS} - {rule})}",
            )
