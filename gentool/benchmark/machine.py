"""Facts about the machine: processor, memory, bandwidth, matrix products."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gentool import __version__
from gentool.benchmark.measure import Measurement, Result, repeated, result, seconds

READ_BYTES = 1 << 30
MATRIX_SIDE = 2048  # of the square matrices that are multiplied
ALIGNMENT = 64  # bytes; TensorFlow shares only arrays that start at a multiple of it

# Precision of weights -> the rate that their products are compared with.
PRODUCTS = {"fp32": "matrix_fp32", "fp16": "matrix_fp32", "bf16": "matrix_bf16"}

Ways = Sequence[Callable[[], object]]  # of doing one piece of work; the fastest counts


def read_bandwidth(
    repeat: int, ways_of: Callable[[np.ndarray], Ways] | None = None
) -> Measurement[list[Result]]:
    """Reads 1 GiB, or a quarter of the free memory if that is less, on all cores. `ways_of` gives
    a runtime's own ways to read an array."""
    free = memory_bytes().get("MemAvailable", READ_BYTES)
    size = min(READ_BYTES, max(free // 4, 1 << 24)) // ALIGNMENT * ALIGNMENT
    # the kernel maps pages that were never written to one page of zeros; the value avoids
    # subnormal products
    space = np.full(size + ALIGNMENT, 0x3F, np.uint8)
    start = -space.ctypes.data % ALIGNMENT
    array = space[start : start + size].view(np.float32)
    parts = np.array_split(array, core_count())
    with ThreadPoolExecutor(len(parts)) as pool:
        ways: Ways = [
            lambda: list(pool.map(np.max, parts)),
            lambda: list(pool.map(lambda part: np.dot(part, part), parts)),
            *(ways_of(array) if ways_of else ()),
        ]
        times = yield from repeated("memory bandwidth", repeat, lambda: min(map(seconds, ways)))
    return [result("read_bandwidth", "GB/s", [size / s / 1e9 for s in times])]


def matrix_rate(name: str, dtype: str, ways: Ways, repeat: int) -> Measurement[list[Result]]:
    """The rate of the fastest of `ways` to multiply two square matrices of MATRIX_SIDE."""
    title = f"matrix products in {dtype}"
    times = yield from repeated(title, repeat, lambda: min(map(seconds, ways)))
    return [result(name, "GFLOP/s", [2 * MATRIX_SIDE**3 / s / 1e9 for s in times])]


def numpy_product() -> Callable[[], object]:
    """numpy's way to multiply two float32 matrices."""
    x = np.random.default_rng(0).standard_normal((MATRIX_SIDE, MATRIX_SIDE), np.float32)
    return lambda: x @ x


def shares(
    results: Sequence[Result], machine_results: Sequence[Result], precision: str
) -> list[Result]:
    """Per cent of what the machine can do, by its median. Products with bf16 weights are compared
    with bf16 products, with fp32 and fp16 weights with fp32 products, with int8 and int4 weights
    with nothing."""
    limits = {it.name: it.median for it in machine_results if it.values}
    matrix = PRODUCTS.get(precision, "")
    limit_of = {
        "prefill_rate": matrix,
        "decode_rate": matrix,
        "decode_bandwidth": "read_bandwidth",
    }
    return [
        result(
            f"{it.name}_share",
            "%",
            [100 * value / limits[limit_of[it.name]] for value in it.values],
            it.batch,
        )
        for it in results
        if it.values and limit_of.get(it.name) in limits
    ]


def peak_memory(name: str) -> Result:
    """The peak resident memory of this process so far, mapped files included."""
    try:
        kilobytes = int(fields("/proc/self/status")["VmHWM"].split()[0])
    except (OSError, KeyError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kilobytes = peak // 1024 if sys.platform == "darwin" else peak
    return result(name, "MB", [kilobytes * 1024 / 1e6])


def memory_bytes() -> dict[str, int]:
    """Bytes of memory by the kernel's names, MemTotal and MemAvailable among them; {} where the
    system is not Linux."""
    try:
        lines = fields("/proc/meminfo")
    except OSError:
        return {}
    return {key: int(value.split()[0]) * 1024 for key, value in lines.items()}


def fields(path: str) -> dict[str, str]:
    """The lines `key: value` of a file; the first value of each key."""
    lines = Path(path).read_text("utf-8", "replace").splitlines()
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def core_count() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cache_bytes() -> int:
    """Bytes of the last-level cache; 0 where the system is not Linux."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(size.read_text().strip().removesuffix("K")) << 10 for size in sizes), default=0)


def facts() -> dict[str, object]:
    """The machine and the programs, as JSON fields."""
    try:
        cpu = fields("/proc/cpuinfo")["model name"]
    except (OSError, KeyError):
        cpu = platform.processor() or platform.machine()
    return {
        "cpu": cpu,
        "cores": core_count(),
        "memory_bytes": memory_bytes().get("MemTotal"),
        "cache_bytes": cache_bytes(),
        "python": platform.python_version(),
        "gentool": __version__,
    }
