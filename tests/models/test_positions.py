"""What stretches a context: rope scalings as transformers computes them, hierarchical positions and
log-n attention as bert4keras does."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from oracle import numpy_llama
from tiny import TINY, Arrays, make_engine

from gentool.config.folder import describe
from gentool.config.model import Arch, ModelFile
from gentool.config.schema import parse
from gentool.decoding.engine import Engine
from gentool.errors import UsageError
from gentool.models import gpt2, positions, weights
from gentool.runtimes.xla import attention, backend, ops
from gentool.runtimes.xla import weights as xla_weights
from gentool.runtimes.xla.runtime import XlaRuntime

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bert4keras_math" / "golden.npz")

# (scaling, frequencies transformers 4.57.1 gives 16-wide heads, what multiplies cos and sin)
SCALINGS = {
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "1 0.237170815 0.049999997 0.00790569466 0.0025 0.000790569466 0.00025 7.90569466e-05",
        1.138629436111989,
    ),
    "yarn with all its keys": (
        {
            "rope_type": "yarn",
            "factor": 8.0,
            "original_max_position_embeddings": 100,
            "truncate": False,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.5,
        },
        "1 0.16264078 0.0125 0.00395284733 0.00125 0.000395284733 0.000125 3.95284733e-05",
        1.094179988101349,
    ),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "1 0.0958399773 0.0125 0.00395284733 0.00125 0.000395284733 0.000125 3.95284733e-05",
        1.0,
    ),
    "linear": (
        {"type": "linear", "factor": 2.5},
        "0.4 0.1264911 0.04 0.0126491114 0.004 0.00126491114 0.0004 0.000126491112",
        1.0,
    ),
    "dynamic": (  # as no scaling, within the context
        {"type": "dynamic", "factor": 2.0},
        "1 0.316227766 0.1 0.0316227766 0.01 0.00316227766 0.001 0.000316227766",
        1.0,
    ),
}


def folder_with(tmp_path: Path, **changes: object) -> Path:
    """A Hugging Face folder of a Qwen2 with 16-wide heads."""
    config = {
        "model_type": "qwen2",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "vocab_size": 96,
        "max_position_embeddings": 256,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    (tmp_path / "model.safetensors").touch()
    return tmp_path


@pytest.mark.parametrize("kind", SCALINGS)
def test_rope_scalings(tmp_path: Path, kind: str) -> None:
    scaling, frequencies, length = SCALINGS[kind]
    actual = describe(folder_with(tmp_path, rope_scaling=scaling))
    arch = Arch(**actual["arch"])
    np.testing.assert_allclose(
        positions.frequencies(arch), np.array(frequencies.split(), float), rtol=1e-6
    )
    given = arch.rope_scaling.attention_factor if arch.rope_scaling else 1.0
    assert given == pytest.approx(length, rel=1e-12)


def test_yarn_extends_the_context(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    assert describe(folder_with(tmp_path, rope_scaling=scaling))["arch"]["n_ctx"] == 1024


def test_a_rotation_by_yarn_changes_lengths() -> None:
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 8)).astype(np.float32)
    rotation = ops.rotation(tf.constant([[0, 1, 5]]), np.ones(4, np.float32), 1.5)
    rotated = ops.rope(tf.constant(x), rotation).numpy()
    ratio = np.linalg.norm(rotated, axis=-1) / np.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(ratio, 1.5, rtol=1e-5)


def gpt2_arch(**numbers: object) -> Arch:
    plain = {"n_layer": 2, "n_head": 2, "d_model": 16, "d_ff": 32, "n_vocab": 40, "n_ctx": 8}
    return Arch(**(plain | numbers))


@pytest.mark.parametrize(("alpha", "name"), [(0.4, "hier_true_alpha0.4"), (0.3, "hier_alpha0.3")])
def test_hierarchical_positions_are_those_of_bert4keras(alpha: float, name: str) -> None:
    table = GOLDEN["hier_table"]
    arch = gpt2_arch(n_ctx=64, n_position=8, hierarchical_alpha=alpha)
    rows = positions.learned(ops.graph, arch, tf.constant(table), tf.range(64)[None])[0].numpy()
    np.testing.assert_allclose(rows, GOLDEN[name], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(rows[:8], table)


def stretched(table: np.ndarray, alpha: float) -> np.ndarray:
    """The table [N^2, D] of bert4keras' formula, in float64."""
    u = (table - alpha * table[:1]) / (1 - alpha)
    whole = alpha * u[:, None] + (1 - alpha) * u[None]
    return whole.reshape(-1, table.shape[1])


@pytest.mark.parametrize("path", [backend.XLA_LAYER, backend.GRAPH])
def test_hierarchical_positions_equal_a_longer_table(path: backend.Backend) -> None:
    arch = gpt2_arch(n_ctx=50, n_position=8, hierarchical_alpha=0.4)
    rng = np.random.default_rng(1)
    shapes = gpt2.top_tensors(arch)
    for i in range(arch.n_layer):
        shapes |= {f"layers.{i}.{k}": s for k, s in gpt2.layer_tensors(arch, i).items()}
    arrays = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    longer = stretched(arrays["position"].astype(np.float64), 0.4)[:50].astype(np.float32)
    logits = []
    ids = rng.integers(0, 40, 50).tolist()
    for one, position in ((arch, arrays["position"]), (gpt2_arch(n_ctx=50), longer)):
        source = Arrays(arrays | {"position": position})
        plan = weights.plan(source, gpt2, one)
        params = xla_weights.load(source, plan, 2, tf.float32)
        engine = Engine(XlaRuntime(gpt2, one, params, (backend.BackendRule(1, path),)))
        logits.append(engine.prefill(ids, all_positions=True)[1])
    np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)
    assert np.abs(logits[0]).max() > 1


def test_log_n_is_that_of_bert4keras() -> None:
    scores = GOLDEN["attn_scores"]
    factor = attention.log_n(512, tf.range(20), None).numpy()
    masked = np.where(np.tri(20, dtype=bool), scores * factor[:, None], -np.inf)
    mass = np.exp(masked - masked.max(-1, keepdims=True))
    actual = mass / mass.sum(-1, keepdims=True)
    np.testing.assert_allclose(actual, GOLDEN["attn_softmax_plus"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", [backend.XLA_LAYER, backend.GRAPH])
def test_log_n_in_a_model(tiny_weights: dict[str, np.ndarray], path: backend.Backend) -> None:
    arch = TINY.model_copy(update={"log_n": 20})
    ids = np.random.default_rng(2).integers(0, arch.n_vocab, 40).tolist()
    engine = make_engine(arch, tiny_weights, path)
    prefix, logits = engine.prefill(ids[:30], all_positions=True)
    expected = numpy_llama.logits(arch, tiny_weights, ids)
    np.testing.assert_allclose(logits, expected[:30], rtol=0, atol=1e-3)
    _, tail = engine.extend([prefix], None, [0], [0], np.array([ids[30:]]))
    np.testing.assert_allclose(tail[0], expected[30:], rtol=0, atol=1e-3)
    plain = numpy_llama.logits(TINY, tiny_weights, ids)
    assert np.abs(plain - expected).max() > 0.1  # the option does something


def test_log_n_counts_the_keys_in_a_window() -> None:
    factor = attention.log_n(512, tf.range(100), tf.constant(32)).numpy()
    assert factor[31] == factor[99] and factor[0] == factor[15] < factor[16]


@pytest.mark.parametrize(
    ("family", "numbers", "said"),
    [
        ("llama", {"hierarchical_alpha": 0.4}, "for learned positions, llama has rotary"),
        ("gpt2", {"hierarchical_alpha": 0.5}, "hierarchical_alpha 0.5"),
        ("gpt2", {"hierarchical_alpha": 1.0}, "hierarchical_alpha is 1.0"),
        ("gpt2", {"n_ctx": 9, "n_position": 8}, "n_ctx 9 is more than the 8 positions"),
        ("gpt2", {"n_ctx": 65, "n_position": 8, "hierarchical_alpha": 0.4}, "the 64 positions"),
        ("gpt2", {"log_n": 1}, "log_n is 1"),
    ],
)
def test_refused_where_they_do_not_apply(
    family: str, numbers: dict[str, object], said: str
) -> None:
    arch = {"n_layer": 2, "n_head": 2, "d_model": 16, "d_ff": 32, "n_vocab": 40, "n_ctx": 8}
    data = {"name": "x", "family": family, "checkpoint": "x", "arch": arch | numbers}
    with pytest.raises(UsageError, match=said):
        parse(ModelFile, data, "x.yaml")
