"""`gentool convert` from the outside: exit codes, what is said, and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.shell import Done, Screen, seen, started, within
from folders import GOLDEN, arch, copied, random_gpt2, sparse_gpt2

from gentool import registry
from gentool.config import lookup

Run = Callable[..., Done]
GPT2 = str(GOLDEN / "hf_gpt2")


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: within(capfd, *arguments)


def told(done: Done, code: int, message: str, hint: str) -> None:
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 2), done
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        ([], 2, "SRC is missing", "gentool convert --help"),
        ([GPT2], 2, "DST is missing", "gentool convert --help"),
        ([GPT2, "a", "b"], 2, "unexpected extra argument (b)", "quotes"),
        (["no-such", "a"], 3, "unknown model no-such", "known models"),
        ([GPT2, ""], 2, "exists already", "does not exist yet"),
        ([GPT2, "."], 2, "exists already", "does not exist yet"),
        ([GPT2, "no/such"], 2, "cannot make no/such: No such file", "another folder"),
        ([GPT2, "a", "--precision", "fp8"], 2, "--precision is 'fp8'", "auto, fp32, fp16, bf16"),
        ([GPT2, "a", "--set", "arch.n_hed=1"], 2, "unknown key arch.n_hed", "n_head"),
        (["gpt2", "a"], 3, "gpt2/model.safetensors does not exist", "gentool models add gpt2"),
        ([str(GOLDEN), "a"], 3, "has no gentool.yaml", "folder"),
        ([str(GOLDEN / "cpm_megatron/ckpt"), "a"], 3, "arch.n_head is missing", "--set"),
        ([GPT2, "a", "--set", "arch.d_ff=99"], 3, "mlp.c_fc.weight has shape [36, 144]", "arch"),
    ],
)
def test_wrong_calls(
    run: Run, tmp_path: Path, arguments: list[str], code: int, message: str, hint: str
) -> None:
    told(run("convert", *arguments), code, message, hint)
    assert os.listdir(tmp_path) == []


def test_a_folder_appears_and_is_printed(run: Run, tmp_path: Path) -> None:
    done = run("convert", GPT2, "my gpt2/")
    assert (done.code, done.out) == (0, "my gpt2/\n")
    assert done.err == ""  # what is done at once needs no progress
    assert lookup.load("./my gpt2").name == "my gpt2"
    told(run("convert", GPT2, "my gpt2"), 2, "my gpt2 exists already", "does not exist yet")
    half = run("convert", "my gpt2", "half", "--precision", "fp16", "-q")
    assert half == (0, "half/\n", "")
    assert run("models", "verify", "half").code == 0
    sizes = [Path(name, "model.safetensors").stat().st_size for name in ("half", "my gpt2")]
    assert 1.7 < sizes[1] / sizes[0] < 2
    assert run("models", "add", "mine", "half").code == 0
    assert run("convert", "mine", "third", "-q").code == 0
    assert sorted(os.listdir(tmp_path)) == ["config", "half", "my gpt2", "third"]


def test_a_broken_source_is_exit_3(run: Run, tmp_path: Path) -> None:
    os.truncate(copied("hf_gpt2", tmp_path / "m") / "model.safetensors", 200_000)
    told(run("convert", "m", "a"), 3, "m/model.safetensors is not a whole", "restore")
    random_gpt2(tmp_path / "n", arch(), "float32", layers_0_qkv=[1e6])
    done = run("convert", "n", "a", "--precision", "fp16", "-q")
    told(done, 3, "tensor layers.0.qkv has numbers too large for float16", "use bf16 or fp32")
    assert sorted(os.listdir(tmp_path)) == ["m", "n"]


def until(process: subprocess.Popen[bytes], path: Path) -> None:
    """Until the running process has made this path."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.002)


def test_signals_leave_nothing_and_a_kill_one_hidden_folder(run: Run, tmp_path: Path) -> None:
    """1 GB of zeros takes long enough to be met in the middle, in tensors of at most 17 MB."""
    source = sparse_gpt2(tmp_path / "large", arch(20, 1024, 4000))
    (tmp_path / "out").mkdir()
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        target = tmp_path / "out" / f"m{code}"
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        slow = ("convert", str(source), str(target), "--precision", "bf16", "-q")
        with started(*slow, **streams) as process:
            until(process, target.parent / f".{target.name}.partial" / "model.safetensors")
            process.send_signal(number)
            assert process.wait(60) == code
            assert process.stdout.read() + process.stderr.read() == b""
    assert os.listdir(tmp_path / "out") == [".m-9.partial"]
    small = random_gpt2(tmp_path / "small", arch(), "float32")
    assert run("convert", str(small), str(target), "-q") == (0, f"{target}/\n", "")
    assert os.listdir(tmp_path / "out") == ["m-9"]
    assert {state for _, state in registry.verify(lookup.load(str(target)))} == {"as recorded"}


def test_a_terminal_sees_a_bar_that_goes_away(tmp_path: Path) -> None:
    screen = Screen()
    source = random_gpt2(tmp_path / "m", arch(4, 64, 5000), "float32")
    run = ("convert", str(source), str(tmp_path / "a"))
    with started(*run, stdout=subprocess.PIPE, stderr=screen.slave) as process:
        shown = screen.read()
        assert process.wait(60) == 0
        assert process.stdout.read() == f"{tmp_path / 'a'}/\n".encode()
    assert "error" not in shown and seen(shown) == []
