"""gentool and its peers side by side: one machine, one run, the same random weights, two threads.

    make bench-peers SHAPES="tiny 12x768" ROUNDS=3
    .venv/bin/python tests/bench/peers.py --shapes 32x2560 --precisions bf16 --peers llama.cpp

In every round each peer opens the weights in a process of its own and does all its tasks, so what
slows the machine for a while slows all of them. Figures are medians over the rounds. Prints
Markdown; the rounds themselves go to .runs/peers as JSON. See peers_runner.py for the tasks.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers_weights import NAMES, SHAPES, config, parameters

HERE = Path(__file__).parent
RUNS = HERE.parents[1] / ".runs/peers"
OTHERS = HERE.parents[1] / ".venv-peers/bin/python"

PEERS = {  # name -> its runner, what it reads
    "gentool": ("peers_gentool.py", "hf"),
    "llama.cpp": ("peers_llama_cpp.py", "gguf"),
    "transformers": ("peers_transformers.py", "hf"),
    "CTranslate2": ("peers_ctranslate2.py", "ct2"),
    "KerasHub": ("peers_keras_hub.py", "hf"),
}
FIRST = "gentool"
TASKS = ("decode", "prefill", "samples")
LONG = {("32x2560", "samples")}  # a quarter of an hour where the prompt is computed 300 times

MOST_OFF = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.1}  # of the largest logit
IDLE = 0.05  # of the machine that others may take
COPIES = 2  # of the weights that a peer may need in memory at once

Key = tuple[str, str]  # peer, precision
Found = dict[str, Any]


class Measure(NamedTuple):
    """A column: its title, its format, what it is divided by, and whether more is better."""

    title: str
    form: str
    unit: float = 1.0
    more: bool = False


MEASURES = {
    "decode": Measure("one row, ms/token", ".2f"),
    "prefill": Measure("512 tokens read, tokens/s", ".0f", more=True),
    "samples": Measure("300 samples × 8, s", ".2f"),
    "first": Measure("start to first logits, s", ".2f"),
    "memory": Measure("peak memory, GB", ".2f", 1e9),
    "memory_samples": Measure("with 300 rows, GB", ".2f", 1e9),
}


def note(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def unfit(shape: str, precision: str, formats: set[str]) -> str:
    """Why a shape cannot be measured in a precision on this machine, if it cannot."""
    copy = parameters(shape) * (4 if precision == "fp32" else 2)
    lines = Path("/proc/meminfo").read_text().splitlines()
    memory = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    if COPIES * copy > memory:
        return f"{COPIES} x {copy / 1e9:.1f} GB do not fit the {memory / 1e9:.1f} GB that are free"
    disk = shutil.disk_usage(RUNS).free
    if len(formats) * copy > disk * 0.9:
        wanted = f"{len(formats)} x {copy / 1e9:.1f} GB"
        return f"{wanted} do not fit the {disk / 1e9:.1f} GB that are free on disk"
    return ""


def write(shape: str, precision: str, seed: int, formats: set[str]) -> Path:
    """The folder of the weights."""
    folder = RUNS / f"weights/{shape}-{precision}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    note(f"writing {folder}")
    script = str(HERE / "peers_weights.py")
    command = [str(OTHERS), script, shape, precision, str(folder), "--seed", str(seed)]
    command += ["--formats", *sorted(formats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}\n{done.stderr[-2000:]}")
    return folder


def read(folder: Path, name: str) -> None:
    """Brings what a peer opens into memory, so that no disk is measured."""
    for path in folder.rglob("*"):
        if path.is_file() and name in str(path.relative_to(folder)):
            with path.open("rb") as file:
                while file.read(1 << 24):
                    pass


def prepare() -> None:
    """In the process of a peer: it is the one that dies when memory runs out."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def measured(peer: str, job: Found, limit: float) -> Found:
    """What the process of a peer said; `failed` says why there is no more."""
    script, _ = PEERS[peer]
    python = sys.executable if peer == FIRST else str(OTHERS)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "2")
    said, failed = "", ""
    try:
        done = subprocess.run(
            [python, str(HERE / script)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=limit,
            env=os.environ | threads,
            preexec_fn=prepare,
        )
        said = done.stdout
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            failed = f"status {done.returncode}: {lines[-1] if lines else 'nothing said'}"
    except subprocess.TimeoutExpired as late:
        said, failed = (late.stdout or b"").decode(), f"stopped after {limit:.0f} s"
    found: Found = {}
    for line in said.splitlines():
        found |= json.loads(line)
    if "unsupported" in found:
        failed = found.pop("unsupported")
    return found | ({"failed": failed} if failed else {})


def busy() -> float:
    """Seconds that the processors have worked for anyone."""
    user, nice, system, _, _, *rest = map(int, Path("/proc/stat").open().readline().split()[1:9])
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Seconds that they have worked for peers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def beside(run: Callable[[], Found]) -> Found:
    """What was found, and the share of the machine that `others` took meanwhile."""
    began, before = time.monotonic(), busy() - own()
    found = run()
    spent = (time.monotonic() - began) * (os.cpu_count() or 1)
    return found | {"others": max(0.0, busy() - own() - before) / spent}


def off(path: Path, reference: Path) -> float | None:
    """How far logits are off, relative to the largest."""
    if not (path.is_file() and reference.is_file()):
        return None
    right = np.load(reference)
    return float(np.abs(np.load(path) - right).max() / np.abs(right).max())


def of_precision(
    shape: str, precision: str, given: argparse.Namespace
) -> Iterator[tuple[str, Found]]:
    """All rounds of the peers that are asked for, as they come in."""
    formats = {PEERS[peer][1] for peer in given.peers} | {"hf"}
    folder = write(shape, precision, given.seed, formats)
    job = {"folder": str(folder), "precision": precision, "seed": given.seed}
    tasks = given.tasks or [task for task in TASKS if (shape, task) not in LONG]
    job |= {"tasks": tasks, "n_vocab": config(shape)["vocab_size"]}
    going = list(given.peers)
    for turn in range(given.rounds):
        for peer in [*given.peers[turn % len(given.peers) :], *given.peers][: len(given.peers)]:
            if peer not in going:
                continue
            read(folder, {"gguf": "model.gguf"}.get(PEERS[peer][1], PEERS[peer][1]))
            logits = RUNS / f"logits/{shape}-{precision}-{peer}.npy"
            logits.unlink(missing_ok=True)
            asked = job | {"logits": str(logits)}
            found = beside(lambda peer=peer, asked=asked: measured(peer, asked, given.limit))
            note(f"{shape} {precision} round {turn + 1} {peer}: {json.dumps(found)}")
            if "failed" in found:
                going.remove(peer)
            yield peer, found
    if not given.keep:
        shutil.rmtree(folder)


def of_shape(shape: str, given: argparse.Namespace) -> tuple[dict[Key, list[Found]], list[str]]:
    """The rounds of every peer and precision, and what could not be measured."""
    rounds: dict[Key, list[Found]] = {}
    missing = []
    formats = {PEERS[peer][1] for peer in given.peers} | {"hf"}
    for precision in given.precisions:
        if why := unfit(shape, precision, formats):
            missing.append(f"{precision}: {why}")
            continue
        for peer, found in of_precision(shape, precision, given):
            rounds.setdefault((peer, precision), []).append(found)
    for (peer, precision), all_found in rounds.items():
        missing += [f"{peer} {precision}: {f['failed']}" for f in all_found if "failed" in f]
        where = [RUNS / f"logits/{shape}-{p}-{FIRST}.npy" for p in ("fp32", precision)]
        reference = where[0] if (FIRST, "fp32") in rounds else where[1]
        all_found[0]["off"] = off(RUNS / f"logits/{shape}-{precision}-{peer}.npy", reference)
    return rounds, missing


def median(rounds: Sequence[Found] | None, measure: str) -> float | None:
    found = [one[measure] for one in rounds or () if measure in one]
    return statistics.median(found) if found else None


def cell(rounds: dict[Key, list[Found]], key: Key, name: str) -> str:
    """A median, and in brackets how many times better gentool is."""
    measure = MEASURES[name]
    own, first = median(rounds[key], name), median(rounds.get((FIRST, key[1])), name)
    if own is None:
        return ""
    said = format(own / measure.unit, measure.form)
    if key[0] == FIRST or first is None:
        return said
    return f"{said} ({first / own if measure.more else own / first:.2f}×)"


def agreement(precision: str, error: float | None) -> str:
    if error is None:
        return ""
    return f"{error:.0e}" if error <= MOST_OFF[precision] else f"**wrong**: {error:.0e}"


def table(rounds: dict[Key, list[Found]]) -> list[str]:
    """Markdown."""
    known = {name for all_found in rounds.values() for one in all_found for name in one}
    names = [name for name in MEASURES if name in known]
    head = ["", *(MEASURES[name].title for name in names), "logits off by"]
    lines = [head, ["---"] * len(head)]
    order = sorted(rounds, key=lambda key: (list(NAMES).index(key[1]), list(PEERS).index(key[0])))
    for key in order:
        if not any("first" in one for one in rounds[key]):
            continue
        right = agreement(key[1], rounds[key][0]["off"])
        others = median(rounds[key], "others") or 0.0
        disturbed = f" (others took {others:.0%})" if others > IDLE else ""
        lines.append(
            [" ".join(key) + disturbed, *(cell(rounds, key, name) for name in names), right]
        )
    return [f"| {' | '.join(line)} |" for line in lines]


def spread(rounds: dict[Key, list[Found]]) -> str:
    """How far the rounds lie apart, and who else was at work."""
    apart = []
    for all_found, name in itertools.product(rounds.values(), ("decode", "prefill", "samples")):
        middle = median(all_found, name)
        if middle:
            found = [one[name] for one in all_found if name in one]
            apart.append(max(abs(value / middle - 1) for value in found))
    if not apart:
        return "Nothing was measured."
    every = itertools.chain.from_iterable(rounds.values())
    others = [one["others"] for one in every if "first" in one]
    said = (
        f"A round is off the median by up to {max(apart):.0%}, for half the figures by at most"
        f" {statistics.median(apart):.0%}. Other programs took {statistics.median(others):.0%} of"
        f" the machine, at most {max(others):.0%}."
    )
    return said + (" **The machine was not idle.**" if max(others) > IDLE else "")


def machine() -> str:
    """The processor with what it has for 16 bits, its memory, and how busy it is."""
    info = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line
    )
    about = {key.strip(): value.strip() for key, value in info.items()}
    flags = about.get("flags", "").split()
    special = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return (
        f"{about.get('model name', 'unknown processor')} ({', '.join(special)}),"
        f" 2 of {os.cpu_count()} cores, {total / 2**30:.0f} GiB;"
        f" load average {os.getloadavg()[0]:.1f} at the start"
    )


def report(shape: str, rounds: dict[Key, list[Found]], missing: Sequence[str]) -> None:
    count = parameters(shape)
    size = f"{count / 1e9:.2f} G" if count > 1e9 else f"{count / 1e6:.1f} M"
    print(f"\n### {shape}, {config(shape)['model_type']}, {size} parameters\n")
    print("\n".join(table(rounds)))
    print(f"\n{spread(rounds)}")
    if missing:
        print("\nNot measured:\n")
        print("\n".join(f"- {line}" for line in dict.fromkeys(missing)))
    sys.stdout.flush()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny", "12x768"])
    parser.add_argument("--precisions", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, help="all but those that take long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1200, help="seconds of one process")
    parser.add_argument("--keep", action="store_true", help="leave the weights on disk")
    given = parser.parse_args()
    given.peers = [peer for peer in PEERS if peer in {FIRST, *given.peers}]
    return given


def main() -> None:
    given = options()
    (RUNS / "logits").mkdir(parents=True, exist_ok=True)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    now = datetime.datetime.now()
    about = {"date": f"{now:%Y-%m-%d %H:%M}", "machine": machine(), "command": sys.argv[1:]}
    began = time.monotonic()
    kept: Found = dict(about)
    versions: dict[str, None] = {}
    print(f"{about['date']}, {about['machine']}; seed {given.seed}, {given.rounds} rounds.")
    print(f"\n    .venv/bin/python tests/bench/peers.py {' '.join(sys.argv[1:])}\n")
    print("In brackets: how many times gentool is faster (or smaller). Two threads for everyone.")
    for shape in given.shapes:
        rounds, missing = of_shape(shape, given)
        report(shape, rounds, missing)
        kept[shape] = {" ".join(key): found for key, found in rounds.items()}
        versions |= dict.fromkeys(
            f["version"] for r in rounds.values() for f in r if "version" in f
        )
        (RUNS / f"{now:%Y-%m-%d-%H%M}.json").write_text(json.dumps(kept, indent=1))
    print(f"\n{'; '.join(versions)}. {(time.monotonic() - began) / 60:.0f} minutes.")


if __name__ == "__main__":
    main()
