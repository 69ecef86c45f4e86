"""`--adapter` from the outside: in flags, the environment, YAML files, and named models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.shell import Done, within
from folders import GOLDEN

from gentool import registry
from gentool.config import lookup
from gentool.config.schema import from_yaml

BASE = str(GOLDEN / "hf_gpt2")
LORA = str(GOLDEN / "hf_lora" / "gpt2_fan_in_fan_out")
OTHER = str(GOLDEN / "hf_lora" / "gpt2_rslora")
Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **how: within(capfd, *arguments, **how)


def text(run: Run, *arguments: str, **how: dict[str, str]) -> str:
    done = run("complete", "hello", "--temperature", "0", "--max-tokens", "8", *arguments, **how)
    assert (done.code, done.err) == (0, ""), done
    return done.out


def test_every_place_that_names_an_adapter(run: Run, tmp_path: Path) -> None:
    """Flags, several of them, the environment, YAML, a named model, a merged folder."""
    base = text(run, "-m", BASE)
    adapted, both = (
        text(run, "-m", BASE, *flags) for flags in (adapters(LORA), adapters(LORA, OTHER))
    )
    assert len({base, adapted, both}) == 3
    assert text(run, "-m", BASE, env={"GENTOOL_ADAPTER": LORA}) == adapted
    assert text(run, "-m", BASE, env={"GENTOOL_ADAPTER": f"{LORA}\n{OTHER}"}) == both
    assert text(run, "-m", BASE, "--set", f"adapter={LORA}") == adapted

    shutil.copytree(LORA, tmp_path / "lora")
    assert text(run, "-m", BASE, "--adapter", "lora/") == adapted  # from where we are
    (tmp_path / "in").mkdir()
    described = from_yaml(registry.text(lookup.load(BASE)))
    described |= {"checkpoint": f"{BASE}/model.safetensors", "adapter": "../lora"}
    described["tokenizer"] |= {"model": f"{BASE}/tokenizer.json"}
    (tmp_path / "in" / "mine.yaml").write_text(json.dumps(described))
    assert text(run, "-m", "in/mine.yaml") == adapted  # from the YAML file
    assert text(run, "-m", "in/mine.yaml", *adapters(OTHER)) == text(
        run, "-m", BASE, *adapters(OTHER)
    )

    assert run("models", "add", "named", BASE, "--adapter", "lora").code == 0
    assert text(run, "-m", "named") == adapted
    assert run("convert", BASE, "merged", "--adapter", "lora").out == "merged/\n"
    shutil.rmtree(tmp_path / "lora")
    assert text(run, "-m", "merged") == adapted


def adapters(*folders: str) -> list[str]:
    return [argument for folder in folders for argument in ("--adapter", folder)]


def test_what_models_and_v_say(run: Run, tmp_path: Path) -> None:
    shown = from_yaml(run("models", "show", BASE, "--adapter", LORA).out)
    assert shown["adapter"] == [LORA]
    assert "adapter" not in from_yaml(run("models", "show", BASE).out)
    done = run("complete", "hi", "-v", "-m", BASE, "--adapter", LORA, "--max-tokens", "1")
    assert f"hf_gpt2 with {LORA}: " in done.err

    folder = shutil.copytree(LORA, tmp_path / "lora")
    assert run("models", "add", "named", BASE, "--adapter", "lora").code == 0
    assert from_yaml(run("models", "show", "named").out)["adapter"] == [str(folder)]
    assert run("models", "verify", "named").out.count("as recorded") == 6
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 12', '"lora_alpha": 13'))
    done = run("models", "verify", "named")
    assert done.code == 3 and f"changed  {path}" in done.out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["-m", LORA], f"{LORA} is an adapter (LoRA), not a model", f"-m hf_gpt2 --adapter {LORA}"),
        (["-m", BASE, "--adapter", "no"], "/no does not exist", "check the path"),
        (["-m", BASE, "--adapter", BASE], "has no adapter_config.json", "a folder that PEFT wrote"),
        (
            ["-m", BASE, "--adapter", str(GOLDEN / "hf_lora" / "llama_qv")],
            "q_proj.lora_A.weight is for no weight of this model",
            "it is an adapter of hf_llama",
        ),
    ],
)
def test_two_lines_and_exit_3(run: Run, arguments: list[str], message: str, hint: str) -> None:
    done = run("complete", "hi", *arguments)
    error, help = done.err.splitlines()
    assert (done.code, done.out) == (3, "")
    assert error.startswith("error: ") and message in error
    assert help.startswith("hint: ") and hint in help


def test_the_adapter_of_a_model_folder_stays_inside_it(run: Run, tmp_path: Path) -> None:
    run("convert", BASE, "m")
    path = tmp_path / "m" / "gentool.yaml"
    path.write_text(path.read_text() + f"adapter: {LORA}\n")
    done = run("complete", "hi", "-m", "m")
    assert done.code == 3 and f"adapter {LORA} leaves the model's folder" in done.err
    shutil.copytree(LORA, tmp_path / "m" / "lora")
    path.write_text(path.read_text().replace(f"adapter: {LORA}", "adapter: lora"))
    assert run("complete", "hi", "-m", "m", "--max-tokens", "1").code == 0
