"""16-bit weights of many inputs in column blocks [C, out, in/C]: XLA on a CPU fuses the cast of a
block with its product only if the inputs take less than 16 KiB in float32.
"""

from __future__ import annotations

import numpy as np

VECTOR = 32  # inputs of 16 bits in 64 bytes
MAX_FUSED_INPUTS = 4064  # less than 16 KiB, and whole vectors


def column_block_count(inputs: int) -> int:
    """The number of column blocks of a 16-bit weight [out, inputs]: as few as XLA can fuse with
    their cast, each beginning where TensorFlow wants memory to begin."""
    for count in range(1, inputs // VECTOR + 1):
        if inputs % (count * VECTOR) == 0 and inputs // count <= MAX_FUSED_INPUTS:
            return count
    return 1


def stored_shape(name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """The shape a weight of this dtype is kept in: products of many inputs of a layer, in 16 bits,
    in column blocks."""
    if dtype.itemsize > 2 or len(shape) != 2 or not name.startswith("layers."):
        return shape
    count = column_block_count(shape[1])
    return shape if count == 1 else (count, shape[0], shape[1] // count)


def blocked(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A weight [out, in] in this shape, which is its own or that of its column blocks."""
    return array if array.shape == shape else array.reshape(shape[1], shape[0], -1).swapaxes(0, 1)


def unblocked(array: np.ndarray) -> np.ndarray:
    """A weight as [out, in], whether it is in column blocks or not."""
    return array.swapaxes(0, 1).reshape(array.shape[1], -1) if array.ndim == 3 else array
