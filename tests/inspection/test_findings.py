"""Sizes against what the runtimes hold, untrained embeddings, errors of quantised products."""

from __future__ import annotations

import math

import litert_models
import numpy as np
import pytest

from gentool import models
from gentool.config import lookup
from gentool.config.model import FAMILIES
from gentool.errors import ModelError
from gentool.generation import opening
from gentool.inspection import quantisation, sizes
from gentool.inspection.subject import Subject, subject
from gentool.inspection.untrained import untrained
from gentool.models import weights
from gentool.models.quantized import packed
from gentool.runtimes.litert import kv_cache, quantize
from gentool.runtimes.litert.kv_cache import HeadShape
from gentool.runtimes.litert.record import record


def tiny_zh() -> Subject:
    return subject(*opening.open_files(lookup.load("tiny-zh")))


def measured(family: str) -> tuple[sizes.Sizes, dict[str, np.ndarray]]:
    module, arch = models.load_family(family), litert_models.arch_of(family)
    values = litert_models.random_weights(module, arch, seed=0)
    source = litert_models.Arrays(values)
    plan = weights.plan(source, module, arch)
    return sizes.measure(arch, plan, record(module, arch, source.shapes)), values


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_one_part(family: str) -> None:
    found, values = measured(family)
    assert sum(found.parameters.values()) == sum(value.size for value in values.values())
    assert found.parameters["head"] == (values["head"].size if "head" in values else 0)
    memory = {(row.precision, row.runtime): row.weights for row in found.memory}
    assert memory["fp32", "TensorFlow"] == sum(value.nbytes for value in values.values())
    assert memory["fp16", "TensorFlow"] == sum(value.nbytes for value in values.values()) // 2


@pytest.mark.parametrize("family", FAMILIES)
def test_kv_cache_is_what_the_runtime_allocates(family: str) -> None:
    module, arch = models.load_family(family), litert_models.arch_of(family)
    shapes = dict(module.top_tensors(arch))
    for index in range(arch.n_layer):
        inner = module.layer_tensors(arch, index)
        shapes |= {f"layers.{index}.{name}": shape for name, shape in inner.items()}
    heads = [
        HeadShape(attention.key.heads, attention.key.size, attention.value.size)
        for attention in record(module, arch, shapes).attentions
    ]
    prefix = kv_cache.extend_prefix(heads, None, 10)
    allocated = sum(x.nbytes for index in range(arch.n_layer) for x in prefix.layer(index))
    assert measured(family)[0].kv_cache_per_token * 10 == allocated


def test_tiny_zh_in_numbers() -> None:
    inspected = tiny_zh()
    found = sizes.measure(inspected.config.arch, inspected.plan, inspected.recording)
    assert dict(found.parameters) == {
        "embedding": 1536000,
        "layers": 3145728,
        "norms": 9 * 256,
        "head": 1536000,
    }
    assert (found.kv_cache_per_token, found.kv_cache) == (4 * 4 * 2 * 2 * 64, 512 * 4096)
    vocabulary = sizes.vocabulary(inspected.config.arch, inspected.tokenizer)
    assert vocabulary == sizes.Vocabulary(6000, 6000, 3, ())


def test_bytes_of_products_are_those_of_the_quantiser() -> None:
    weight = np.random.default_rng(0).normal(size=(96, 64)).astype(np.float32)
    values, scales = quantize.int8(weight)
    assert sizes.product_bytes("layers.0.up", (96, 64), "int8") == values.nbytes + scales.nbytes
    values, scales = quantize.int4(weight)
    packed_bytes = packed(values).nbytes + scales.nbytes
    assert sizes.product_bytes("layers.0.up", (96, 64), "int4") == packed_bytes
    assert sizes.product_bytes("head", (96, 64), "int4") == 96 * 68, "it stays int8"


def test_a_quantised_model_has_one_precision() -> None:
    module, arch = models.load_family("llama"), litert_models.arch_of("llama")
    source = litert_models.Arrays(litert_models.random_weights(module, arch, seed=0))
    plan = weights.plan(source, module, arch)
    plan |= {"head": plan["head"]._replace(dtype=np.dtype(np.int8))}
    found = sizes.measure(arch, plan, record(module, arch, source.shapes))
    assert [(row.precision, row.runtime) for row in found.memory] == [("int8", "LiteRT")]


def embedding(rows: int = 500, width: int = 32) -> np.ndarray:
    """Of trained tokens, and at 10 to 19 of tokens that were not."""
    rng = np.random.default_rng(0)
    trained = rng.normal(0, 1, (rows, width)) * rng.uniform(0.7, 1.4, (rows, 1))
    trained[10:20] = rng.normal(0, 0.02, (10, width))
    return trained.astype(np.float32)


def test_low_norms_are_found() -> None:
    found = untrained(embedding(), False, ())
    assert set(found.low) == set(range(10, 20))
    assert list(found.low) == sorted(found.low, key=lambda token: found.scores[token])
    assert found.equal == ()


def test_rows_of_zeros_and_equal_rows_are_found() -> None:
    rows = embedding()
    rows[30] = rows[31] = 0
    rows[40] = rows[41]
    found = untrained(rows, False, ())
    assert {30, 31} <= set(found.low)
    assert found.equal == (30, 31, 40, 41)


def test_a_tied_embedding_is_compared_with_rows_that_have_no_piece() -> None:
    """Training pushes the rows of tokens that never come one way: they are near to each other, and
    not short."""
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 1, (500, 32))
    rows[:8] = rows[490:] = 4
    rows[:8] += rng.normal(0, 0.05, (8, 32))
    rows[490:] += rng.normal(0, 0.1, (10, 32))
    found = untrained(rows.astype(np.float32), True, tuple(range(490, 500)))
    assert set(found.low) == set(range(8))
    assert not untrained(rows.astype(np.float32), False, tuple(range(490, 500))).low
    rows[490:] = rng.normal(0, 1, (10, 32))  # rows that have nothing in common tell nothing
    assert "norm" in untrained(rows.astype(np.float32), True, tuple(range(490, 500))).criterion


def test_untrained_bytes_of_tiny_zh() -> None:
    """Most bytes of its byte fallback never came in training; Chinese characters did."""
    inspected = tiny_zh()
    found = untrained(np.asarray(inspected.read("embedding")), False, ())
    assert 150 < len(found.low) < 260 and max(found.low[:150]) < 260
    common = {inspected.tokenizer.encode(f"他{c}")[-1] for c in "的一是不了人我在有他"}
    assert not common & set(found.low)


def test_errors_of_quantised_products() -> None:
    rng = np.random.default_rng(0)
    exact = rng.integers(-127, 128, (64, 64)).astype(np.float32)
    exact[:, 0] = 127
    normal = rng.normal(size=(64, 64)).astype(np.float32)
    spiked = normal.copy()
    spiked[:, 3] = 100  # one large input of each output costs all others their precision
    values = {"layers.0.up": exact, "layers.0.down": normal, "head": spiked}
    plan = {
        name: weights.Weight((name,), False, value.shape, value.dtype)
        for name, value in values.items()
    }
    found = {e.name: e for e in quantisation.errors([*values], plan, values.__getitem__, 60)}
    assert found["layers.0.up"].int8 == 0
    # a normal row is rounded by max / 127, and a uniform error has 1 / sqrt(12) of that
    expected = np.abs(normal).max(axis=1).mean() / 127 / math.sqrt(12)
    assert found["layers.0.down"].int8 == pytest.approx(expected, rel=0.1)
    assert 0.05 < found["layers.0.down"].int4 < 0.12
    assert found["head"].int4 is None
    unspiked = spiked.copy()
    quantised = quantize.int8(spiked).dequantized()
    unspiked[:, 3] = quantised[:, 3] = 0
    assert quantisation.relative(spiked, quantize.int8(spiked)) == found["head"].int8
    assert np.linalg.norm(unspiked - quantised) / np.linalg.norm(unspiked) > 10 * expected
    assert not [*quantisation.errors([*values], plan, values.__getitem__, -1)]


def test_numbers_that_are_not_finite_are_an_error() -> None:
    broken = np.full((64, 64), np.nan, np.float32)
    plan = {"head": weights.Weight(("head",), False, broken.shape, broken.dtype)}
    with pytest.raises(ModelError, match="head has numbers that are not finite"):
        next(quantisation.errors(["head"], plan, lambda _: broken, 60))
