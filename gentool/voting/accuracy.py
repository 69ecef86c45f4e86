"""How often answers are right, with an interval, over all rows and per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gentool.voting.intervals import clopper_pearson


@dataclass(frozen=True)
class Part:
    """`right` of so many answers; the share of right ones lies from `low` to `high` at 95 %
    (Clopper and Pearson 1934)."""

    right: int
    of: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Accuracy:
    all: Part
    classes: dict[str, Part]  # by label, in order of first appearance, where labels come again


def accuracy(pairs: Sequence[tuple[str, str | None]]) -> Accuracy:
    """Of labels and answers, one or more; an answer of None is a wrong one. Labels that are all
    different are no classes."""
    groups: dict[str, list[tuple[str, str | None]]] = {}
    for pair in pairs:
        groups.setdefault(pair[0], []).append(pair)
    if len(groups) * 2 > len(pairs):
        groups = {}
    return Accuracy(_part(pairs), {label: _part(group) for label, group in groups.items()})


def _part(pairs: Sequence[tuple[str, str | None]]) -> Part:
    right, of = sum(label == answer for label, answer in pairs), len(pairs)
    return Part(right, of, right / of, *clopper_pearson(right, of))
