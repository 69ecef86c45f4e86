"""`gentool batch --ray` on a cluster of two nodes on this machine: the bytes of a local run."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.shell import gentool, started

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROWS: list[Any] = [
    {"prompt": f"今天天气不错，{number}", "max_tokens": 20 + number % 9, "n": 1 + number % 2}
    for number in range(600)
]
ROWS[7] = {"prompt": ""}
FLAGS = ("--seed", "5", "--threads", "1")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of two processors."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.second = nodes.add_node(num_cpus=2)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The input of a local run, and its output."""
    folder = tmp_path_factory.mktemp("whole")
    source, target = folder / "in.jsonl", folder / "out.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS]
    source.write_text("".join(lines), "utf-8")
    assert gentool("batch", str(source), "-o", str(target), *FLAGS).code == 4
    return source, target.read_bytes()


def arguments(source: Path, target: Path, cluster: Any, workers: int) -> list[str]:
    cluster_flags = ["--ray", cluster.address, "--num-workers", str(workers)]
    return ["batch", str(source), "-o", str(target), *FLAGS, *cluster_flags]


def rows_of(target: Path) -> int:
    return target.read_bytes().count(b"\n") if target.exists() else 0


def worker_processes() -> list[int]:
    """The processes of workers that compute."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if title(pid).startswith(b"ray::Worker")]


def title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_any_number_of_workers_writes_the_bytes_of_a_local_run(
    cluster: Any, whole: tuple[Path, bytes], tmp_path: Path
) -> None:
    source, expected = whole
    for workers in (1, 2, 3):
        target = tmp_path / f"{workers}.jsonl"
        done = gentool(*arguments(source, target, cluster, workers))
        assert (done.code, target.read_bytes()) == (4, expected), done.err
        assert done.err.startswith("error: 1 of 600 rows failed\n")


@pytest.mark.parametrize("loss", ["worker", "node"])
def test_a_lost_worker_or_node_costs_its_block_alone(
    cluster: Any, whole: tuple[Path, bytes], tmp_path: Path, loss: str
) -> None:
    source, expected = whole
    target = tmp_path / "out.jsonl"
    with started(*arguments(source, target, cluster, 2)) as process:
        while not rows_of(target) and process.poll() is None:
            time.sleep(0.05)
        assert process.poll() is None
        if loss == "worker":
            os.kill(worker_processes()[0], signal.SIGKILL)
        else:
            cluster.remove_node(cluster.second, allow_graceful=False)
        process.wait(timeout=300)
    assert process.returncode == 4
    assert target.read_bytes() == expected


def test_an_interrupted_run_goes_on_without_the_cluster(
    cluster: Any, whole: tuple[Path, bytes], tmp_path: Path
) -> None:
    source, expected = whole
    target = tmp_path / "out.jsonl"
    with started(*arguments(source, target, cluster, 2)) as process:
        while not rows_of(target) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143
    assert 0 < rows_of(target) < 600
    assert gentool("batch", str(source), "-o", str(target), *FLAGS).code == 4
    assert target.read_bytes() == expected


def test_a_worker_that_cannot_load_the_model_is_said(
    cluster: Any, whole: tuple[Path, bytes], tmp_path: Path
) -> None:
    done = gentool(
        *arguments(whole[0], tmp_path / "out.jsonl", cluster, 2), "--precision", "int4", "--xla"
    )
    assert done.code == 2
    assert done.err.startswith("error: precision is int4, and --xla runs on TensorFlow\n")


def test_a_cluster_that_is_not_there_is_said(whole: tuple[Path, bytes], tmp_path: Path) -> None:
    target = str(tmp_path / "out.jsonl")
    done = gentool("batch", str(whole[0]), "-o", target, "--ray", "127.0.0.1:1")
    assert done.code == 1 and done.err.startswith("error: no Ray cluster at 127.0.0.1:1: ")


def test_a_head_without_processors_gets_no_worker(tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes.add_node(num_cpus=2)
    (source := tmp_path / "in.jsonl").write_text('{"prompt": "今天"}\n', "utf-8")
    try:
        done = gentool("batch", str(source), "--ray", nodes.address, "-v", *FLAGS)
    finally:
        nodes.shutdown()
    assert done.code == 0 and "1 of 1 workers opened the model" in done.err


def test_gpus_that_this_machine_lacks_are_not_waited_for(tmp_path: Path) -> None:
    (source := tmp_path / "in.jsonl").write_text('{"prompt": "今天"}\n', "utf-8")
    done = gentool("batch", str(source), "--ray", "--gpus-per-worker", "64")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: --gpus-per-worker is 64, and this machine has ")
