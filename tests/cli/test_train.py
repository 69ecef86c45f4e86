"""`gentool train` from the outside: a small model that is killed, interrupted, and finished."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.shell import CLEAN, gentool, within
from pytest import CaptureFixture

RECIPE = """\
name: toy
family: llama
arch: {n_layer: 1, n_head: 2, n_kv_head: 1, d_model: 32, d_head: 16, d_ff: 64,
       n_vocab: 330, n_ctx: 32}
pieces: {character_coverage: 0.999, sample_characters: 100000}
data: {sources: {made: 1}}
optimizer: {tokens: 64000, batch: 8, learning_rate: 2.0e-3}
"""
STEPS = 250
# checkpoints every half second, so that one is soon there to be killed after
PROGRAM = (
    "import sys; from gentool import cli; from gentool.runtimes.xla import device; device.setup();"
    "from gentool.training import trainer;"
    "trainer.CHECKPOINT_SECONDS = 0.5; sys.exit(cli.main())"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and 200 kB of sentences made by a rule."""
    folder = tmp_path_factory.mktemp("train")
    choose = random.Random(1).choice
    words = [choose("天地人山水火风云日月") + choose("上下来去大小多少高低") for _ in range(80)]
    documents = ("".join(choose(words) + choose("，。！") for _ in range(12)) for _ in range(2000))
    (folder / "made.txt").write_text("\n\n".join(documents), "utf-8")
    assert (folder / "made.txt").stat().st_size > 200_000
    (folder / "toy.yaml").write_text(RECIPE, "utf-8")
    return folder


def arguments(place: Path, *more: str) -> list[str]:
    return [
        "train",
        str(place / "toy.yaml"),
        "--data",
        str(place),
        "--out",
        str(place / "run"),
        *more,
    ]


def begin(place: Path) -> subprocess.Popen[bytes]:
    run = [sys.executable, "-c", PROGRAM, *arguments(place)]
    return subprocess.Popen(run, env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def steps(place: Path) -> list[int]:
    path = place / "run" / "log.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def wait_for_steps(process: subprocess.Popen[bytes], place: Path, count: int) -> None:
    until = time.monotonic() + 120
    while len(steps(place)) < count or not (place / "run" / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow  # the same trainer is killed in test_finetune.py
def test_killed_interrupted_and_finished(place: Path, capfd: CaptureFixture[str]) -> None:
    with begin(place) as process:
        wait_for_steps(process, place, 20)
        process.kill()
    before = steps(place)

    with begin(place) as process:
        wait_for_steps(process, place, len(before) + 20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert "resumed at step" in err.decode()
    assert err.decode().splitlines()[-2:] == [
        f"error: stopped, {place / 'run'} is saved",
        "hint: the same command continues it",
    ]
    after = steps(place)  # those that were not saved before the kill are logged once
    assert after == list(range(1, after[-1] + 1)) and before[0] == 1
    assert len(before) - 20 < after[-1] < STEPS

    done = gentool(*arguments(place, "-v"))
    assert (done.code, done.out) == (0, f"{place / 'run' / 'model'}\n")
    assert f"resumed at step {after[-1]} of {STEPS}" in done.err  # what is saved was logged
    assert f"step {STEPS}: held-out loss" in done.err
    assert steps(place) == list(range(1, STEPS + 1))

    model = str(place / "run" / "model")
    modes = {path.name: oct(path.stat().st_mode) for path in Path(model).iterdir()}
    assert len(set(modes.values())) == 1 and len(modes) == 3, modes
    made = within(capfd, "complete", "天", "-m", model, "--max-tokens", "8", "--json")
    assert made.code == 0
    assert json.loads(made.out)["model"] == "toy"


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("n_layer: 1", "n_layers: 1", "unknown key arch.n_layers", "did you mean n_layer?"),
        ("batch: 8", "batch: 0", "optimizer.batch is 0", "greater than 0"),
        ("n_kv_head: 1", "n_kv_head: 3", "n_head 2 is not a multiple of n_kv_head 3", "change"),
    ],
)
def test_a_wrong_recipe(
    place: Path, capfd: CaptureFixture[str], old: str, new: str, message: str, hint: str
) -> None:
    path = place / "wrong.yaml"
    path.write_text(RECIPE.replace(old, new), "utf-8")
    wrong = ("train", str(path), "--data", str(place), "--out", str(place / "new"))
    done = within(capfd, *wrong)
    assert (done.code, done.out) == (2, "")
    error, second = done.err.splitlines()
    assert str(path) in error and message in error and hint in second
    assert not (place / "new").exists()


def test_a_vocabulary_too_large_for_the_corpus(place: Path, capfd: CaptureFixture[str]) -> None:
    """Two lines, and the corrected recipe then goes on in the same folder."""
    path, out = place / "large.yaml", str(place / "large")
    call = ("train", str(path), "--data", str(place), "--out", out, "-q", "--hours", "0.0000001")
    path.write_text(RECIPE.replace("n_vocab: 330", "n_vocab: 60000"), "utf-8")
    done = within(capfd, *call)
    assert (done.code, done.out) == (2, "")
    error, hint = done.err.splitlines()
    assert "arch.n_vocab is 60000" in error and "set arch.n_vocab to" in hint

    path.write_text(RECIPE, "utf-8")
    done = within(capfd, *call)
    assert (done.code, done.err) == (0, "")
    assert (Path(out) / "model" / "model.safetensors").exists()

    path.write_text(RECIPE.replace("batch: 8", "batch: 4"), "utf-8")
    done = within(capfd, *call)
    assert done.code == 2 and "optimizer.batch was 8, is 4" in done.err.splitlines()[0]


@pytest.mark.parametrize(
    "limit", [2_000, 60_000]
)  # bytes: less than the vocabulary, the checkpoint
def test_a_full_disk(place: Path, limit: int) -> None:
    """Two lines and exit code 1 wherever the disk becomes full; the same command then goes on."""
    folder = place / f"full{limit}"
    call = arguments(place, "--hours", "0.0000001", "-q")
    call[call.index("--out") + 1] = str(folder)
    program = (
        "import resource, sys; from gentool import cli;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); sys.exit(cli.main())"
    )
    full = subprocess.run([sys.executable, "-c", program, *call], env=CLEAN, capture_output=True)
    assert (full.returncode, full.stdout) == (1, b"")
    error, hint = full.stderr.decode().splitlines()
    assert error.startswith(f"error: cannot write {folder}") and "File too large" in error
    assert hint.startswith("hint: free some space")
    assert not [path for path in folder.rglob("*") if "part" in path.name or "tmp" in path.name]


def test_wrong_calls(place: Path, capfd: CaptureFixture[str]) -> None:
    recipe = str(place / "toy.yaml")
    calls = {
        ("train",): "RECIPE.yaml is missing",
        ("train", recipe): "--data is missing",
        ("train", recipe, "--data", "gone", "--out", "x"): "--data gone is not a folder",
        (*arguments(place, "--hours", "0"),): "--hours is '0'",
    }
    for call, message in calls.items():
        done = within(capfd, *call)
        assert done.code == 2 and message in done.err.splitlines()[0]
