"""A checkpoint's arrays as tensors, on the file's own memory where that can be."""

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

ALIGNMENT = 64  # bytes, that TensorFlow wants
CAST_ELEMENTS = 1 << 22  # cast at a time


def load(source: TensorSource, plan: Mapping[str, Weight], n_layer: int, dtype: tf.DType) -> Params:
    """Weights stored in `dtype`, whatever the file's own type is."""
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    tensors = {}
    for name, weight in plan.items():
        shape = stored_shape(name, weight.shape, numpy_dtype)
        array, *more = arrays = parts(source, weight)
        if more or array.shape != shape or array.dtype != numpy_dtype or not _usable(array):
            array = _joined(arrays, weight.shape, shape, numpy_dtype)
        tensors[name] = _tensor(array)
    return nested(tensors, n_layer)


def _usable(array: np.ndarray) -> bool:
    """Whether TensorFlow can compute on the array's own memory."""
    flags = array.flags
    return flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0


def _joined(
    arrays: list[np.ndarray], shape: tuple[int, ...], kept: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Arrays one after another in one of another type, of shape `kept`. Its memory is numpy's,
    which asks for huge pages: TensorFlow's own takes 8 microseconds for every 4 kB when it is
    first written."""
    space = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -space.ctypes.data % ALIGNMENT
    whole = space[start : start + len(space) - ALIGNMENT].view(dtype).reshape(kept)
    rows = whole if kept == shape else whole.swapaxes(0, 1)  # [out, C, in/C]
    row = 0
    for array in arrays:
        part = unblocked(array)
        step = max(1, CAST_ELEMENTS // max(1, math.prod(part.shape[1:])))
        for first in range(0, len(part), step):
            piece = part[first : first + step]
            if piece.dtype != dtype:
                piece = tf.cast(tf.constant(piece), dtype).numpy()
            rows[row : row + len(piece)] = piece.reshape(len(piece), *rows.shape[1:])
            row += len(piece)
        forget(array)
    return whole


def _tensor(array: np.ndarray) -> Tensor:
    """A tensor on the array's memory, which on a CPU may be a file's map; numpy has no bfloat16 of
    its own to hand over."""
    if array.size == 0 or tf.config.list_logical_devices("GPU"):
        return tf.constant(array)
    bits: Any = array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array
    tensor = tf.experimental.dlpack.from_dlpack(bits.__dlpack__())
    return tf.bitcast(tensor, tf.as_dtype(array.dtype))
