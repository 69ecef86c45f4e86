"""The one decode loop: rows that share prefixes, one token a row a step, until each row has ended.
It knows ids and end tokens; text, and so stop strings, belong to the caller.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from gentool.decoding.buckets import rows as row_bucket
from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.philox import uniform
from gentool.decoding.sampling import Law, log_probabilities, pick
from gentool.errors import GentoolError


class Row(NamedTuple):
    """One sample: its prompt (by index), and the keys of its random numbers."""

    prompt: int
    row: int
    sample: int


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


def decode(
    engine: Engine,
    prefixes: Sequence[Prefix],
    logits: np.ndarray,
    rows: Sequence[Row],
    law: Law,
    limits: Limits,
    seed: int,
    stopped: set[int],
    batch_invariant: bool = False,
) -> Iterator[list[Token]]:
    """Yields one step's tokens of all live rows at a time. `logits` [B, V] are those after each
    prompt. Between two steps the caller adds to `stopped` the rows it has seen enough of."""
    live = list(range(len(rows)))
    tail, tail_rows = None, live
    current = logits[[rows[i].prompt for i in live]]  # [N, V]
    forbidden = sorted(limits.end)
    for step in range(max(limits.most)):
        if not np.isfinite(current.max(axis=-1)).all():
            raise GentoolError(
                "the model's logits are not numbers",
                "its weights may be broken, or too large for this precision: try fp32",
            )
        allowed = current
        if step < limits.least:
            allowed = current.copy()
            allowed[:, forbidden] = -np.inf
        keys = np.array([(rows[i].row, rows[i].sample) for i in live])
        ids = pick(allowed, law, uniform(seed, keys[:, 0], keys[:, 1], np.array(step)))
        tokens = [
            Token(row, int(id), float(p), id in limits.end)
            for row, id, p in zip(live, ids, log_probabilities(current, ids), strict=True)
        ]
        yield tokens
        live = [
            t.row
            for t in tokens
            if not t.ended and t.row not in stopped and step + 1 < limits.most[rows[t.row].prompt]
        ]
        if not live:
            return
        last = {t.row: t.id for t in tokens}
        few = row_bucket(len(live)) * 4 <= row_bucket(len(tail_rows))
        kept = live if few else tail_rows  # the dead then cost more than a new shape
        at = {row: place for place, row in enumerate(tail_rows)}
        tail, out = engine.extend(
            prefixes,
            tail,
            [rows[i].prompt for i in kept],
            [at[i] for i in kept],
            np.array([[last.get(i, 0)] for i in kept]),
            room=limits.room,
            batch_invariant=batch_invariant,
        )
        tail_rows = kept
        at = {row: place for place, row in enumerate(kept)}
        current = out[[at[i] for i in live], 0]
