"""The simulation itself, and what it must show: a certificate fed in index order keeps its promise,
one fed in the order of completion does not."""

import re

import certificate as bench
import numpy as np
import pytest

from gentool.voting.intervals import clopper_pearson

ALPHA, SLACK = 0.05, 0.998  # two-sided: 0.1 % of luck on the side that matters


def at_least(result: bench.Result) -> float:
    """What the rate of wrong answers surely is."""
    return clopper_pearson(result.wrong, result.trials, SLACK)[0]


def test_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    close = (".7/.2/.1", ".34/.33/.33", ".5/.5")
    few = {name: bench.DISTRIBUTIONS[name] for name in close}
    monkeypatch.setattr(bench, "DISTRIBUTIONS", few)
    results = list(bench.rules(200, 1))
    by = {(result.name, result.rule): result for result in results}
    assert len(by) == 3 * 5
    for name in close:
        assert at_least(by[name, "certificate 0.95"]) <= ALPHA
        fixed, curtailed = by[name, "fixed"], by[name, "curtailment"]
        assert fixed.wrong == curtailed.wrong  # the same answers
        assert curtailed.draws < fixed.draws == bench.CAP
    assert at_least(by[".34/.33/.33", "AC Beta 0.95"]) > ALPHA
    assert at_least(by[".34/.33/.33", "ESC window 5"]) > ALPHA
    assert by[".7/.2/.1", "certificate 0.95"].stopped == 200
    assert by[".5/.5", "fixed"].wrong == 200
    assert results == list(bench.rules(200, 1)) != list(bench.rules(200, 2))


def test_order() -> None:
    by = {(result.name, result.rule): result for result in bench.waves(100, 1)}
    assert len(by) == 2 * len(bench.WAVES)
    for size in bench.WAVES:
        assert at_least(by[f"waves of {size}", "index order"]) <= ALPHA
    assert at_least(by["waves of 32", "completion order"]) > 0.5


def test_completion_and_prefix() -> None:
    order = bench.completed([9, 2, 5, 2, 1, 7, 7], 4)
    assert order == [1, 3, 2, 0, 4, 5, 6]
    prefix = bench.finished_prefix(order)
    assert list(prefix) == list(range(7))
    assert list(bench.finished_prefix([1, 3, 0])) == [0, 1]  # 2 is still being written


def test_stopping() -> None:
    draws = np.full((2, bench.CAP), 7)
    draws[1, :6] = [7, 7, 7, 1, 1, 1]
    tops = bench.two_most(draws, 8)
    assert tops[:, 1, 5].tolist() == [3, 3] and tops[:, 0, 299].tolist() == [300, 0]
    first = {rule: (stop(draws, tops).argmax(axis=1) + 1) for rule, stop in bench.STOPS.items()}
    assert first["ESC window 5"].tolist() == [5, 15]
    assert first["curtailment"].tolist() == [151, 154]
    assert first["AC Beta 0.95"][0] == 4
    assert bench.beta_above_half()[[0, 4, 3], [0, 0, 1]] == pytest.approx([1 / 2, 31 / 32, 13 / 16])


def test_table() -> None:
    results = [
        bench.Result("x", "fixed", 300.0, 2000, None, 0),
        bench.Result("x", "certificate 0.95", 35.14, 2000, 1994, 41),
    ]
    lines = bench.table("answers", results).splitlines()
    assert re.split("  +", lines[0]) == "answers,rule,draws,stopped,wrong,95 % interval".split(",")
    assert re.split("  +", lines[1]) == ["x", "fixed", "300.0", "0.0%", "[0.0%, 0.2%]"]
    row = ["", "certificate 0.95", "35.1", "99.7%", "2.1%", "[1.5%, 2.8%]"]
    assert re.split("  +", lines[2]) == row
    assert len({len(line) for line in lines[1:]}) == 1
