"""XLA compiles one layer once for each shape, whatever the depth, the step or the prompt, and
updates the KV cache in place: read from XLA's dump of a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

ROOT = Path(__file__).parents[3]
DEPTHS = 2, 5

PROGRAM = """
import sys
import numpy as np
from tiny import TINY, make_engine, random_weights
from gentool.runtimes.xla import backend

for depth in map(int, sys.argv[1:]):
    arch = TINY.model_copy(update={"n_layer": depth})
    engine = make_engine(arch, random_weights(arch, 0), backend.XLA_LAYER)
    for length, rows in ((17, 3), (25, 4), (32, 3), (32, 1)):
        prefix, _ = engine.prefill(np.arange(length))
        tail = None
        for step in range(6):
            tail, _ = engine.extend([prefix], tail, [0] * rows, range(rows), np.ones((rows, 1)), 8)
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The optimised text of everything that was compiled, by its name."""
    folder = tmp_path_factory.mktemp("dump")
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "XLA_FLAGS": f"--xla_dump_to={folder} --xla_dump_hlo_as_text",
    }
    run = [sys.executable, "-c", PROGRAM, *map(str, DEPTHS)]
    subprocess.run(run, cwd=ROOT, env=env, check=True, timeout=120)
    paths = folder.glob("module_*.cpu_after_optimizations.txt")
    return {path.name.partition(".")[0]: path.read_text() for path in paths}


def test_one_compilation_of_the_layer_for_each_shape(modules: dict[str, str]) -> None:
    # an engine's layer for a prefill of 32 tokens, a step of 4 rows and one of one; its head for 4
    # rows and for one; and the last norm for both, which is of no engine
    assert len(modules) == (3 + 2) * len(DEPTHS) + 2, sorted(modules)


@pytest.mark.parametrize("rows", [1, 4])
def test_the_kv_cache_is_updated_in_place(modules: dict[str, str], rows: int) -> None:
    kv_cache = rf"f32\[{rows * TINY.n_kv_head},16,{TINY.d_head}\]\S*"
    layers = [text for text in modules.values() if re.search(rf"{kv_cache} dynamic-update-", text)]
    assert len(layers) == len(DEPTHS)
    for text in layers:
        assert len(re.findall(rf"{kv_cache} dynamic-update-slice\(", text)) == 2  # keys and values
        assert not re.search(rf"{kv_cache} copy\(", text)
