"""The final norm and the head of any family, read off the recording of its stack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from gentool.errors import ModelError
from gentool.models.quantized import Quantized
from gentool.runtimes.litert.record import Recording, Value

MONOTONE = ("softcap",)  # operations after the head that keep the order of logits
ROW_BLOCK = 8192  # rows of the head that are converted to float32 at a time


class OutputLayer(NamedTuple):
    """logits = weight @ (gain * n + shift) + bias, where n is the normalised residual stream. Its
    RMS norm has any direction and length sqrt(D); after a layer norm its mean is 0, too; without a
    norm n is anything."""

    weight: np.ndarray  # [V, D] in the file's dtype
    bias: np.ndarray  # [V] float64
    gain: np.ndarray  # [D] float64
    shift: np.ndarray  # [D] float64
    norm: Literal["rms", "layer", "none"]
    eps: float

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    @property
    def radius(self) -> float:
        """The length of n, infinite without a norm."""
        return float("inf") if self.norm == "none" else self.width**0.5


def head_name(recording: Recording) -> str:
    """The name of the head's matrix: the embedding's where they are tied."""
    return str(_head(recording).attributes[0])


def read_output_layer(
    recording: Recording, read: Callable[[str], np.ndarray | Quantized]
) -> OutputLayer:
    """The output layer of a recorded stack. `read` gives a weight by its name.

    Raises:
        ModelError: a weight is not finite.
    """
    matrix, bias, _ = _head(recording).attributes
    weight = floats(matrix, read)
    width = weight.shape[1]
    biases = floats(bias, read).astype(np.float64) if bias else np.zeros(len(weight))
    hidden = recording.pieces[-1].outputs[0]
    if hidden.op == "rms_norm":
        scale, eps, offset = hidden.attributes
        # the runtimes add the offset in float32
        gain = floats(scale, read).astype(np.float32) + np.float32(offset)
        return OutputLayer(
            weight, biases, gain.astype(np.float64), np.zeros(width), "rms", float(eps)
        )
    if hidden.op == "layer_norm":
        scale, shift, eps = hidden.attributes
        gain, shift = (floats(name, read).astype(np.float64) for name in (scale, shift))
        return OutputLayer(weight, biases, gain, shift, "layer", float(eps))
    return OutputLayer(weight, biases, np.ones(width), np.zeros(width), "none", 0.0)


def floats(name: str, read: Callable[[str], np.ndarray | Quantized]) -> np.ndarray:
    """A weight of at most 32 bits, which are finite; a view of the file where possible.

    Raises:
        ModelError: one is not.
    """
    array = read(name)
    array = array.dequantized() if isinstance(array, Quantized) else array
    array = array.astype(np.float32) if array.dtype == np.float64 else array
    for start in range(0, len(array), ROW_BLOCK):
        if not np.isfinite(array[start : start + ROW_BLOCK]).all():
            raise ModelError(
                f"weight {name} has numbers that are not finite", "restore the model's files"
            )
    return array


def _head(recording: Recording) -> Value:
    """The product of the head."""
    value = recording.head.outputs[0]
    while value.op in MONOTONE:
        value = value.inputs[0]
    if value.op != "linear":
        raise ValueError(f"the head ends in {value.op}")
    return value


def normalized(layer: OutputLayer, x: np.ndarray) -> np.ndarray:
    """n [..., D] float64 of the residual stream x [..., D]."""
    x = x.astype(np.float64)
    if layer.norm == "none":
        return x
    if layer.norm == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + layer.eps)


def project(layer: OutputLayer, vectors: np.ndarray) -> np.ndarray:
    """The part of vectors [..., D] that n can have: after a layer norm those of mean 0."""
    if layer.norm == "layer":
        return vectors - vectors.mean(axis=-1, keepdims=True)
    return vectors
