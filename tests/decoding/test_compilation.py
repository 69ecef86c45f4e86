"""XLA compiles one layer once for each shape, whatever the depth, the step or the prompt: counted
from the modules XLA dumps, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
import numpy as np
from tiny import TINY, make_engine, random_weights

arch = TINY.model_copy(update={"n_layer": int(sys.argv[1])})
engine = make_engine(arch, random_weights(arch, 0))
for length, rows in ((17, 3), (25, 4), (32, 3)):
    prefix, _ = engine.prefill(np.arange(length))
    tail = None
    for step in range(6):
        tail, _ = engine.extend([prefix], tail, [0] * rows, range(rows), np.ones((rows, 1)), 8)
"""


@pytest.mark.parametrize("depth", [2, 5])
def test_one_compilation_of_the_layer_for_each_shape(tmp_path, depth):
    env = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text",
    }
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(depth)], cwd=ROOT, env=env, check=True, timeout=120
    )
    modules = {path.name.split(".")[0] for path in tmp_path.glob("module_*")}
    # a layer, the last norm and a head, of a prefill of 32 tokens and of a step of 4 rows
    assert len(modules) == 6, sorted(modules)
