"""One optimiser step as one graph: forward and backward in bfloat16 through oneDNN's products with
compiled glue between them, float32 master weights, AdamW with clipping by the global norm. On two
AVX-512 cores this runs 1.9 times as fast as the same step as one float32 XLA program.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from gentool.config.model import Arch
from gentool.models.transformer import forward
from gentool.models.weights import nested
from gentool.runtimes.ops import Tensor
from gentool.runtimes.xla.attention import causal_attention
from gentool.runtimes.xla.ops import compiled, graph_fused
from gentool.training.recipe import Optimizer

COMPUTE = tf.bfloat16


class State(NamedTuple):
    """Weights by name, and Adam's two moments beside them."""

    weights: dict[str, tf.Variable]
    mean: dict[str, tf.Variable]
    square: dict[str, tf.Variable]


def initial(family: ModuleType, arch: Arch, seed: int) -> State:
    """Weights drawn from N(0, 0.02), those that add to the residual stream smaller by sqrt(2 L), as
    GPT-2 (Radford et al. 2019); norms start at one."""
    rng = np.random.default_rng(seed)
    shapes = dict(family.top_tensors(arch))
    for index in range(arch.n_layer):
        shapes |= {f"layers.{index}.{k}": s for k, s in family.layer_tensors(arch, index).items()}
    weights = {}
    for name, shape in shapes.items():
        adds = name.endswith((".attention_out", ".down"))
        deviation = 0.02 / math.sqrt(2 * arch.n_layer) if adds else 0.02
        value = np.ones(shape) if len(shape) == 1 else np.asarray(rng.normal(0, deviation, shape))
        weights[name] = tf.Variable(value, dtype=tf.float32)
    zeros = [{k: tf.Variable(tf.zeros_like(v)) for k, v in weights.items()} for _ in range(2)]
    return State(weights, *zeros)


@compiled
def _log_normalizer(logits: Tensor) -> Tensor:
    return tf.reduce_logsumexp(tf.cast(logits, tf.float32), axis=-1)


@compiled
def _softmax_error(logits: Tensor, targets: Tensor, normalizer: Tensor, scale: Tensor) -> Tensor:
    p = tf.exp(tf.cast(logits, tf.float32) - normalizer[:, None])
    hit = tf.range(logits.shape[-1])[None] == targets[:, None]
    return tf.cast((p - tf.cast(hit, tf.float32)) * scale[:, None], logits.dtype)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Callable[..., Any]]:
    """-log p(target) [N] of logits [N, V]; its own gradient, so that no [N, V] array in float32
    is ever kept."""
    normalizer = _log_normalizer(logits)
    chosen = tf.cast(tf.gather(logits, targets, batch_dims=1), tf.float32)

    def gradient(upstream: Tensor) -> tuple[Tensor, None]:
        return _softmax_error(logits, targets, normalizer, upstream), None

    return normalizer - chosen, gradient


@compiled
def _dropped(x: Tensor, after: Tensor, drawn: Tensor, rate: Tensor) -> Tensor:
    """x with what a layer added to it but for the share `rate` (Srivastava et al. 2014), by numbers
    drawn evenly from 0 to 1."""
    kept = tf.cast(drawn >= rate, x.dtype)
    return x + (after - x) * kept / tf.cast(1.0 - rate, x.dtype)


def token_losses(
    family: ModuleType,
    arch: Arch,
    weights: dict[str, Tensor],
    ids: Tensor,
    dropout: float = 0.0,
    step: Tensor | int = 0,
) -> Tensor:
    """Nats of each predicted token of windows ids [N, T+1]: [N, T]. What is dropped follows from
    the number of the step."""
    n, t = tf.shape(ids)[0], ids.shape[1] - 1
    positions = tf.broadcast_to(tf.range(t)[None], [n, t])
    params = nested(weights, arch.n_layer)

    def run_layer(index: int, w: dict[str, Tensor], x: Tensor, positional: Any) -> Tensor:
        x = tf.ensure_shape(tf.cast(x, COMPUTE), [ids.shape[0], t, arch.d_model])

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return causal_attention(arch, index, q, k, v)

        after = family.layer(graph_fused, arch, w, x, positional, attend)
        if not dropout:
            return after
        # not in the compiled part: XLA draws a hundred times more slowly
        drawn = tf.random.stateless_uniform(tf.shape(x), [tf.cast(step, tf.int32), index])
        return _dropped(x, tf.cast(after, x.dtype), drawn, tf.constant(dropout))

    x = forward(family, graph_fused, arch, params, ids[:, :-1], positions, run_layer)
    x = family.final(graph_fused, arch, params.top, tf.reshape(x, [-1, arch.d_model]))
    logits = family.head(graph_fused, arch, params.top, x)
    return tf.reshape(_cross_entropy(logits, tf.reshape(ids[:, 1:], [-1])), [n, t])


@compiled
def _adamw(
    weight: tf.Variable,
    mean: tf.Variable,
    square: tf.Variable,
    gradient: Tensor,
    clip: Tensor,
    rate: Tensor,
    step: Tensor,
    decay: Tensor,
    beta1: Tensor,
    beta2: Tensor,
) -> None:
    """Decoupled weight decay (Loshchilov & Hutter 2019); all three variables in place."""
    gradient = tf.cast(gradient, tf.float32) * clip
    mean.assign(beta1 * mean + (1 - beta1) * gradient)
    square.assign(beta2 * square + (1 - beta2) * tf.square(gradient))
    unbiased = tf.sqrt(square / (1 - beta2**step)) + 1e-8
    weight.assign_sub(rate * (mean / (1 - beta1**step) / unbiased + decay * weight))


class Functions(NamedTuple):
    """What a run calls: train(ids [N, T+1], rate, step) learns and gives the mean loss and the
    gradient's norm; losses(ids [N, T+1]) gives [N, T] nats and learns nothing."""

    train: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    losses: Callable[[Tensor], Tensor]


def make(family: ModuleType, arch: Arch, state: State, o: Optimizer) -> Functions:
    """The compiled functions over `state`, which they update in place."""

    def train(ids: Tensor, rate: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        with tf.GradientTape() as tape:
            found = token_losses(family, arch, state.weights, ids, o.dropout, step)
            loss = tf.reduce_mean(found)
        names = list(state.weights)
        gradients = tape.gradient(loss, [state.weights[name] for name in names])
        gradients = [tf.convert_to_tensor(g) for g in gradients]  # the gather's is sparse
        norm = tf.linalg.global_norm(gradients)

        def update() -> Tensor:
            clip = tf.minimum(1.0, o.clip / (norm + 1e-6))
            for name, gradient in zip(names, gradients, strict=True):
                slot = (state.weights[name], state.mean[name], state.square[name])
                decay = o.weight_decay if len(slot[0].shape) > 1 else 0.0
                constants = [tf.constant(x) for x in (decay, o.beta1, o.beta2)]
                _adamw(*slot, gradient, clip, rate, step, *constants)
            return norm

        # a step that is no number changes nothing, so the weights can still be saved
        tf.cond(tf.math.is_finite(norm), update, lambda: norm)
        return loss, norm

    def losses(ids: Tensor) -> Tensor:
        return token_losses(family, arch, state.weights, ids)

    return Functions(*(tf.function(f, autograph=False) for f in (train, losses)))
