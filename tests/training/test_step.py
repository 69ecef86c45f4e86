"""The training step computes the same model as the engine, its gradient, and the updates of AdamW
and AdaFactor."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
import tensorflow as tf
from oracle import numpy_llama
from tiny import TINY

from gentool.config.model import FAMILIES, Arch
from gentool.models import llama, load_family
from gentool.training import optimizers, step
from gentool.training.packing import Batch, Text, pack
from gentool.training.recipe import Optimizer

OPTIMIZER = Optimizer(batch=1, learning_rate=1e-2, clip=1e9)
FP32 = OPTIMIZER.model_copy(update={"precision": "fp32"})
IDS = np.random.default_rng(0).integers(0, TINY.n_vocab, (3, 33)).astype(np.int32)


def rows(ids: np.ndarray) -> Batch:
    """Each row of ids [N, T+1] as a text."""
    positions = np.broadcast_to(np.arange(ids.shape[1] - 1, dtype=np.int32), ids[:, 1:].shape)
    learnt = np.ones(positions.shape, np.float32)
    return Batch(ids[:, :-1], ids[:, 1:], positions, np.zeros_like(positions), learnt)


def model_of(weights: dict[str, np.ndarray], o: Optimizer) -> tuple[step.Model, step.State]:
    state = step.variables(weights.items(), o)
    return step.Model(llama, TINY, step.all_weights(state, TINY.n_layer)), state


@pytest.fixture
def gentle(tiny_weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: w * 0.3 if w.ndim > 1 else w for n, w in tiny_weights.items()}


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bf16", 0.05), ("fp16", 0.01), ("fp32", 1e-4)]
)
def test_token_losses_are_those_of_the_reference(
    gentle: dict[str, np.ndarray], precision: str, tolerance: float
) -> None:
    o = OPTIMIZER.model_copy(update={"precision": precision})
    model, _ = model_of(gentle, o)
    for row, ids in zip(step.token_losses(model, rows(IDS), o).numpy(), IDS, strict=True):
        logits = numpy_llama.logits(TINY, gentle, ids[:-1])
        normalizer = np.log(np.exp(logits).sum(-1))
        wanted = normalizer - logits[np.arange(32), ids[1:]]
        np.testing.assert_allclose(row, wanted, atol=tolerance)


def test_texts_in_a_row_do_not_see_each_other(gentle: dict[str, np.ndarray]) -> None:
    """A text's losses are those that it has alone, wherever it is packed."""
    model, _ = model_of(gentle, FP32)
    texts = [
        Text(ids[:size].tolist(), [True] * size) for ids, size in zip(IDS, (9, 14, 20), strict=True)
    ]
    packed = pack(texts, 32)
    assert packed.ids.shape == (2, 32)
    losses = step.token_losses(model, packed, FP32).numpy()
    seen = 0
    for row, number in itertools.product(range(2), range(1, 4)):
        place = (packed.segments[row] == number) & (packed.learnt[row] > 0)
        for text in texts:
            if packed.targets[row][place].tolist() == list(text.ids[1:]):
                alone = rows(np.array([text.ids], np.int32))
                wanted = step.token_losses(model, alone, FP32).numpy()[0]
                np.testing.assert_allclose(losses[row][place], wanted, rtol=1e-4, atol=1e-5)
                seen += 1
    assert seen == 3


# Numbers of an Arch that make a family use all that it has.
ARCHS: dict[str, dict[str, object]] = {
    "gpt2": {"activation": "gelu_erf", "log_n": 8, "hierarchical_alpha": 0.4, "n_position": 6},
    "gemma2": {
        "window": 3,
        "window_layers": [0],
        "score_cap": 5.0,
        "logit_cap": 8.0,
        "query_scale": 12.0,
    },
    "qwen2": {"tied_head": False},
}


def tiny(name: str) -> tuple[ModuleType, Arch, dict[str, np.ndarray]]:
    """A family at a tiny shape with random weights."""
    family = load_family(name)
    rotary = FAMILIES[name] == "rotary"
    numbers = dict(n_layer=2, n_head=4, d_model=16, d_head=4, d_ff=12, n_vocab=20, n_ctx=16)
    arch = Arch.model_validate(numbers | {"n_kv_head": 2 if rotary else 4} | ARCHS.get(name, {}))
    rng = np.random.default_rng(5)
    shapes = dict(family.top_tensors(arch))
    for i in range(arch.n_layer):
        shapes |= {f"layers.{i}.{k}": s for k, s in family.layer_tensors(arch, i).items()}
    arrays = {n: rng.normal(0, 0.4, s) + (len(s) == 1) * 0.5 for n, s in shapes.items()}
    return family, arch, arrays


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_the_slopes_of_the_loss(name: str, recompute: bool) -> None:
    """Along random directions in all weights, at two texts in a row; and along each weight's own
    gradient, which must not be missing."""
    family, arch, arrays = tiny(name)
    o = FP32.model_copy(update={"recompute": recompute})
    state = step.variables(arrays.items(), o)
    model = step.Model(family, arch, step.all_weights(state, arch.n_layer))
    rng = np.random.default_rng(6)
    ids = rng.integers(0, arch.n_vocab, (2, 13))
    texts = [Text(ids[0, :8].tolist(), [True] * 8), Text(ids[1, :6].tolist(), [True] * 6)]
    batch = Batch(*map(tf.constant, pack(texts, 13)))

    @tf.function(autograph=False)
    def loss() -> tf.Tensor:
        return tf.reduce_sum(step.token_losses(model, batch, o, tf.constant(1)) * batch.learnt)

    @tf.function(autograph=False)
    def gradient() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            value = loss.python_function()
        parts = tape.gradient(value, list(state.weights.values()))
        return [tf.convert_to_tensor(part) for part in parts]

    gradients = [part.numpy() for part in gradient()]
    variables = list(state.weights.values())

    def slope(direction: list[np.ndarray], size: float) -> float:
        values = []
        for sign in (1, -1):
            for variable, part in zip(variables, direction, strict=True):
                variable.assign_add((sign * size * part).astype(np.float32))
            values.append(float(loss()))
            for variable, part in zip(variables, direction, strict=True):
                variable.assign_sub((sign * size * part).astype(np.float32))
        return (values[0] - values[1]) / (2 * size)

    total = float(np.sqrt(sum(np.sum(part**2) for part in gradients)))
    for _ in range(3):
        direction = [rng.normal(size=v.shape) for v in variables]
        length = np.sqrt(sum(np.sum(part**2) for part in direction))
        direction = [part / length for part in direction]
        inner = float(sum(np.sum(g * d) for g, d in zip(gradients, direction, strict=True)))
        assert slope(direction, 1e-2) == pytest.approx(inner, abs=0.01 * total)
    unit = [part / total for part in gradients]
    assert slope(unit, 1e-3) == pytest.approx(total, rel=0.01)
    for variable, part in zip(variables, gradients, strict=True):
        assert np.abs(part).max() > 1e-5 * total, variable.shape


def test_cross_entropy_has_the_gradient_of_its_definition() -> None:
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


def updated(method: str, shape: tuple[int, ...], gradients: list[np.ndarray]) -> np.ndarray:
    """A weight after steps with these gradients, a rate of 0.01 and a decay of 0.1."""
    o = Optimizer(method=method, batch=1, learning_rate=1, beta1=0.9, beta2=0.95)
    weight = tf.Variable(np.random.default_rng(2).normal(size=shape), dtype=tf.float32)
    chosen = optimizers.METHODS[method]
    slots = {name: tf.Variable(tf.zeros(s)) for name, s in chosen.slots(shape).items()}
    for number, gradient in enumerate(gradients, 1):
        numbers = tf.constant(0.01), tf.constant(float(number))
        chosen.update(weight, slots, tf.constant(gradient, tf.float32), *numbers, 0.1, o)
    return weight.numpy()


def test_adamw_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(3)
    w = np.random.default_rng(2).normal(size=4)
    m = s = np.zeros(4)
    gradients = [rng.normal(size=4) for _ in range(3)]
    for number, g in enumerate(gradients, 1):
        m, s = 0.9 * m + 0.1 * g, 0.95 * s + 0.05 * g**2
        w -= 0.01 * (m / (1 - 0.9**number) / (np.sqrt(s / (1 - 0.95**number)) + 1e-8) + 0.1 * w)
    np.testing.assert_allclose(updated("adamw", (4,), gradients), w, rtol=1e-5)


@pytest.mark.parametrize("shape", [(4,), (5, 3)])
def test_adafactor_is_that_of_keras(shape: tuple[int, ...]) -> None:
    """Keras keeps the second moment of a matrix whole in memory, from its factors; we do not."""
    keras = pytest.importorskip("keras")
    rng = np.random.default_rng(4)
    gradients = [rng.normal(0, 10.0**-i, shape) for i in range(4)]
    start = np.random.default_rng(2).normal(size=shape)
    variable = keras.Variable(start, dtype="float32")
    theirs = keras.optimizers.Adafactor(0.01, relative_step=False, weight_decay=0.1)
    for gradient in gradients:
        theirs.apply([tf.constant(gradient, tf.float32)], [variable])
    ours = updated("adafactor", shape, gradients)
    np.testing.assert_allclose(ours, variable.numpy(), rtol=2e-5, atol=1e-6)
    assert np.abs(ours - start).max() > 1e-3
    assert sum(map(np.prod, optimizers.METHODS["adafactor"].slots((5, 3)).values())) == 8


def test_a_batch_can_be_learnt_by_heart() -> None:
    model, state = model_of(dict(step.random_weights(llama, TINY, seed=0)), OPTIMIZER)
    functions = step.make(model, state, OPTIMIZER)
    tokens = float(IDS[:, 1:].size)
    before = functions.loss(rows(IDS)) / tokens
    for number in range(60):
        functions.train([rows(IDS)], tokens, 1e-2, number + 1)
    assert before == pytest.approx(np.log(TINY.n_vocab), abs=0.1)
    assert functions.loss(rows(IDS)) / tokens < 1.0


def test_batches_of_a_step_are_one_batch(gentle: dict[str, np.ndarray]) -> None:
    """Three batches of one row, of unequal numbers of tokens, learn what one of three rows does."""
    learnt = np.ones((3, 32), np.float32)
    learnt[0, 5:] = learnt[2, :20] = 0
    whole = rows(IDS)._replace(learnt=learnt)
    parts = [Batch(*(array[i : i + 1] for array in whole)) for i in range(3)]
    results = []
    for batches in ([whole], parts):
        o = FP32.model_copy(update={"accumulate": len(batches), "clip": 0.1})
        model, state = model_of(gentle, o)
        functions = step.make(model, state, o)
        numbers = [functions.train(batches, float(learnt.sum()), 1e-3, i) for i in (1, 2)]
        results.append((numbers, {n: v.numpy() for n, v in state.weights.items()}))
    (one, one_weights), (three, three_weights) = results
    np.testing.assert_allclose(one, three, rtol=1e-4)
    for name, weight in one_weights.items():
        np.testing.assert_allclose(weight, three_weights[name], atol=2e-4)


def test_a_step_that_is_no_number_changes_nothing() -> None:
    """Found in review: the loss is that before the update, so it can be finite while the gradient
    is not, and the weights were lost with the next checkpoint."""
    model, state = model_of(dict(step.random_weights(llama, TINY, seed=0)), OPTIMIZER)
    huge = state.weights["layers.0.down"]
    huge.assign(tf.fill(huge.shape, np.inf))
    before = {name: value.numpy() for name, value in state.weights.items()}
    functions = step.make(model, state, OPTIMIZER)
    _, norm = functions.train([rows(IDS)], float(IDS.size), 1e-2, 1)
    assert not np.isfinite(norm)
    for name, value in state.weights.items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_dropout_leaves_the_mean_and_follows_from_the_step() -> None:
    rng = np.random.default_rng(3)
    x, added = (tf.constant(rng.normal(size=(64, 64)), tf.float32) for _ in range(2))
    drawn = tf.random.stateless_uniform([64, 64], [7, 0])
    rest = (step._dropped(x, x + added, drawn, tf.constant(0.25)) - x) / added
    assert set(np.round(rest.numpy(), 2).flat) == {0.0, np.float32(1.33)}
    assert float(tf.reduce_mean(rest)) == pytest.approx(1, abs=0.05)
    model, _ = model_of(dict(step.random_weights(llama, TINY, seed=0)), OPTIMIZER)

    def losses(number: int | None, rate: float) -> list[float]:
        o = OPTIMIZER.model_copy(update={"dropout": rate})
        chosen = None if number is None else tf.constant(number)
        return step.token_losses(model, rows(IDS), o, chosen).numpy().ravel().tolist()

    assert losses(1, 0.5) == losses(1, 0.5)
    assert losses(1, 0.5) != losses(2, 0.5)
    assert losses(1, 0.0) == losses(2, 0.0) == losses(None, 0.5)
