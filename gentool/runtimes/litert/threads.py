"""How many threads compute: those that a process may use, and one where a second is no help."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

CPUS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")

# Of a small model's products a second thread computes half, but each operator waits for it: with
# tiny-zh in int8 a step takes 0.71 ms on two threads, 0.51 on one (tests/bench/threads.py).
SMALL_BYTES = 16 << 20
BITS = {"int8": 8, "int4": 4}
ROWS_ON_ONE = {"int8": 32, "int4": 1}


class Threads(NamedTuple):
    """Threads of a program: `total`, but one for calls of at most `one_up_to` rows."""

    total: int
    one_up_to: int = 0


def best_threads(
    count: int, shapes: Mapping[str, tuple[int, ...]], precision: Literal["fp32", "int8", "int4"]
) -> Threads:
    """The threads of a model with weights of these shapes, `count` at most."""
    small = weight_bytes(shapes, precision) <= SMALL_BYTES
    return Threads(count, ROWS_ON_ONE.get(precision, 0) if small else 0)


def weight_bytes(
    shapes: Mapping[str, tuple[int, ...]], precision: Literal["fp32", "int8", "int4"]
) -> int:
    """Bytes of weights of these shapes, without scales."""
    return sum(map(math.prod, shapes.values())) * BITS.get(precision, 32) // 8


def available() -> int:
    """Physical cores that this process may run on, within a container's quota."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on this system
        return os.cpu_count() or 1
    cores = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _siblings(cpu: int) -> str:
    """The processors of the core of one of them, which are its threads."""
    try:
        return (CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text("ascii")
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Processors of whose time a control group gives this process at most; at least one."""
    limits = []
    with contextlib.suppress(OSError, ValueError):  # version 2
        quota, period = (CGROUP / "cpu.max").read_text("ascii").split()
        limits.append(int(quota) / int(period))
    with contextlib.suppress(OSError, ValueError):  # version 1
        quota, period = (
            (CGROUP / f"cpu/cpu.cfs_{name}_us").read_text("ascii") for name in ("quota", "period")
        )
        limits.append(int(quota) / int(period))  # negative: none
    return int(max(1, min((limit for limit in limits if limit > 0), default=1 << 16)))
