"""`gentool models` from the outside: what is listed, shown, added, removed and compared."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.shell import Done, gentool, within
from folders import GOLDEN, arch, copied, random_gpt2

from gentool import registry
from gentool.config import lookup

Run = Callable[..., Done]
LLAMA = str(GOLDEN / "hf_llama")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "gentool" / "models"


@pytest.fixture
def run(own: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: within(capfd, "models", *arguments)


def told(done: Done, code: int, message: str, hint: str) -> None:
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 2), done
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["lst"], "no command lst", "did you mean list?"),
        (
            ["frobnicate"],
            "no command frobnicate",
            "commands: add, cache, list, remove, show, verify",
        ),
        (["show"], "MODEL is missing", "gentool models show --help"),
        (["add", "mine"], "PATH is missing", "gentool models add --help"),
        (["add", "../x", LLAMA], "'../x' is no name of a model", "a letter or digit first"),
        (["add", "", LLAMA], "'' is no name of a model", "a letter or digit first"),
        (["add", "-a", LLAMA], "no option -a", "--help"),
        (["add", "--", "-a", LLAMA], "'-a' is no name of a model", "a letter or digit first"),
        (["add", "，中", LLAMA], "'，中' is no name of a model", "a letter or digit first"),
        (["add", "中" * 67, LLAMA], "is no name of a model", "at most 200 bytes"),
        (["add", "_中文", LLAMA], "'_中文' is no name of a model", "a letter or digit first"),
        (["add", "tiny-zh", LLAMA], "tiny-zh is the model inside gentool", "another name"),
        (["add", "gpt2", str(GOLDEN / "hf_gpt2")], "its arch.d_ff is 144, not 3072", "another"),
        (["add", "gpt2", LLAMA], "is not gpt2: its arch", "another name"),
        (["add", "mine", LLAMA, "--set", "arch"], "--set is 'arch'", "KEY=VALUE"),
        (["add", "mine", LLAMA, "--set", "arch.n_hed=4"], "unknown key arch.n_hed", "n_head"),
        (["add", "mine", str(GOLDEN / "hf_llama/golden.npz")], "is not a YAML file", "folder"),
        (["remove", "../x"], "'../x' is no name of a model", "a letter or digit first"),
        (["remove", "tiny-zh"], "tiny-zh is the model inside gentool", "another name"),
        (["remove", "gpt2"], "there is no model gpt2 of your own", "you have added none"),
        (["verify"], "MODEL is missing", "--help"),
    ],
)
def test_wrong_calls(run: Run, own: Path, arguments: list[str], message: str, hint: str) -> None:
    told(run(*arguments), 2, message, hint)
    assert not own.exists()


def test_an_unknown_model_is_exit_3(run: Run) -> None:
    told(run("show", "tiny-hz"), 3, "unknown model tiny-hz", "did you mean tiny-zh?")
    told(run("verify", "nothing"), 3, "unknown model nothing", "known models")


def test_a_chinese_name(run: Run, own: Path) -> None:
    added = run("add", "小模型", LLAMA)
    assert (added.code, added.out) == (0, f"{own / '小模型.yaml'}\n")
    assert "name: 小模型" in run("show", "小模型").out
    assert run("remove", "小模型").code == 0


def test_models_alone_lists(run: Run) -> None:
    done = run()
    assert done == run("list") and done.out.splitlines()[-1].startswith("tiny-zh")


def test_list_and_its_objects(run: Run, own: Path) -> None:
    """In a process of its own and here."""
    assert run("add", "mine", LLAMA).code == 0
    (own / "wrong.yaml").write_text("a: [")
    env = {"XDG_CONFIG_HOME": os.environ["XDG_CONFIG_HOME"]}
    text, objects = run("list"), run("list", "--json")
    assert gentool("models", "list", env=env) == text
    assert (text.code, text.err, objects.code, objects.err) == (0, "", 0, "")
    records = [json.loads(line) for line in objects.out.splitlines()]
    keys = ["name", "family", "n_layer", "d_model", "origin", "state", "path"]
    assert all(list(record) == keys for record in records)
    names = [record["name"] for record in records]
    assert names == sorted(names) and {"mine", "wrong", "tiny-zh", "cpm-lm"} <= set(names)
    assert [line.split()[0] for line in text.out.splitlines()] == names
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in text.out.splitlines()}
    assert lines["mine"] == "llama 3 x 48 own ready"
    assert lines["cpm-lm"] == "gpt2 32 x 2560 configs no weights here"
    assert lines["tiny-zh"] == "llama 4 x 256 packaged ready"
    assert lines["wrong"] == "? ? own wrong"
    by_name = dict(zip(names, records, strict=True))
    assert by_name["mine"]["path"] == str(own / "mine.yaml")
    assert by_name["wrong"] == {
        **dict.fromkeys(keys),
        **{"name": "wrong", "origin": "own", "state": "wrong", "path": str(own / "wrong.yaml")},
    }


def test_show_a_name_a_folder_and_a_file(run: Run, tmp_path: Path) -> None:
    path = lookup.configs() / "cpm-lm.yaml"
    assert run("show", "cpm-lm") == (0, path.read_text("utf-8"), "")
    shown = run("show", LLAMA)  # a folder without YAML: what follows from its files
    assert (shown.code, shown.err) == (0, "")
    (tmp_path / "m.yaml").write_text(shown.out.replace("checkpoint: ", f"checkpoint: {LLAMA}/"))
    assert lookup.load(str(tmp_path / "m.yaml")).arch == lookup.load(LLAMA).arch
    done = run("show", str(tmp_path / "m.yaml"), "-v")
    assert done == (0, (tmp_path / "m.yaml").read_text(), f"{tmp_path / 'm.yaml'}\n")
    told(run("show", str(GOLDEN / "cpm_megatron/ckpt")), 3, "arch.n_head is missing", "--set")
    told(run("show", str(tmp_path / "no.yaml")), 2, "cannot read", "path")
    told(run("show", "no/where"), 3, "model no/where does not exist", "path")


def test_add_and_remove(run: Run, own: Path, tmp_path: Path) -> None:
    folder = copied("cpm_megatron/ckpt", tmp_path / "ckpt")
    told(run("add", "cpm", str(folder)), 3, "arch.n_head is missing", "--set arch.n_head")
    done = run("add", "cpm", str(folder), "--set", "arch.n_head=4")
    assert (done.code, done.out) == (0, f"{own / 'cpm.yaml'}\n")
    assert "has no tokenizer: only ids will work" in done.err and done.err.count("\n") == 1
    assert run("show", "cpm").out == (own / "cpm.yaml").read_text("utf-8")
    told(run("add", "cpm", str(folder)), 2, "there is a model cpm already", "models remove cpm")
    files = sorted(folder.rglob("*"))
    assert run("remove", "cpm") == (0, f"{own / 'cpm.yaml'}\n", "")
    assert sorted(folder.rglob("*")) == files and os.listdir(own) == []
    told(run("remove", "cpm"), 2, "there is no model cpm of your own", "none")
    assert run("-q", "add").code == 2
    assert run("add", "-q", "cpm", str(folder), "--set", "arch.n_head=4").err == ""
    told(run("remove", "cqm"), 2, "there is no model cqm of your own", "did you mean cpm?")


def test_add_refuses_what_could_not_be_opened(run: Run, own: Path, tmp_path: Path) -> None:
    told(run("add", "mine", str(tmp_path)), 3, "has no gentool.yaml", "folder")
    folder = copied("hf_llama", tmp_path / "folder")
    text = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(
        text.replace('"num_hidden_layers": 3', '"num_hidden_layers": 4')
    )
    told(run("add", "mine", str(folder)), 3, "model.layers.3.input_layernorm.weight", "must fit")
    (folder / "config.json").write_text(text)
    os.truncate(folder / "model.safetensors", 9999)
    told(run("add", "mine", str(folder)), 3, "model.safetensors is not a whole", "restore")
    (folder / "model.safetensors").unlink()
    told(run("add", "mine", str(folder)), 3, "has no weights", "model.safetensors")
    (folder / "config.json").write_text("{")
    told(run("add", "mine", str(folder)), 3, "config.json is not JSON", "restore")
    assert not own.exists()


def test_verify(run: Run, own: Path, tmp_path: Path) -> None:
    done = run("verify", "tiny-zh")
    lines = ["as recorded  model.safetensors", "as recorded  tokenizer.model"]
    assert (done.code, done.out.splitlines(), done.err) == (0, lines, "")
    told(run("verify", LLAMA), 1, "hf_llama has no recorded sums", "gentool models add")
    folder = copied("hf_gpt2", tmp_path / "folder")
    for beside in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / beside).unlink()
    weights, pieces = folder / "model.safetensors", folder / "tokenizer.json"
    assert run("add", "mine", str(folder)).code == 0
    assert run("verify", "mine").out == f"as recorded  {weights}\nas recorded  {pieces}\n"
    pieces.write_text(pieces.read_text("utf-8") + "\n", "utf-8")
    done = run("verify", "mine")
    assert (done.code, done.out) == (3, f"as recorded  {weights}\nchanged  {pieces}\n")
    assert done.err.startswith(f"error: {pieces} is changed\nhint: ")
    weights.unlink()
    told(run("verify", "mine"), 3, f"{weights} does not exist", "put it there")


def test_verify_names_a_recorded_file_that_is_gone(run: Run, tmp_path: Path) -> None:
    folder = random_gpt2(tmp_path / "m", arch(), "float32")
    known = registry.digest(folder / "model.safetensors")
    with (folder / "gentool.yaml").open("a") as file:
        file.write(f"sha256: {{gone.txt: {'a' * 64}, model.safetensors: {known}}}\n")
    done = run("verify", str(folder))
    assert (done.code, done.out) == (3, "missing  gone.txt\nas recorded  model.safetensors\n")
    assert done.err.startswith("error: gone.txt is missing\n")


def test_a_model_is_completed_by_the_name_it_was_given(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("hf_gpt2", tmp_path / "folder")
    assert run("add", "mine", str(folder), "--set", "sampling.max_tokens=3").code == 0
    monkeypatch.chdir(tmp_path)
    elsewhere = within(capfd, "complete", "-m", "mine", "Hello", "--json", "--no-xla")
    assert (elsewhere.code, elsewhere.err) == (0, "")
    record = json.loads(elsewhere.out)
    assert record["model"] == "mine" and len(record["samples"][0]["ids"]) <= 3
    shutil.rmtree(folder)
    told(run("verify", "mine"), 3, "model.safetensors does not exist", "put it there")


def test_what_litert_keeps_is_shown_and_cleared(tmp_path: Path) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    assert gentool("models", "cache", env=env).out == ""
    assert (
        gentool("complete", "今天", "--max-tokens", "1", "--precision", "int8", env=env).code == 0
    )
    shown = gentool("models", "cache", env=env).out
    assert "tiny-zh" in shown and "int8" in shown and shown.count("\n") == 1
    fields = json.loads(gentool("models", "cache", "--json", env=env).out)
    assert fields["bytes"] > 4e6 and Path(fields["path"]).exists()
    assert gentool("models", "cache", "--clear", env=env).out == shown
    assert gentool("models", "cache", env=env).out == "" and not Path(fields["path"]).exists()
    assert (
        gentool("complete", "今天", "--max-tokens", "1", "--precision", "int8", env=env).code == 0
    )
