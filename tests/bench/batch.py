"""How many rows of a batch are done a second, and in how much memory.

    .venv/bin/python tests/bench/batch.py memory --rows 1000 100000
    .venv/bin/python tests/bench/batch.py peers --shape 12x768 --rows 2000 --precisions fp32 int8
    .venv/bin/python tests/bench/batch.py ray --shape 12x768 --rows 400 --precisions int8

`memory` runs `gentool batch` over short rows of a tiny random model: rows/s, and the peak of the
memory that is its own (anonymous), which must not depend on the number of rows.

`peers` runs prompts of 8 to 256 tokens, each continued by 16, 32 or 64 tokens from the whole
distribution, through `gentool batch`, llama.cpp and CTranslate2: whole processes, the model warm in
the page cache. llama.cpp is not its server, which llama-cpp-python does not bring, but the server's
way on the same library: 64 slots, each with a sequence of its own, refilled between two steps; the
faster of a unified KV cache and one for each slot counts. CTranslate2 gets one call for each number
of new tokens, because a call has one limit for all; it sorts by length itself (max_batch_size 64).
`ray` runs the same rows through one process of two threads, one of one thread, and two workers of
one thread on a Ray cluster of this machine; the outputs must have the same bytes.
Prints Markdown. Rounds alternate between the peers; the median counts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import peers_report
from peers import weights_of, write_weights
from peers_process import GENTOOL, HERE, PEERS_PYTHON, RUNS, Memory, environment, last_line
from peers_runner import THREADS
from peers_weights import SHAPES, config

Row = dict[str, Any]

SLOTS = 64
NEW_TOKENS = (16, 32, 64)
PROMPT_TOKENS = (8, 256)
VARIANTS = {  # what runs -> the peer whose weights it reads, and its options
    GENTOOL: (GENTOOL, ()),
    "llama.cpp, unified": ("llama.cpp", ("--unified",)),
    "llama.cpp, split": ("llama.cpp", ()),
    "CTranslate2": ("CTranslate2", ()),
}
SCRIPTS = {"llama.cpp": "batch_llama_cpp.py", "CTranslate2": "batch_ctranslate2.py"}


def rows_of(count: int, n_vocab: int, prompt: tuple[int, int], new: tuple[int, ...]) -> list[Row]:
    """Rows of random prompts of `prompt` tokens, from the least to the most."""
    chance = random.Random(1)
    rows = []
    for _ in range(count):
        ids = [chance.randrange(3, n_vocab) for _ in range(chance.randint(*prompt))]
        tokens = chance.choice(new)
        rows.append({"prompt": ids, "max_tokens": tokens, "min_tokens": tokens})
    return rows


def written(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def run(command: list[str], rows: int) -> dict[str, Any]:
    """Seconds, rows/s and the peak of a process's own memory in bytes; `failed` if it failed."""
    env = environment() | {"PYTHONPATH": str(HERE.parents[1])}
    start = time.perf_counter()
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        memory = Memory(process.pid)
        _, errors = process.communicate()
        seconds = time.perf_counter() - start
        memory.stop()
    if process.returncode:
        return {"failed": f"status {process.returncode}: {last_line(errors)}"}
    peak = memory.take()["anonymous"]
    return {"seconds": seconds, "rows_per_s": rows / seconds, "bytes": peak}


def gentool_command(weights: str, source: Path, target: Path, *options: str) -> list[str]:
    target.unlink(missing_ok=True)
    start = [sys.executable, "-m", "gentool", "batch", str(source), "-o", str(target), "-q"]
    sampling = ["--temperature", "1", "--seed", "1", "--threads", str(THREADS)]
    return [*start, "-m", weights, *sampling, *options]


def measure_memory(options: argparse.Namespace) -> None:
    sys.path.append(str(HERE.parent))
    from folders import arch, random_gpt2

    print("| rows | rows/s | seconds | peak memory, MB |\n|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(random_gpt2(folder / "model", arch(), "float32"))
        for count in options.rows:
            source = written(folder / "in.jsonl", rows_of(count, 16, (1, 8), (1, 2, 3)))
            target = folder / "out.jsonl"
            result = run(gentool_command(model, source, target, "--force"), count)
            if "failed" in result:
                sys.exit(f"{count} rows: {result['failed']}")
            lines = sum(1 for _ in target.open("rb"))
            assert lines == count, f"{lines} of {count} rows"
            numbers = f"{result['rows_per_s']:.0f} | {result['seconds']:.1f}"
            print(f"| {count} | {numbers} | {result['bytes'] / 1e6:.0f} |", flush=True)


def command_of(
    variant: str, precision: str, weights: Path, source: Path, folder: Path
) -> list[str]:
    peer, options = VARIANTS[variant]
    if peer == GENTOOL:
        target = folder / "out.jsonl"
        return gentool_command(str(weights), source, target, "--precision", precision, "--force")
    script = str(HERE / SCRIPTS[peer])
    return [str(PEERS_PYTHON), script, str(weights), precision, str(source), *options]


def measure_peers(options: argparse.Namespace) -> None:
    RUNS.mkdir(parents=True, exist_ok=True)
    rows = rows_of(options.rows[0], config(options.shape)["vocab_size"], PROMPT_TOKENS, NEW_TOKENS)
    prompts = sum(len(row["prompt"]) for row in rows)
    new = sum(row["max_tokens"] for row in rows)
    print(f"{options.shape}, {len(rows)} rows: {prompts} tokens of prompts, {new} new tokens.\n")
    print("| | precision | rows/s | new tokens/s | seconds | memory, MB | gentool is faster |")
    print("|---|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = written(folder / "in.jsonl", rows)
        warm = written(folder / "warm.jsonl", rows[:2])
        for precision in options.precisions:
            results: dict[str, list[dict[str, Any]]] = {}
            for turn in range(options.rounds + 1):  # the first warms caches up, on two rows
                for variant, (peer, _) in VARIANTS.items():
                    path, _ = weights_of(peer, precision, RUNS / "weights" / options.shape)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    failed = write_weights(options.shape, peer, precision, path.parent, 1)
                    result: dict[str, Any] = {"failed": failed}
                    if not failed:
                        of = source if turn else warm
                        command = command_of(variant, precision, path, of, folder)
                        result = run(command, len(rows))
                    if turn or "failed" in result:
                        results.setdefault(variant, []).append(result)
            report(precision, results, new)


def measure_ray(options: argparse.Namespace) -> None:
    rows = rows_of(options.rows[0], config(options.shape)["vocab_size"], PROMPT_TOKENS, NEW_TOKENS)
    precision = options.precisions[0]
    weights, _ = weights_of(GENTOOL, precision, RUNS / "weights" / options.shape)
    if failed := write_weights(options.shape, GENTOOL, precision, weights.parent, 1):
        sys.exit(failed)
    ways = {
        "one process, two threads": ("--threads", "2"),
        "one process, one thread": ("--threads", "1"),
        "two workers on Ray, one thread each": ("--threads", "1", "--ray", "--num-workers", "2"),
    }
    print("| | rows/s | seconds |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        outputs: set[bytes] = set()
        source = written(folder / "in.jsonl", rows)
        for way, flags in ways.items():
            target = folder / "out.jsonl"
            more = ("--precision", precision, "--force", *flags)
            result = run(gentool_command(str(weights), source, target, *more), len(rows))
            if "failed" in result:
                sys.exit(f"{way}: {result['failed']}")
            outputs.add(target.read_bytes())
            print(f"| {way} | {result['rows_per_s']:.2f} | {result['seconds']:.1f} |", flush=True)
    assert len(outputs) == 1, "the outputs differ"


def report(precision: str, results: dict[str, list[dict[str, Any]]], new: int) -> None:
    ours = None
    for variant, rounds in results.items():
        if failed := next((r["failed"] for r in rounds if "failed" in r), ""):
            print(f"| {variant} | {precision} | {failed} | | | | |")
            continue
        seconds = statistics.median(r["seconds"] for r in rounds)
        rate = statistics.median(r["rows_per_s"] for r in rounds)
        size = max(r["bytes"] for r in rounds) / 1e6
        ours = seconds if variant == GENTOOL else ours
        ratio = f"{seconds / ours:.2f} ×" if ours and variant != GENTOOL else ""
        numbers = f"{rate:.2f} | {new / seconds:.0f} | {seconds:.1f} | {size:.0f}"
        print(f"| {variant} | {precision} | {numbers} | {ratio} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "peers", "ray"))
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--shape", choices=SHAPES, default="12x768")
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "int8"), default=["fp32"])
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {peers_report.machine()}.")
    print(f"\n    .venv/bin/python tests/bench/batch.py {' '.join(sys.argv[1:])}\n")
    if options.what == "memory":
        options.rows = options.rows or [1000, 100000]
        measure_memory(options)
    else:
        options.rows = options.rows or [2000]
        measure = measure_ray if options.what == "ray" else measure_peers
        measure(options)


if __name__ == "__main__":
    main()
