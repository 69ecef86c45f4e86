"""Which path a step takes."""

from __future__ import annotations

import pytest

from gentool.runtimes.xla import backend
from gentool.runtimes.xla.backend import GRAPH, ONEDNN, XLA_LAYER, XLA_STEP

STORED = ["float32", "float16", "bfloat16"]


def chosen(device: backend.Device, stored: str, xla: bool | None, width: int = 768) -> list[str]:
    """The words for 1, 2, 8, 9 and 512 rows."""
    rules = backend.rules(device, stored, width, xla)
    return [backend.backend_for(rules, rows).phrase for rows in (1, 2, 8, 9, 512)]


@pytest.mark.parametrize("stored", STORED)
def test_the_users_choice_of_xla(stored: str) -> None:
    assert chosen("CPU", stored, False) == chosen("GPU", stored, False) == [GRAPH.phrase] * 5
    assert chosen("CPU", stored, True) == [XLA_LAYER.phrase] * 5
    assert chosen("GPU", stored, True) == chosen("GPU", stored, None) == [XLA_STEP.phrase] * 5


def test_the_fastest_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "fast_bf16", lambda: True)
    layer, pieces = XLA_LAYER.phrase, ONEDNN.phrase
    assert chosen("CPU", "float32", None) == [layer, pieces, pieces, layer, layer]
    assert chosen("CPU", "float32", None, width=256) == [layer] * 5
    assert backend.describe(backend.rules("CPU", "float32", 256, None)) == "compiled layers"
    assert chosen("CPU", "bfloat16", None) == [layer, *[pieces] * 4]
    assert chosen("CPU", "float16", None) == [layer] * 5
    monkeypatch.setattr(backend, "fast_bf16", lambda: False)
    assert chosen("CPU", "bfloat16", None) == [layer] * 5
    rules = backend.rules("CPU", "float32", 768, None)
    assert backend.describe(rules) == (
        "compiled layers, products of oneDNN from 2 rows, compiled layers from 9 rows"
    )


@pytest.mark.parametrize("isa", ["AVX512_CORE", "avx2"])
def test_onednn_max_cpu_isa_disables_bfloat16(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert not backend.fast_bf16()
