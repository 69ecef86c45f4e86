"""The estimate of memory: what each setting saves, and how a run that cannot fit is refused."""

from __future__ import annotations

import math

import pytest

from gentool.config.model import Arch
from gentool.errors import GentoolError
from gentool.models import gpt2
from gentool.training import memory
from gentool.training.recipe import Lora, Optimizer

ARCH = Arch.model_validate(
    dict(n_layer=12, n_head=12, d_model=768, d_ff=3072, n_vocab=30000, n_ctx=1024)
)
SHAPES = dict(gpt2.top_tensors(ARCH))
for index in range(ARCH.n_layer):
    SHAPES |= {f"layers.{index}.{k}": s for k, s in gpt2.layer_tensors(ARCH, index).items()}
COUNT = sum(map(math.prod, SHAPES.values()))


def optimizer(**changed: object) -> Optimizer:
    return Optimizer.model_validate({"batch": 4, "learning_rate": 1.0} | changed)


def estimate(lora: Lora | None = None, rows: int = 4, **changed: object) -> memory.Estimate:
    return memory.estimate(SHAPES, ARCH, optimizer(**changed), rows, 256, lora)


def test_the_parts_of_an_estimate() -> None:
    adamw = estimate()
    assert (adamw.weights, adamw.gradients, adamw.optimizer) == (4 * COUNT, 4 * COUNT, 8 * COUNT)
    factors = estimate(method="adafactor").optimizer
    assert factors < 0.02 * adamw.optimizer
    assert estimate(recompute=True).activations < adamw.activations / 2
    assert estimate(accumulate=4).gradients == 2 * adamw.gradients
    low = estimate(Lora(rank=16))
    assert 2 * COUNT < low.weights < 2.2 * COUNT and low.peak < adamw.peak / 2
    assert estimate(rows=8).activations > 1.7 * adamw.activations
    assert estimate(precision="fp32").activations > adamw.activations


@pytest.mark.parametrize(
    ("changed", "rows", "measured"),
    [
        ({}, 4, 2.491),
        ({}, 8, 3.002),
        ({"recompute": True}, 8, 2.668),
        ({"method": "adafactor", "recompute": True}, 4, 1.513),
    ],
)
def test_the_estimate_is_near_what_was_measured(
    changed: dict[str, object], rows: int, measured: float
) -> None:
    """GB of a GPT-2 of 12 layers of 768, as tests/bench/finetune.py measures them."""
    assert estimate(rows=rows, **changed).peak / 1e9 == pytest.approx(measured, rel=0.22)


def test_a_run_that_does_not_fit_is_refused_with_ways_to_make_it_fit() -> None:
    memory.check(estimate(), None, optimizer(), None)
    memory.check(estimate(), 10**10, optimizer(), None)
    with pytest.raises(
        GentoolError, match=r"needs about 2\.\d GB of memory .* 1\.0 GB are free"
    ) as e:
        memory.check(estimate(), 10**9, optimizer(), None)
    for way in ("--recompute", "--optimizer adafactor", "--lora-rank", "--batch", "--length"):
        assert way in e.value.hint
    o = optimizer(method="adafactor", recompute=True, batch=1)
    with pytest.raises(GentoolError) as e:
        memory.check(estimate(), 10**9, o, Lora(rank=8))
    assert e.value.hint == "give a smaller --length"
