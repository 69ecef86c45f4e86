"""How a step is computed: the ways there are, and the rule that picks the fastest for a device, the
type weights are stored in, and how many rows their products have.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path as File
from typing import Literal, NamedTuple

from gentool.runtimes.xla import ops as layers
from gentool.runtimes.xla.ops import Ops

Device = Literal["CPU", "GPU"]

FAST_BF16 = {"avx512_bf16", "amx_bf16"}  # what Linux calls a processor's products of bfloat16
CAPPED = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}  # without them


class Path(NamedTuple):
    """What is compiled, in words, and how the pieces of a layer are computed."""

    words: str
    ops: Ops


STEP = Path("compiled steps", layers.stored)
LAYER = Path("compiled layers", layers.whole)
PIECES = Path("products of oneDNN", layers.pieces)
GRAPH = Path("nothing compiled", layers.plain)


class Rule(NamedTuple):
    """The path of products of `rows` rows and more, in models at least so wide."""

    rows: int
    path: Path
    width: int = 0


# Milliseconds of all products of 12 x 768 on two Zen 4 cores, compiled layers / oneDNN:
CPU = {
    "float32": (
        Rule(1, LAYER),  # 14 / 15
        Rule(2, PIECES, 512),  # 28 / 14; 4 rows 28 / 20; 8 rows 31 / 23
        Rule(9, LAYER),  # 16 rows 36 / 75; 64 rows 76 / 110; 512 rows 437 / 467
    ),
    "bfloat16": (
        Rule(1, LAYER),  # 7 / 13
        Rule(2, PIECES),  # 12 / 13; 8 rows 25 / 16; 64 rows 110 / 38; 512 rows 454 / 220
    ),
    "float16": (Rule(1, LAYER),),
}


Rules = tuple[Rule, ...]


def rules(device: Device, stored: str, width: int, xla: bool | None) -> Rules:
    """The rules for weights `stored` in a type, of a model so wide; `xla` is what the user wants,
    None what is fast. Where the processor has no products of bfloat16, oneDNN's are slower than a
    cast in XLA."""
    if xla is False:
        return (Rule(1, GRAPH),)
    if device == "GPU":
        return (Rule(1, STEP),)
    if xla or (stored == "bfloat16" and not fast_bf16()):
        return (Rule(1, LAYER),)
    kept = [rule for rule in CPU[stored] if rule.width <= width]
    return (kept[0], *(b for a, b in itertools.pairwise(kept) if a.path is not b.path))


def path(rules: Rules, rows: int) -> Path:
    """The path of products of so many rows."""
    return next(rule.path for rule in reversed(rules) if rule.rows <= rows)


def describe(rules: Rules) -> str:
    """The rules in words."""
    first, *more = rules
    return ", ".join([first.path.words, *(f"{r.path.words} from {r.rows} rows" for r in more)])


def fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16 and oneDNN may have it do so."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in CAPPED:
        return False
    try:
        said = File("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:  # not Linux
        return False
    flags = next((line for line in said.splitlines() if line.startswith("flags")), "")
    return not FAST_BF16.isdisjoint(flags.split())
