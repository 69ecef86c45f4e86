"""How checkpoints of different programs name and lay out a family's weights: literal tables from
our names to theirs, each family having one for every dialect it is found in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]


class TensorRef(NamedTuple):
    """One weight: tensors laid one after another along their outputs; `transposed` where they are
    stored [in, out]."""

    names: tuple[str, ...]
    transposed: bool = False


class Dialect(NamedTuple):
    """Where all weights come from; {i} is the number of the layer. `ignored` is a regular
    expression for tensors that are no weights."""

    top: Mapping[str, TensorRef]
    layer: Mapping[str, TensorRef]
    ignored: str = r"(?!)"  # nothing


def take(*names: str) -> TensorRef:
    return TensorRef(names)


def transposed(*names: str) -> TensorRef:
    return TensorRef(names, transposed=True)


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
