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
from gentool.runtimes import memory
from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla import device

ALIGNMENT = 64  # bytes, of TensorFlow's tensors
CAST_ELEMENTS = 1 << 22  # elements cast at a time


def load(source: TensorSource, plan: Mapping[str, Weight], n_layer: int, dtype: tf.DType) -> Params:
    """Loads the weights of a plan and converts them to `dtype`. NotEnoughMemory if they need more
    than what is free; those in the memory of the mapped file need none."""
    numpy_dtype = np.dtype(dtype.as_numpy_dtype)
    _check_memory(source, plan, numpy_dtype)
    tensors = {}
    for name, weight in plan.items():
        shape = stored_shape(name, weight.shape, numpy_dtype)
        arrays = parts(source, weight)
        usable = _is_usable(arrays, shape, numpy_dtype)
        array = arrays[0] if usable else _concatenated(arrays, weight.shape, shape, numpy_dtype)
        tensors[name] = _tensor(array)
    return nested(tensors, n_layer)


def _check_memory(source: TensorSource, plan: Mapping[str, Weight], dtype: np.dtype) -> None:
    """Raises NotEnoughMemory. Which weights are copied is only looked up if all do not fit."""
    sizes = {name: math.prod(weight.shape) * dtype.itemsize for name, weight in plan.items()}
    needed, free = sum(sizes.values()), device.free_memory()
    if free is None or needed <= free:
        return
    if device.kind() == "CPU":
        shapes = {name: stored_shape(name, weight.shape, dtype) for name, weight in plan.items()}
        mapped = (n for n, w in plan.items() if _is_usable(parts(source, w), shapes[n], dtype))
        needed -= sum(sizes[name] for name in mapped)
    memory.check(needed, free)


def _is_usable(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether TensorFlow can use the own memory of the only array of a weight."""
    array, flags = arrays[0], arrays[0].flags
    fits = len(arrays) == 1 and array.shape == shape and array.dtype == dtype
    return fits and flags.c_contiguous and flags.writeable and array.ctypes.data % ALIGNMENT == 0


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
