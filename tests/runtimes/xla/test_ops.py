"""Products inside one compiled program: what they give, and that XLA makes of them what it should.
The program is read as XLA's own text."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import tensorflow as tf

from gentool.models import column_blocks
from gentool.runtimes.xla import ops as layers

RNG = np.random.default_rng(3)


def normal(*shape: int) -> tf.Tensor:
    return tf.constant(RNG.normal(0, 1, shape).astype(np.float32))


def program(function, *arguments) -> tuple[str, str]:
    """The optimised program of a function: its entry, and all that is fused."""
    compiled = layers.compiled(function)
    text = compiled.program.experimental_get_compiler_ir(*arguments)(stage="optimized_hlo")
    fused, entry = text.split("\nENTRY ")
    return entry, fused


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "inputs",
    [
        64,
        column_blocks.MAX_FUSED_INPUTS,
        column_blocks.MAX_FUSED_INPUTS + 1,
        2 * column_blocks.MAX_FUSED_INPUTS,
        9000,
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 7, 65])
def test_flat_linear_equals_the_product(rows: int, inputs: int, dtype: str) -> None:
    x, weight, bias = normal(rows, 1, inputs), tf.cast(normal(5, inputs), dtype), normal(5)
    actual = layers.compiled(layers.flat_linear)(x, weight, bias)
    assert actual.shape == (rows, 1, 5)
    exact = np.float64(x) @ np.float64(tf.cast(weight, tf.float32)).T + np.float64(bias)
    np.testing.assert_allclose(actual, exact, atol=2e-5 * np.sqrt(inputs))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("out", [6, 20, 30, 64, 67])
def test_flat_linear_in_parts_equals_the_product(
    out: int, blocks: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "PART_ELEMENTS", 10 * 32)
    x, unblocked = normal(7, 1, 32 * blocks), tf.cast(normal(out, 32 * blocks), dtype)
    weight = tf.stack(tf.split(unblocked, blocks, axis=1)) if blocks > 1 else unblocked
    actual = layers.compiled(layers.flat_linear)(x, weight)
    exact = np.float64(x) @ np.float64(tf.cast(unblocked, tf.float32)).T
    np.testing.assert_allclose(actual, exact, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("out", [4096, 4001])
def test_a_16_bit_weight_is_written_in_parts_for_some_rows(out: int, dtype: str) -> None:
    x, weight = normal(16, 1, 1024), tf.cast(normal(out, 1024), dtype)
    entry, others = program(lambda x, weight: layers.flat_linear(x, weight), x, weight)
    shapes = re.findall(r"= f32\[([\d,]+),1024\]", entry + others)
    written = [1024 * math.prod(map(int, shape.split(","))) for shape in shapes]
    assert max(written) == 1024 * -(-out // 4)  # of which 4 are needed


@pytest.mark.parametrize("inputs", [256, 10240])
def test_a_16_bit_weight_is_cast_while_it_is_read(inputs: int) -> None:
    x, weight = normal(1, 1, inputs), tf.cast(normal(48, inputs), tf.float16)
    entry, _ = program(lambda x, weight: layers.flat_linear(x, weight), x, weight)
    written = re.findall(r"= f32\[48,(\d+)\]", entry)
    assert not written, "the weight is written in float32"


def test_the_expression_of_x_is_computed_once() -> None:
    x, weight, scale = normal(1, 1, 256), tf.cast(normal(48, 256), tf.float16), normal(256)

    def normed(x: tf.Tensor, weight: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
        return layers.flat_linear(layers.rms_norm(x, scale, 1e-5), weight)

    _, fused = program(normed, x, weight, scale)
    bodies = [body for body in fused.split("\n\n") if " dot(" in body]
    assert len(bodies) == 1
    assert "multiply" not in bodies[0]


def test_a_bias_is_not_added_inside_a_product_of_float32() -> None:
    entry, _ = program(layers.flat_linear, normal(1, 1, 768), normal(768, 768), normal(768))
    assert " dot(" in entry  # of more than one thread, which no fusion with an addition is


@pytest.mark.parametrize("first", [0.0, 1.0, -3.5, 1e-30, 3e38, np.inf, -np.inf])
def test_the_fusion_barrier_is_1(first: float) -> None:
    x = np.array([[first, 2.0, -1e-30, 1 / 3]], np.float32)
    np.testing.assert_array_equal(layers.fusion_barrier(tf.constant(x)), 1)
