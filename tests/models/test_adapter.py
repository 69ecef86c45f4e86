"""Adapters: PEFT's files against what PEFT computed, merged weights against numpy's, what is
written against what is read, and folders that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch_writer
from folders import GOLDEN, copied
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from litert_models import ARCHS, Arrays, arch_of, random_weights
from safetensors.numpy import load_file, save_file

import gentool
from gentool.config import lookup
from gentool.config.adapter import NOT_READ, UNSUPPORTED, AdapterConfig
from gentool.convert import convert
from gentool.errors import ModelError, UsageError
from gentool.generation.opening import open_files
from gentool.models import column_blocks, load_family, weights
from gentool.models.adapter import Adapter, LowRank, Replaced, adapted
from gentool.models.peft import read_adapter, write_adapter
from gentool.runtimes.litert.identity import graph_name

LORA = GOLDEN / "hf_lora"
EXPECTED = np.load(LORA / "golden.npz")
CASES: dict[str, Any] = json.loads((LORA / "golden.json").read_text())["adapters"]
TOLERANCE = 3e-4  # of the goldens' README; PEFT merged and unmerged are 8e-5 apart
IDS = [5, 3, 8, 2, 13]


# What PEFT computed


@pytest.mark.parametrize("xla", [None, False])
@pytest.mark.parametrize("name", CASES)
def test_goldens(name: str, xla: bool | None) -> None:
    """LoRA, rsLoRA, DoRA, patterns, an embedding, whole modules, biases, on both runtimes."""
    base = str(GOLDEN / CASES[name]["base"])
    model = gentool.load(base, precision="fp32", xla=xla, adapter=str(LORA / name))
    ids, expected = EXPECTED[f"{name}:ids_0"].tolist(), EXPECTED[f"{name}:logits_0"]
    np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=TOLERANCE)
    for case in CASES[name]["greedy"]:
        rest = case["output"][len(case["prompt"]) :]
        samples = model.complete(case["prompt"], temperature=0, max_tokens=len(rest), eos=None)
        assert list(samples[0].ids) == rest


def test_an_old_file_of_torch(tmp_path: Path) -> None:
    folder = changed("llama_qv", tmp_path)
    arrays = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    root = {n: torch_writer.View(a.ravel(), a.shape, (a.shape[1], 1)) for n, a in arrays.items()}
    (folder / "adapter_model.bin").write_bytes(torch_writer.zip_file(root))
    np.testing.assert_array_equal(logits("hf_llama", folder), logits("hf_llama", LORA / "llama_qv"))


# Merging


@pytest.mark.parametrize("family", ARCHS)
def test_what_is_merged_is_what_numpy_adds(family: str) -> None:
    """W + scale B A in float32; DoRA scales the rows of it; what is replaced is replaced first."""
    module, arch = load_family(family), arch_of(family)
    arrays = random_weights(module, arch, 0)
    source, plan, _ = merged(family, arrays, random_adapter(family, seed=1))
    for name, change in random_adapter(family, seed=1).changes.items():
        (low_rank,) = change
        expected = arrays[name] + low_rank.scale * (low_rank.b @ low_rank.a)
        np.testing.assert_allclose(weights.read(source, plan[name]), expected, atol=1e-5)
    assert weights.read(source, plan["embedding"]) is arrays["embedding"]  # the rest is not copied

    rng = np.random.default_rng(2)
    name, rows = "layers.1.down", arch.d_model // 2
    a, b = rng.normal(size=(3, arch.d_ff)), rng.normal(size=(rows, 3))
    dora = LowRank(a, b, 0.5, start=rows, magnitude=rng.random(rows) + 1)
    values = rng.normal(size=(rows, arch.d_ff)).astype(np.float32)
    adapter = Adapter({name: (Replaced(values, rows), dora)})
    source, plan, _ = merged(family, arrays, adapter)
    sums = values + 0.5 * b @ a
    sums *= (dora.magnitude / np.linalg.norm(sums, axis=1))[:, None]
    expected = np.concatenate([arrays[name][:rows], sums])
    np.testing.assert_allclose(weights.read(source, plan[name]), expected, atol=1e-5)


def test_adapters_are_merged_one_after_another() -> None:
    arrays = random_weights(load_family("llama"), arch_of("llama"), 0)
    first, second = random_adapter("llama", seed=1), random_adapter("llama", seed=2)
    source, plan, _ = merged("llama", arrays, first, second)
    for name in first.changes.keys() & second.changes.keys():
        changes = [*first.changes[name], *second.changes[name]]
        expected = arrays[name] + sum(c.scale * (c.b @ c.a) for c in changes)
        np.testing.assert_allclose(weights.read(source, plan[name]), expected, atol=1e-5)


def test_a_weight_in_column_blocks_is_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a converted folder of 16 bits has them; the other weights stay as the file has them."""
    monkeypatch.setattr(column_blocks, "MAX_FUSED_INPUTS", 32)
    module, arch = load_family("llama"), arch_of("llama")
    arrays = {n: a.astype(np.float16) for n, a in random_weights(module, arch, 0).items()}
    names = [f"layers.{i}.down" for i in range(arch.n_layer)]
    blocks = {name: column_blocks.blocked(arrays[name], (3, 64, 32)) for name in names}
    (change,) = random_adapter("llama", seed=1).changes[names[0]]
    source, plan, _ = merged("llama", arrays | blocks, Adapter({names[0]: (change,)}))
    expected = arrays[names[0]].astype(np.float32) + change.scale * (change.b @ change.a)
    np.testing.assert_allclose(weights.read(source, plan[names[0]]), expected, atol=1e-5)
    assert weights.parts(source, plan[names[1]])[0] is blocks[names[1]]


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_converted_folder_is_the_merged_model(precision: str, tmp_path: Path) -> None:
    """Bit for bit: what is quantised are the sums."""
    lora = str(LORA / "llama_rslora_all")
    config = lookup.load(str(GOLDEN / "hf_llama"), adapters=[lora])
    for _ in convert(config, tmp_path / "merged", precision):
        pass
    written = lookup.load(str(tmp_path / "merged"))
    assert not written.adapter and written.sha256.keys() == {"model.safetensors"}
    direct = logits("hf_llama", lora, precision=precision)
    merged = gentool.load(str(tmp_path / "merged")).logits(IDS)
    np.testing.assert_array_equal(merged, direct)


def test_auto_keeps_the_dtype_of_the_base(tmp_path: Path) -> None:
    """The sums are rounded to it once, from float32; the embedding, too, which int8 leaves."""
    config = lookup.load(str(GOLDEN / "hf_llama"), adapters=[str(LORA / "llama_modules_to_save")])
    opened = open_files(config)
    for precision in ("auto", "int8"):
        for _ in convert(config, tmp_path / precision, precision):
            pass
        written = open_files(lookup.load(str(tmp_path / precision)))
        name = "embedding" if precision == "int8" else "layers.0.attention_out"
        stored = weights.read(written.source, written.plan[name])
        summed = weights.read(opened.source, opened.plan[name])
        assert stored.dtype.name == "bfloat16" and summed.dtype == np.float32
        np.testing.assert_array_equal(stored, summed.astype(stored.dtype))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits(precision: str) -> None:
    adapted = logits("hf_llama", LORA / "llama_qv", precision=precision, xla=False)
    expected = logits("hf_llama", LORA / "llama_qv")
    assert np.abs(adapted - expected).max() <= 0.05 * np.abs(expected).max()
    assert np.abs(adapted - logits("hf_llama")).max() > 0.5 * np.abs(expected).max()


def test_a_tied_head_is_not_adapted_with_the_embedding() -> None:
    """As PEFT computes it: each of the two has its own change."""
    arch = arch_of("qwen2")
    assert arch.tied_head
    arrays = random_weights(load_family("qwen2"), arch, 0)
    a, b = np.ones((1, arch.d_model), np.float32), np.ones((arch.n_vocab, 1), np.float32)
    source, plan, found = merged("qwen2", arrays, Adapter({"embedding": (LowRank(a, b, 2.0),)}))
    assert not found.tied_head
    np.testing.assert_array_equal(weights.read(source, plan["head"]), arrays["embedding"])
    changed = weights.read(source, plan["embedding"])
    np.testing.assert_allclose(changed, arrays["embedding"] + 2)


# The names of graphs


def test_each_adapter_has_its_own_graph(tmp_path: Path) -> None:
    """Also one that differs in a number of its configuration only."""
    other = changed("llama_qv", tmp_path, lora_alpha=9)
    again = shutil.copytree(LORA / "llama_qv", tmp_path / "again")
    lists = [[], [LORA / "llama_qv"], [other], [LORA / "llama_regex_layers"]]
    lists += [[LORA / "llama_qv", other], [other, LORA / "llama_qv"], [again]]
    names = [graph_of([str(place) for place in places]) for places in lists]
    assert len(set(names[:-1])) == len(names) - 1
    assert names[-1] == names[1]  # the same bytes elsewhere


def graph_of(adapters: list[str]) -> str:
    opened = open_files(lookup.load(str(GOLDEN / "hf_llama"), adapters=adapters))
    arch = opened.config.arch
    return graph_name(opened.family, arch, opened.plan, opened.source, "fp32")


def test_a_kept_graph_of_the_base_is_not_opened() -> None:
    base = logits("hf_llama")
    for name in ("llama_qv", "llama_regex_layers"):
        for _ in range(2):  # made, then opened
            assert np.abs(logits("hf_llama", LORA / name) - base).max() > 1
    np.testing.assert_array_equal(logits("hf_llama"), base)


# Writing


@pytest.mark.parametrize("family", ARCHS)
def test_what_is_written_is_read(family: str, tmp_path: Path) -> None:
    module, arch = load_family(family), arch_of(family)
    adapter = random_adapter(family, seed=3)
    write_adapter(tmp_path / "a", adapter, module, arch, "base")
    found = read_adapter(tmp_path / "a", module, arch)
    assert found.changes.keys() == adapter.changes.keys()
    arrays = random_weights(module, arch, 0)
    (expected, plan, _), (actual, _, _) = (merged(family, arrays, a) for a in (adapter, found))
    for name in adapter.changes:
        sums = (weights.read(source, plan[name]) for source in (expected, actual))
        np.testing.assert_allclose(*sums, rtol=0, atol=1e-5)
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_names_are_those_of_transformers(tmp_path: Path) -> None:
    """A part of a fused product is a module; the same end of two modules is told apart."""
    rng = np.random.default_rng(0)
    arch = arch_of("llama")
    qkv = LowRank(rng.random((2, 64)), rng.random((128, 2)), 1.5)
    down = LowRank(rng.random((3, 96)), rng.random((64, 3)), 1.0)
    adapter = Adapter({"layers.0.qkv": (qkv,), "layers.1.qkv": (qkv,), "layers.1.down": (down,)})
    write_adapter(tmp_path, adapter, load_family("llama"), arch, "BASE")
    arrays = load_file(tmp_path / "adapter_model.safetensors")
    assert len(arrays) == 14
    at = "base_model.model.model.layers.1.self_attn"
    for part, rows in {"q": (0, 64), "k": (64, 96), "v": (96, 128)}.items():
        b = arrays[f"{at}.{part}_proj.lora_B.weight"]
        np.testing.assert_array_equal(b, qkv.b[slice(*rows)].astype(np.float32))
        a = arrays[f"{at}.{part}_proj.lora_A.weight"]
        np.testing.assert_array_equal(a, qkv.a.astype(np.float32))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["1.mlp.down_proj", "k_proj", "q_proj", "v_proj"]
    assert (config["r"], config["lora_alpha"]) == (2, 3)
    assert config["rank_pattern"] == {"model.layers.1.mlp.down_proj": 3}
    assert config["base_model_name_or_path"] == "BASE" and not config["fan_in_fan_out"]

    write_adapter(tmp_path, random_adapter("gpt2", 0), load_family("gpt2"), arch_of("gpt2"), "")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["c_attn", "c_fc", "c_proj"] and config["fan_in_fan_out"]
    arrays = load_file(tmp_path / "adapter_model.safetensors")
    assert "base_model.model.transformer.h.1.mlp.c_proj.lora_B.weight" in arrays


def test_a_written_file_has_the_modes_of_the_umask(tmp_path: Path) -> None:
    write_adapter(tmp_path, random_adapter("gpt2", 0), load_family("gpt2"), arch_of("gpt2"), "")
    (tmp_path / "new").touch()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


# What is refused

Change = Callable[[dict[str, np.ndarray]], object]
Q = "base_model.model.model.layers.0.self_attn.q_proj"
NORM, PARTS = "base_model.model.model.norm", ("", ".base_layer")


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("peft_type", "IA3", "only LORA"),
        ("peft_type", None, "only LORA"),
        ("use_qalora", True, "merge_and_unload"),
        ("use_bdlora", {"nblocks": 2}, "merge_and_unload"),
        ("lora_bias", True, "merge_and_unload"),
        ("alora_invocation_tokens", [1], "merge_and_unload"),
        ("layer_replication", [[0, 2]], "merge_and_unload"),
        ("trainable_token_indices", [3], "merge_and_unload"),
        ("target_parameters", ["x"], "merge_and_unload"),
        ("ensure_weight_tying", True, "merge_and_unload"),
        ("init_lora_weights", "pissa", "merge_and_unload"),
        ("init_lora_weights", 1, "merge_and_unload"),
        ("init_lora_weights", [True], "merge_and_unload"),
        ("use_something_new", 0.5, "known keys"),
        ("r", 0, "greater than 0"),
        ("r", True, "valid integer"),
        ("r", 1 << 30, "less than"),
        ("r", "4", "valid integer"),
        ("lora_alpha", float("inf"), "finite"),
        ("lora_alpha", "8", "valid number"),
        ("use_rslora", 1, "valid boolean"),
        ("rank_pattern", [4], "valid dictionary"),
        ("rank_pattern", {"q_proj": -1}, "greater than 0"),
        ("rank_pattern", {"(a+)+$": 4}, "the end of a module's path"),
        ("alpha_pattern", {".*a.*b.*c.*d": 4}, "the end of a module's path"),
        ("alpha_pattern", {"x" * 201: 4}, "the end of a module's path"),
        ("alpha_pattern", {str(i): 4 for i in range(1025)}, "at most 1024"),
    ],
)
def test_a_setting_that_is_not_computed(key: str, value: object, hint: str, tmp_path: Path) -> None:
    error = refused(changed("llama_qv", tmp_path, **{key: value}))
    assert "adapter_config.json" in error.message and key in error.message
    assert hint in error.hint and len(error.message) < 300


def test_settings_of_old_and_new_files_that_change_nothing(tmp_path: Path) -> None:
    folder = changed("llama_qv", tmp_path)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "new": null}')
    np.testing.assert_array_equal(logits("hf_llama", folder), logits("hf_llama", LORA / "llama_qv"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(f"{Q}.lora_B.weight"), f"{Q}.lora_B.weight is missing"),
        (lambda a: a.update({f"{Q}.lora_C.weight": a[f"{Q}.lora_A.weight"]}), "for no weight"),
        (lambda a: a.update(oops=a[f"{Q}.lora_A.weight"]), "tensor oops is for no weight"),
        (
            lambda a: a.update({f"{Q}.lora_A.weight": a[f"{Q}.lora_A.weight"][:2]}),
            f"{Q}.lora_A.weight has shape [2, 48], not [4, 48]",
        ),
        (
            lambda a: a.update({f"{Q}.lora_B.weight": np.ones((24, 4), np.float32)}),
            f"{Q}.lora_B.weight has shape [24, 4], not [48, 4]",
        ),
        (
            lambda a: a.update({f"{Q}.lora_B.weight": np.ones((48, 4), np.int8)}),
            "has dtype int8",
        ),
        (
            lambda a: a.update({f"{Q}.lora_B.weight": np.full((48, 4), np.nan, np.float32)}),
            "numbers that are not finite",
        ),
        (
            lambda a: a.update({f"{Q}.lora_magnitude_vector": np.ones(48, np.float32)}),
            "has a lora_magnitude_vector",
        ),
        (lambda a: a.clear(), "has no tensors"),
        (
            lambda a: a.update({f"{NORM}.lora_A.weight": a[f"{Q}.lora_A.weight"][:, 0].copy()}),
            "norm is no matrix",
        ),
        (
            lambda a: a.update({Q.removeprefix("base_model."): a.pop(f"{Q}.lora_B.weight")}),
            "for no",
        ),
        (
            lambda a: a.update({f"{NORM}{part}.weight": np.ones(48, np.float32) for part in PARTS}),
            "are one weight",
        ),
    ],
)
def test_tensors_that_do_not_fit(change: Change, message: str, tmp_path: Path) -> None:
    folder = changed("llama_qv", tmp_path)
    path = folder / "adapter_model.safetensors"
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path)
    error = refused(folder)
    assert str(path) in error.message and message in error.message


def test_a_dora_without_its_lengths(tmp_path: Path) -> None:
    error = refused(changed("llama_qv", tmp_path, use_dora=True))
    assert "q_proj has no lora_magnitude_vector" in error.message


def test_an_adapter_of_another_model() -> None:
    error = refused(LORA / "llama_qv", "hf_gpt2")
    assert f"{Q}.lora_A.weight is for no weight" in error.message
    assert error.hint == "it is an adapter of hf_llama"


def test_the_embedding_of_a_family_without_a_head(tmp_path: Path) -> None:
    folder = changed("gpt2_fan_in_fan_out", tmp_path)
    rng = np.random.default_rng(0)
    table, at = (330, 36), "base_model.model.transformer.wte"
    arrays = {
        f"{at}.lora_embedding_A": rng.random((4, table[0]), np.float32),
        f"{at}.lora_embedding_B": rng.random((table[1], 4), np.float32),
    }
    save_file(arrays, folder / "adapter_model.safetensors")
    error = refused(folder, "hf_gpt2")
    assert f"{folder}/adapter_model.safetensors changes the embedding" in error.message


def test_weights_that_are_quantised(tmp_path: Path) -> None:
    for _ in convert(lookup.load(str(GOLDEN / "hf_llama")), tmp_path / "m", "int8"):
        pass
    with pytest.raises(UsageError, match="is quantised"):
        gentool.load(str(tmp_path / "m"), adapter=str(LORA / "llama_qv"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", b""),
        ("adapter_config.json", b"[1]"),
        ("adapter_config.json", b'{"peft_type": ' + b"[" * 100_000),
        ("adapter_config.json", b"\xff\xfe"),
        ("adapter_model.safetensors", b""),
        ("adapter_model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        ("adapter_model.safetensors", b"\xff" * 100),
    ],
)
def test_files_that_are_damaged(name: str, content: bytes, tmp_path: Path) -> None:
    folder = changed("llama_qv", tmp_path)
    (folder / name).write_bytes(content)
    assert name in refused(folder).message


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_that_are_missing(name: str, tmp_path: Path) -> None:
    folder = changed("llama_qv", tmp_path)
    (folder / name).unlink()
    error = refused(folder)
    assert f"{folder} is no adapter" in error.message and name in error.message


KEYS = (*sorted(AdapterConfig.model_fields), *sorted(NOT_READ | UNSUPPORTED), "init_lora_weights")
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -0.0, 1 << 63])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=5,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=9), VALUES, max_size=3))
def test_any_setting_is_honoured_or_refused(tmp_path: Path, keys: dict[str, object]) -> None:
    folder = tmp_path / "llama_qv"
    if not folder.exists():
        changed("llama_qv", tmp_path)
    given_keys = json.loads((LORA / "llama_qv/adapter_config.json").read_text()) | keys
    (folder / "adapter_config.json").write_text(json.dumps(given_keys))
    arch = lookup.load(str(GOLDEN / "hf_llama")).arch
    try:
        adapter = read_adapter(folder, load_family("llama"), arch)
    except ModelError as e:
        assert len(e.message) < 600 and "\n" not in e.message
    else:
        assert len(adapter.changes) == arch.n_layer


# Helpers


def changed(name: str, tmp_path: Path, **keys: object) -> Path:
    """A golden adapter with other keys in its configuration."""
    folder = copied(f"hf_lora/{name}", tmp_path / name)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def logits(base: str, adapter: Path | str | None = None, **how: Any) -> np.ndarray:
    how = {"precision": "fp32", "adapter": str(adapter) if adapter else []} | how
    return gentool.load(str(GOLDEN / base), **how).logits(IDS)


def refused(folder: Path, base: str = "hf_llama") -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_files(lookup.load(str(GOLDEN / base), adapters=[str(folder)]))
    return caught.value


def random_adapter(family: str, seed: int) -> Adapter:
    """Changes of all products of a family of tests, with ranks and scales of their own."""
    rng = np.random.default_rng(seed)
    shapes = {
        n: a.shape for n, a in random_weights(load_family(family), arch_of(family), 0).items()
    }
    changes = {}
    for name, shape in shapes.items():
        if len(shape) == 2 and name.startswith("layers."):
            rank = int(rng.integers(1, 5))
            a = rng.normal(size=(rank, shape[1])).astype(np.float32)
            b = rng.normal(size=(shape[0], rank)).astype(np.float32)
            changes[name] = (LowRank(a, b, int(rng.integers(1, 9)) / rank),)
    return Adapter(changes)


def merged(family: str, arrays: dict[str, np.ndarray], *adapters: Adapter) -> tuple[Any, Any, Any]:
    """The source, plan and numbers of a random model with adapters."""
    module, arch, source = load_family(family), arch_of(family), Arrays(arrays)
    return adapted(source, weights.plan(source, module, arch), module, arch, adapters)
