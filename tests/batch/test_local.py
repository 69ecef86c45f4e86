"""Answers do not depend on how lines are cut into blocks, nor on when they come."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

import gentool
from gentool.batch import answers
from gentool.batch.answers import Origin
from gentool.batch.lines import Line
from gentool.batch.local import OPEN_LINES, Work, compute_block
from gentool.batch.tasks import Settings, task
from gentool.generation.request import Request
from gentool.generation.session import Model

ORIGIN = Origin("tiny-zh", "0" * 64, "fp32", "this one")
ROWS: list[dict[str, Any]] = [
    {"prompt": "今天天气不错" * (1 + number % 4), "max_tokens": 1 + number % 7}
    | ({"n": 3, "top_k": 5} if number % 5 == 0 else {"temperature": number % 3})
    for number in range(40)
]
LINES = [Line(number, json.dumps(row).encode()) for number, row in enumerate(ROWS)]


@pytest.fixture(scope="module")
def model() -> Model:
    return gentool.load("tiny-zh", precision="fp32")


@pytest.fixture(scope="module")
def settings(model: Model) -> Settings:
    return Settings(Request((), (), 1, model.config.sampling, 7), "json")


@pytest.fixture(scope="module")
def whole(model: Model, settings: Settings) -> list[bytes]:
    return compute_block(model, settings, ORIGIN, LINES)


@pytest.mark.parametrize("size", [1, 7])
def test_blocks_change_no_byte(
    model: Model, settings: Settings, whole: list[bytes], size: int
) -> None:
    blocks = [LINES[at : at + size] for at in range(0, len(LINES), size)]
    found = [line for block in blocks for line in compute_block(model, settings, ORIGIN, block)]
    assert found == whole
    assert compute_block(model, settings, ORIGIN, []) == []


def test_lines_that_come_one_by_one_are_computed_together(
    model: Model, settings: Settings, whole: list[bytes]
) -> None:
    waiting, steps, done = list(LINES), 0, {}

    def window(wait: bool) -> list[Line] | None:
        return [waiting.pop(0)] if waiting else None

    for outcomes in Work(model, lambda line: task(line, settings), window).run():
        steps += 1
        done |= {outcome.task.number: answers.line(outcome, ORIGIN) for outcome in outcomes}
    assert [done[number] for number in range(40)] == whole
    assert steps < 60  # a token of each row a step: alone they would take 160


def reader(count: int) -> tuple[list[int], Callable[[bool], list[Line] | None]]:
    """Lines of which the first takes long, in windows of 16; and the numbers that were read."""
    read: list[int] = []

    def window(wait: bool) -> list[Line] | None:
        numbers = range(len(read), min(len(read) + 16, count))
        read.extend(numbers)
        rows = [{"prompt": "今", "max_tokens": 1 if number else 200} for number in numbers]
        rows = [row | {"min_tokens": row["max_tokens"]} for row in rows]
        lines = [Line(n, json.dumps(r).encode()) for n, r in zip(numbers, rows, strict=True)]
        return lines or None

    return read, window


def test_a_row_that_takes_long_holds_back_the_reader(model: Model, settings: Settings) -> None:
    read, window = reader(1000)
    work = Work(model, lambda line: task(line, settings), window)
    for number, outcomes in enumerate(work.run()):
        assert not any(outcome.task.number == 0 for outcome in outcomes)
        if number == 60:
            break
    assert len(read) <= OPEN_LINES + 2 * 16


def test_draining_finishes_what_is_in_flight(model: Model, settings: Settings) -> None:
    read, window = reader(math.inf)
    work = Work(model, lambda line: task(line, settings), window)
    done = set()
    for number, outcomes in enumerate(work.run()):
        done |= {outcome.task.number for outcome in outcomes}
        if number == 3:
            work.drain()
            until = len(read)
    assert 0 in done and done <= set(range(until)) and len(read) == until
