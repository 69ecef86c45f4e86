"""A converted folder is the same model, whole, aligned and mapped, or nothing at all."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from folders import GOLDEN, arch, copied, random_gpt2, sharded

import gentool
from gentool import registry
from gentool.config import lookup
from gentool.config.model import LEARNED_POSITIONS
from gentool.config.schema import read_yaml
from gentool.convert import DTYPES, convert
from gentool.errors import GentoolError, ModelError, UsageError
from gentool.generation.opening import open_files
from gentool.models import load_family

HEADS = {"arch.n_head": 4}
BERT = {
    "model_type": "gpt2",
    "tokenizer_class": "BertTokenizer",
    **{"n_layer": 3, "n_head": 4, "n_embd": 32, "n_positions": 64, "vocab_size": 266},
}
# folder -> what must be said of it, and the name of its tokenizer's file
MODELS = {
    "hf_gpt2": ({}, "tokenizer.json"),
    "hf_llama": ({}, None),
    "gpt2_ml": ({}, None),
    "cpm_megatron/ckpt": (HEADS, None),
    "cpm_lm_tf2/saved_model": (HEADS, None),
    "bert_gpt2_chinese": ({}, "vocab.txt"),
}


def made(
    source: Path | str, target: Path, precision: str = "auto", said: dict[str, object] | None = None
) -> Path:
    written = list(convert(lookup.load(str(source), said or {}), target, precision))
    done = [part.done for part in written]
    assert done == sorted(set(done)) and done[-1] == written[-1].size
    return target


def refused(error: type[GentoolError], source: Path, target: Path, precision: str = "auto") -> str:
    """The message of a conversion that fails and leaves the folder of its target as it was."""
    before = sorted(target.parent.iterdir()) if target.parent.is_dir() else []
    with pytest.raises(error) as caught:
        made(source, target, precision)
    assert before == (sorted(target.parent.iterdir()) if target.parent.is_dir() else [])
    return caught.value.message


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return random_gpt2(tmp_path / "small", arch(), np.float32)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder, so that what is left behind is seen."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# What is written


def golden(name: str, tmp_path: Path) -> Path:
    if name != "bert_gpt2_chinese":
        return GOLDEN / name
    folder = copied(name, tmp_path / "bert")
    (folder / "config.json").write_text(json.dumps(BERT))
    shutil.copy(GOLDEN / "tokenizers/bert/vocab.txt", folder)
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_the_folder_is_the_same_model(name: str, tmp_path: Path, out: Path) -> None:
    said, tokenizer = MODELS[name]
    source = golden(name, tmp_path)
    target = made(source, out / "model", said=said)
    names = {"gentool.yaml", "model.safetensors"} | ({tokenizer} if tokenizer else set())
    beside = ("special_tokens_map.json", "tokenizer_config.json") if tokenizer else ()
    names |= {file for file in beside if (Path(source) / file).is_file()}
    assert {path.name for path in target.iterdir()} == names
    assert os.listdir(out) == ["model"]

    # the YAML says everything: it is read without any other file, has all numbers and all sums
    before, after = lookup.load(str(source), said), lookup.load(str(target))
    assert (after.arch, after.family, after.sampling) == (
        before.arch,
        before.family,
        before.sampling,
    )
    assert len((target / "gentool.yaml").read_text("utf-8").splitlines()) <= 30
    numbers = {key for key, value in after.arch.model_dump().items() if value not in (None, [])}
    rotary = after.family not in LEARNED_POSITIONS
    written = read_yaml(target / "gentool.yaml")
    assert written["arch"].keys() == numbers - ({"n_position"} if rotary else set())
    assert written["sha256"].keys() == names - {"gentool.yaml"}
    assert {state for _, state in registry.verify(after)} == {"as recorded"}

    # products are [out, in], every weight is aligned and has the type it had
    opened, plan = open_files(after), open_files(before).plan
    family = load_family(after.family)
    shapes = dict(family.top_tensors(after.arch))
    for i in range(after.arch.n_layer):
        shapes |= {f"layers.{i}.{k}": s for k, s in family.layer_tensors(after.arch, i).items()}
    found = {n: s for n, s in opened.source.shapes.items() if not n.startswith("padding.")}
    assert found == shapes
    for weight in shapes:
        assert opened.source.read(weight).ctypes.data % 64 == 0
        assert opened.source.dtypes[weight] == plan[weight].dtype

    # as stored and in fp32 the bits of the logits are the same
    stored = {np.dtype(dtype): precision for precision, dtype in DTYPES.items()}
    ids = np.random.default_rng(0).integers(0, after.arch.n_vocab, 9).tolist()
    for precision in {"fp32", stored[plan["embedding"].dtype]}:
        old = gentool.load(str(source), precision=precision, set=said, xla=False)
        new = gentool.load(str(target), precision=precision, xla=False)
        np.testing.assert_array_equal(new.logits(ids), old.logits(ids), strict=True)
    if tokenizer:
        text = "Hello, 今天天气不错 [CLS]\n 1+1=2"
        assert new.tokenizer.encode(text) == old.tokenizer.encode(text)
        assert new.tokenizer.decode(ids) == old.tokenizer.decode(ids)
        assert new.tokenizer.end == old.tokenizer.end


def vocabulary(folder: Path) -> dict[str, object]:
    """GPT-2's tokenizer in its older form of two files."""
    bpe = json.loads((GOLDEN / "tokenizers/gpt2/tokenizer.json").read_text("utf-8"))["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    (folder / "vocab.json").write_text(json.dumps(bpe["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    return {"kind": "huggingface", "model": "vocab.json", "end": []}


def chinese(folder: Path) -> dict[str, object]:
    shutil.copy(GOLDEN / "tokenizers/cpm/chinese_vocab.model", folder / "pieces.model")
    return {"kind": "cpm", "model": "pieces.model"}


@pytest.mark.parametrize(
    ("write", "names"),
    [(vocabulary, ["merges.txt", "vocab.json"]), (chinese, ["pieces.model"])],
    ids=["two files", "cpm"],
)
def test_all_files_of_a_tokenizer_come_along(
    write: Callable[[Path], dict[str, object]], names: list[str], tmp_path: Path, out: Path
) -> None:
    source = random_gpt2(tmp_path / "m", arch(d_model=4, n_vocab=30000), np.float16)
    (source / "sub").mkdir()
    keys = write(source / "sub")
    said = {"tokenizer": keys | {"model": f"sub/{keys['model']}"}}
    target = made(source, out / "m", said=said)
    found = sorted(path.name for path in target.iterdir())
    assert found == sorted([*names, "gentool.yaml", "model.safetensors"])
    sums = read_yaml(target / "gentool.yaml")["sha256"]
    assert sums.keys() == {*names, "model.safetensors"}
    old, new = lookup.load(str(source), said), lookup.load(str(target))
    assert new.tokenizer == old.tokenizer.model_copy(update={"model": keys["model"]})
    tokenizers = [open_files(model).tokenizer for model in (old, new)]
    assert len({tuple(t.encode("Hello 今天")) for t in tokenizers}) == 1


@pytest.mark.parametrize("precision", DTYPES)
def test_precision_is_the_type_of_every_weight(precision: str, out: Path) -> None:
    target = made(GOLDEN / "hf_llama", out / "m", precision)
    old, new = (open_files(lookup.load(str(p))) for p in (GOLDEN / "hf_llama", target))
    from gentool.models import weights

    for name, weight in new.plan.items():
        assert weight.dtype == DTYPES[precision]
        wanted = weights.read(old.source, old.plan[name]).astype(DTYPES[precision])
        np.testing.assert_array_equal(weights.read(new.source, weight), wanted, strict=True)


@pytest.mark.parametrize(
    ("dtype", "number", "precision"),
    [
        (np.float32, 7e4, "fp16"),
        (ml_dtypes.bfloat16, -1e5, "fp16"),
        (np.float64, 1e39, "fp32"),
        (np.float32, 3.4e38, "bf16"),
    ],
)
def test_a_number_too_large_is_an_error_naming_the_tensor(
    dtype: type, number: float, precision: str, tmp_path: Path, out: Path
) -> None:
    source = random_gpt2(tmp_path / "m", arch(), dtype, layers_0_up=[number])
    message = refused(ModelError, source, out / "m", precision)
    assert "layers.0.up has numbers too large" in message


def test_an_infinity_stays_one_and_hides_nothing(tmp_path: Path, out: Path) -> None:
    source = random_gpt2(tmp_path / "m", arch(), np.float32, position=[np.inf, np.nan])
    found = open_files(lookup.load(str(made(source, out / "m", "fp16")))).source.read("position")
    np.testing.assert_array_equal(found.flat[:2], np.array([np.inf, np.nan], np.float16))
    source = random_gpt2(tmp_path / "n", arch(), np.float32, layers_0_down=[np.inf, 1e9])
    assert "layers.0.down has" in refused(ModelError, source, out / "n", "fp16")


@pytest.mark.parametrize(
    "name", ["1e5", "今天", "null", "0x10", "~", "a b", "#", "- a", "it's", "=b"]
)
def test_any_name_is_read_back(name: str, small: Path, out: Path) -> None:
    assert lookup.load(str(made(small, out / name))).name == name


# Where it is written


def test_what_exists_is_not_touched(small: Path, out: Path) -> None:
    (out / "file").write_text("mine")
    (out / "folder").mkdir()
    (out / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link", "."):
        assert "exists already" in refused(UsageError, small, out / name)
    assert (out / "file").read_text() == "mine"


def test_a_place_that_cannot_be_made_is_wrong_usage(small: Path, out: Path) -> None:
    for name in ("no/such/folder", "x" * 300, "x" * 250, "small\udcff"):
        assert str(out / name) in refused(UsageError, small, out / name)
    (out / "file").touch()
    assert "cannot make" in refused(UsageError, small, out / "file" / "m")
    with read_only(out):
        assert f"cannot make {out / 'm'}" in refused(UsageError, small, out / "m")


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own, which only root may make."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("a file system can be mounted by root only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        with mounted(folder, "ro,size=64k"):
            yield
        return
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


def test_what_a_killed_conversion_left_is_removed(small: Path, out: Path) -> None:
    partial = out / ".m.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"x" * 99)
    (partial / "old").symlink_to(small / "gentool.yaml")
    made(small, out / "m")
    assert os.listdir(out) == ["m"] and len(os.listdir(out / "m")) == 2
    assert (small / "gentool.yaml").exists()


def test_nothing_is_removed_or_written_through_a_link(
    small: Path, out: Path, tmp_path: Path
) -> None:
    """Found here: the files of the folder a link .NAME.partial led to were deleted."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    (out / ".m.partial").symlink_to(tmp_path / "precious")
    assert "cannot make" in refused(UsageError, small, out / "m")
    assert os.listdir(tmp_path / "precious") == ["thesis"]
    (out / ".n.partial").touch()
    assert "cannot make" in refused(UsageError, small, out / "n")


def test_of_two_conversions_to_one_place_one_is_refused(small: Path, out: Path) -> None:
    model = lookup.load(str(small))
    first = convert(model, out / "m", "auto")
    next(first)
    assert "is being written already" in refused(UsageError, small, out / "m")
    list(first)
    assert os.listdir(out) == ["m"]
    assert {state for _, state in registry.verify(lookup.load(str(out / "m")))} == {"as recorded"}


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_place_taken_meanwhile_is_left_alone(kind: str, small: Path, out: Path) -> None:
    running = convert(lookup.load(str(small)), out / "m", "auto")
    next(running)
    (out / "m").touch() if kind == "file" else (out / "m").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        list(running)
    assert os.listdir(out) == ["m"] and (out / "m").is_file() == (kind == "file")


def test_an_abandoned_conversion_leaves_nothing(small: Path, out: Path) -> None:
    running = convert(lookup.load(str(small)), out / "m", "auto")
    next(running)
    assert os.listdir(out) == [".m.partial"]
    running.close()
    assert os.listdir(out) == []


# No space


@pytest.mark.parametrize("limit", [100, 5000])
def test_a_limit_of_the_size_of_files(limit: int, small: Path, out: Path) -> None:
    assert (small / "model.safetensors").stat().st_size > 5000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        message = refused(ModelError, small, out / "m")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"cannot write {out / 'm'}: File too large" in message


def test_a_disk_that_is_too_small_and_one_that_fills_up(small: Path, out: Path, tmp_path) -> None:
    large = random_gpt2(tmp_path / "large", arch(4, 64, 500), np.float32)
    size = (large / "model.safetensors").stat().st_size
    with mounted(out, "size=256k"):
        message = refused(ModelError, large, out / "m")
        assert f"needs {size // 10**5}" in message and "are free" in message
        made(small, out / "small")
    with mounted(out, f"size={size + (1 << 18)}"):
        running = convert(lookup.load(str(large)), out / "m", "auto")
        next(running)
        with (out / "other").open("wb") as other, contextlib.suppress(OSError):
            other.write(bytes(size))
        with pytest.raises(ModelError, match=rf"cannot write {out}/m.*No space left") as caught:
            list(running)
        assert caught.value.hint == "free some space"
        assert os.listdir(out) == ["other"]


# Broken sources


def changed_json(path: Path, **keys: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | keys), "utf-8")


def changed_index(folder: Path, place: str) -> None:
    index = sharded(folder)
    places = json.loads(index.read_text())["weight_map"]
    changed_json(index, weight_map=places | {"model.norm.weight": place})


def of_another_shape(folder: Path) -> None:
    changed_json(folder / "config.json", intermediate_size=121)


def without_a_tensor(folder: Path) -> None:
    changed_json(folder / "config.json", num_hidden_layers=4)


def with_one_too_many(folder: Path) -> None:
    changed_json(folder / "config.json", num_hidden_layers=2)


def with_a_short_shard(folder: Path) -> None:
    sharded(folder)
    os.truncate(folder / "model-2.safetensors", 5000)


def without_a_shard(folder: Path) -> None:
    sharded(folder)
    (folder / "model-2.safetensors").unlink()


def with_a_pipe_for_a_shard(folder: Path) -> None:
    without_a_shard(folder)
    os.mkfifo(folder / "model-2.safetensors")


def with_a_corrupt_header(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(20)
        file.write(b"{{{{")


def with_a_pickle_for_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(bytes(100))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (of_another_shape, "mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight has shape"),
        (without_a_tensor, "tensor model.layers.3.input_layernorm.weight is missing"),
        (
            with_one_too_many,
            "tensor model.layers.2.input_layernorm.weight is no weight of the family",
        ),
        (with_a_short_shard, "model-2.safetensors is not a whole safetensors file"),
        (without_a_shard, "model-2.safetensors: No such file"),
        (with_a_pipe_for_a_shard, "model-2.safetensors is not a file"),
        (with_a_corrupt_header, "model.safetensors is not a whole safetensors file"),
        (with_a_pickle_for_weights, "pytorch_model.bin is not a file of torch.save"),
        (lambda folder: changed_index(folder, "../x"), "'../x' is no file of the model's folder"),
        (
            lambda folder: changed_index(folder, "model-1.safetensors"),
            "no tensor model.norm.weight",
        ),
    ],
)
def test_a_broken_source_is_named_and_leaves_nothing(
    break_it: Callable[[Path], None], message: str, tmp_path: Path, out: Path
) -> None:
    source = copied("hf_llama", tmp_path / "source")
    break_it(source)
    assert message in refused(ModelError, source, out / "m")


def test_shards_become_one_file(tmp_path: Path, out: Path) -> None:
    source = copied("hf_llama", tmp_path / "source")
    sharded(source)
    made(source, out / "a")
    made(GOLDEN / "hf_llama", out / "b")
    a, b = ((out / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b


# Memory

OPEN = """
import sys, time
import gentool
from gentool.runtimes.xla import device
device.setup()
from gentool.decoding import engine
from gentool.runtimes.xla import runtime

def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10

gentool.load(sys.argv[1], precision="fp32", xla=True)  # what any model takes
before = anonymous()
model = gentool.load(sys.argv[2], precision="fp16")
print(anonymous() - before)
"""


def test_opening_takes_no_memory_for_the_weights(small: Path, tmp_path: Path, out: Path) -> None:
    source = random_gpt2(tmp_path / "large", arch(3, 1024, 32000), np.float16)
    target = made(source, out / "m")
    assert (target / "model.safetensors").stat().st_size > 130e6
    run = [sys.executable, "-c", OPEN, str(small), str(target)]
    taken = int(subprocess.run(run, check=True, capture_output=True).stdout)
    assert taken < 8e6
