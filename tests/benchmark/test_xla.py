"""Graphs are traced when the measurement says so, and no compiled program comes from a cache."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from tiny import TINY, make_engine, random_weights, traces

from gentool.benchmark import xla
from gentool.benchmark.measure import COSTS
from gentool.config import lookup
from gentool.decoding.engine import Engine
from gentool.runtimes.xla import backend, device


def test_a_graph_is_traced_once_by_each_measurement(monkeypatch, finish) -> None:
    """The inputs made in the benchmark have the shapes that the engine makes."""
    engine = make_engine(TINY, random_weights(TINY, 0), backend.XLA_LAYER)
    traced: list[int] = []

    class Counted(type(engine)):  # type: ignore[misc]
        def prefill(self, *arguments: object) -> object:
            traced.append(traces(self.runtime.logits_step))
            return super().prefill(*arguments)

        def extend(self, *arguments: object) -> object:
            result = super().extend(*arguments)
            traced.append(traces(self.runtime.logits_step))
            return result

    monkeypatch.setattr(xla, "Engine", Counted)
    _, results = finish(xla.compile_times(engine, list(range(20)), 8, 1))
    assert traced == 2 * [1, 1, 1, 1, 2, 2, 2, 2]
    assert [it.name for it in results] == [
        "prefill_trace",
        "prefill_compile",
        "step_trace",
        "step_compile",
    ]


@pytest.mark.parametrize(
    ("precision", "xla_option", "expected"),
    [(None, None, False), ("int8", None, False), (None, True, True), ("bf16", None, True)],
)
def test_which_models_need_tensorflow(precision, xla_option, expected) -> None:
    assert xla.runs(lookup.load("tiny-zh"), precision, xla_option) is expected


def test_another_runtime_has_no_graphs(small_machine: None, finish) -> None:
    engine = Engine(SimpleNamespace(describe=lambda: "none"))
    assert finish(xla.compile_times(engine, [1], 8, 1)) == ([], [])
    assert xla.versions(engine) == {}
    titles, results = finish(xla.machine_rates(engine, 1))
    assert [it.name for it in results] == ["read_bandwidth", "matrix_fp32"]
    assert set(titles) <= set(COSTS)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", f"{device.CACHE_FLAG}="),
        ("--tf_xla_x=1", f"--tf_xla_x=1 {device.CACHE_FLAG}="),
        (f"{device.CACHE_FLAG}=own", f"{device.CACHE_FLAG}=own"),
        ("file", "file"),
    ],
)
def test_compiled_programs_never_come_from_a_cache(monkeypatch, flags: str, expected: str) -> None:
    monkeypatch.setenv("TF_XLA_FLAGS", flags)
    xla.disable_program_cache()
    assert os.environ["TF_XLA_FLAGS"] == expected
