"""Documents, the held-out hundredth, and a plan of windows that follows from its arguments."""

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.errors import UsageError
from gentool.training import corpus

TEXT = "\n\n一段\n二段\n\n\n三段\n"


@pytest.mark.parametrize("packed", [False, True])
def test_documents_are_separated_by_blank_lines(tmp_path, packed):
    if packed:
        (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(TEXT.encode()))
    else:
        (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    assert list(corpus.documents(tmp_path, "a")) == ["一段\n二段", "三段"]


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no b\.txt"):
        list(corpus.documents(tmp_path, "b"))


def test_one_document_in_a_hundred_is_held_out_by_its_text_alone():
    texts = [f"文档{i}" for i in range(20000)]
    parts = corpus.split(texts)
    assert 150 < len(parts.held_out) < 250
    assert sorted(parts.train + parts.held_out) == sorted(texts)
    assert corpus.split(reversed(texts)).held_out == parts.held_out[::-1]


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(1, 300), st.integers(0, 5))
def test_a_plan_walks_through_every_source_in_epochs(length, count, seed):
    sizes = [2 * length + 1, 7 * length + 3]
    plan = corpus.plan(sizes, [1.0, 3.0], length, count, seed)
    assert plan == corpus.plan(sizes, [1.0, 3.0], length, count, seed)
    assert len(plan) == count
    for source, size in enumerate(sizes):
        starts = np.array([w.start for w in plan if w.source == source])
        assert ((starts >= 0) & (starts + length + 1 <= size)).all()
        epoch = (size - 1 - length + 1) // length  # at least so many windows before one comes again
        for first in range(0, len(starts) - epoch + 1, epoch):
            if first == 0:
                assert len(set(starts[:epoch])) == min(epoch, len(starts))


def test_shares_are_those_of_the_tokens_drawn():
    plan = corpus.plan([10**6, 10**6], [1.0, 3.0], 100, 4000, 0)
    assert 900 < sum(w.source == 0 for w in plan) < 1100


def test_a_source_too_small_to_cut_is_refused():
    with pytest.raises(UsageError, match="fewer than two windows"):
        corpus.plan([15, 10**6], [1.0, 1.0], 10, 50, 0)
