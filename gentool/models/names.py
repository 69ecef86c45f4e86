"""How checkpoints of different programs name and lay out a family's weights: literal tables from
our names to theirs, each family having one for every dialect it is found in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]


class Take(NamedTuple):
    """One weight: tensors laid one after another along their outputs; `turned` where they are
    stored [in, out]."""

    names: tuple[str, ...]
    turned: bool = False


class Dialect(NamedTuple):
    """Where all weights come from; {i} is the number of the layer. `ignored` is a regular
    expression for tensors that are no weights."""

    top: Mapping[str, Take]
    layer: Mapping[str, Take]
    ignored: str = r"(?!)"  # nothing


def take(*names: str) -> Take:
    return Take(names)


def turned(*names: str) -> Take:
    return Take(names, turned=True)


def own(top: Iterable[str], layer: Iterable[str]) -> Dialect:
    """What `gentool train` and `gentool convert` write: our own names."""
    return Dialect(
        {name: take(name) for name in top},
        {name: take(f"layers.{{i}}.{name}") for name in layer},
        ignored=r"^padding\.",
    )


def choose(dialects: Mapping[str, Dialect], shapes: Shapes) -> Dialect | None:
    """The dialect whose embedding is among the tensors."""
    for dialect in dialects.values():
        if all(name in shapes for name in dialect.top["embedding"].names):
            return dialect
    return None
