"""The operations of families, recorded: the computation from one attention to the next is a piece.
A value that a later piece needs is an output of the piece that computes it.

Attention is not recorded. Slices, heads and rotations of queries, keys and values only shape its
inputs: attention gets their description.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gentool.config.model import Arch
from gentool.runtimes.ops import Ops


class WeightRef(NamedTuple):
    """A weight by its name, as families get it."""

    name: str


class Value:
    """A recorded tensor [N, width], of heads [N, width/head, head] where `head` is not 0. `piece`
    is where it is computed; `parts` are the slices that it was split into."""

    def __init__(
        self,
        recorder: _Recorder,
        op: str,
        inputs: Sequence[Value],
        width: int,
        attributes: tuple[Any, ...] = (),
        head: int = 0,
    ) -> None:
        self.recorder, self.piece = recorder, len(recorder.attentions)
        self.op, self.inputs, self.width = op, tuple(inputs), width
        self.attributes, self.head = attributes, head
        self.parts: list[Value] = []

    def _with(self, op: str, other: Value | float) -> Value:
        if isinstance(other, Value):
            width = max(self.width, other.width)
            return Value(self.recorder, op, (self, other), width)
        return Value(self.recorder, f"{op}_number", (self,), self.width, (float(other),))

    def __add__(self, other: Value | float) -> Value:
        return self._with("add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("mul", other)


class Operand(NamedTuple):
    """Columns from `start` of `value`, as `heads` heads of `size`; `rotation`: indices of cos and
    sin in Recording.positional for the rotation that attention must still apply, or None."""

    value: Value
    start: int
    heads: int
    size: int
    rotation: tuple[int, int] | None


class AttentionInputs(NamedTuple):
    """The inputs of one attention."""

    query: Operand
    key: Operand
    value: Operand


class Piece(NamedTuple):
    """What is computed between two attentions."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


class Recording(NamedTuple):
    """A model: the pieces of its stack, which start with `x` and end with hidden states; the
    inputs of the attention after each of them but the last; the head, from `hidden` to logits."""

    x: Value
    positional: tuple[Value, ...]  # the flattened result of family.positional, in order
    pieces: tuple[Piece, ...]
    attentions: tuple[AttentionInputs, ...]
    contexts: tuple[Value, ...]  # output of each attention, before its output projection
    hidden: Value
    head: Piece


def record(family: ModuleType, arch: Arch, shapes: Mapping[str, tuple[int, ...]]) -> Recording:
    """Records a family's stack and head. `shapes` are those of all weights by flat name."""
    recorder = _Recorder(shapes)
    ops, top, layers = recorder.ops(), {}, [dict[str, WeightRef]() for _ in range(arch.n_layer)]
    for name in shapes:
        if name.startswith("layers."):
            _, index, inner = name.split(".")
            layers[int(index)][inner] = WeightRef(name)
        else:
            top[name] = WeightRef(name)
    positional = recorder.leaves(family.positional(ops, arch, top, _Positions()))
    x = start = recorder.value("input", arch.d_model)
    for layer in layers:
        x = family.layer(ops, arch, layer, x, positional, recorder.attend)
    x = family.final(ops, arch, top, x)
    pieces = tuple(_pieces(recorder, x))
    hidden = recorder.value("input", x.width)
    head = Piece((hidden,), (family.head(ops, arch, top, hidden),))
    attentions, contexts = tuple(recorder.attentions), tuple(recorder.contexts)
    return Recording(start, tuple(recorder.inputs), pieces, attentions, contexts, hidden, head)


class _Positions:
    """Positions, of which only arithmetic is known."""

    def __floordiv__(self, other: int) -> _Positions:
        return self

    def __mod__(self, other: int) -> _Positions:
        return self


class _Recorder:
    """The table of operations, and the values recorded so far."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = shapes
        self.inputs: list[Value] = []  # leaves of family.positional
        self.attentions: list[AttentionInputs] = []
        self.contexts: list[Value] = []

    def ops(self) -> Ops:
        return Ops(
            gather=self.gather,
            rotation=self.rotation,
            linear=self.linear,
            rms_norm=self.rms_norm,
            layer_norm=self.layer_norm,
            gelu=self.gelu,
            swiglu=self.swiglu,
            geglu=self.geglu,
            split=self.split,
            heads=self.heads,
            rope=self.rope,
            softcap=self.softcap,
        )

    def value(self, op: str, width: int) -> Value:
        """A value that is not computed by a piece."""
        return Value(self, op, (), width)

    def leaves(self, positional: Any) -> Any:
        """What depends on positions, each tensor of it an input."""
        if isinstance(positional, tuple):
            return tuple(self.leaves(part) for part in positional)
        self.inputs.append(self.value("input", positional.width))
        return self.inputs[-1]

    def gather(self, table: WeightRef, ids: Any) -> Value:
        return self.value("gather", self.shapes[table.name][1])

    def rotation(self, positions: Any, frequency: np.ndarray, scale: float) -> tuple[Value, Value]:
        width = len(frequency)
        return self.value("cosines", width), self.value("sines", width)

    def linear(self, x: Value, weight: WeightRef, bias: WeightRef | None = None) -> Value:
        out = self.shapes[weight.name][0]
        attributes = (weight.name, bias and bias.name, (0, out))
        return Value(self, "linear", (x,), out, attributes)

    def rms_norm(self, x: Value, scale: WeightRef, eps: float, offset: float = 0.0) -> Value:
        if x.head:
            _split_fused_projection(x)
        return Value(self, "rms_norm", (x,), x.width, (scale.name, eps, offset), x.head)

    def layer_norm(self, x: Value, scale: WeightRef, bias: WeightRef, eps: float) -> Value:
        return Value(self, "layer_norm", (x,), x.width, (scale.name, bias.name, eps))

    def gelu(self, x: Value, kind: str) -> Value:
        return Value(self, "gelu", (x,), x.width, (kind,))

    def swiglu(self, x: Value) -> Value:
        return Value(self, "swiglu", (x,), x.width // 2)

    def geglu(self, x: Value) -> Value:
        return Value(self, "geglu", (x,), x.width // 2)

    def softcap(self, x: Value, cap: float | None) -> Value:
        return x if cap is None else Value(self, "softcap", (x,), x.width, (cap,))

    def split(self, x: Value, sizes: Sequence[int]) -> list[Value]:
        starts = itertools.accumulate([0, *sizes[:-1]])
        sliced = zip(starts, sizes, strict=True)
        x.parts = [Value(self, "slice", (x,), size, (start,)) for start, size in sliced]
        return x.parts

    def heads(self, x: Value, size: int) -> Value:
        return Value(self, "heads", (x,), x.width, (), size)

    def rope(self, x: Value, rotation: tuple[Value, Value]) -> Value:
        return Value(self, "rope", (x, *rotation), x.width, (), x.head)

    def attend(self, q: Value, k: Value, v: Value) -> Value:
        """Ends a piece."""
        self.attentions.append(AttentionInputs(*(self._operand(part) for part in (q, k, v))))
        self.contexts.append(self.value("context", q.width // k.head * v.head))
        return self.contexts[-1]

    def _operand(self, x: Value) -> Operand:
        """What attention has still to do to a recorded value."""
        rotation, width, head = None, x.width, x.head
        if x.op == "rope":
            cosines, sines = (self.inputs.index(leaf) for leaf in x.inputs[1:])
            rotation, x = (cosines, sines), x.inputs[0]
        start = 0
        while x.op in ("heads", "slice"):
            start += x.attributes[0] if x.op == "slice" else 0
            x = x.inputs[0]
        return Operand(x, start, width // head, head, rotation)


def _split_fused_projection(x: Value) -> None:
    """Replaces a fused QKV product by one product per part, so that normalising q or k needs no
    copy of a slice."""
    while x.op == "heads":
        x = x.inputs[0]
    if x.op != "slice":
        return
    joint, start = x.inputs[0], 0
    weight, bias, _ = joint.attributes
    for part in joint.parts:
        part.op, part.inputs = "linear", joint.inputs
        part.attributes = (weight, bias, (start, start + part.width))
        start += part.width


def reachable(ends: Sequence[Value], given: Sequence[Value] = ()) -> list[Value]:
    """Every value that `ends` are computed from, themselves included, inputs first; not beyond the
    `given` ones."""
    seen, order = set(map(id, given)), list[Value]()
    waiting = [(value, False) for value in reversed(ends)]
    while waiting:
        value, done = waiting.pop()
        if done:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            waiting.append((value, True))
            waiting += [(inner, False) for inner in reversed(value.inputs)]
    return order


def _pieces(recorder: _Recorder, end: Value) -> list[Piece]:
    """The pieces of the stack. An output of a piece is a value that its attention or a later piece
    reads; it may be an input of the same piece, passed through."""
    values = reachable(
        [end, *(operand.value for attention in recorder.attentions for operand in attention)]
    )
    last = len(recorder.attentions)
    inputs: list[dict[int, Value]] = [{} for _ in range(last + 1)]
    outputs: list[dict[int, Value]] = [{} for _ in range(last + 1)]

    def read(value: Value, piece: int) -> None:
        """Makes a value available in a piece."""
        if value.op == "input" or value.piece < piece:
            inputs[piece][id(value)] = value
        if value.op != "input" and value.piece < piece:
            outputs[value.piece][id(value)] = value
        if value.op == "context":  # only the piece after an attention gets its output
            inputs[value.piece][id(value)] = value

    for number, attention in enumerate(recorder.attentions):
        for operand in attention:
            outputs[number][id(operand.value)] = operand.value
            read(operand.value, number)
    outputs[last][id(end)] = end
    read(end, last)
    for value in values:
        for source in value.inputs:
            read(source, value.piece)
    return [
        Piece(tuple(before.values()), tuple(after.values()))
        for before, after in zip(inputs, outputs, strict=True)
    ]
