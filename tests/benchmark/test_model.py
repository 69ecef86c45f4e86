"""Sizes by hand, votes and their rows, sampling that draws."""

from collections.abc import Mapping

import pytest
from tiny import TINY, Arrays, random_weights

import gentool
from gentool.benchmark.measure import SAMPLES
from gentool.benchmark.model import model_size, stochastic, vote
from gentool.config.model import Arch
from gentool.config.sampling import SamplingParams
from gentool.models import llama, weights


def plan(arch: Arch) -> Mapping[str, weights.Weight]:
    return weights.plan(Arrays(random_weights(arch, 0)), llama, arch)


def test_sizes_by_hand() -> None:
    size = model_size(plan(TINY), "fp32")
    table, norms = 96 * 32, 2 * 2 * 32 + 32
    layers = 2 * (32 * (32 + 2 * 16) + 32 * 32 + 3 * 48 * 32)
    assert size == (
        layers + 2 * table + norms,
        4 * (layers + 2 * table + norms),
        4 * (layers + table + norms),  # one row of the embedding is gathered
        layers,
        table,
    )
    tied = TINY.model_copy(update={"tied_head": True})
    size = model_size(plan(tied), "bf16")
    assert size == (layers + table + norms, *(2 * [2 * (layers + table + norms)]), layers, table)
    assert model_size(plan(tied), "int8").bytes == layers + table + norms


def test_greedy_sampling_parameters_are_made_stochastic() -> None:
    assert stochastic(SamplingParams(temperature=0.0, top_p=0.5)).temperature == 1
    assert stochastic(SamplingParams(temperature=0.3)).temperature == 0.3


def test_a_vote_and_its_rows(finish) -> None:
    model = gentool.load("tiny-zh")
    titles, results = finish(vote(model, model.config.sampling, 1))
    values = {it.name: it.values[0] for it in results}
    assert titles == ["vote"] * 2 + ["steps of 300 rows and of 1 row"] * 2
    assert values["vote"] * values["vote_speed"] == pytest.approx(SAMPLES)
    assert values["rows"] * values["rows_speed"] == pytest.approx(SAMPLES)
    assert values["vote_ratio"] == pytest.approx(values["rows"] / values["vote"])
    share = 100 * values["vote_ratio"] / values["vote_ceiling"]
    assert values["vote_ratio_share"] == pytest.approx(share)
