"""Column blocks [C, out, in/C] of 16-bit weights with many inputs. XLA on a CPU fuses the cast of a
block with its product only if the inputs take less than 16 KiB in float32.
"""

from __future__ import annotations

import numpy as np

VECTOR = 32  # inputs of 16 bits in 64 bytes
MAX_FUSED_INPUTS = 4064  # less than 16 KiB in float32, and a multiple of VECTOR


def column_block_count(inputs: int) -> int:
    """The number of column blocks of a 16-bit weight [out, inputs]: the fewest that XLA fuses with
    their cast and that begin at TensorFlow's alignment."""
    for count in range(1, inputs // VECTOR + 1):
        if inputs % (count * VECTOR) == 0 and inputs // count <= MAX_FUSED_INPUTS:
            return count
    return 1


def stored_shape(name: str, shape: tuple[int, ...], dtype: np.dtype) -> tuple[int, ...]:
    """The shape in which a weight of this dtype is stored: 16-bit matrices of layers with many
    inputs are in column blocks."""
    if dtype.itemsize > 2 or len(shape) != 2 or not name.startswith("layers."):
        return shape
    count = column_block_count(shape[1])
    return shape if count == 1 else (count, shape[0], shape[1] // count)


def blocked(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A weight [out, in] reshaped to `shape`, which is its own or that of its column blocks."""
    return array if array.shape == shape else array.reshape(shape[1], shape[0], -1).swapaxes(0, 1)


def unblocked(array: np.ndarray) -> np.ndarray:
    """A weight as [out, in], of one that may be in column blocks."""
    return array.swapaxes(0, 1).reshape(array.shape[1], -1) if array.ndim == 3 else array
