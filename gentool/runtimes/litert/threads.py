"""How many threads a process may use."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")


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
