"""How far products change in int8 and int4: relative errors of their weights under the quantiser
that `gentool convert` and LiteRT use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gentool.errors import ModelError
from gentool.models.quantized import INT4, INT8, Quantized
from gentool.models.weights import Weight
from gentool.runtimes.litert import quantize
from gentool.runtimes.litert.lower import stored_precision

MAX_WEIGHTS = 1 << 21  # of a product that are quantised: evenly spread rows of a larger one


class ProductError(NamedTuple):
    """|W - Q| / |W| of a product's weight W and its quantised form Q, by Frobenius norm; int4 is
    None where a product of an int4 model stays int8."""

    name: str
    int8: float
    int4: float | None


def is_quantised(plan: Mapping[str, Weight]) -> bool:
    """Whether the weights are integers already: what they were made of is not known."""
    return any(weight.dtype in (INT8, INT4) for weight in plan.values())


def errors(
    names: Sequence[str],
    plan: Mapping[str, Weight],
    read: Callable[[str], np.ndarray | Quantized],
    seconds: float,
) -> Iterator[ProductError]:
    """The errors of products, in order, until `seconds` are over. `read` gives a weight by name.

    Raises:
        ModelError: a weight is not finite.
    """
    deadline = time.monotonic() + seconds
    for name in names:
        if time.monotonic() > deadline:
            return
        array = read(name)
        if isinstance(array, Quantized):
            continue
        shape = plan[name].shape
        step = -(-shape[0] * shape[1] // MAX_WEIGHTS)
        weight = array[::step].astype(np.float32)
        if not np.isfinite(weight).all():
            raise ModelError(
                f"weight {name} has numbers that are not finite", "restore the model's files"
            )
        in_int4 = stored_precision(name, shape, "int4") == "int4"
        int4 = relative(weight, quantize.int4(weight)) if in_int4 else None
        yield ProductError(name, relative(weight, quantize.int8(weight)), int4)


def relative(weight: np.ndarray, quantised: Quantized) -> float:
    """The norm of the difference over that of the weight; 0 for a weight of zeros."""
    difference = np.linalg.norm((weight - quantised.dequantized()).astype(np.float64))
    return float(difference / (np.linalg.norm(weight.astype(np.float64)) or 1.0))
