"""Timings of an open model: load, prefill, decode, vote."""

from __future__ import annotations

import collections
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gentool.benchmark.machine import peak_memory
from gentool.benchmark.measure import (
    SAMPLES,
    Measurement,
    Result,
    repeated,
    result,
    seconds,
    skipped,
)
from gentool.config.model import ModelConfig
from gentool.config.sampling import SamplingParams
from gentool.errors import GentoolError
from gentool.generation import opening
from gentool.generation.request import Request
from gentool.generation.session import Model
from gentool.voting.tally import Ballot

if TYPE_CHECKING:  # TensorFlow is imported when a model is opened
    from gentool.decoding.engine import Engine
    from gentool.models.weights import Weight

VOTE_PROMPT = "3+5=8\n6+1=7\n4+4=8\n9+2=11\n7+5=12\n2+6="
ANSWER_TOKENS = 8
SEED = 1
# Bytes of a weight; int4 has a 16-bit scale for 32 weights, int8 one for each output.
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int4": 0.5625}
# Tables of which a step reads one row a token, not all of it.
GATHERED = {"position", "top_query"}


class ModelSize(NamedTuple):
    """Parameters and bytes of a model. `bytes_read` are those that a decode step reads, without
    tables of which it gathers one row. `layer_parameters` and `head_parameters` are in matrix
    products: each costs a multiplication and an addition a row."""

    parameters: int
    bytes: int
    bytes_read: int
    layer_parameters: int
    head_parameters: int


def model_size(plan: Mapping[str, Weight], precision: str) -> ModelSize:
    """Counts the weights of a plan that are stored in this precision."""
    counts = {name: math.prod(weight.shape) for name, weight in plan.items()}
    gathered = GATHERED | ({"embedding"} if "head" in counts else set())
    in_products = sum(
        counts[name]
        for name, weight in plan.items()
        if name not in gathered and len(weight.shape) > 1
    )
    in_head = counts["head" if "head" in counts else "embedding"]
    read = sum(count for name, count in counts.items() if name not in gathered)
    return ModelSize(
        sum(counts.values()),
        round(BYTES[precision] * sum(counts.values())),
        round(BYTES[precision] * read),
        in_products - in_head,
        in_head,
    )


def load(
    config: ModelConfig,
    precision: str | None,
    xla: bool | None,
    threads: int | None,
    repeat: int,
) -> Measurement[tuple[Model, list[Result]]]:
    """The model, and the seconds to open it with its files in the page cache. The runtime's
    libraries are already imported, and the model opened before is freed first."""
    durations: list[float] = []
    memory: list[Result] = []
    for _ in range(repeat + 1):
        yield "load"
        model = None
        gc.collect()
        start = time.perf_counter()
        model = opening.open_model(config, precision, xla, threads)
        durations.append(time.perf_counter() - start)
        memory = memory or [peak_memory("memory_load")]
    assert model is not None
    return model, [result("load", "s", durations[1:]), *memory]


def random_ids(n_vocab: int, length: int) -> list[int]:
    """Random token ids, the same in every run."""
    ids: list[int] = np.random.default_rng(0).integers(n_vocab, size=length).tolist()
    return ids


def stochastic(sampling: SamplingParams) -> SamplingParams:
    """The model's own sampling parameters; temperature 1 where they are greedy."""
    return replace(sampling, temperature=sampling.temperature or 1.0)


def prefill(
    engine: Engine, ids: list[int], size: ModelSize, repeat: int
) -> Measurement[list[Result]]:
    """From the ids of a prompt to the logits after its last token; the head computes only those."""
    times = yield from repeated("prefill", repeat, lambda: seconds(lambda: engine.prefill(ids)))
    operations = 2 * (size.layer_parameters * len(ids) + size.head_parameters)
    return [
        result("prefill_time", "s", times),
        result("prefill_speed", "tokens/s", [len(ids) / s for s in times]),
        result("prefill_rate", "GFLOP/s", [operations / s / 1e9 for s in times]),
    ]


def decode(
    engine: Engine,
    ids: list[int],
    sampling: SamplingParams,
    rows: int,
    generate: int,
    size: ModelSize,
    repeat: int,
) -> Measurement[list[Result]]:
    """`generate` tokens for each of `rows` independent samples of one prompt; no token ends a row.
    A step computes one token of every row: engine, filters and draws, without text. The first
    tokens are drawn from the logits of the prompt, so there are generate - 1 steps."""
    if generate < 2:
        return skipped("decode_step", "ms", "the context has no room for two tokens")
    steps = decode_loop(engine, ids, sampling, rows, generate)
    title = "decode of 1 row" if rows == 1 else f"decode of {rows} rows"
    times = yield from repeated(title, repeat, lambda: steps() / (generate - 1))
    operations = 2 * rows * (size.layer_parameters + size.head_parameters)
    return [
        result("decode_step", "ms", [1000 * s for s in times], rows),
        result("decode_speed", "tokens/s", [rows / s for s in times], rows),
        result("decode_bandwidth", "GB/s", [size.bytes_read / s / 1e9 for s in times], rows),
        result("decode_rate", "GFLOP/s", [operations / s / 1e9 for s in times], rows),
    ]


def decode_loop(
    engine: Engine, ids: list[int], sampling: SamplingParams, rows: int, generate: int
) -> Callable[[], float]:
    """A function that decodes all rows and gives the seconds of every step but the first."""
    from gentool.decoding import loop

    options = loop.DecodeOptions(sampling, SEED, generate)
    samples = [loop.Sample(0, sample) for sample in range(rows)]
    prefix, logits = engine.prefill(ids)
    prompt = loop.Prompt(np.array(ids), prefix, logits[0], generate)

    def run() -> float:
        decoding = loop.DecodeLoop(engine, options)
        decoding.add(prompt, samples)
        decoding.step()
        return seconds(lambda: finish(decoding))

    def finish(decoding: loop.DecodeLoop) -> None:
        while not decoding.done:
            decoding.step()

    return run


def vote(model: Model, sampling: SamplingParams, repeat: int) -> Measurement[list[Result]]:
    """A vote of all SAMPLES samples on a few-shot prompt, as a tree, and the same samples as
    independent rows. Both compute the prompt each time."""
    try:
        model.check(VOTE_PROMPT)
    except GentoolError as e:  # no tokenizer, or the context is too small
        return skipped("vote", "s", e.message)
    answers = replace(
        sampling, max_tokens=ANSWER_TOKENS, min_tokens=0, stop=("\n",), include_stop=False
    )
    request = Request(
        prompts=(VOTE_PROMPT,),
        rows=(0,),
        n=SAMPLES,
        sampling=answers,
        seed=SEED,
    )
    ballots = [Ballot(SAMPLES, curtail=False)]

    def pair() -> tuple[float, float]:
        return (
            seconds(lambda: collections.deque(model.votes(request, ballots), maxlen=0)),
            seconds(lambda: collections.deque(model.stream(request), maxlen=0)),
        )

    pairs = yield from repeated("vote", repeat, pair)
    speedup = statistics.median(rows / tree for tree, rows in pairs)
    ceiling = yield from tree_ceiling(model.engine, model.tokenizer.encode(VOTE_PROMPT), repeat)
    return [
        result("vote", "s", [tree for tree, _ in pairs]),
        result("vote_speed", "samples/s", [SAMPLES / tree for tree, _ in pairs]),
        result("rows", "s", [rows for _, rows in pairs]),
        result("rows_speed", "samples/s", [SAMPLES / rows for _, rows in pairs]),
        result("vote_ratio", "x", [rows / tree for tree, rows in pairs]),
        result("vote_ceiling", "x", ceiling),
        result("vote_ratio_share", "%", [100 * speedup / limit for limit in ceiling]),
    ]


def tree_ceiling(engine: Engine, ids: list[int], repeat: int) -> Measurement[list[float]]:
    """The time of a step of SAMPLES rows over that of one row: the speed-up of a tree with one
    node a level, which no vote exceeds."""
    prefix, _ = engine.prefill(ids)

    def step_of(n: int) -> Callable[[], object]:
        tokens, parents, owner = np.zeros((n, 1), int), np.arange(n), np.zeros(n, int)
        started, _ = engine.extend([prefix], None, owner, parents, tokens, ANSWER_TOKENS)

        def step() -> None:
            engine.rewind(started, np.ones(n, int))
            engine.extend([prefix], started, owner, parents, tokens)

        return step

    all_rows, one_row = step_of(SAMPLES), step_of(1)
    title = f"steps of {SAMPLES} rows and of 1 row"
    return (yield from repeated(title, repeat, lambda: seconds(all_rows) / seconds(one_row)))
