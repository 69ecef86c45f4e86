"""The YAML file that is written says what was meant, its files by paths that hold, and their sums;
the user's own folder is all that is changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from folders import GOLDEN, arch, copied, random_gpt2, sharded
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool import registry
from gentool.config import lookup
from gentool.config.model import Arch, ModelFile, RopeScaling, TokenizerConfig
from gentool.config.sampling import SamplingParams
from gentool.config.schema import parse, read_yaml
from gentool.errors import Exit, GentoolError, ModelError, UsageError

LLAMA = str(GOLDEN / "hf_llama")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, which is not there yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "gentool" / "models"


def add(name: str, place: Path | str, **said: object) -> Path:
    return registry.add(registry.with_sums(registry.describe(name, str(place), said)))


# Text

WORDS = st.one_of(
    st.sampled_from(["1e5", "-2E+7", "1.", "null", "~", "a: b", "#x", "'", '"', "- x", "\n", "<<"]),
    # also what PyYAML takes for the end of a line
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)
FILES = WORDS.filter(lambda name: name != "<<")  # a key the reader refuses, quoted or not
SCALINGS = st.builds(
    RopeScaling,
    kind=st.sampled_from(["linear", "llama3", "yarn"]),
    factor=st.floats(1, 1e6),
    high_frequency=st.floats(1.5, 100),
)
NUMBERS = {
    "norm_eps": st.floats(1e-300, 0.5),
    "rope_theta": st.floats(1e-3, 1e12),
    "rope_scaling": st.none() | SCALINGS,
    "window": st.none() | st.integers(1, 9),
    "window_layers": st.lists(st.integers(0, 50), max_size=14),
    "score_cap": st.none() | st.floats(1, 1e9),
    "tied_head": st.booleans(),
    "log_n": st.none() | st.integers(2, 9),
}
TOKENIZERS = st.builds(
    lambda kind, model, end: TokenizerConfig(kind=kind, model=model, **end),
    st.sampled_from(["cpm", "huggingface", "sentencepiece", "wordpiece"]),
    WORDS,
    st.just({}) | st.fixed_dictionaries({"end": st.none() | st.lists(st.integers(0, 9))}),
)
LAWS = st.builds(
    SamplingParams,
    temperature=st.floats(0, 1e9),
    top_p=st.floats(1e-9, 1),
    stop=st.lists(WORDS, max_size=3).map(tuple),
)


@st.composite
def models(draw: st.DrawFn) -> ModelFile:
    numbers = {key: draw(values) for key, values in NUMBERS.items()}
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    return ModelFile(
        name=draw(WORDS),
        family=draw(st.sampled_from(["llama", "gemma2"])),
        checkpoint=draw(WORDS),
        format=draw(st.sampled_from([None, "torch"])),
        arch=Arch(**shape, n_vocab=96, n_ctx=64, n_position=64, d_head=8, **numbers),
        tokenizer=draw(st.none() | TOKENIZERS),
        precision=draw(st.sampled_from(["auto", "fp16"])),
        sampling=draw(LAWS),
        sha256=draw(st.dictionaries(FILES, st.just("0" * 63 + "1"), max_size=3)),
    )


@settings(max_examples=40)
@given(models())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, model) -> None:
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(registry.text(model), "utf-8")
    assert parse(ModelFile, read_yaml(path), "written") == model


# Names


@pytest.mark.parametrize(
    "name", ["a", "A.b_c-9", "0", "1e5", "null", "x" * 200, "a..b", "中文", "é", "模" * 66]
)
def test_names_that_can_be_given(name: str) -> None:
    path = add(name, LLAMA)
    assert path == lookup.own() / f"{name}.yaml"
    assert lookup.load(name).name == name
    assert registry.remove(name) == path and not path.exists()


WRONG = [
    "",
    "-a",
    ".a",
    "_a",
    "a/b",
    "../x",
    "a b",
    "a\n",
    "a\0",
    "x" * 201,
    "/etc/x",
    "。",
    "模" * 67,
]


@pytest.mark.parametrize("name", WRONG)
def test_names_that_cannot(name: str, own: Path) -> None:
    for refused in (registry.place_of, registry.new_place, registry.remove):
        with pytest.raises(UsageError, match="is no name of a model"):
            refused(name)
    assert not own.exists()


def test_a_packaged_name_and_one_given_already(own: Path) -> None:
    for refused in (registry.new_place, registry.remove):
        with pytest.raises(UsageError, match="tiny-zh is the model inside gentool"):
            refused("tiny-zh")
    path = add("mine", LLAMA)
    before = path.read_bytes()
    for twice in (registry.new_place, lambda name: add(name, GOLDEN / "hf_gpt2")):
        with pytest.raises(UsageError, match="there is a model mine already"):
            twice("mine")
    assert path.read_bytes() == before and os.listdir(own) == ["mine.yaml"]


def test_a_folder_that_cannot_be_written_is_a_plain_error(own: Path) -> None:
    own.parent.mkdir(parents=True)
    own.touch()  # a file where the folder would be
    with pytest.raises(GentoolError, match="cannot write") as caught:
        add("mine", LLAMA)
    assert caught.value.exit_code == Exit.RUNTIME and own.is_file()


# What is described


def test_files_are_named_by_absolute_paths_that_hold(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied("hf_gpt2", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    path = add("a", ".")
    monkeypatch.chdir("/")
    found = lookup.load("a")
    assert found.checkpoint == str(tmp_path / "here/model.safetensors")
    assert found.tokenizer.model == str(tmp_path / "here/tokenizer.json")
    beside = {
        str(tmp_path / "here" / name)
        for name in ("special_tokens_map.json", "tokenizer_config.json")
    }
    assert found.sha256.keys() == {found.checkpoint, found.tokenizer.model} | beside
    assert len(path.read_text("utf-8").splitlines()) <= 30


def test_a_megatron_folder_with_what_it_does_not_say() -> None:
    folder = GOLDEN / "cpm_megatron/ckpt"
    with pytest.raises(ModelError, match="arch.n_head is missing"):
        registry.describe("cpm", str(folder), {})
    add("cpm", folder, **{"arch.n_head": "4", "sampling.temperature": "0.5"})
    found = lookup.load("cpm")
    assert (found.arch.n_head, found.sampling.temperature) == (4, 0.5)
    assert found.checkpoint == str(folder) and len(found.sha256) == 3
    assert {state for _, state in registry.verify(found)} == {"as recorded"}


def test_a_yaml_file_and_a_known_name(tmp_path: Path) -> None:
    add("other", "tiny-zh")
    packaged, found = lookup.load("tiny-zh"), lookup.load("other")
    assert (found.arch, found.sampling) == (packaged.arch, packaged.sampling)
    assert list(found.sha256.values()) == list(packaged.sha256.values())
    with pytest.raises(ModelError, match="does not exist"):
        add("big", "gpt2")  # of configs/, its weights are not here
    yaml = tmp_path / "some.yaml"
    yaml.write_text(registry.text(packaged).replace(" model: ", f" model: {packaged.folder}/"))
    with pytest.raises(ModelError, match="model.safetensors does not exist"):
        add("some", yaml)
    add("some", yaml, checkpoint=str(packaged.folder / "model.safetensors"))
    assert lookup.load("some").arch == packaged.arch


def test_links_of_a_cache_keep_their_names(tmp_path: Path) -> None:
    """Found here: Hugging Face's cache links model.safetensors to a file named by its sum, of
    whose name no format follows."""
    snapshot, blobs = tmp_path / "snapshots/0", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate((GOLDEN / "hf_gpt2").glob("*.*")):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    add("cached", snapshot)
    found = lookup.load("cached")
    assert found.checkpoint == str(snapshot / "model.safetensors")
    assert {state for _, state in registry.verify(found)} == {"as recorded"}


GPT2 = {
    "model_type": "gpt2",
    **{"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 30000},
}


def cpm(folder: Path, **changed: object) -> Path:
    """What says of itself that it is CPM-distill in Hugging Face's form; its weights are none."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT2 | changed))
    shutil.copy(GOLDEN / "tokenizers/cpm/chinese_vocab.model", folder)
    (folder / "model.safetensors").touch()
    return folder


def test_what_configs_says_of_a_model_is_taken_over(tmp_path: Path) -> None:
    folder = cpm(tmp_path / "distill")
    found = registry.describe("cpm-distill", str(folder), {})
    assert found.sampling.temperature == 0.9 and found.tokenizer.end == [7]
    assert found.tokenizer.model == str(folder / "chinese_vocab.model")
    assert found.checkpoint == str(folder / "model.safetensors")
    alone = registry.describe("other", str(folder), {})
    assert alone.sampling == SamplingParams() and alone.tokenizer.end is None
    said = registry.describe("cpm-distill", str(folder), {"sampling.temperature": 0.3})
    assert said.sampling.temperature == 0.3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_layer": 11}, "its arch.n_layer is 11, not 12"),
        ({"vocab_size": 30001}, "its arch.n_vocab is 30001, not 30000"),
        ({"layer_norm_epsilon": 1e-6}, "its arch.norm_eps is 1e-06, not 1e-05"),
        ({"activation_function": "gelu"}, "its arch.activation is gelu_erf, not gelu_tanh"),
    ],
)
def test_a_folder_of_other_numbers_cannot_have_the_name(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = cpm(tmp_path / "distill", **changed)
    with pytest.raises(UsageError, match=message):
        registry.describe("cpm-distill", str(folder), {})
    with pytest.raises(UsageError, match="its family is llama, not gpt2|its arch"):
        registry.describe("cpm-distill", LLAMA, {})


FULL = "arch: {n_layer: 12, n_head: 12, d_model: 768, d_ff: 3072, n_vocab: 30000, n_ctx: 1024}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arch: 3", "arch is 3"),
        ("arch: [n_layer]", r"arch is \['n_layer'\]"),
        (f"{FULL}\ntokenizer: abc", "tokenizer is 'abc'"),
        (f"{FULL}\ntokenizer: {{model: abc}}", "tokenizer.kind is missing"),
        ("arch: {n_layer: [1]}", r"arch.n_layer is \[1\], not 12"),
        ("arch: {n_layer: 12}\nsampling: 3", "sampling is 3"),
    ],
)
def test_a_wrong_yaml_under_a_name_of_configs_is_named(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "m.yaml").write_text(f"name: x\nfamily: gpt2\ncheckpoint: x\n{text}\n")
    with pytest.raises(UsageError, match=message):
        registry.describe("cpm-distill", str(tmp_path / "m.yaml"), {})


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path, own: Path) -> None:
    folder = copied("hf_llama", tmp_path / "model\udcff")
    with pytest.raises(UsageError, match="is not UTF-8"):
        add("mine", folder)
    assert not own.exists()


# All models


def test_entries_and_their_states(own: Path) -> None:
    before = {entry.name: entry for entry in registry.entries()}
    assert list(before) == sorted(before) and {"tiny-zh", "gpt2"} <= before.keys()
    assert before["tiny-zh"][2:4] == ("packaged", "ready")
    assert before["gpt2"][2:4] == ("configs", "no weights here")
    add("mine", LLAMA)
    gone = add("gone", copied("hf_llama", own.parent / "folder"))
    shutil.rmtree(own.parent / "folder")
    shutil.copy(gone, own / "gpt2.yaml")
    (own / "wrong.yaml").write_text("name: [")
    (own / "dir.yaml").mkdir()
    after = {entry.name: entry for entry in registry.entries()}
    assert after.keys() == before.keys() | {"mine", "gone", "wrong", "dir"}
    states = {name: after[name].state for name in ("mine", "gone", "gpt2", "wrong", "dir")}
    assert list(states.values()) == [
        "ready",
        "no weights here",
        "no weights here",
        "wrong",
        "wrong",
    ]
    assert (after["gpt2"].origin, after["gpt2"].path) == ("own", own / "gpt2.yaml")
    assert after["wrong"].file is None and after["mine"].file.arch.n_layer == 3


def test_remove_deletes_the_yaml_and_nothing_else(tmp_path: Path, own: Path) -> None:
    folder = copied("hf_llama", tmp_path / "folder")
    files = sorted(folder.iterdir())
    path, other = add("mine", folder), add("other", folder)
    assert registry.remove("mine") == path
    assert os.listdir(own) == [other.name] and sorted(folder.iterdir()) == files
    for name in ("mine", "gpt2"):
        with pytest.raises(UsageError, match=f"there is no model {name} of your own") as caught:
            registry.remove(name)
        assert "other" in caught.value.hint
    (own / "broken.yaml").write_text("name: [")
    registry.remove("broken")
    assert (lookup.configs() / "gpt2.yaml").is_file()


# Sums


def states(name: str) -> dict[str, str]:
    return {Path(path).name: state for path, state in registry.verify(lookup.load(name))}


def test_every_file_of_a_model_is_compared(tmp_path: Path) -> None:
    folder = copied("hf_gpt2", tmp_path / "folder")
    index = sharded(folder)
    add("mine", folder)
    names = {index.name, "model-1.safetensors", "model-2.safetensors", "tokenizer.json"}
    names |= {"special_tokens_map.json", "tokenizer_config.json"}  # which the tokenizer reads, too
    assert states("mine") == dict.fromkeys(names, "as recorded")
    for name in ("tokenizer.json", "model-2.safetensors"):
        with (folder / name).open("r+b") as file:  # in place: sizes stay
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        assert states("mine")[name] == "changed"
    assert states("mine")["model-1.safetensors"] == "as recorded"
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(ModelError, match="model-2.safetensors: No such file"):
        states("mine")
    sharded(copied("hf_gpt2", tmp_path / "again"))
    places = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": {n: p for n, p in places.items() if "1" in p[:7]}}))
    assert states("mine")[index.name] == "changed"
    assert states("mine")["model-2.safetensors"] == "missing"


def test_sums_of_the_packaged_model_and_a_file_without_one(tmp_path: Path) -> None:
    assert set(states("tiny-zh").values()) == {"as recorded"}
    folder = random_gpt2(tmp_path / "m", arch(), "float32")
    yaml = folder / "gentool.yaml"
    known = registry.digest(folder / "model.safetensors")
    yaml.write_text(yaml.read_text() + f"sha256: {{gone.txt: {'a' * 64}}}\n")
    assert states(str(folder)) == {"gone.txt": "missing", "model.safetensors": "no sum recorded"}
    yaml.write_text(
        yaml.read_text().replace("gone.txt: " + "a" * 64, f"model.safetensors: {known}")
    )
    assert states(str(folder)) == {"model.safetensors": "as recorded"}
