"""How much a chat template may do. Every operation of a template counts, so that the limits hold in
any thread: a single one is short, because its operands are small.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set, ValuesView
from typing import Any

MAX_STEPS = 1 << 19  # operations: of a conversation of 1000 turns some 2^16
MAX_SECONDS = 2.0  # of this thread's own time on a processor
MAX_SIZE = 1 << 21  # of a value: its characters and elements
MAX_ELEMENTS = 1 << 17  # of a value
MAX_MADE = 1 << 27  # characters and elements of all values together
MAX_BITS = 1 << 12  # of a number
MAX_WIDTH = 1 << 10  # to which a text is filled up
MAX_DEPTH = 100  # of macros and loops that call themselves, and of nested values
TOO_LARGE = f"a value has more than {MAX_SIZE} characters, or {MAX_ELEMENTS} elements"

CONTAINERS = (list, tuple, Mapping, Set, ValuesView)


class LimitReached(Exception):
    """What a template did too much of."""


class Budget:
    """What a rendering has used up."""

    def __init__(self) -> None:
        self._steps, self._made, self._depth = 0, 0, 0
        self._end = time.thread_time() + MAX_SECONDS
        self._known: dict[int, int] = {}

    def step(self) -> None:
        """Counts an operation."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise LimitReached(f"it takes more than {MAX_STEPS} steps")
        if time.thread_time() > self._end:
            raise LimitReached(f"it takes longer than {MAX_SECONDS:g} seconds")

    def enter(self) -> None:
        """Counts a call inside another; `leave` ends it."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LimitReached(f"it calls itself more than {MAX_DEPTH} times")

    def leave(self) -> None:
        self._depth -= 1

    def know(self, value: object) -> None:
        """Remembers the size of a value that does not change and lives as long as this."""
        self._known[id(value)] = self.size(value)

    def size(self, *values: Any) -> int:
        """Characters and elements of values, each as often as printing them would meet it.

        Raises:
            LimitReached: there are more than MAX_SIZE, a number is too large, or values are nested
                more than MAX_DEPTH times.
        """
        total, count, depth, level = 0, 0, 0, list(values)
        while level:
            inner: list[Any] = []
            for value in level:
                total += self._size_without_elements(value)
                inside = [] if id(value) in self._known else elements(value)
                count += len(inside)
                if total > MAX_SIZE or count > MAX_ELEMENTS:
                    raise LimitReached(TOO_LARGE)
                inner += inside
            level, depth = inner, depth + 1
            if depth > MAX_DEPTH:
                raise LimitReached(f"values are nested more than {MAX_DEPTH} times")
        return total + count

    def _size_without_elements(self, value: Any) -> int:
        if isinstance(value, str):
            return len(value) + 1
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise LimitReached(f"a number has more than {MAX_BITS} bits")
        return self._known.get(id(value), 1)

    def make(self, value: Any) -> Any:
        """Counts a new value, and gives it."""
        self._made += self.size(value)
        if self._made > MAX_MADE:
            raise LimitReached(f"it makes more than {MAX_MADE} characters")
        return value


def elements(value: Any) -> list[Any]:
    """What a container of a template holds; nothing for anything else."""
    if isinstance(value, str):
        return []
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, CONTAINERS):
        return list(value)
    try:  # jinja2's namespace, which hides its attributes
        return list(object.__getattribute__(value, "_Namespace__attrs").values())
    except AttributeError:
        return []


def check_product(*factors: int) -> None:
    """Raises LimitReached where a value would be as large as this product."""
    product = 1
    for factor in factors:
        product *= max(factor, 0)
    if product > MAX_SIZE:
        raise LimitReached(TOO_LARGE)
