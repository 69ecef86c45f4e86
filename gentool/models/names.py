"""Dialects: how checkpoints of different programs name and lay out a family's weights. Each family
has a literal table, from our names to theirs, for every dialect of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]


class TensorRef(NamedTuple):
    """The tensors of a weight, by name, to be concatenated along their outputs; `transposed` if
    they are stored [in, out]."""

    names: tuple[str, ...]
    transposed: bool = False


class Dialect(NamedTuple):
    """The tensors of all weights, outside the layers and of a layer; {i} in a name is the number of
    the layer. `ignored` is a regular expression for tensors that are not weights."""

    top: Mapping[str, TensorRef]
    layer: Mapping[str, TensorRef]
    ignored: str = r"(?!)"  # matches nothing


def as_stored(*names: str) -> TensorRef:
    """Tensors that are stored [out, in]."""
    return TensorRef(names)


def transposed(*names: str) -> TensorRef:
    """Tensors that are stored [in, out]."""
    return TensorRef(names, transposed=True)


def own(top: Iterable[str], layer: Iterable[str]) -> Dialect:
    """The dialect of our own names, which `gentool train` and `gentool convert` write."""
    return Dialect(
        {name: as_stored(name) for name in top},
        {name: as_stored(f"layers.{{i}}.{name}") for name in layer},
        ignored=r"^padding\.",
    )


def choose(dialects: Mapping[str, Dialect], shapes: Shapes) -> Dialect | None:
    """The first dialect whose embedding is among the tensors; None if there is none."""
    for dialect in dialects.values():
        if all(name in shapes for name in dialect.top["embedding"].names):
            return dialect
    return None
