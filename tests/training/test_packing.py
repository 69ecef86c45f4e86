"""Texts in rows: every token is learnt once, in few rows; batches take each row once an epoch."""

from __future__ import annotations

import collections

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.training import packing
from gentool.training.packing import Text

LENGTHS = st.lists(st.integers(0, 40), max_size=30)


@settings(max_examples=60)
@given(LENGTHS, st.integers(2, 16))
def test_every_token_but_the_first_is_learnt_once_from_those_before_it(
    lengths: list[int], length: int
) -> None:
    number = iter(range(10**6))
    texts = [Text([next(number) for _ in range(n)], [True] * n) for n in lengths]
    rows = packing.pack(texts, length)
    learnt = rows.learnt > 0
    wanted = [pair for text in texts for pair in zip(text.ids, text.ids[1:], strict=False)]
    pairs = zip(rows.ids[learnt].tolist(), rows.targets[learnt].tolist(), strict=True)
    assert sorted(pairs) == sorted(wanted)
    for row in range(len(rows.ids)):
        assert learnt[row].any()
        for segment in set(rows.segments[row][learnt[row]]):
            place = rows.segments[row] == segment
            ids = rows.ids[row][place]
            assert (np.diff(ids) == 1).all()  # one text, in order
            assert rows.positions[row][place].tolist() == list(range(len(ids)))
    sizes = [min(length, n - 1 - start) for n in lengths for start in range(0, n - 1, length)]
    assert len(rows.ids) <= max(1, 2 * sum(sizes) // length + 1)


def test_only_what_is_to_be_learnt_is() -> None:
    rows = packing.pack([Text([5, 6, 7, 8], [True, False, True, False])], 4)
    assert rows.learnt.tolist() == [[0, 1, 0, 0]]
    assert len(packing.pack([Text([5, 6], [True, False])], 4).ids) == 0


def test_batches_take_each_row_once_an_epoch_and_follow_from_their_number() -> None:
    rows = packing.pack([Text([i, i + 100, i + 200], [True] * 3) for i in range(7)], 2)
    assert len(rows.ids) == 7
    batches = [packing.drawn(rows, number, 2, seed=3) for number in range(7)]
    drawn = [int(i) for batch in batches for i in batch.ids[:, 0]]
    assert sorted(drawn[:7]) == sorted(drawn[7:]) == list(range(7))
    assert drawn[:7] != drawn[7:]
    again = packing.drawn(rows, 5, 2, seed=3)
    np.testing.assert_array_equal(again.ids, batches[5].ids)


def test_evaluation_takes_all_rows_in_order_and_fills_the_last_batch() -> None:
    rows = packing.pack([Text([i, i + 100, i + 200], [True] * 3) for i in range(5)], 2)
    batches = packing.in_order(rows, 2, 10)
    assert [batch.ids.shape for batch in batches] == [(2, 2)] * 3
    counts = collections.Counter(int(i) for batch in batches for i in batch.ids[:, 0])
    assert counts == collections.Counter([0, 1, 2, 3, 4, 0])
    assert sum(batch.learnt.sum() for batch in batches) == rows.learnt.sum()
    assert len(packing.in_order(rows, 2, 2)) == 2


def test_a_digest_depends_on_every_array() -> None:
    rows = packing.pack([Text([1, 2, 3], [True] * 3)], 2)
    others = [rows._replace(**{name: getattr(rows, name) + 1}) for name in rows._fields]
    assert len({packing.digest(it) for it in (rows, *others)}) == 6
