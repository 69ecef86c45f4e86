"""`gentool inspect` from the outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli.shell import CLEAN, gentool, within
from folders import arch, random_gpt2, sparse_gpt2
from pytest import CaptureFixture

from gentool.inspection import reachable

N_VOCAB, WIDTH = 24, 8


@pytest.fixture
def planted(tmp_path: Path) -> str:
    """A GPT-2 of 24 tokens whose token 5 is in the middle of the others, 9 equals 3, and 20 and 21
    are rows of almost nothing, apart from what all rows have in common."""
    rows = np.random.default_rng(1).normal(0, 1, (N_VOCAB, WIDTH))
    rows[5] = np.delete(rows, 5, axis=0).mean(axis=0)
    rows[9] = rows[3]
    rows[20:22] *= 0.001
    folder = random_gpt2(
        tmp_path / "planted",
        arch(1, WIDTH, N_VOCAB),
        np.float32,
        embedding=rows.ravel().tolist(),
        final_norm=[1.0] * WIDTH,
        final_norm_bias=[0.0] * WIDTH,
    )
    return str(folder)


def inspected(capfd: CaptureFixture[str], *arguments: str) -> dict[str, object]:
    done = within(capfd, "inspect", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert isinstance(record, dict)
    return record


def told(capfd: CaptureFixture[str], code: int, message: str, hint: str, *arguments: str) -> None:
    done = within(capfd, "inspect", *arguments)
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 2), done
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]


def test_tiny_zh_in_a_process_of_its_own() -> None:
    done = gentool("inspect")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("tiny-zh: llama, 4 layers of width 256, 4 heads of 64")
    assert "all         6,220,032" in lines
    assert "KV cache: 4.1 kB a token, 2.1 MB at the full context" in lines
    assert "vocabulary: 6000 rows, 6000 pieces, of them 3 special; 0 rows have no piece" in lines
    assert any("never produce: 0 (6000 possible, none unknown)" in line for line in lines)
    assert any(line.startswith("tokens that look untrained: ") for line in lines)
    assert any(line.startswith("relative errors of 17 products") for line in lines)


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from gentool import cli; sys.argv[1:] = ['inspect', '--only', 'size'];"
        " cli.main(); print({'tensorflow', 'scipy', 'matplotlib'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=CLEAN, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_json_has_every_field(capfd: CaptureFixture[str], planted: str) -> None:
    record = inspected(capfd, "-m", planted)
    assert (record["model"], record["family"]) == ("planted", "gpt2")
    parameters = record["parameters"]
    assert record["n_parameters"] == sum(parameters.values())
    assert parameters["embedding"] == (N_VOCAB + 16) * WIDTH and parameters["head"] == 0
    assert record["kv_cache_per_token"] == 2 * 4 * WIDTH
    assert record["kv_cache"] == 16 * record["kv_cache_per_token"]
    assert record["vocabulary"]["rows"] == N_VOCAB
    found = record["reachable"]
    impossible = {row["id"]: row["reason"] for row in found["impossible"]}
    assert impossible[9] == "its row of the head equals that of token 3"
    assert impossible[5].startswith("always below the largest of ")
    assert found["possible"] + len(impossible) + len(found["unknown"]) == N_VOCAB
    assert {row["id"] for row in record["untrained"]["tokens"]} == {20, 21}
    assert record["untrained"]["equal"] == [3, 9]
    products = {row["name"]: row for row in record["quantisation"]["products"]}
    assert set(products) == {
        *(f"layers.0.{name}" for name in ("qkv", "attention_out", "up", "down")),
        "embedding",
    }
    assert all(0 < row["int8"] < 0.02 for row in products.values())
    assert record["quantisation"]["unmeasured"] == []


def test_only_what_is_asked_for(capfd: CaptureFixture[str], planted: str) -> None:
    record = inspected(capfd, "-m", planted, "--only", "untrained", "--only", "quantisation")
    assert set(record) == {"model", "family", "untrained", "quantisation"}
    done = within(capfd, "inspect", "-m", planted, "--only", "reachable")
    assert (done.code, done.err) == (0, "")
    first, *tokens = done.out.strip().splitlines()
    assert first.startswith("tokens that greedy decoding can never produce: ")
    assert "  9 '': its row of the head equals that of token 3" in tokens


def test_sizes_of_forty_gigabytes_read_no_weight(tmp_path: Path) -> None:
    folder = str(sparse_gpt2(tmp_path / "large", arch(40, 4608, 60000)))
    start = time.perf_counter()
    done = gentool("inspect", "-m", folder, "--only", "size", "--json")
    assert (done.code, done.err) == (0, "")
    memory = {(row["precision"], row["runtime"]): row for row in json.loads(done.out)["memory"]}
    assert memory["fp32", "TensorFlow"]["weights"] > 40e9
    assert time.perf_counter() - start < 30


def test_a_plot_of_each_kind(capfd: CaptureFixture[str], planted: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, start in (("a.svg", b"<?xml"), ("b.png", b"\x89PNG"), ("c", b"<?xml")):
        done = within(
            capfd, "inspect", "-m", planted, "--only", "untrained", "--plot", str(tmp_path / name)
        )
        assert (done.code, done.err) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(start)


def test_an_output_file(capfd: CaptureFixture[str], planted: str, tmp_path: Path) -> None:
    path = tmp_path / "sizes"
    done = within(capfd, "inspect", "-m", planted, "--only", "size", "-o", str(path))
    assert (done.code, done.out, done.err) == (0, "", "")
    assert path.read_text("utf-8").startswith("planted: gpt2, 1 layer of width 8")


def test_without_scipy_there_is_a_note(
    capfd: CaptureFixture[str], planted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reachable, "has_scipy", lambda: False)
    done = within(capfd, "inspect", "-m", planted, "--only", "reachable", "--json")
    assert done.code == 0 and done.err.count("\n") == 1
    assert "scipy is missing" in done.err and "pip install 'gentool[inspect]'" in done.err
    found = json.loads(done.out)["reachable"]
    assert 5 in found["unknown"] and 9 not in found["unknown"]


def test_mistakes_are_two_lines(capfd: CaptureFixture[str], planted: str, tmp_path: Path) -> None:
    told(capfd, 2, "--only is 'speed'", "size, reachable", "--only", "speed")
    told(capfd, 2, "extra argument (tiny-zh)", "a model goes after -m", "tiny-zh")
    told(capfd, 2, "--seconds is '0'", "number > 0", "--seconds", "0")
    told(capfd, 2, "--plot is ", "end its name in .svg or .png", "--plot", "a.jpg")
    told(capfd, 2, "in no folder", "make the folder", "--plot", str(tmp_path / "none" / "a.svg"))
    told(capfd, 3, "unknown model", "known models", "-m", "no-such-model")
    rows = np.zeros(3)
    rows[1] = np.inf
    broken = random_gpt2(
        tmp_path / "broken", arch(), np.float32, embedding=rows.astype(float).tolist()
    )
    for part in ("reachable", "untrained", "quantisation"):
        told(capfd, 3, "not finite", "restore", "-m", str(broken), "--only", part)
