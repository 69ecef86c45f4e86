"""Recorded pieces as LiteRT's operators, with weights in the precision asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from gentool.models.quantized import BLOCK, Quantized, packed
from gentool.runtimes.litert import quantize
from gentool.runtimes.litert.graph import GraphWriter, Stored, Weight
from gentool.runtimes.litert.record import Piece, Recording, Value, reachable

Precision = Literal["fp32", "int8", "int4"]
HEAD = "head"  # the subgraph from hidden states to logits


class Weights:
    """A model's weights by flat name: shapes at once, arrays when they are read. A weight may be
    quantised already; `read` gives float arrays of any dtype else."""

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[str], np.ndarray | Quantized],
    ) -> None:
        self.shapes, self.read = shapes, read

    def floats(self, name: str) -> np.ndarray:
        array = self.read(name)
        return array.dequantized() if isinstance(array, Quantized) else array.astype(np.float32)


def lower(recording: Recording, weights: Weights, precision: Precision) -> GraphWriter:
    """The graph of a recording: a subgraph for each piece, by number, and the head's."""
    writer = GraphWriter()
    pieces = {str(number): piece for number, piece in enumerate(recording.pieces)}
    for name, piece in {**pieces, HEAD: recording.head}.items():
        _Lowering(writer, weights, precision, piece).subgraph(name)
    return writer


def stored_precision(name: str, shape: tuple[int, ...], precision: Precision) -> Precision:
    """What the product with a weight [out, in] is stored in. The head of an int4 model is int8: of
    all products it is the one whose errors cost most (tiny-zh: 4.6755 bits a character for 4.6917).
    """
    if precision != "int4":
        return precision
    inner = name.startswith("layers.")
    return "int4" if inner and quantize.fits_int4(shape) else "int8"


class _Lowering:
    """One piece as a subgraph."""

    def __init__(
        self, writer: GraphWriter, weights: Weights, precision: Precision, piece: Piece
    ) -> None:
        self.writer, self.weights, self.precision, self.piece = writer, weights, precision, piece
        self.values = [v for v in reachable(piece.outputs, piece.inputs) if v.op != "heads"]
        self.users: dict[int, list[Value]] = {}
        for value in self.values:
            for source in value.inputs:
                self.users.setdefault(id(source), []).append(value)
        self.outputs = set(map(id, piece.outputs))

    def subgraph(self, name: str) -> None:
        tensors = self.writer.begin(name, [value.width for value in self.piece.inputs])
        at = {id(value): index for value, index in zip(self.piece.inputs, tensors, strict=True)}
        for value in self.values:
            at[id(value)] = self._operator(value, at)
        for value in self.piece.inputs:
            if id(value) in self.outputs:  # LiteRT wants another tensor: a copy of the same shape
                at[id(value)] = self.writer.reshape(at[id(value)], value.width)
        self.writer.end([at[id(value)] for value in self.piece.outputs])

    def _operator(self, value: Value, at: dict[int, int]) -> int:
        writer = self.writer
        inputs = [at[id(_before_heads(source))] for source in value.inputs]
        if value.op in ("add", "sub", "mul"):
            return getattr(writer, value.op)(*inputs)
        if value.op == "mul_number":
            return writer.mul(inputs[0], writer.number(value.attributes[0]))
        if value.op == "linear":
            return self._linear(value, inputs[0])
        if value.op == "rms_norm":
            return self._rms_norm(value, inputs[0])
        if value.op == "layer_norm":
            return self._layer_norm(value, inputs[0])
        if value.op == "gelu":
            return writer.gelu(inputs[0], value.attributes[0] == "gelu_tanh")
        if value.op in ("swiglu", "geglu"):
            gate, up = writer.halves(inputs[0])
            if value.op == "geglu":
                return writer.mul(writer.gelu(gate, True), up)
            return writer.mul(writer.mul(gate, writer.logistic(gate)), up)
        if value.op == "softcap":
            cap = value.attributes[0]
            scaled = writer.mul(inputs[0], writer.number(1 / cap))
            return writer.mul(writer.tanh(scaled), writer.number(cap))
        raise ValueError(f"no operator for {value.op}")

    def _rms_norm(self, value: Value, x: int) -> int:
        writer, (scale, eps, offset) = self.writer, value.attributes
        if value.head:
            x = writer.reshape(x, value.head)
        y = self._rms_normalized(x, eps)
        if not self._folded(value):
            read = functools.partial(self._vector, scale, offset)
            y = writer.mul(y, self._weight(f"{scale} + {offset}", (scale,), read))
        return writer.reshape(y, value.width) if value.head else y

    def _layer_norm(self, value: Value, x: int) -> int:
        writer, (scale, bias, eps) = self.writer, value.attributes
        y = self._rms_normalized(writer.sub(x, writer.mean(x)), eps)
        if self._folded(value):
            return y
        y = writer.mul(y, self._weight(scale, (scale,), functools.partial(self._vector, scale)))
        return writer.add(y, self._weight(bias, (bias,), functools.partial(self._vector, bias)))

    def _rms_normalized(self, x: int, eps: float) -> int:
        """x over the root of its mean square, row by row."""
        writer = self.writer
        mean = writer.mean(writer.mul(x, x))
        return writer.mul(x, writer.rsqrt(writer.add(mean, writer.number(eps))))

    def _folded(self, norm: Value) -> bool:
        """Whether the products that take a norm's output take its scale and bias into their
        weights: in fp32, where that changes no more than rounding."""
        users = self.users.get(id(norm), [])
        only_products = bool(users) and all(user.op == "linear" for user in users)
        return self.precision == "fp32" and only_products and id(norm) not in self.outputs

    def _linear(self, value: Value, x: int) -> int:
        name, bias, (start, stop) = value.attributes
        rows, width = slice(start, stop), self.weights.shapes[name][1]
        source = value.inputs[0]
        folded = source.op in ("rms_norm", "layer_norm") and self._folded(source)
        norm = source if folded else None
        key = f"{name} {start}:{stop}" + (f" of {norm.attributes}" if norm else "")
        shape = (stop - start, width)
        stored = stored_precision(name, self.weights.shapes[name], self.precision)
        if stored == "fp32":
            read = functools.partial(self._product, name, rows, norm)
            weight = Weight("float32", shape, lambda: Stored(read()))
        else:
            weight = _quantized(self.weights, name, rows, shape, stored)
        added = -1
        if bias or (norm is not None and norm.op == "layer_norm"):
            offsets = functools.partial(self._bias, name, bias, rows, norm)
            vector = Weight("float32", shape[:1], lambda: Stored(offsets()))
            added = self.writer.vector(f"bias of {key}", vector)
        return self.writer.linear(x, key, weight, added, stored != "fp32")

    def _weight(self, key: str, names: tuple[str, ...], read: Callable[[], np.ndarray]) -> int:
        weight = Weight("float32", self.weights.shapes[names[0]], lambda: Stored(read()))
        return self.writer.vector(key, weight)

    def _vector(self, name: str, offset: float = 0.0) -> np.ndarray:
        return self.weights.floats(name) + np.float32(offset)

    def _product(self, name: str, rows: slice, norm: Value | None) -> np.ndarray:
        """A weight [out, in] in float32, times the scale of a norm before it."""
        weight = self.weights.floats(name)[rows]
        if norm is None:
            return weight
        offset = norm.attributes[2] if norm.op == "rms_norm" else 0.0
        return weight * self._vector(norm.attributes[0], offset)

    def _bias(self, name: str, bias: str | None, rows: slice, norm: Value | None) -> np.ndarray:
        """A bias [out] in float32, plus the product with the bias of a norm before it."""
        total = self.weights.floats(bias)[rows].astype(np.float64) if bias else 0.0
        if norm is not None and norm.op == "layer_norm":
            weight = self.weights.floats(name)[rows].astype(np.float64)
            total = total + weight @ self._vector(norm.attributes[1]).astype(np.float64)
        return np.asarray(total, np.float64).astype(np.float32)


def _before_heads(value: Value) -> Value:
    """A value without the heads it is seen as."""
    while value.op == "heads":
        value = value.inputs[0]
    return value


def _quantized(
    weights: Weights, name: str, rows: slice, shape: tuple[int, ...], stored: Precision
) -> Weight:
    """A weight in int8 or int4."""

    def quantized() -> Quantized:
        weight = weights.read(name)
        if isinstance(weight, Quantized):
            return Quantized(weight.values[rows], weight.scales[rows])
        return quantize.int8(weight[rows]) if stored == "int8" else quantize.int4(weight[rows])

    def in_bytes() -> Stored:
        values, scales = quantized()
        return Stored(packed(values), scales)

    if stored == "int8":
        return Weight("int8", shape, lambda: Stored(*quantized()))
    return Weight("int4", shape, in_bytes, (shape[0], shape[1] // BLOCK))
