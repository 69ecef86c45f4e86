"""How much memory a run takes, from its shapes alone: so that one that cannot fit is refused before
it starts. tests/bench/finetune.py compares it with what is measured: it is within a fifth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from gentool.config.model import Arch
from gentool.errors import GentoolError
from gentool.training.recipe import Lora, Optimizer

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
MASTER = 4  # bytes of a trained number, of its gradient and of each moment
MARGIN = 1.2  # for what allocators leave unused between tensors
PROGRAMS = 150e6  # bytes of compiled programs and what compiles them
COPIES = 4  # of the largest trained weight, while it is updated

Shapes = Mapping[str, tuple[int, ...]]


class Estimate(NamedTuple):
    """Bytes of weights, of gradients, of what the optimizer keeps, of activations (with the 16-bit
    weights of products), and of the whole at its peak."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    peak: float


def estimate(
    shapes: Shapes, arch: Arch, o: Optimizer, rows: int, length: int, lora: Lora | None = None
) -> Estimate:
    """The memory of training weights of these shapes on batches of `rows` of `length` tokens. The
    peak is either before the backward pass, when all activations are there, or after it, when all
    gradients are."""
    size, tokens = BYTES[o.precision], rows * length
    matrices = [s for n, s in shapes.items() if n.startswith("layers.") and len(s) == 2]
    count = sum(map(math.prod, shapes.values()))
    trained: list[tuple[int, ...]]
    if lora:
        trained = [part for s in matrices for part in ((lora.rank, s[1]), (s[0], lora.rank))]
        frozen = float(size * count)
    else:
        trained, frozen = list(shapes.values()), 0.0
    numbers = sum(map(math.prod, trained))
    weights = frozen + MASTER * numbers
    gradients = MASTER * numbers * (2.0 if o.accumulate > 1 else 1.0)
    factored = sum(sum(s) for s in trained)
    optimizer = MASTER * (2.0 * numbers if o.method == "adamw" else float(factored))

    # kept for the gradient: what enters and leaves each product, queries, keys and values as
    # attention takes them, what enters the norms; and attention's weights
    kept = sum(map(sum, matrices)) + arch.n_layer * (
        (arch.n_head + 2 * arch.n_kv_head) * arch.d_head + 2 * arch.d_model
    )
    scores = arch.n_layer * arch.n_head * length * (1 if arch.score_cap is None else 2)
    layers = float(size * tokens * (kept + scores))
    if o.recompute:
        layers = layers / arch.n_layer + size * tokens * arch.n_layer * arch.d_model
    elif size < MASTER and not lora:
        layers += size * sum(map(math.prod, matrices))  # the weights as products take them
    logits = float(tokens * arch.n_vocab * (2 * size + MASTER))
    largest = MASTER * max(map(math.prod, trained))
    before = weights + optimizer + (gradients / 2 if o.accumulate > 1 else 0) + layers + logits
    after = weights + optimizer + gradients + COPIES * largest
    peak = PROGRAMS + MARGIN * max(before, after)
    return Estimate(weights, gradients, optimizer, layers + logits, peak)


def check(needed: Estimate, free: int | None, o: Optimizer, lora: Lora | None) -> None:
    """Raises GentoolError where a run needs more than what is free, with ways to need less."""
    if free is None or needed.peak <= free:
        return
    ways = {
        "--recompute": not o.recompute,
        "--optimizer adafactor": o.method != "adafactor" and not lora,
        "--lora-rank 16": not lora,
        "a smaller --batch (with --accumulate)": o.batch > 1,
        "a smaller --length": True,
    }
    parts = ", ".join(
        f"{name} {getattr(needed, name) / 1e9:.1f}" for name in needed._fields if name != "peak"
    )
    raise GentoolError(
        f"this run needs about {needed.peak / 1e9:.1f} GB of memory ({parts}),"
        f" {free / 1e9:.1f} GB are free",
        f"give {', or '.join(way for way, useful in ways.items() if useful)}",
    )
