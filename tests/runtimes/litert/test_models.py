"""The LiteRT runtime computes what families say: against the goldens of their original code, and
against float64 with the weights that 8 and 4 bits stand for."""

import os
import subprocess
import sys
from pathlib import Path

import litert_models
import numpy as np
import pytest
from oracle import numpy_stack

from gentool.models import FAMILIES
from gentool.runtimes.litert import quantize, store
from gentool.runtimes.litert.lower import Weights, lower, stored_precision
from gentool.runtimes.litert.record import record
from gentool.runtimes.litert.runtime import LiteRTRuntime
from gentool.runtimes.litert.threads import Threads

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = 1e-4  # the wrong gelu is 7e-4 away

# a checkpoint -> the folder of its goldens
ROWS = {
    "hf_gpt2": "hf_gpt2",
    "hf_llama": "hf_llama",
    "cpm_megatron/hf": "cpm_megatron",
    "cpm_megatron/ckpt": "cpm_megatron",
    "cpm_lm_tf2/saved_model": "cpm_lm_tf2",
    "gpt2_ml": "gpt2_ml",
    "bert_gpt2_chinese": "bert_gpt2_chinese",
    "hf_llama3": "hf_llama3",
    "hf_qwen2": "hf_qwen2",
    "hf_qwen3": "hf_qwen3",
    "hf_gemma": "hf_gemma",
    "hf_gemma2": "hf_gemma2",
}
# what a checkpoint's own folder does not say
OVERRIDES = dict.fromkeys(("cpm_megatron/ckpt", "cpm_lm_tf2/saved_model"), {"arch.n_head": 4})


@pytest.mark.parametrize("name", ROWS)
def test_logits_of_the_original_code(name: str) -> None:
    runtime = litert_models.opened(str(GOLDEN / name), OVERRIDES.get(name, {}), "fp32")
    expected = np.load(GOLDEN / ROWS[name] / "golden.npz")
    texts = [key for key in expected if key.startswith("ids_")]
    assert texts
    for key in texts:
        _, logits = runtime.prefill(expected[key], 0, None, True, False)
        wanted = expected[key.replace("ids", "logits")]
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_in_float64(family: str, precision: str) -> None:
    """Of what the quantised weights stand for, inputs rounded to 8 bits row by row. An input that
    lies between two roundings may take the other one, and what follows in its text is then a little
    off: most texts are exact."""
    runtime, arrays = litert_models.random_runtime(family, precision)
    weights, quantized = stands_for(arrays, precision), precision != "fp32"
    errors, largest = [], 0.0
    for ids in np.random.default_rng(1).integers(0, runtime.arch.n_vocab, (9, 8)):
        _, logits = runtime.prefill(ids, 0, None, True, False)
        wanted = numpy_stack.logits(runtime.family, runtime.arch, weights, ids, quantized)
        errors.append(np.abs(logits - wanted).max())
        largest = max(largest, np.abs(wanted).max())
    assert np.median(errors) < TOLERANCE
    assert max(errors) < (0.02 * largest if quantized else TOLERANCE)


def stands_for(arrays: dict[str, np.ndarray], precision: str) -> dict[str, np.ndarray]:
    """Weights as they are computed with; embeddings are gathered from the file."""
    if precision == "fp32":
        return arrays
    made = {"int8": quantize.int8, "int4": quantize.int4}
    found = dict(arrays)
    for name, array in arrays.items():
        if array.ndim == 2 and name not in ("embedding", "position", "query_position"):
            stored = stored_precision(name, array.shape, precision)
            found[name] = made[stored](array).dequantized()
    if "head" not in arrays:
        found["head of embedding"] = quantize.int8(arrays["embedding"]).dequantized()
    return found


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_the_last_token_and_hidden_states(family: str) -> None:
    runtime, _ = litert_models.random_runtime(family)
    ids = np.arange(1, 30)
    _, every = runtime.prefill(ids, 0, None, True, False)
    _, last = runtime.prefill(ids, 0, None, False, False)
    _, hidden = runtime.prefill(ids, 0, None, True, True)
    np.testing.assert_allclose(last, every[-1:], rtol=0, atol=1e-5)
    np.testing.assert_allclose(runtime.head(hidden, False), every, rtol=0, atol=1e-5)


def test_a_long_prompt_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of several passes, and of several blocks of queries within each."""
    from gentool.runtimes.litert import attention
    from gentool.runtimes.litert import runtime as module

    for family in ("llama", "gemma2", "pangu"):
        runtime, _ = litert_models.random_runtime(family)
        ids = np.random.default_rng(2).integers(0, 101, 90)
        _, wanted = runtime.prefill(ids, 0, None, True, False)
        with monkeypatch.context() as patch:
            patch.setattr(module, "CHUNK", 37)
            patch.setattr(attention, "MIN_BLOCK", 11)
            patch.setattr(attention, "SCORE_BYTES", 0)
            _, logits = runtime.prefill(ids, 0, None, True, False)
            _, last = runtime.prefill(ids, 0, None, False, False)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(last, wanted[-1:], rtol=0, atol=TOLERANCE)


BLOCKED = """
import sys

class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras", "jax", "torch"):
            raise ImportError(name)

sys.meta_path.insert(0, NoTensorFlow())
import litert_models
import numpy as np

runtime = litert_models.opened(sys.argv[1], {}, "fp32")
prefix, logits = runtime.prefill(np.array([1, 2, 3]), 0, None, False, False)
cache = runtime.rows([prefix], 1, False)
runtime.move(cache, np.array([0]), np.array([-1]), 1)
again = runtime.step(cache, np.array([[4]]), np.array([[3]]), False)
assert np.isfinite(logits).all() and np.isfinite(again).all()
print(runtime.describe())
"""


def test_no_tensorflow_and_a_silent_stderr() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(GOLDEN / "hf_llama")],
        env=os.environ | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith("LiteRT")


class NoProjection:
    """A family whose attention gets heads of a layer's input, of its output in the next layer, and
    of the model's input in every layer."""

    @staticmethod
    def positional(ops, arch, top, positions):
        return ops.gather(top["position"], positions)

    @staticmethod
    def embed(ops, arch, top, ids, positional):
        return ops.gather(top["embedding"], ids)

    @staticmethod
    def layer(ops, arch, w, x, positional, attend):
        q, k, v = (ops.heads(part, arch.d_head) for part in (x, x, positional))
        return attend(q, k, v)

    @staticmethod
    def final(ops, arch, top, x):
        return x

    @staticmethod
    def head(ops, arch, top, x):
        return ops.linear(x, top["embedding"])


def test_attention_without_a_projection_before_it() -> None:
    """Values that a piece only passes on: the model's input, a position, an attention's output."""
    arch = litert_models.Arch(**(litert_models.SMALL | {"n_kv_head": 4, "n_layer": 3}))
    rng = np.random.default_rng(5)
    shapes = {"embedding": (arch.n_vocab, arch.d_model), "position": (arch.n_ctx, arch.d_model)}
    arrays = {name: rng.normal(0, 1, s).astype(np.float32) for name, s in shapes.items()}
    weights = Weights(shapes, arrays.__getitem__)
    recording = record(NoProjection, arch, shapes)
    program = store.open_program(
        lambda: lower(recording, weights, "fp32"), Threads(1), None, "", lambda done, total: None
    )
    runtime = LiteRTRuntime(NoProjection, arch, weights, recording, program, 1)
    ids = rng.integers(0, arch.n_vocab, 12)
    x, positions = arrays["embedding"][ids], arrays["position"][:12]
    split = (12, arch.n_head, arch.d_head)
    for _ in range(arch.n_layer):
        q, v = x.reshape(split), positions.reshape(split)
        scores = np.einsum("thd,shd->hts", q, q) / np.sqrt(arch.d_head)
        weight = np.exp(scores - scores.max(axis=-1, keepdims=True)) * np.tri(12)
        weight /= weight.sum(axis=-1, keepdims=True)
        x = np.einsum("hts,shd->thd", weight, v).reshape(12, -1)
    _, logits = runtime.prefill(ids, 0, None, True, False)
    np.testing.assert_allclose(logits, x @ arrays["embedding"].T, rtol=0, atol=TOLERANCE)
    for count in (1, 5):
        _, last = runtime.prefill(ids[:count], 0, None, False, False)
        np.testing.assert_allclose(last, logits[count - 1 : count], rtol=0, atol=TOLERANCE)
