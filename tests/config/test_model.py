"""YAML files as configurations: what is wrong is named with file, key and value."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gentool.cli.options import sampling_option
from gentool.config import lookup, schema
from gentool.config.lookup import known, load
from gentool.config.model import ModelFile
from gentool.config.sampling import SamplingParams, parameters
from gentool.errors import Exit, GentoolError, ModelError, UsageError

GOOD = """\
name: small
family: llama
checkpoint: model.safetensors
arch: {n_layer: 2, n_head: 4, n_kv_head: 2, d_model: 32, d_head: 8, d_ff: 48,
       n_vocab: 96, n_ctx: 64}
tokenizer: {kind: sentencepiece, model: tokenizer.model}
sampling: {temperature: 0.9, top_p: 0.9, stop: ["。"]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder whose weights need no reading here."""
    for name, text in {
        "gentool.yaml": GOOD,
        "model.safetensors": "",
        "tokenizer.model": "",
    }.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def written(folder: Path, old: str, new: str) -> str:
    """The good file with one thing changed, as a YAML file of the user's own."""
    assert old in GOOD
    path = folder / "mine.yaml"
    path.write_text(GOOD.replace(old, new), "utf-8")
    return str(path)


def test_folder_and_file_give_the_same_model(folder: Path) -> None:
    found = load(str(folder))
    assert found == load(str(folder / "gentool.yaml"))
    assert (found.name, found.folder, found.precision) == ("small", folder, "auto")
    assert (found.sampling.temperature, found.sampling.max_tokens) == (0.9, 64)


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("n_layer: 2", "n_layers: 2", "unknown key arch.n_layers", "n_layer"),
        ("checkpoint:", "chekpoint:", "unknown key chekpoint", "checkpoint"),
        ("name: small", "name: small\nfolder: x", "unknown key folder", "format"),
        ("n_layer: 2, ", "", "arch.n_layer is missing", "n_layer"),
        ("n_layer: 2", "n_layer: two", "arch.n_layer is 'two'", "integer"),
        ("n_layer: 2", "n_layer: '2'", "arch.n_layer is '2'", "integer"),
        ("n_layer: 2", "n_layer: 0", "arch.n_layer is 0", "greater than 0"),
        ("n_layer: 2", "n_layer: 1000000000", "arch.n_layer is 1000000000", "1000"),
        ("n_ctx: 64", "n_ctx: 1000000000000", "arch.n_ctx is 1000000000000", "less than"),
        ("name: small", "<<: {name: small}", "the key << is not understood", "indent"),
        ("name: small", "name: !!map [a]", "is not YAML", "indent"),
        ("name: small", "name: !!timestamp foo", "is not YAML", "indent"),
        ("name: small", "name: !!int ''", "is not YAML", "indent"),
        ("name: small", "name: !!bool x", "is not YAML", "indent"),
        ("n_layer: 2", "n_layer: 2.5", "arch.n_layer is 2.5", "integer"),
        ("n_kv_head: 2", "n_kv_head: 3", "n_head 4 is not a multiple of n_kv_head 3", "change"),
        ("d_head: 8", "d_head: 7", "d_head 7 is odd", "change"),
        ("family: llama", "family: lama", "family is 'lama'", "did you mean llama?"),
        ("kind: sentencepiece", "kind: bpe", "tokenizer.kind is 'bpe'", "sentencepiece"),
        ("top_p: 0.9", "top_p: 1.5", "sampling.top_p is 1.5", "less than or equal to 1"),
        ("top_p: 0.9", "top_p: .nan", "sampling.top_p is nan", "finite"),
        ("temperature: 0.9", "temperature: -1", "sampling.temperature is -1", "or equal to 0"),
        ("top_p: 0.9", "min_tokens: 65", "min_tokens 65 is more than max_tokens 64", "change"),
        ('["。"]', '[""]', "sampling.stop.0 is ''", "1 character"),
        (
            "name: small",
            "name: small\nname: big",
            "line 2 is not YAML: name is given twice",
            "check",
        ),
        ("name: small", "name: [small", "is not YAML", "check"),
        ("name: small", "name: 2001-99-99", "is not YAML", "check"),
        (GOOD, "- a list", "holds list, not a mapping", "key: value"),
        (GOOD, "[" * 5000, "is not YAML", "check"),
    ],
)
def test_a_wrong_file_is_named_with_key_and_value(
    folder: Path, old: str, new: str, message: str, hint: str
) -> None:
    path = written(folder, old, new)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert path in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_corrupt_folder_is_not_a_usage_error(folder: Path) -> None:
    (folder / "gentool.yaml").write_text(GOOD.replace("n_layer", "n_layers"), "utf-8")
    with pytest.raises(ModelError, match="unknown key arch.n_layers"):
        load(str(folder))
    (folder / "gentool.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ModelError, match=r"not UTF-8 \(byte 6\)"):
        load(str(folder))
    (folder / "gentool.yaml").unlink()
    with pytest.raises(ModelError, match="has no gentool.yaml"):
        load(str(folder))


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.model"])
def test_a_missing_file_is_found_at_once(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ModelError) as caught:
        load(str(folder))
    assert str(folder / missing) in caught.value.message


@pytest.mark.parametrize("place", ["../other.safetensors", "/etc/passwd"])
def test_a_folder_names_only_what_is_inside_it(folder: Path, place: str) -> None:
    (folder.parent / "other.safetensors").touch()
    text = GOOD.replace("model.safetensors", place)
    (folder / "gentool.yaml").write_text(text, "utf-8")
    with pytest.raises(ModelError, match="leaves the model's folder"):
        load(str(folder))
    (folder / "mine.yaml").write_text(text, "utf-8")
    assert load(str(folder / "mine.yaml")).checkpoint == place  # the user's own file may


def test_a_small_file_cannot_make_a_huge_message(folder: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    (folder / "mine.yaml").write_text(bomb + GOOD.replace("name: small", "name: *i"), "utf-8")
    with pytest.raises(UsageError) as caught:
        load(str(folder / "mine.yaml"))
    assert len(caught.value.message) < 10_000


def test_overrides_reach_any_key_and_are_read_as_yaml(folder: Path) -> None:
    said = {"arch.norm_eps": "1e-6", "sampling.stop": "[a, b]", "precision": "bf16"}
    found = load(str(folder), said | {"arch.n_layer": 3})
    assert (found.arch.norm_eps, found.arch.n_layer) == (1e-6, 3)
    assert (found.sampling.stop, found.precision) == (("a", "b"), "bf16")
    (folder / "bare.yaml").write_text(GOOD.replace("n_layer: 2, ", ""), "utf-8")
    assert load(str(folder / "bare.yaml"), {"arch.n_layer": "5"}).arch.n_layer == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("arch.n_hed", "3", "with --set arch.n_hed: unknown key arch.n_hed"),
        ("arch.n_layer", "two", "with --set arch.n_layer: arch.n_layer is 'two'"),
        ("arch.n_kv_head", "3", "with --set arch.n_kv_head: arch: n_head 4 is not a multiple"),
        ("name.x", "3", "--set name.x: name has no keys"),
        ("name", "[", "--set name: '[' is not YAML"),
        ("name", "!!bool x", "--set name: '!!bool x' is not YAML"),
        ("checkpoint", "x" * 300, "File name too long"),
    ],
)
def test_a_wrong_override_is_a_usage_error(
    folder: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(UsageError) as caught:  # though the file belongs to a model folder
        load(str(folder), {key: value})
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("model", "code", "hint"),
    [
        ("tiny-hz", Exit.MODEL, "did you mean tiny-zh?"),
        ("gone.yaml", Exit.USAGE, "check the path"),
        ("gone/", Exit.MODEL, "check the path"),
        (__file__, Exit.USAGE, ".yaml"),
        ("x" * 300, Exit.USAGE, "check the path"),
    ],
)
def test_a_model_that_is_not_there(model: str, code: Exit, hint: str) -> None:
    with pytest.raises(GentoolError) as caught:
        load(model)
    assert caught.value.exit_code == code
    assert model in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", known())
def test_every_model_with_a_name_has_a_good_file(name: str) -> None:
    path = known()[name]
    assert schema.parse(ModelFile, schema.read_yaml(path), str(path)).name == name


def test_a_name_is_found_among_the_users_own_but_hides_nothing_shipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = folder / "gentool" / "models"
    models.mkdir(parents=True)
    for name in ("mine", "tiny-zh"):
        (models / f"{name}.yaml").write_text(GOOD.replace("model.saf", "../../model.saf"), "utf-8")
    (models / "tokenizer.model").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    assert load("mine").name == "small"
    assert load("tiny-zh").name == "tiny-zh"


def test_a_name_comes_before_a_folder_and_a_slash_means_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, folder / "tiny-zh")
    shutil.copytree(folder / "tiny-zh", folder / "other")
    monkeypatch.chdir(folder)
    assert [load(m).name for m in ("tiny-zh", "./tiny-zh", "other")] == [
        "tiny-zh",
        "small",
        "small",
    ]


def test_configs_are_found_beside_the_package_and_inside_it(tmp_path: Path) -> None:
    package, source = tmp_path / "gentool", lookup.PACKAGE
    for room in ("config", "checkpoints"):
        shutil.copytree(source / room, package / room)
    for name in "__init__ errors".split():
        shutil.copy(source / f"{name}.py", package)

    def answer() -> str:
        code = "from gentool.config.lookup import configs; print(configs())"
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        run = [sys.executable, "-c", code]
        return subprocess.run(
            run, env=env, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.strip()

    assert answer() == str(tmp_path / "configs")  # a clone, an editable install
    (package / "configs").mkdir()
    assert answer() == str(package / "configs")  # a wheel


@pytest.mark.parametrize("name", [p.name for p in parameters() if p.type in (int, float)])
def test_a_flag_takes_exactly_what_the_yaml_takes(name: str) -> None:
    option = next(sampling_option(p) for p in parameters() if p.name == name)
    for text in ("-1", "0", "1e-9", "1", "1.5", "2", "64", "nan", "inf", "x"):
        by_flag = by_yaml = True
        try:
            option.type.convert(text, None, None)
        except UsageError:
            by_flag = False
        try:
            value = schema.from_yaml(f".{text}" if "n" in text else text)
            schema.parse(SamplingParams, {name: value}, "")
        except UsageError:
            by_yaml = False
        assert by_flag == by_yaml, text


def test_a_number_of_many_digits_and_a_bomb_are_refused(tmp_path):
    for text in ("0x" + "f" * 5000, "1" * 5000):
        (tmp_path / "m.yaml").write_text(f"name: {text}")
        with pytest.raises(UsageError, match=r"a number of \d+ characters"):
            lookup.load(str(tmp_path / "m.yaml"))
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]" for i in range(1, 11)]
    text = "\n".join([*lines, "family: *a10", "name: m"]).replace("a0: &a0", "sampling: &a0")
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UsageError):
        lookup.load(str(tmp_path / "m.yaml"))


def test_a_model_without_weights_says_where_they_are():
    with pytest.raises(GentoolError) as caught:
        lookup.load("cpm-lm")
    assert "https://github.com/TsinghuaAI/CPM-1-Generate," in caught.value.hint
    assert "chinese_vocab.model" in caught.value.hint


@pytest.mark.parametrize("text", ["[" * 50_000, "- " * 50_000, "{a: " * 50_000, "? " * 50_000])
def test_deep_nesting_is_an_error_and_no_crash(tmp_path: Path, text: str) -> None:
    """libyaml follows any nesting on the stack, which ended the process."""
    path = tmp_path / "m.yaml"
    path.write_text(f"name: a\nsampling: {text}\n" if text[0] in "[{" else text, "utf-8")
    with pytest.raises(UsageError, match="100 collections in each other"):
        lookup.load(str(path))


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_what_stands_for_a_file_is_not_passed_over(tmp_path: Path, name: str) -> None:
    golden = Path(__file__).parents[1] / "golden/hf_gpt2"
    for path in golden.iterdir():
        if path.is_file() and path.name != name:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).mkdir()
    with pytest.raises(ModelError, match=f"{name} is not JSON: it is no file"):
        lookup.load(str(tmp_path))


def test_a_name_too_long_is_a_usage_error_wherever_it_is_looked_up() -> None:
    for read in (lookup.load, lookup.locate):
        with pytest.raises(UsageError, match="File name too long"):
            read("x" * 3000)


def test_numbers_to_base_60_are_text() -> None:
    data = schema.from_yaml("{stop: [1:40, 190:20:30.5, -1:00], n: [12, 1.5, 1e-5]}")
    assert data == {"stop": ["1:40", "190:20:30.5", "-1:00"], "n": [12, 1.5, 1e-5]}
    assert schema.from_yaml(schema.to_yaml(data, None)) == data
