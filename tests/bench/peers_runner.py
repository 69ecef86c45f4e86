"""What every peer is asked, and how it is measured: the same code in the process of each.

A process reads one job, JSON, from stdin: the folder of the weights, their precision, the tasks,
the number of words, the seed, and where to put the logits. It prints a line of JSON after each
task, so that what was measured survives a task that fails.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

PROMPT, STEPS = 64, 32  # tokens of the prompt, and decoded after its first
LONG = 512  # tokens of the prompt that is read at once
ROWS, ROW_TOKENS = 300, 8
PATIENCE = 60.0  # seconds; what takes longer is run once

Ids = Sequence[int]


class Unsupported(Exception):
    """What a peer cannot do, in its words."""


class Peer(Protocol):
    """A model opened by a peer. No token ends a text."""

    def logits(self, ids: Ids) -> np.ndarray:
        """float32 [V], of the token after the last of `ids`."""

    def greedy(self, ids: Ids, count: int) -> list[int]:
        """The `count` likeliest tokens, one after another."""

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        """`rows` independent continuations of `count` tokens, from the whole distribution."""


class Opening(NamedTuple):
    """A peer's name for its version, and what opens a model with it."""

    version: str
    open: Callable[[Path, str], Peer]


def words(count: int, n_vocab: int, seed: int) -> list[int]:
    """Token ids."""
    return np.random.default_rng([seed, count]).integers(1, n_vocab, count).tolist()


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def steady(run: Callable[[], float], least: int = 3, enough: float = 2.0) -> float:
    """The median of at least `least` runs, and as many as take `enough` seconds."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < least or time.perf_counter() - began < enough:
        found.append(run())
    return statistics.median(found)


def decode(peer: Peer, job: dict[str, Any]) -> dict[str, float]:
    """Milliseconds a token at one row: the time of STEPS more tokens, by STEPS."""
    ids = words(PROMPT, job["n_vocab"], job["seed"])

    def both() -> float:
        many, one = (seconds(lambda n=n: peer.greedy(ids, n)) for n in (1 + STEPS, 1))
        return (many - one) / STEPS * 1e3

    cold = seconds(lambda: peer.greedy(ids, 1 + STEPS))
    peer.greedy(ids, 1)
    return {"decode": steady(both), "decode_cold_s": cold}


def prefill(peer: Peer, job: dict[str, Any]) -> dict[str, float]:
    """Tokens a second of a long prompt, up to the first token after it."""
    ids = words(LONG, job["n_vocab"], job["seed"])
    cold = seconds(lambda: peer.greedy(ids, 1))
    return {
        "prefill": LONG / steady(lambda: seconds(lambda: peer.greedy(ids, 1))),
        "prefill_cold_s": cold,
    }


def samples(peer: Peer, job: dict[str, Any]) -> dict[str, float]:
    """Seconds for ROWS samples of one prompt."""
    ids = words(PROMPT, job["n_vocab"], job["seed"])

    def once() -> float:
        began = time.perf_counter()
        drawn = peer.sample(ids, ROWS, ROW_TOKENS, job["seed"])
        took = time.perf_counter() - began
        lengths = {len(row) for row in drawn}
        if len(drawn) != ROWS or lengths != {ROW_TOKENS}:
            raise RuntimeError(f"{len(drawn)} samples of {lengths} tokens")
        return took

    cold = once()
    warm = cold if cold > PATIENCE else steady(once, least=2, enough=5.0)
    return {"samples": warm, "samples_cold_s": cold}


TASKS = {"decode": decode, "prefill": prefill, "samples": samples}


def memory() -> float:
    """The most this process has held so far, in bytes."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").open() if ":" in line)
    return int(status["VmHWM"].split()[0]) * 1024.0


def say(**found: Any) -> None:
    print(json.dumps(found), file=REPORT, flush=True)


REPORT = sys.stdout


def run(peer: Callable[[], Opening]) -> None:
    """The main of a peer's process; `peer` imports its library."""
    global REPORT
    job = json.loads(sys.stdin.read())
    REPORT, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like
    began = time.perf_counter()
    try:
        version, open_model = peer()
        imported = time.perf_counter() - began
        model = open_model(Path(job["folder"]), job["precision"])
        logits = model.logits(words(PROMPT, job["n_vocab"], job["seed"]))
        first = time.perf_counter() - began
    except Unsupported as e:
        say(unsupported=str(e))
        return
    np.save(job["logits"], np.asarray(logits, np.float32).reshape(-1))
    say(version=version, imported=imported, first=first)
    for task in job["tasks"]:
        say(**TASKS[task](model, job))
        say(**{"memory_samples" if task == "samples" else "memory": memory()})
