"""`gentool finetune` from the outside: killed, terminated and finished; what its result is; what
is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli.shell import CLEAN, within
from pytest import CaptureFixture
from safetensors.numpy import load_file

import gentool as library
from gentool.training import packing, texts

POEMS = Path(__file__).parents[2] / "configs/train/tang-poems.txt"
SMALL = ("--length", "32", "--batch", "2", "--precision", "fp32", "--held-out", "5")
# checkpoints with every step, so that one is soon there to be killed after
PROGRAM = (
    "import sys; from gentool import cli; from gentool.runtimes.xla import device; device.setup();"
    "from gentool.training import trainer;"
    "trainer.CHECKPOINT_SECONDS = 0.0; sys.exit(cli.main())"
)


@pytest.fixture(scope="module")
def poems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten poems, of which one is held out."""
    path = tmp_path_factory.mktemp("poems") / "poems.txt"
    path.write_text("\n\n".join(texts.read(POEMS, "blank-lines")[:10]), "utf-8")
    return path


def logged(target: Path) -> list[dict[str, float]]:
    path = target / "training/log.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_steps(process: subprocess.Popen[bytes], target: Path, count: int) -> None:
    until = time.monotonic() + 200
    while len(logged(target)) < count:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.02)


def held_out_loss(model: library.Model, poems: Path) -> float:
    """Nats a token of the held-out poem, with what starts and ends it."""
    held_out = texts.split(texts.read(poems, "blank-lines"), 5).held_out
    losses: list[float] = []
    for document in held_out:
        ids = [*model.tokenizer.encode(document), *model.tokenizer.end[:1]]
        rows = packing.pack([packing.Text(ids, [True] * len(ids))], 32)
        for row in range(len(rows.ids)):
            count = int(rows.learnt[row].sum())
            logits = model.logits(rows.ids[row, :count].tolist()).astype(np.float64)
            targets = rows.targets[row, :count]
            normalizer = np.log(np.exp(logits).sum(-1))
            losses += (normalizer - logits[np.arange(count), targets]).tolist()
    return float(np.mean(losses))


def test_killed_terminated_and_finished(
    poems: Path, tmp_path: Path, capfd: CaptureFixture[str]
) -> None:
    """The weights are those of a run that was never stopped, bit for bit; the model's loss is the
    best one that was logged."""
    call = ["finetune", "--data", str(poems), *SMALL, "--epochs", "4", "--learning-rate", "3e-4"]
    target, whole = tmp_path / "parts", tmp_path / "whole"

    def begin() -> subprocess.Popen[bytes]:
        run = [sys.executable, "-c", PROGRAM, *call, "-o", str(target)]
        return subprocess.Popen(run, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    with begin() as process:
        wait_for_steps(process, target, 3)
        process.kill()
    with begin() as process:
        wait_for_steps(process, target, 5)
        busy = within(capfd, *call, "-o", str(target))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (143, b"")
    assert err.decode().splitlines()[-2:] == [
        f"error: stopped, {target / 'training'} is saved",
        "hint: the same command continues it",
    ]
    assert busy.code == 2 and "another process trains in" in busy.err.splitlines()[-2]
    assert not (target / "gentool.yaml").exists()

    done = within(capfd, *call, "-o", str(target))
    assert (done.code, done.out) == (0, f"{target}\n")
    assert "resumed at step" in done.err and "kept the weights of step" in done.err
    once = within(capfd, *call, "-o", str(whole))
    assert (once.code, once.out) == (0, f"{whole}\n")
    left, right = (load_file(folder / "model.safetensors") for folder in (target, whole))
    assert left.keys() == right.keys()
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name])
    assert [row["step"] for row in logged(target)] == [row["step"] for row in logged(whole)]

    model = library.load(str(target), precision="fp32")
    best = min(row["held_out"] for row in logged(target) if row["held_out"] is not None)
    assert held_out_loss(model, poems) == pytest.approx(best, abs=2e-3)  # weights are in fp16
    assert best < held_out_loss(library.load("tiny-zh", precision="fp32"), poems)

    again = within(capfd, *call, "-o", str(target))
    assert (again.code, again.out) == (0, f"{target}\n") and "is finished" in again.err
    other = within(capfd, *call, "-o", str(target), "--epochs", "5")
    assert other.code == 2
    assert "optimizer.epochs was 4.0, is 5.0" in other.err.splitlines()[-2]
    assert sorted(path.name for path in (target / "training").iterdir()) == [
        "log.jsonl",
        "recipe.json",
    ]


def test_an_adapter_adds_to_its_model(
    poems: Path, tmp_path: Path, capfd: CaptureFixture[str]
) -> None:
    target, plot = tmp_path / "adapter", tmp_path / "loss"
    call = ["finetune", "--data", str(poems), *SMALL, "--epochs", "2", "--lora-rank", "4"]
    done = within(capfd, *call, "-o", str(target), "--plot", str(plot), "--recompute")
    assert (done.code, done.out) == (0, f"{target}\n")
    assert plot.read_text().startswith("<?xml") and "held-out" in plot.read_text()
    model = library.load("tiny-zh", precision="fp32", adapter=str(target))
    best = min(row["held_out"] for row in logged(target) if row["held_out"] is not None)
    assert held_out_loss(model, poems) == pytest.approx(best, abs=1e-4)
    assert best < held_out_loss(library.load("tiny-zh", precision="fp32"), poems) - 0.01
    config = json.loads((target / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert config["base_model_name_or_path"] == "tiny-zh"


def test_conversations(tmp_path: Path, capfd: CaptureFixture[str]) -> None:
    """The result keeps the chat template that it was trained by."""
    messages = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}]
    path, target = tmp_path / "chat.jsonl", tmp_path / "new"
    path.write_text(json.dumps({"messages": messages}) + "\n", "utf-8")
    call = ["finetune", "--data", str(path), *SMALL, "--epochs", "0.1", "-o", str(target)]
    done = within(capfd, *call)
    assert done.code == 3 and "tiny-zh has no chat template" in done.err
    done = within(capfd, *call, "--chat-template", "chatml")
    assert (done.code, done.out) == (0, f"{target}\n")
    model = library.load(str(target))
    text = model.tokenizer.decode(model.chat_ids(messages[:1]))
    assert text.endswith("你好<|im_end|>\n<|im_start|>assistant\n")


def test_wrong_calls(poems: Path, tmp_path: Path, capfd: CaptureFixture[str]) -> None:
    """Two lines and an exit code, and nothing is written."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").write_text("")
    (tmp_path / "file").write_text("")
    (tmp_path / "wrong.yaml").write_text("epoch: 3\n")
    (tmp_path / "empty.txt").write_text("\n")
    data, new = ("--data", str(poems)), str(tmp_path / "new")
    calls = {
        ("finetune", *data): (2, "--output is missing"),
        ("finetune", "-o", new): (2, "no data is given"),
        ("finetune", "-o", new, "--data", "gone.txt"): (2, "--data gone.txt does not exist"),
        ("finetune", "-o", new, *data, "b.txt"): (2, "the recipe b.txt is not a YAML file"),
        ("finetune", "-o", new, *data, str(tmp_path / "wrong.yaml")): (2, "unknown key epoch"),
        ("finetune", "-o", new, *data, "--warmup", "1"): (2, "--warmup is '1'"),
        ("finetune", "-o", new, *data, "--length", "4096"): (2, "length is 4096, the context of"),
        ("finetune", "-o", new, *data, "--plot", "a.gif"): (2, "--plot is a.gif"),
        ("finetune", "-o", new, *data, "-m", "gone/"): (3, "model gone/ does not exist"),
        ("finetune", "-o", str(tmp_path / "full"), *data): (2, "is no run of finetune"),
        ("finetune", "-o", str(tmp_path / "file"), *data): (2, "is no run of finetune"),
        ("finetune", "-o", str(tmp_path / "file/x"), *data): (1, "cannot"),
        ("finetune", "-o", new, *data, "--batch", "999999"): (1, "this run needs about"),
        ("finetune", "-o", new, "--data", str(tmp_path / "empty.txt")): (2, "has no text"),
    }
    for call, (code, message) in calls.items():
        done = within(capfd, *call)
        assert (done.code, done.out) == (code, ""), (call, done)
        error, hint = done.err.splitlines()
        assert message in error and hint.startswith("hint: "), done.err
        assert "needs about" not in error or "--recompute" in hint and "--lora-rank" in hint


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(poems: Path, tmp_path: Path) -> None:
    """Where the checkpoint does not fit: two lines, exit code 1, no torn files."""
    target = tmp_path / "new"
    call = ["finetune", "--data", str(poems), *SMALL, "--epochs", "0.1", "-q", "-o", str(target)]
    program = (
        "import resource, sys; from gentool import cli;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); sys.exit(cli.main())"
    )
    full = subprocess.run([sys.executable, "-c", program, *call], env=CLEAN, capture_output=True)
    assert (full.returncode, full.stdout) == (1, b"")
    error, hint = full.stderr.decode().splitlines()
    assert error.startswith(f"error: cannot write {target}") and "File too large" in error
    assert hint.startswith("hint: free some space")
    assert not list(target.rglob("*.part")) and not (target / "gentool.yaml").exists()
