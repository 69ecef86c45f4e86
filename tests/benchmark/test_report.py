"""A report of a small model: everything is measured or skipped, and its numbers agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from folders import arch, random_gpt2

from gentool.benchmark.measure import COSTS, Plan, Report
from gentool.benchmark.report import run
from gentool.config import lookup


@pytest.fixture(scope="module")
def report(small_machine: None, finish, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a model of 16 positions without a tokenizer; all titles are checked here, too."""
    folder = random_gpt2(tmp_path_factory.mktemp("bench") / "random", arch(), np.float32)
    plan = Plan(prompt_tokens=99, generate=12, batch=(1, 3), repeat=2)
    titles, made = finish(run(lookup.load(str(folder)), None, False, None, [], plan))
    assert isinstance(made, Report)
    assert set(titles) - set(COSTS) == {"decode of 1 row", "decode of 3 rows"}
    # neither cold start nor vote: there is no tokenizer
    of_texts = ("cold start", "vote", "steps of 300 rows and of 1 row")
    skipped = 3 * sum(COSTS[title] for title in of_texts)
    assert sum(COSTS.get(title, 1) for title in titles) == plan.cost - skipped
    return made


def test_everything_is_measured_or_skipped_for_a_reason(report: Report) -> None:
    reasons = {it.name: it.skipped for it in report.results if not it.values}
    assert reasons == dict.fromkeys(("cold_start", "vote"), "random has no tokenizer")
    once = {"memory_tensorflow", "memory_load", "memory_peak"}
    for it in report.results:
        if it.values:
            assert len(it.values) == (1 if it.name in once else 2)
            # the time to compile is a difference
            assert "compile" in it.name or min(it.values) > 0, it
    assert len({(it.name, it.batch) for it in report.results}) == len(report.results)


def test_numbers_agree(report: Report) -> None:
    values = {(it.name, it.batch): np.array(it.values) for it in report.results}
    model = report.model
    tokens = report.settings["prompt_tokens"]
    assert values["prefill_speed", None] * values["prefill_time", None] == pytest.approx(tokens)
    for rows in (1, 3):
        step = values["decode_step", rows] / 1000
        assert values["decode_speed", rows] * step == pytest.approx(rows)
        assert values["decode_bandwidth", rows] * step * 1e9 == pytest.approx(
            model["bytes_read_per_step"]
        )
        assert values["decode_rate", rows] * step * 1e9 == pytest.approx(
            2 * rows * model["parameters_in_products"]
        )
        bandwidth = np.median(values["read_bandwidth", None])
        share = values["decode_bandwidth_share", rows]
        assert share * bandwidth / 100 == pytest.approx(values["decode_bandwidth", rows])
    peaks = [values[f"memory_{name}", None][0] for name in ("tensorflow", "load", "peak")]
    assert peaks == pytest.approx(sorted(peaks), rel=1e-3)  # the kernel counts in batches


def test_notes_say_what_the_context_cut(report: Report) -> None:
    settings = report.settings
    assert (settings["prompt_tokens"], settings["decode_prompt_tokens"]) == (16, 8)
    assert settings["generate"] == 8
    assert report.notes[:2] == (
        "prefill is of 16 tokens, not 99: the context is 16",
        "decoding is of 8 tokens, not 12: the context is 16",
    )


def test_a_step_does_not_read_the_table_of_positions(report: Report) -> None:
    model, shape = report.model, arch()
    positions = shape.n_position * shape.d_model
    assert model["bytes"] == 4 * model["parameters"]
    assert model["bytes_read_per_step"] == model["bytes"] - 4 * positions
    layers = shape.n_layer * (4 * shape.d_model**2 + 2 * shape.d_model * shape.d_ff)
    assert model["parameters_in_products"] == layers + shape.n_vocab * shape.d_model


def test_litert_has_no_graphs_to_compile(small_machine: None, finish, tmp_path: Path) -> None:
    folder = random_gpt2(tmp_path / "random", arch(), np.float32)
    plan = Plan(generate=4, batch=(1,), repeat=1, cold_start=False)
    _, made = finish(run(lookup.load(str(folder)), "int8", None, 1, [], plan))
    names = {it.name for it in made.results if it.values}
    assert names >= {"load", "prefill_time", "decode_step", "read_bandwidth", "matrix_fp32"}
    absent = {"memory_tensorflow", "prefill_trace", "step_compile", "matrix_bf16"}
    assert not names & absent and "tensorflow" not in made.machine
    assert made.model["bytes"] == made.model["parameters"]
