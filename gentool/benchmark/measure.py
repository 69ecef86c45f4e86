"""Repeated measurements: what is measured, how often, and the results as frozen data.

A measurement is a generator. It yields the title of each run before that run starts, and returns
its results, so that the caller can show progress.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Measurement = Generator[str, None, T]

SAMPLES = 300  # of the vote

# Title of a run -> how long it takes, in runs of a short decode. A title that is not here counts 1.
COSTS = {
    "cold start": 12,
    "load": 1,
    "prefill": 1,
    "vote": 1,
    f"steps of {SAMPLES} rows and of 1 row": 1,
    "compilation": 4,
    "memory bandwidth": 1,
    "matrix products in float32": 1,
    "matrix products in bfloat16": 1,
}


class Plan(NamedTuple):
    """What `gentool bench` measures."""

    prompt_tokens: int = 512  # of the prefill
    generate: int = 64  # tokens of each row of each batch
    batch: tuple[int, ...] = (1, 8, 64)
    repeat: int = 5
    cold_start: bool = True

    @property
    def cost(self) -> int:
        """The cost of all runs together, warm-up runs included."""
        skipped = 0 if self.cold_start else COSTS["cold start"]
        return (self.repeat + 1) * (sum(COSTS.values()) - skipped + len(self.batch))


class Result(NamedTuple):
    """A quantity with a value for each repetition; no values if it was skipped, with the reason."""

    name: str
    unit: str
    values: tuple[float, ...]
    batch: int | None = None
    skipped: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Report(NamedTuple):
    """Everything `gentool bench` prints. What does not apply to a runtime is absent."""

    machine: Mapping[str, object]
    model: Mapping[str, object]
    settings: Mapping[str, object]
    results: tuple[Result, ...]
    notes: tuple[str, ...]


def repeated(title: str, repeat: int, run: Callable[[], T]) -> Measurement[list[T]]:
    """The results of `repeat` runs after a warm-up run, whose result is dropped."""
    results = []
    for _ in range(repeat + 1):
        yield title
        results.append(run())
    return results[1:]


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def result(name: str, unit: str, values: Sequence[float], batch: int | None = None) -> Result:
    """A measured quantity."""
    return Result(name, unit, tuple(float(value) for value in values), batch)


def skipped(name: str, unit: str, reason: str) -> list[Result]:
    """A quantity that could not be measured."""
    return [Result(name, unit, (), skipped=reason)]
