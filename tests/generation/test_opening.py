"""A model that does not fit into memory is refused before it takes any."""

from __future__ import annotations

import re
import resource
import time
from pathlib import Path

import folders
import pytest

import gentool
from gentool.errors import GentoolError
from gentool.runtimes import devices, memory

D_FF = 1 << 24


@pytest.fixture
def too_large(tmp_path: Path) -> Path:
    """A folder of weights that need four times the free memory; on the disk they are a hole."""
    free = memory.free_bytes()
    if free is None:
        pytest.skip("nobody says what is free")
    width = 4 * (free // (2 * D_FF * 4) + 1)
    arch = folders.arch(d_model=width).model_copy(update={"d_ff": D_FF})
    return folders.sparse_gpt2(tmp_path / "m", arch)


@pytest.mark.parametrize(("precision", "xla"), [("fp32", None), ("fp16", None), ("fp32", False)])
def test_sizes_and_ways_out(too_large: Path, precision: str, xla: bool | None) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(GentoolError) as error:
        gentool.load(str(too_large), precision, xla=xla)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert taken < 1 << 20 and time.monotonic() - start < 60  # kB, seconds
    sizes = re.fullmatch(
        rf"m in {precision} needs ([\d.]+) GB of memory, ([\d.]+) GB are free", error.value.message
    )
    assert sizes and float(sizes[1]) > float(sizes[2])
    ways = r"--precision int8 \(about [\d.]+ GB\), --precision int4 \(about [\d.]+ GB\), "
    if xla is False or devices.has_gpu():  # TensorFlow computes neither
        ways = ""
    assert re.fullmatch(rf"give {ways}a smaller model, or close other programs", error.value.hint)
