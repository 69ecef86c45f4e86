"""What every peer does in a process of its own, and how its time is measured: the same code for
each. A peer's file ends with `peers_runner.main(opening)`, and has two modes:

    peers_X.py < JOB        times the tasks of a job; a line of JSON after the model is open and
                            after each task, so that a task that fails costs only itself
    peers_X.py --command    the peer's smallest program: reads JOB, prints the continuation of a
                            prompt token by token

JOB is JSON: the path of the weights, their precision, the tasks, n_vocab, the seed, and where to
put the logits.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

THREADS = 2
STEPS = 32  # tokens of a timed decode
SHORT, MEDIUM, LONG = 64, 500, 512  # tokens of a prompt
ROWS, ROW_TOKENS = 300, 8
PROMPTS = 8  # of votes
COMMAND_TOKENS = 32
MAX_SECONDS = 60.0  # a task that takes longer is not repeated

Ids = Sequence[int]


class Unsupported(Exception):
    """What a peer cannot do, in its own words."""


class Peer(Protocol):
    """A model opened by a peer. No token ends a text."""

    def logits(self, ids: Ids) -> np.ndarray:
        """float32 [V], of the token after the last of `ids`."""

    def prefill(self, ids: Ids) -> None:
        """Computes a prompt and the logits after it."""

    def step_seconds(self, ids: Ids, steps: int) -> float:
        """Seconds a step of greedy decoding of one row, over `steps` steps after a prompt."""

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        """`rows` independent continuations of `count` tokens, from the whole distribution."""

    def stream(self, ids: Ids, count: int) -> Iterator[int]:
        """The greedy continuation, each token as soon as it is known."""


class Opening(NamedTuple):
    """A peer's name and version, and its function that opens weights in a precision."""

    version: str
    open: Callable[[Path, str], Peer]


def prompt(length: int, n_vocab: int, seed: int) -> list[int]:
    """Random token ids."""
    return np.random.default_rng([seed, length]).integers(1, n_vocab, length).tolist()


def character(token: int) -> str:
    """The text of a token: a Chinese character, from 20992 on a Hangul syllable."""
    return chr(0x4E00 + token if token < 0x5200 else 0xAC00 + token - 0x5200)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def steady(run: Callable[[], float], least: int = 3, enough: float = 2.0) -> float:
    """The median of at least `least` results, and as many as take `enough` seconds."""
    results: list[float] = []
    start = time.perf_counter()
    while len(results) < least or time.perf_counter() - start < enough:
        results.append(run())
        if time.perf_counter() - start > MAX_SECONDS:
            break
    return statistics.median(results)


def decode(peer: Peer, job: dict[str, Any], length: int) -> float:
    """Milliseconds a step of one row after a prompt of `length` tokens."""
    ids = prompt(length, job["n_vocab"], job["seed"])
    peer.step_seconds(ids, 2)  # compiles, allocates
    return 1e3 * steady(lambda: peer.step_seconds(ids, STEPS))


def prefill(peer: Peer, job: dict[str, Any]) -> float:
    """Tokens a second of a prompt of LONG tokens."""
    ids = prompt(LONG, job["n_vocab"], job["seed"])
    peer.prefill(ids)
    return LONG / steady(lambda: seconds(lambda: peer.prefill(ids)))


def samples(peer: Peer, job: dict[str, Any]) -> float:
    """Seconds for ROWS samples of ROW_TOKENS tokens of one prompt, which is computed, too."""
    ids = prompt(SHORT, job["n_vocab"], job["seed"])
    first = sampled(peer, ids, job["seed"])
    if first > MAX_SECONDS:
        return first
    return steady(lambda: sampled(peer, ids, job["seed"]), least=2, enough=4.0)


def sampled(peer: Peer, ids: Ids, seed: int) -> float:
    start = time.perf_counter()
    rows = peer.sample(ids, ROWS, ROW_TOKENS, seed)
    duration = time.perf_counter() - start
    lengths = {len(row) for row in rows}
    if len(rows) != ROWS or lengths != {ROW_TOKENS}:
        raise RuntimeError(f"{len(rows)} samples of {lengths} tokens")
    return duration


def votes(peer: Peer, job: dict[str, Any]) -> float:
    """Seconds for ROWS samples of ROW_TOKENS tokens of each of PROMPTS different prompts."""
    seeds = range(job["seed"], job["seed"] + PROMPTS)
    return sum(sampled(peer, prompt(SHORT, job["n_vocab"], seed), seed) for seed in seeds)


TASKS: dict[str, Callable[[Peer, dict[str, Any]], float]] = {
    "decode_64": lambda peer, job: decode(peer, job, SHORT),
    "decode_500": lambda peer, job: decode(peer, job, MEDIUM),
    "prefill": prefill,
    "samples": samples,
    "votes": votes,
}


def timed(opening: Callable[[], Opening], job: dict[str, Any], report: Callable[..., None]) -> None:
    """Opens the model and does the tasks; `report` gets the results as soon as they are there."""
    start = time.perf_counter()
    try:
        version, open_model = opening()
        imported = time.perf_counter() - start
        peer = open_model(Path(job["weights"]), job["precision"])
        ready = time.perf_counter() - start
    except Unsupported as e:
        report(unsupported=str(e))
        return
    logits = peer.logits(prompt(SHORT, job["n_vocab"], job["seed"]))
    np.save(job["logits"], np.asarray(logits, np.float32).reshape(-1))
    report(version=version, imported=imported, ready=ready)
    for name in job["tasks"]:
        report(**{name: TASKS[name](peer, job)})


def command(opening: Callable[[], Opening], job: dict[str, Any]) -> None:
    """Prints a continuation, token by token."""
    _, open_model = opening()
    peer = open_model(Path(job["weights"]), job["precision"])
    for token in peer.stream(prompt(SHORT, job["n_vocab"], job["seed"]), COMMAND_TOKENS):
        print(character(token), end="", flush=True)


def main(opening: Callable[[], Opening]) -> None:
    """The main of a peer's file; `opening` imports its library."""
    if sys.argv[1:2] == ["--command"]:
        command(opening, json.loads(sys.argv[2]))
        return
    job = json.loads(sys.stdin.read())
    stdout, sys.stdout = sys.stdout, sys.stderr  # libraries print what they like

    def report(**results: Any) -> None:
        print(json.dumps(results), file=stdout, flush=True)

    timed(opening, job, report)
