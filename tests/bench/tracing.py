"""How long Python takes to build the graph of a prefill, by the number of layers: milliseconds,
medians over engines of random weights.

    PYTHONPATH=tests python tests/bench/tracing.py
"""

from __future__ import annotations

import statistics

from gentool.runtimes.xla import device

device.setup()

from tiny import TINY, make_engine, random_weights  # noqa: E402

from gentool.benchmark.measure import seconds  # noqa: E402
from gentool.benchmark.xla import prefill_inputs  # noqa: E402
from gentool.runtimes.xla import backend  # noqa: E402

LAYERS = (1, 4, 12, 32)
REPEAT = 7


def milliseconds(layers: int) -> float:
    """The median time to trace a prefill."""
    arch = TINY.model_copy(update={"n_layer": layers})
    arrays = random_weights(arch, seed=0)
    prefix, _ = make_engine(arch, arrays, backend.XLA_LAYER).prefill([1])
    inputs = prefill_inputs(prefix)
    times = []
    for _ in range(REPEAT):
        fresh = make_engine(arch, arrays, backend.XLA_LAYER)
        trace = fresh.runtime.logits_step.get_concrete_function
        times.append(seconds(lambda trace=trace: trace(inputs)))
    return 1000 * statistics.median(times)


for layers in LAYERS:
    duration = milliseconds(layers)
    print(f"{layers} layers: {duration:.0f} ms, {duration / layers:.1f} a layer")
