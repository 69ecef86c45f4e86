"""The comparison with peers itself: what its tables say, and that gentool's side of it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers
import peers_process
import peers_report
import peers_weights
import pytest
from peers_report import Round
from peers_runner import TASKS, character, prompt

SMALL = peers_weights.SHAPES["tiny"] | {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "intermediate_size": 64,
    "vocab_size": 300,
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    """gentool's, for a small model, with a cache of its own."""
    folder = tmp_path_factory.mktemp("peers")
    peers_weights.write_hugging_face(folder / "hf", SMALL, "bf16", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers_process, "RUNS", folder)
        yield {
            "weights": str(folder / "hf"),
            "precision": "int8",
            "tasks": ["decode_64", "prefill"],
            "n_vocab": SMALL["vocab_size"],
            "seed": 1,
            "logits": str(folder / "logits.npy"),
        }


def test_gentool_does_its_tasks(job: Round) -> None:
    results = peers_process.run_tasks("gentool", job, 120)
    assert results.get("failed") is None
    assert min(results["decode_64"], results["prefill"], results["ready"]) > 0
    assert results["anonymous"] > 10e6 and results["mapped"] > 10e6  # Python itself takes more
    assert "anonymous_samples" not in results and "gentool" in results["version"]
    assert np.load(job["logits"]).shape == (SMALL["vocab_size"],)


def test_gentools_command_is_timed(job: Round) -> None:
    results = peers_process.run_command("gentool", job, 120)
    assert 0 < results["first_character"] <= results["command"]
    assert 0 <= results["exit"] < results["command"]
    gone = job | {"weights": job["weights"] + "-gone"}
    failed = peers_process.run_command("gentool", gone, 120)["failed"]
    assert failed.startswith("its command gives status ")


def test_what_a_peer_cannot_do_is_its_own_words(job: Round) -> None:
    results = peers_process.run_tasks("gentool", job | {"precision": "int3"}, 120)
    assert "int3" in results["failed"]


def test_a_late_peer_is_stopped(job: Round) -> None:
    assert peers_process.run_tasks("gentool", job, 0.05)["failed"] == "stopped after 0.05 s"


def test_memory_is_that_of_the_process() -> None:
    program = "x = b'1' * (1 << 27); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        memory = peers_process.Memory(process.pid)
        assert process.stdout and process.stdout.readline()
        time.sleep(0.3)
        peaks = memory.take()
        memory.stop()
        process.kill()
    assert (1 << 27) < peaks["anonymous"] < (1 << 28) and peaks["mapped"] > 1e6


def test_ratios_are_at_equal_bits_and_say_how_much_faster_gentool_is() -> None:
    rounds = {
        ("gentool", "int8"): [
            {"version": "g", "decode_64": 2.0, "prefill": 900.0, "off": 0.01, "others": 0.0},
            {"version": "g", "decode_64": 4.0, "prefill": 900.0, "off": 0.01, "others": 0.0},
        ],
        ("llama.cpp", "int8"): [
            {"version": "l", "decode_64": 6.0, "prefill": 300.0, "off": 0.9, "others": 0.2}
        ],
        ("llama.cpp", "fp32"): [{"version": "l", "decode_64": 9.0, "others": 0.0}],
        ("CTranslate2", "int8"): [{"failed": "it cannot"}],
    }
    assert peers_report.table(rounds) == [
        "|  | step at 64, ms | 512 read, tokens/s | logits off by |",
        "| --- | --- | --- | --- |",
        "| llama.cpp fp32 | 9.00 |  |  |",
        "| gentool int8 | 3.00 | 900 | 1e-02 |",
        "| llama.cpp Q8_0 (others took 20%) | 6.00 (2.00×) | 300 (3.00×) | **wrong**: 9e-01 |",
    ]
    assert "up to 33%" in peers_report.spread(rounds)
    assert "not idle" in peers_report.spread(rounds)


def test_logits_are_compared_with_the_most_exact(tmp_path: Path) -> None:
    for precision, values in {"fp32": [1.0, -2.0], "int8": [1.0, -1.9]}.items():
        np.save(tmp_path / f"tiny-{precision}-gentool.npy", np.array(values, np.float32))
    rounds = {("gentool", "int8"): [Round()], ("gentool", "fp32"): [Round()]}
    peers_report.compare_logits(tmp_path, "tiny", rounds)
    assert rounds["gentool", "fp32"][0]["off"] == 0
    assert rounds["gentool", "int8"][0]["off"] == pytest.approx(0.05)


def test_files_by_peer_and_precision(tmp_path: Path) -> None:
    assert peers.weights_of("gentool", "int8", tmp_path) == (tmp_path / "hf-bf16", ["hf", "bf16"])
    assert peers.weights_of("llama.cpp", "int4", tmp_path) == (
        tmp_path / "int4.gguf",
        ["gguf", "int4"],
    )
    assert peers.weights_of("CTranslate2", "int8", tmp_path) == (
        tmp_path / "ct2-int8",
        ["ct2", "int8"],
    )


def test_every_default_is_known() -> None:
    for default in peers.DEFAULTS.values():
        assert set(default.tasks) <= set(TASKS) and set(default.precisions) <= set(peers.PRECISIONS)
        for peer in peers.DEFAULT_PEERS:
            assert set(peers_process.PEERS[peer].precisions) <= set(peers.PRECISIONS)


def test_every_token_is_one_character() -> None:
    characters = [character(token) for token in range(30_000)]
    assert len(set(characters)) == 30_000 and set(map(len, characters)) == {1}
    assert prompt(64, 300, 1) == prompt(64, 300, 1) != prompt(64, 300, 2)
