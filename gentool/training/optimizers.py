"""AdamW and AdaFactor: what each keeps beside a weight, and how it changes a weight. Keras' own
AdaFactor computes the same numbers, but keeps the whole second moment in memory, not its factors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import tensorflow as tf

from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla.ops import compiled
from gentool.training.recipe import Optimizer

EPSILON = 1e-8  # AdamW's, added to the root of the second moment
MIN_SQUARE = 1e-30  # AdaFactor's epsilon 1, added to the square of a gradient
MIN_SCALE = 1e-3  # AdaFactor's epsilon 2, the least root mean square of a weight
DECAY = -0.8  # AdaFactor's second moment at step t keeps 1 - t^DECAY of the one before

Shape = tuple[int, ...]
Slots = Mapping[str, tf.Variable]  # what is kept beside a weight, by name


class Method(NamedTuple):
    """`slots` gives the shapes of what is kept beside a weight of a shape, by name; `update`
    changes weight and slots in place: (weight, slots, gradient, rate, step, decay, o)."""

    slots: Callable[[Shape], dict[str, Shape]]
    update: Callable[[tf.Variable, Slots, Tensor, Tensor, Tensor, float, Optimizer], None]


@compiled
def _adamw(
    weight: tf.Variable,
    mean: tf.Variable,
    square: tf.Variable,
    gradient: Tensor,
    rate: Tensor,
    step: Tensor,
    decay: Tensor,
    beta1: Tensor,
    beta2: Tensor,
) -> None:
    """Decoupled weight decay (Loshchilov & Hutter 2019); all three variables in place."""
    mean.assign(beta1 * mean + (1 - beta1) * gradient)
    square.assign(beta2 * square + (1 - beta2) * tf.square(gradient))
    unbiased = tf.sqrt(square / (1 - beta2**step)) + EPSILON
    weight.assign_sub(rate * (mean / (1 - beta1**step) / unbiased + decay * weight))


def _update_adamw(
    weight: tf.Variable,
    slots: Slots,
    gradient: Tensor,
    rate: Tensor,
    step: Tensor,
    decay: float,
    o: Optimizer,
) -> None:
    constants = map(tf.constant, (decay, o.beta1, o.beta2))
    _adamw(weight, slots["mean"], slots["square"], gradient, rate, step, *constants)


def _root_mean_square(x: Tensor) -> Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(x)))


@compiled
def _adafactor(
    weight: tf.Variable,
    slots: Slots,
    gradient: Tensor,
    rate: Tensor,
    step: Tensor,
    decay: Tensor,
) -> None:
    """AdaFactor (Shazeer & Stern 2018) as Keras computes it: the second moment of a matrix [R, C]
    is the product of means over its rows [R] and columns [C]; updates are clipped at a root mean
    square of 1, and the rate is relative to that of the weight."""
    kept = 1.0 - step**DECAY
    square = tf.square(gradient) + MIN_SQUARE
    if "row" in slots:
        row, column = slots["row"], slots["column"]
        row.assign(kept * row + (1 - kept) * tf.reduce_mean(square, axis=-1))
        column.assign(kept * column + (1 - kept) * tf.reduce_mean(square, axis=-2))
        moment = (row / tf.reduce_mean(row))[:, None] * column[None]
    else:
        slots["square"].assign(kept * slots["square"] + (1 - kept) * square)
        moment = tf.convert_to_tensor(slots["square"])
    update = gradient * tf.math.rsqrt(moment)
    update /= tf.maximum(1.0, _root_mean_square(update))
    decayed = weight * (1 - rate * decay)
    scale = tf.maximum(MIN_SCALE, _root_mean_square(decayed))
    weight.assign(decayed - tf.minimum(rate, tf.math.rsqrt(step)) * scale * update)


def _update_adafactor(
    weight: tf.Variable,
    slots: Slots,
    gradient: Tensor,
    rate: Tensor,
    step: Tensor,
    decay: float,
    o: Optimizer,
) -> None:
    _adafactor(weight, dict(slots), gradient, rate, step, tf.constant(decay))


def _factors(shape: Shape) -> dict[str, Shape]:
    return {"row": shape[:1], "column": shape[1:]} if len(shape) == 2 else {"square": shape}


METHODS = {
    "adamw": Method(lambda shape: {"mean": shape, "square": shape}, _update_adamw),
    "adafactor": Method(_factors, _update_adafactor),
}
