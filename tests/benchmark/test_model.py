"""What is measured is what is said: sizes by hand, turns, numbers that fit, graphs traced once."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from folders import arch, random_gpt2
from tiny import TINY, Arrays, load, make_engine, random_weights

import gentool
from gentool.benchmark import model as benchmark
from gentool.benchmark.model import Plan, Report, Result
from gentool.config import lookup
from gentool.config.model import Sampling
from gentool.errors import GentoolError
from gentool.runtimes.xla import device


def finished(turns: Generator[str, None, object]) -> tuple[list[str], object]:
    """The titles of all turns, and what they return."""
    titles = []
    while True:
        try:
            titles.append(next(turns))
        except StopIteration as end:
            return titles, end.value


@pytest.fixture(scope="module")
def small_machine() -> Generator[None, None, None]:
    """Machine rates in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "GIB", 1 << 22)
        patch.setattr(benchmark, "SIDE", 64)
        yield


@pytest.fixture(scope="module")
def report(small_machine: None, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a model of 16 positions without a tokenizer; all it yields is checked here, too."""
    folder = random_gpt2(tmp_path_factory.mktemp("bench") / "random", arch(), np.float32)
    plan = Plan(prompt_tokens=99, generate=12, batch=(1, 3), repeat=2)
    turns = benchmark.run(lookup.load(str(folder)), None, False, [], plan)
    titles, found = finished(turns)
    assert isinstance(found, Report)
    assert {title for title in titles if title not in benchmark.WEIGHTS} == {
        "decoding 1 row",
        "decoding 3 rows",
    }
    # neither cold start nor vote: there is no tokenizer
    of_texts = ("cold start", "vote", "steps of 300 rows and of one")
    skipped = 3 * sum(benchmark.WEIGHTS[title] for title in of_texts)
    assert sum(benchmark.WEIGHTS.get(title, 1) for title in titles) == plan.weight - skipped
    return found


def test_the_turn_that_warms_up_does_not_count() -> None:
    values = iter(range(9))
    titles, found = finished(benchmark.repeated("turn", 3, lambda: next(values)))
    assert (titles, found) == (["turn"] * 4, [1, 2, 3])


def test_everything_is_measured_or_skipped_for_a_reason(report: Report) -> None:
    reasons = {it.name: it.skipped for it in report.results if not it.values}
    assert reasons == dict.fromkeys(("cold_start", "vote"), "random has no tokenizer")
    once = {"memory_tensorflow", "memory_load", "memory_peak"}
    for it in report.results:
        if it.values:
            assert len(it.values) == (1 if it.name in once else 2)
            # what compiling takes is a difference
            assert "compile" in it.name or min(it.values) > 0, it
    assert len({(it.name, it.batch) for it in report.results}) == len(report.results)


def test_numbers_fit_each_other(report: Report) -> None:
    found = {(it.name, it.batch): np.array(it.values) for it in report.results}
    size = report.model
    tokens = report.settings["prompt_tokens"]
    assert found["prefill_speed", None] * found["prefill_time", None] == pytest.approx(tokens)
    for rows in (1, 3):
        step = found["decode_step", rows] / 1000
        assert found["decode_speed", rows] * step == pytest.approx(rows)
        assert found["decode_bandwidth", rows] * step * 1e9 == pytest.approx(
            size["bytes_read_per_step"]
        )
        assert found["decode_rate", rows] * step * 1e9 == pytest.approx(
            2 * rows * size["parameters_in_products"]
        )
        most = np.median(found["read_bandwidth", None])
        share = found["decode_bandwidth_share", rows]
        assert share * most / 100 == pytest.approx(found["decode_bandwidth", rows])
    peaks = [found[f"memory_{name}", None][0] for name in ("tensorflow", "load", "peak")]
    assert peaks == pytest.approx(sorted(peaks), rel=1e-3)  # the kernel counts in parts


def test_what_the_context_cuts_is_said(report: Report) -> None:
    settings = report.settings
    assert (settings["prompt_tokens"], settings["decode_prompt_tokens"]) == (16, 8)
    assert settings["generate"] == 8
    assert report.notes[:2] == (
        "prefill is of 16 tokens, not 99: the context is 16",
        "decoding is of 8 tokens, not 12: the context is 16",
    )


def test_sizes_by_hand() -> None:
    size = benchmark.sized(load(Arrays(random_weights(TINY, 0)), TINY))
    table, norms = 96 * 32, 2 * 2 * 32 + 32
    inner = 2 * (32 * (32 + 2 * 16) + 32 * 32 + 3 * 48 * 32)
    assert size == (
        inner + 2 * table + norms,
        4 * (inner + 2 * table + norms),
        4 * (inner + table + norms),  # of the embedding a row is gathered
        inner,
        table,
    )
    tied = TINY.model_copy(update={"tied_head": True})
    size = benchmark.sized(load(Arrays(random_weights(tied, 0)), tied, "bfloat16"))
    assert size == (inner + table + norms, *(2 * [2 * (inner + table + norms)]), inner, table)


def test_a_table_of_positions_is_not_read(report: Report) -> None:
    model, shape = report.model, arch()
    positions = shape.n_position * shape.d_model
    assert model["bytes"] == 4 * model["parameters"]
    assert model["bytes_read_per_step"] == model["bytes"] - 4 * positions
    inner = shape.n_layer * (4 * shape.d_model**2 + 2 * shape.d_model * shape.d_ff)
    assert model["parameters_in_products"] == inner + shape.n_vocab * shape.d_model


def test_a_graph_is_traced_when_it_is_said_to_be() -> None:
    """The inputs made here are of the shape that the engine makes."""
    engine = make_engine(TINY, random_weights(TINY, 0))
    made: list[int] = []

    class Counted(type(engine)):  # type: ignore[misc]
        def prefill(self, *arguments: object) -> object:
            made.append(self.step.experimental_get_tracing_count())
            return super().prefill(*arguments)

        def extend(self, *arguments: object) -> object:
            found = super().extend(*arguments)
            made.append(self.step.experimental_get_tracing_count())
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gentool.decoding.engine.Engine", Counted)
        _, found = finished(benchmark.graphs(engine, list(range(20)), 8, 1))
    assert made == 2 * [1, 1, 1, 1, 2, 2, 2, 2]
    assert [it.name for it in found] == [
        "prefill_trace",
        "prefill_compile",
        "step_trace",
        "step_compile",
    ]


def test_a_law_that_draws_nothing_is_made_to_draw() -> None:
    assert benchmark.drawing(Sampling(temperature=0.0, top_p=0.5)).temperature == 1
    assert benchmark.drawing(Sampling(temperature=0.3)).temperature == 0.3


def test_bf16_is_held_against_products_of_bf16() -> None:
    found = [Result("decode_rate", "GFLOP/s", (4.0, 8.0), 2), Result("load", "s", (1.0,))]
    machine = [Result("matrix_fp32", "GFLOP/s", (16.0,)), Result("matrix_bf16", "GFLOP/s", (32.0,))]
    for precision, shares in (("bf16", (12.5, 25.0)), ("fp16", (25.0, 50.0))):
        assert benchmark.shares(found, machine, precision) == [
            Result("decode_rate_share", "%", shares, 2)
        ]
    assert benchmark.shares(found, [], "fp32") == []


def test_a_vote_and_its_rows(small_machine: None) -> None:
    model = gentool.load("tiny-zh")
    titles, found = finished(benchmark.vote(model, model.config.sampling, 1))
    values = {it.name: it.values[0] for it in found}
    assert titles == ["vote"] * 2 + ["steps of 300 rows and of one"] * 2
    assert values["vote"] * values["vote_speed"] == pytest.approx(300)
    assert values["rows"] * values["rows_speed"] == pytest.approx(300)
    assert values["vote_ratio"] == pytest.approx(values["rows"] / values["vote"])
    gained = 100 * values["vote_ratio"] / values["vote_ceiling"]
    assert values["vote_ratio_share"] == pytest.approx(gained)


def test_first_character_is_of_the_program_and_not_of_its_end() -> None:
    program = "import time; print('a', flush=True); time.sleep({})"
    assert benchmark.first_character(["-c", program.format(2)]) < 2
    with pytest.raises(GentoolError, match="a fresh process failed: ValueError: no"):
        benchmark.first_character(["-c", "raise ValueError('no')"])
    with pytest.raises(GentoolError, match="failed: it is gone$"):
        shown = "import sys; sys.stderr.write('error: it is gone\\nhint: look\\n'); sys.exit(3)"
        benchmark.first_character(["-c", shown])


def test_a_cold_start_that_fails_is_skipped_with_the_reason(monkeypatch, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "raise SystemExit(\\"error: no\\")"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    chosen = lookup.load("tiny-zh")
    _, found = finished(benchmark.cold_start(chosen, [], 1))
    assert found == [Result("cold_start", "s", (), skipped="a fresh process failed: no")]


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("", f"{device.CACHE_FLAG}="),
        ("--tf_xla_x=1", f"--tf_xla_x=1 {device.CACHE_FLAG}="),
        (f"{device.CACHE_FLAG}=own", f"{device.CACHE_FLAG}=own"),
        ("file", "file"),
    ],
)
def test_compiling_is_never_from_a_cache(monkeypatch, said: str, left: str) -> None:
    monkeypatch.setenv("TF_XLA_FLAGS", said)
    benchmark.compile_anew()
    assert os.environ["TF_XLA_FLAGS"] == left


def test_the_machine_is_described() -> None:
    found = benchmark.this_machine()
    assert found["cpu"] and found["cores"] >= 1 and found["gentool"] == gentool.__version__
    assert math.isfinite(benchmark.peak("memory_peak").median)
