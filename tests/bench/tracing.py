"""How long Python takes to build the graph of a prefill, by the number of layers: milliseconds,
medians of random models.

    PYTHONPATH=tests python tests/bench/tracing.py
"""

from __future__ import annotations

import statistics
import time

from gentool.runtimes.xla import device

device.setup()

import tensorflow as tf  # noqa: E402
from tiny import TINY, make_engine, random_weights  # noqa: E402

from gentool.benchmark.model import inputs  # noqa: E402

LAYERS = (1, 4, 12, 32)
REPEAT = 7


def milliseconds(layers: int) -> float:
    arch = TINY.model_copy(update={"n_layer": layers})
    arrays = random_weights(arch, seed=0)
    prefix, _ = make_engine(arch, arrays).prefill([1])
    cells = tuple((tf.Variable(k), tf.Variable(v)) for k, v in prefix.cells)
    shapes = inputs(prefix.cells[0][0].shape[1], cells, None, None)
    took = []
    for _ in range(REPEAT):
        fresh = make_engine(arch, arrays)
        began = time.perf_counter()
        fresh.step.get_concrete_function(*shapes)
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


for layers in LAYERS:
    found = milliseconds(layers)
    print(f"{layers} layers: {found:.0f} ms, {found / layers:.1f} a layer")
