"""The one decode loop: rows that share prefixes, drawn token by token until each row has ended. It
knows ids and end tokens; text, and so stop strings, belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gentool.decoding.engine import Engine, Prefix, taken
from gentool.decoding.filters import Law, adjusted
from gentool.decoding.lookup import Drafter
from gentool.decoding.sampling import (
    Points,
    likeliest,
    log_probabilities,
    normalized,
    numbers,
    pick,
)
from gentool.runtimes.xla.buckets import rows as row_bucket

if TYPE_CHECKING:
    from gentool.decoding.constraints import Constraint


class Prompt(NamedTuple):
    """A prompt that was computed: its ids, its cells, and the logits [V] after it."""

    ids: np.ndarray
    prefix: Prefix
    logits: np.ndarray


class Row(NamedTuple):
    """One sample: its prompt (by index), the keys of its random numbers, and the token it must
    begin with, if any."""

    prompt: int
    row: int
    sample: int
    first: int | None = None


class How(NamedTuple):
    """How rows are drawn: the law; `strata` samples a prompt, or 0 for independent ones; `told`
    likeliest tokens of each step; `lookup` tokens drafted from the text so far."""

    law: Law
    seed: int
    batch_invariant: bool = False
    strata: int = 0
    told: int = 0
    lookup: int = 0


class Limits(NamedTuple):
    """When rows end: at an `end` token (forbidden in the first `least` tokens) or after `most`.
    `room` is the most any prompt could have, so that no row's shapes depend on its neighbours."""

    least: int
    most: tuple[int, ...]  # for each prompt
    room: int
    end: frozenset[int]


class Token(NamedTuple):
    """What a step gave a row."""

    row: int  # index among the rows
    id: int
    log_probability: float
    ended: bool  # by an end token
    whole: bool = False  # the text is, and nothing can be added to it
    told: tuple[tuple[int, float], ...] = ()  # likeliest ids and their log-probabilities


def decode(
    engine: Engine,
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    how: How,
    limits: Limits,
    stopped: set[int],
    constraint: Constraint | None = None,
) -> Iterator[list[Token]]:
    """Yields the next tokens of all rows that have one. Between two of them the caller adds to
    `stopped` the rows it has seen enough of. A draft is verified by what is drawn: the text is the
    same with and without."""
    outputs: list[list[int]] = [[] for _ in rows]
    keys = np.array([(row.row, row.sample) for row in rows]).T
    points = Points(how.seed, keys[0], keys[1], how.strata)

    def over(token: Token) -> bool:
        full = len(outputs[token.row]) >= limits.most[rows[token.row].prompt]
        return token.ended or token.whole or full or token.row in stopped

    live = list(range(len(rows)))
    tail, tail_rows = None, live
    drafters = [Drafter(how.lookup) for _ in rows]
    drafts: list[list[int]] = [[] for _ in rows]
    logits = np.stack([prompts[row.prompt].logits for row in rows])[:, None]  # [N, T, V]
    while True:
        at = {row: place for place, row in enumerate(tail_rows)}
        going, ended = live, set[int]()
        before = {row: len(outputs[row]) for row in live}
        for t in range(logits.shape[1]):
            current = taken(logits[:, t], [at[row] for row in going])
            tokens = _drawn(current, going, prompts, rows, outputs, how, limits, points, constraint)
            yield tokens
            ended |= {token.row for token in tokens if over(token)}
            going = [
                token.row
                for token in tokens
                if token.row not in ended and drafts[token.row][t : t + 1] == [token.id]
            ]
            if not going:
                break
        live = [row for row in live if row not in ended]
        if not live:
            return
        if tail is not None and how.lookup:
            tail.rewind(np.array([len(outputs[row]) - 1 for row in tail_rows]))
        if how.lookup:
            for row in live:
                drafters[row].told(len(drafts[row]), len(outputs[row]) - before[row] - 1)
                text = [*prompts[rows[row].prompt].ids.tolist(), *outputs[row]]
                drafts[row] = drafters[row].draft(text)
        steps = 1 + (how.lookup if any(drafts) else 0)
        few = row_bucket(len(live)) * 4 <= row_bucket(len(tail_rows))
        kept = live if few else tail_rows  # the dead then cost more than a new shape
        new, alive = np.zeros((len(kept), steps), int), set(live)
        for place, row in enumerate(kept):
            if row in alive:
                said = [outputs[row][-1], *drafts[row]]
                new[place, : len(said)] = said
        tail, logits = engine.extend(
            [prompt.prefix for prompt in prompts],
            tail,
            [rows[row].prompt for row in kept],
            [at[row] for row in kept],
            new,
            room=limits.room + how.lookup,
            batch_invariant=how.batch_invariant,
        )
        tail_rows = kept


def _drawn(
    current: np.ndarray,
    going: list[int],
    prompts: Sequence[Prompt],
    rows: Sequence[Row],
    outputs: list[list[int]],
    how: How,
    limits: Limits,
    points: Points,
    constraint: Constraint | None,
) -> list[Token]:
    """One token for each of the rows `going`, whose logits are `current` [n, V]."""
    texts = [prompts[rows[row].prompt].ids for row in going]
    allowed = adjusted(numbers(current), how.law, texts, [outputs[row] for row in going])
    short = [
        place
        for place, row in enumerate(going)
        # a text that is whole has to end, however short it is
        if len(outputs[row]) < limits.least and not (constraint and constraint.ended(row))
    ]
    masks = [constraint.allowed(row) if constraint else None for row in going]
    if short or any(mask is not None for mask in masks):
        allowed = allowed.copy() if allowed is current else allowed
        allowed[np.ix_(short, sorted(limits.end))] = -np.inf
        for place, mask in enumerate(masks):
            if mask is not None:
                allowed[place, ~mask] = -np.inf
    which, steps = np.array(going), np.array([len(outputs[row]) for row in going])
    drawn = pick(allowed, how.law, points.at(which, steps))
    points.spread(which, drawn.low, drawn.high)
    firsts = [rows[row].first if not outputs[row] else None for row in going]
    ids = np.array([id if f is None else f for id, f in zip(drawn.ids, firsts, strict=True)])
    exact = normalized(current) if how.told else None
    shares = log_probabilities(current, ids)
    tokens = []
    for place, row in enumerate(going):
        id = int(ids[place])
        outputs[row].append(id)
        whole = False
        if constraint:
            constraint.accept(row, id)
            whole = not limits.end and constraint.ended(row)
        told: tuple[tuple[int, float], ...] = ()
        if exact is not None:
            best = likeliest(exact[place], how.told)
            told = tuple((int(i), float(exact[place, i])) for i in best)
        tokens.append(Token(row, id, float(shares[place]), id in limits.end, whole, told))
    return tokens
