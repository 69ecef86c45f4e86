"""What the tests of measurements share."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import pytest

from gentool.benchmark import machine

T = TypeVar("T")


@pytest.fixture(scope="package")
def small_machine() -> Iterator[None]:
    """Machine rates in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "READ_BYTES", 1 << 22)
        patch.setattr(machine, "MATRIX_SIDE", 64)
        yield


@pytest.fixture(scope="package")
def finish() -> Callable[[Generator[str, None, T]], tuple[list[str], T]]:
    """Runs a measurement to its end: the titles of all runs, and its result."""

    def run(measurement: Generator[str, None, T]) -> tuple[list[str], T]:
        titles = []
        while True:
            try:
                titles.append(next(measurement))
            except StopIteration as end:
                return titles, end.value

    return run
