"""Weights of a checkpoint as tensors, in the memory of the mapped file where possible."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from gentool.checkpoints import TensorSource
from gentool.checkpoints.maps import forget
from gentool.models.column_blocks import stored_shape, unblocked
from gentool.models.transformer import Params
from gentool.models.weights import Weight, nested, parts
from gentool.runtimes.ops import Tensor

ALIGNMENT = 64  # bytes, of TensorFlow's tensors
CAST_ELEMENTS = 1 << 22  # elements cast at a time


def load(source: TensorSource, plan: Mapping[str, Weight], n_layer: int, dtype: tf.DType) -> Params:
    """Loads the weights of a plan and converts them to `dtype`."""
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    tensors = {}
    for name, weight in plan.items():
        shape = stored_shape(name, weight.shape, numpy_dtype)
        array, *more = arrays = parts(source, weight)
        if more or array.shape != shape or array.dtype != numpy_dtype or not _is_aligned(array):
            array = _concatenated(arrays, weight.shape, shape, numpy_dtype)
        tensors[name] = _tensor(array)
    return nested(tensors, n_layer)


def _is_aligned(array: np.ndarray) -> bool:
    """Whether TensorFlow can use the array's own memory."""
    flags = array.flags
    return flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0


def _concatenated(
    arrays: list[np.ndarray], shape: tuple[int, ...], stored: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Concatenates arrays to an array of another dtype and of shape `stored`. Its memory is
    allocated by numpy, which requests huge pages: the first write to TensorFlow's own memory takes
    8 microseconds for every 4 kB."""
    space = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -space.ctypes.data % ALIGNMENT
    out = space[start : start + len(space) - ALIGNMENT].view(dtype).reshape(stored)
    rows = out if stored == shape else out.swapaxes(0, 1)  # [out, C, in/C]
    row = 0
    for array in arrays:
        weight = unblocked(array)
        step = max(1, CAST_ELEMENTS // max(1, math.prod(weight.shape[1:])))
        for first in range(0, len(weight), step):
            part = weight[first : first + step]
            if part.dtype != dtype:
                part = tf.cast(tf.constant(part), dtype).numpy()
            rows[row : row + len(part)] = part.reshape(len(part), *rows.shape[1:])
            row += len(part)
        forget(array)
    return out


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor that, on a CPU, shares the array's memory, which may be a mapped file. bfloat16 is
    passed as bits, because numpy itself has no bfloat16."""
    if array.size == 0 or tf.config.list_logical_devices("GPU"):
        return tf.constant(array)
    bits: Any = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
    tensor = tf.experimental.dlpack.from_dlpack(bits.__dlpack__())
    return tf.bitcast(tensor, tf.as_dtype(array.dtype))
