"""Accuracy of answers with 95 % intervals, over all rows and for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gentool.voting.intervals import clopper_pearson


@dataclass(frozen=True)
class Proportion:
    """`right` of so many answers. The share of right ones lies from `low` to `high` at 95 %
    (Clopper and Pearson 1934)."""

    right: int
    of: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    """The accuracy over all rows and for each class."""

    all: Proportion
    classes: dict[str, Proportion]  # by label, in order of first appearance; see `accuracy`


def accuracy(pairs: Sequence[tuple[str, str | None]]) -> Accuracy:
    """The accuracy of at least one pair of label and answer; an answer of None is wrong. Labels are
    classes if there are at most half as many of them as rows."""
    classes: dict[str, list[tuple[str, str | None]]] = {}
    for pair in pairs:
        classes.setdefault(pair[0], []).append(pair)
    if len(classes) * 2 > len(pairs):
        classes = {}
    by_class = {label: _proportion(members) for label, members in classes.items()}
    return Accuracy(_proportion(pairs), by_class)


def _proportion(pairs: Sequence[tuple[str, str | None]]) -> Proportion:
    right, of = sum(label == answer for label, answer in pairs), len(pairs)
    return Proportion(right, of, right / of, *clopper_pearson(right, of))
