"""Backends: ways to compute the products of a step, and the rules that choose the fastest for a
device, the dtype of the weights and the number of rows.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Literal, NamedTuple

from gentool.runtimes.ops import Ops
from gentool.runtimes.xla import ops

Device = Literal["CPU", "GPU"]

BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # in /proc/cpuinfo: the processor multiplies bfloat16
# values of ONEDNN_MAX_CPU_ISA that exclude these instructions
ISA_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


class Backend(NamedTuple):
    """What is compiled, as a phrase for `describe`, and the operations of a layer."""

    phrase: str
    ops: Ops


XLA_STEP = Backend("compiled steps", ops.xla_gpu)
XLA_LAYER = Backend("compiled layers", ops.xla_cpu)
ONEDNN = Backend("products of oneDNN", ops.onednn)
GRAPH = Backend("nothing compiled", ops.graph)


class BackendRule(NamedTuple):
    """The backend for products of `rows` rows and more, in models of width D >= `width`."""

    rows: int
    backend: Backend
    width: int = 0


# Milliseconds of all products of 12 x 768 on two Zen 4 cores, compiled layers / oneDNN:
CPU = {
    "float32": (
        BackendRule(1, XLA_LAYER),  # 14 / 15
        BackendRule(2, ONEDNN, 512),  # 28 / 14; 4 rows 28 / 20; 8 rows 31 / 23
        BackendRule(9, XLA_LAYER),  # 16 rows 36 / 75; 64 rows 76 / 110; 512 rows 437 / 467
    ),
    "bfloat16": (
        BackendRule(1, XLA_LAYER),  # 7 / 13
        BackendRule(2, ONEDNN),  # 12 / 13; 8 rows 25 / 16; 64 rows 110 / 38; 512 rows 454 / 220
    ),
    "float16": (BackendRule(1, XLA_LAYER),),
}


BackendRules = tuple[BackendRule, ...]


def rules(device: Device, stored: str, width: int, xla: bool | None) -> BackendRules:
    """The rules for weights of dtype `stored` in a model of this width D; `xla` is the user's
    choice, None for the fastest. If the processor does not multiply bfloat16, oneDNN's products
    are slower than a cast in XLA."""
    if xla is False:
        return (BackendRule(1, GRAPH),)
    if device == "GPU":
        return (BackendRule(1, XLA_STEP),)
    if xla or (stored == "bfloat16" and not fast_bf16()):
        return (BackendRule(1, XLA_LAYER),)
    kept = [rule for rule in CPU[stored] if rule.width <= width]
    return (kept[0], *(b for a, b in itertools.pairwise(kept) if a.backend is not b.backend))


def backend_for(rules: BackendRules, rows: int) -> Backend:
    """The backend for products of this number of rows."""
    return next(rule.backend for rule in reversed(rules) if rule.rows <= rows)


def describe(rules: BackendRules) -> str:
    """The rules as a phrase."""
    first, *more = rules
    phrases = [f"{rule.backend.phrase} from {rule.rows} rows" for rule in more]
    return ", ".join([first.backend.phrase, *phrases])


def fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16, and oneDNN may use that."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ISA_WITHOUT_BF16:
        return False
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:  # not Linux
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return not BF16_FLAGS.isdisjoint(flags.split())
