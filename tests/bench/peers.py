"""gentool and its peers at equal bits: one machine, one run, the same random weights, two threads.

    make bench-peers SHAPES="tiny 12x768" ROUNDS=3
    .venv/bin/python tests/bench/peers.py --shapes 32x2560 --precisions int8 --peers llama.cpp

In every round each peer opens its weights in a process of its own and does all its tasks (steps),
then its smallest program runs on a terminal (command). Rounds alternate between the peers, so that
whatever slows the machine slows all of them. Prints Markdown, medians over the rounds; the rounds
themselves go to .runs/peers as JSON. peers_runner.py has the tasks, peers_report.py the tables.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import peers_report
from peers_process import (
    GENTOOL,
    HERE,
    PEERS,
    PEERS_PYTHON,
    RUNS,
    beside,
    last_line,
    run_command,
    run_tasks,
)
from peers_report import Key, Round
from peers_runner import TASKS, THREADS
from peers_weights import SHAPES, config, parameters

PRECISIONS = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.1, "int4": 0.7}  # bytes a weight


class Format(NamedTuple):
    """What a peer reads: the name of the file, the writer's format, the precision it is written in
    where that is not the one that is measured."""

    file: str
    writer: str
    stored: dict[str, str] = {}


# gentool quantises 16-bit weights, as published ones are
SIXTEEN = {"int8": "bf16", "int4": "bf16"}
FORMATS = {
    "hf": Format("hf-{}", "hf"),
    "hf-16": Format("hf-{}", "hf", SIXTEEN),
    "gguf": Format("{}.gguf", "gguf"),
    "ct2": Format("ct2-{}", "ct2"),
}


class Default(NamedTuple):
    """What is measured of a shape unless it is asked for: all of it takes under 25 minutes."""

    precisions: tuple[str, ...]
    rounds: int
    tasks: tuple[str, ...]


ALL = ("fp32", "bf16", "int8", "int4")
DEFAULTS = {
    "tiny": Default(ALL, 3, ("decode_64", "decode_500", "prefill", "samples")),
    "12x768": Default(ALL, 2, tuple(TASKS)),
    # fp32 needs 10.5 GB, and 300 samples take llama.cpp minutes
    "32x2560": Default(("bf16", "int8", "int4"), 1, ("decode_64", "decode_500", "prefill")),
}
DEFAULT_PEERS = (GENTOOL, "llama.cpp", "CTranslate2")
COPIES = 2  # of the weights that a peer may need in memory at once


def note(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


# Weights


def weights_of(peer: str, precision: str, folder: Path) -> tuple[Path, list[str]]:
    """The path that a peer reads, and the format and precision in which it is written."""
    form = FORMATS[PEERS[peer].format]
    stored = form.stored.get(precision, precision)
    return folder / form.file.format(stored), [form.writer, stored]


def write_weights(shape: str, peer: str, precision: str, folder: Path, seed: int) -> str:
    """Writes what a peer reads unless it is there; gives the reason if that fails."""
    path, form = weights_of(peer, precision, folder)
    if path.exists():
        return ""
    note(f"writing {path}")
    command = [str(PEERS_PYTHON), str(HERE / "peers_weights.py"), shape, *form, str(path)]
    written = subprocess.run([*command, "--seed", str(seed)], capture_output=True, text=True)
    return last_line(written.stderr) if written.returncode else ""


def too_large(shape: str, precision: str) -> str:
    """Why a shape cannot be measured in a precision on this machine, if it cannot."""
    size = parameters(shape) * PRECISIONS[precision]
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if COPIES * size > free:
        return f"{COPIES} x {size / 1e9:.1f} GB do not fit the {free / 1e9:.1f} GB that are free"
    disk = shutil.disk_usage(RUNS).free
    if 4 * size > disk * 0.9:
        return f"4 x {size / 1e9:.1f} GB do not fit the {disk / 1e9:.1f} GB free on the disk"
    return ""


# Rounds


def measure(shape: str, options: argparse.Namespace) -> tuple[dict[Key, list[Round]], list[str]]:
    """The rounds of every peer and precision, and what could not be measured."""
    rounds: dict[Key, list[Round]] = {}
    missing: list[str] = []
    default = DEFAULTS[shape]
    folder = RUNS / "weights" / shape
    for precision in options.precisions or default.precisions:
        if reason := too_large(shape, precision):
            missing.append(f"{precision}: {reason}")
            continue
        for peer, results in measure_precision(shape, precision, folder, options):
            rounds.setdefault((peer, precision), []).append(results)
            if "failed" in results:
                missing.append(f"{peer} {precision}: {results['failed']}")
    peers_report.compare_logits(RUNS / "logits", shape, rounds)
    if not options.keep:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(RUNS / "cache", ignore_errors=True)
    return rounds, missing


def measure_precision(
    shape: str, precision: str, folder: Path, options: argparse.Namespace
) -> Iterator[tuple[str, Round]]:
    """The rounds of the peers in one precision, as they are measured."""
    default = DEFAULTS[shape]
    jobs: dict[str, Round] = {}
    for peer in options.peers:
        if precision not in PEERS[peer].precisions:
            continue
        if reason := write_weights(shape, peer, precision, folder, options.seed):
            yield peer, {"failed": reason}
            continue
        jobs[peer] = {
            "weights": str(weights_of(peer, precision, folder)[0]),
            "precision": precision,
            "tasks": list(options.tasks or default.tasks),
            "n_vocab": config(shape)["vocab_size"],
            "seed": options.seed,
            "logits": str(RUNS / f"logits/{shape}-{precision}-{peer}.npy"),
        }
        Path(jobs[peer]["logits"]).unlink(missing_ok=True)
        # reads the files into memory, quantises, and fills caches
        start = time.perf_counter()
        warm = run_command(peer, jobs[peer], options.limit)
        note(f"{shape} {precision} {peer}: prepared in {time.perf_counter() - start:.1f} s")
        if "failed" in warm:
            jobs[peer]["tasks"] = []  # to learn why
    for turn in range(options.rounds or default.rounds):
        order = list(jobs)
        for peer in order[turn % len(order) :] + order[: turn % len(order)] if order else ():
            job = jobs[peer]

            def run(peer: str = peer, job: Round = job) -> Round:
                results = run_tasks(peer, job, options.limit)
                return (
                    results
                    if "failed" in results
                    else results | run_command(peer, job, options.limit)
                )

            results = beside(run)
            note(f"{shape} {precision} round {turn + 1} {peer}: {json.dumps(results)}")
            if "failed" in results:
                del jobs[peer]
            yield peer, results


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(DEFAULTS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="of every shape")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(DEFAULT_PEERS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="of every shape")
    parser.add_argument("--rounds", type=int, help="of every shape")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600, help="seconds of one process")
    parser.add_argument("--keep", action="store_true", help="leave weights and caches on disk")
    options = parser.parse_args()
    options.peers = [peer for peer in PEERS if peer in {GENTOOL, *options.peers}]
    return options


def main() -> None:
    options = parsed()
    (RUNS / "logits").mkdir(parents=True, exist_ok=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    now, start = datetime.datetime.now(), time.monotonic()
    machine = peers_report.machine()
    kept: dict[str, Any] = {"date": f"{now:%Y-%m-%d %H:%M}", "machine": machine}
    print(f"{kept['date']}, {machine}; seed {options.seed}.")
    print(f"\n    .venv/bin/python tests/bench/peers.py {' '.join(sys.argv[1:])}\n")
    print("In brackets: how many times gentool is faster, or smaller, at equal bits.")
    versions: dict[str, None] = {}
    for shape in options.shapes:
        rounds, missing = measure(shape, options)
        peers_report.report(shape, rounds, missing)
        kept[shape] = {" ".join(key): results for key, results in rounds.items()}
        versions |= dict.fromkeys(
            r["version"] for results in rounds.values() for r in results if "version" in r
        )
        (RUNS / f"{now:%Y-%m-%d-%H%M}.json").write_text(json.dumps(kept, indent=1))
    print(f"\n{'; '.join(versions)}. {(time.monotonic() - start) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
