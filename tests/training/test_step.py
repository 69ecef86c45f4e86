"""The training step computes the same model as the engine, its gradient, and AdamW."""

import numpy as np
import pytest
import tensorflow as tf
from oracle import numpy_llama
from tiny import TINY

from gentool.models import llama
from gentool.training import step, trainer
from gentool.training.recipe import Optimizer

OPTIMIZER = Optimizer(tokens=1, batch=1, learning_rate=1e-2, clip=1e9)
IDS = np.random.default_rng(0).integers(0, TINY.n_vocab, (3, 33)).astype(np.int32)


def test_token_losses_are_those_of_the_reference(tiny_weights):
    gentle = {n: w * 0.3 if w.ndim > 1 else w for n, w in tiny_weights.items()}
    found = step.token_losses(llama, TINY, {n: tf.constant(w) for n, w in gentle.items()}, IDS)
    for row, ids in zip(found.numpy(), IDS, strict=True):
        logits = numpy_llama.logits(TINY, gentle, ids[:-1])
        normalizer = np.log(np.exp(logits).sum(-1))
        wanted = normalizer - logits[np.arange(32), ids[1:]]
        np.testing.assert_allclose(row, wanted, atol=0.05)  # bfloat16


def test_cross_entropy_has_the_gradient_of_its_definition():
    logits = tf.constant(np.random.default_rng(1).normal(size=(5, 9)), tf.float32)
    targets = tf.constant([0, 8, 3, 3, 1])
    weight = tf.constant([1.0, 2.0, 0.5, 1.0, 3.0])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        ours = tf.reduce_sum(weight * step._cross_entropy(logits, targets))
        plain = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        theirs = tf.reduce_sum(weight * plain)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(
        tape.gradient(ours, logits), tape.gradient(theirs, logits), atol=1e-6
    )


def test_adamw_is_that_of_the_paper():
    rng = np.random.default_rng(2)
    weight, mean, square = (tf.Variable(rng.random(4), dtype=tf.float32) for _ in range(3))
    w, m, s = (v.numpy().astype(np.float64) for v in (weight, mean, square))
    g = rng.normal(size=4)
    arguments = [0.5, 0.01, 3.0, 0.1, 0.9, 0.95]  # clip, rate, step, decay, betas
    step._adamw(weight, mean, square, tf.constant(g, tf.float32), *map(tf.constant, arguments))
    m, s = 0.9 * m + 0.1 * (0.5 * g), 0.95 * s + 0.05 * (0.5 * g) ** 2
    w -= 0.01 * (m / (1 - 0.9**3) / (np.sqrt(s / (1 - 0.95**3)) + 1e-8) + 0.1 * w)
    np.testing.assert_allclose(weight, w, rtol=1e-5)
    np.testing.assert_allclose(mean, m, rtol=1e-5)


def test_a_batch_can_be_learnt_by_heart():
    state = step.initial(llama, TINY, seed=0)
    functions = step.make(llama, TINY, state, OPTIMIZER)
    before = float(tf.reduce_mean(functions.losses(IDS)))
    for number in range(60):
        functions.train(tf.constant(IDS), tf.constant(1e-2), tf.constant(number + 1.0))
    after = float(tf.reduce_mean(functions.losses(IDS)))
    assert before == pytest.approx(np.log(TINY.n_vocab), abs=0.1)
    assert after < 1.0


def test_a_step_that_is_no_number_changes_nothing():
    """Found in review: the loss is that before the update, so it can be finite while the gradient
    is not, and the weights were lost with the next checkpoint."""
    state = step.initial(llama, TINY, seed=0)
    huge = state.weights["layers.0.down"]
    huge.assign(tf.fill(huge.shape, np.inf))
    before = {name: value.numpy() for name, value in state.weights.items()}
    functions = step.make(llama, TINY, state, OPTIMIZER)
    _, norm = functions.train(tf.constant(IDS), tf.constant(1e-2), tf.constant(1.0))
    assert not np.isfinite(norm)
    for name, value in state.weights.items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_dropout_leaves_the_mean_and_follows_from_the_step():
    rng = np.random.default_rng(3)
    x, added = (tf.constant(rng.normal(size=(64, 64)), tf.float32) for _ in range(2))
    drawn = tf.random.stateless_uniform([64, 64], [7, 0])
    rest = (step._dropped(x, x + added, drawn, tf.constant(0.25)) - x) / added
    assert set(np.round(rest.numpy(), 2).flat) == {0.0, np.float32(1.33)}
    assert float(tf.reduce_mean(rest)) == pytest.approx(1, abs=0.05)
    state = step.initial(llama, TINY, seed=0)

    def losses(number: int, rate: float) -> list[float]:
        found = step.token_losses(llama, TINY, state.weights, tf.constant(IDS), rate, number)
        return found.numpy().ravel().tolist()

    assert losses(1, 0.5) == losses(1, 0.5)
    assert losses(1, 0.5) != losses(2, 0.5)
    assert losses(1, 0.0) == losses(2, 0.0)


def test_the_learning_rate_stays_before_it_falls():
    o = Optimizer(tokens=1, batch=1, learning_rate=1.0, warmup=0.1, stable=0.5, final=0.2)
    assert trainer.learning_rate(o, 0.05) < 1.0
    assert trainer.learning_rate(o, 0.1) == trainer.learning_rate(o, 0.6) == pytest.approx(1.0)
    assert trainer.learning_rate(o, 0.8) == pytest.approx(0.6)
    assert trainer.learning_rate(o, 1.0) == pytest.approx(0.2)


def test_the_learning_rate_warms_up_and_follows_a_cosine():
    o = Optimizer(tokens=1, batch=1, learning_rate=1.0, warmup=0.1, final=0.2)
    assert trainer.learning_rate(o, 0.0) < 0.02
    assert trainer.learning_rate(o, 0.1) == pytest.approx(1.0)
    assert trainer.learning_rate(o, 0.55) == pytest.approx(0.6)
    assert trainer.learning_rate(o, 1.0) == pytest.approx(0.2)
