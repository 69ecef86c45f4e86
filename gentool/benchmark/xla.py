"""What only the XLA runtime has: TensorFlow's import, traced and compiled graphs, its own ways to
read memory and to multiply. On another runtime each measurement here is empty or numpy's. The only
module of the benchmark that knows the arrays of a step.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gentool.benchmark import machine
from gentool.benchmark.measure import Measurement, Result, repeated, result, seconds
from gentool.config.model import ModelConfig
from gentool.decoding.engine import Engine, Prefix
from gentool.generation import opening
from gentool.runtimes.xla import device

if TYPE_CHECKING:  # TensorFlow is imported when a model is opened
    from gentool.runtimes.xla.runtime import StepInputs, XlaRuntime

SEED = 1
WARM_RUNS = 3


def runs(config: ModelConfig, precision: str | None, xla: bool | None) -> bool:
    """Whether XLA will run a model that is opened like this."""
    precision = precision or config.precision
    if precision == "auto":
        precision = opening.auto_precision(opening.open_files(config).plan)
    return not opening.runs_on_litert(precision, xla)


def _is_xla(engine: Engine) -> bool:
    """Whether XLA runs this engine's steps; TensorFlow is imported then."""
    if "tensorflow" not in sys.modules:
        return False
    from gentool.runtimes.xla.runtime import XlaRuntime

    return isinstance(engine.runtime, XlaRuntime)


def versions(engine: Engine) -> dict[str, object]:
    """TensorFlow and its devices, as JSON fields."""
    if not _is_xla(engine):
        return {}
    import tensorflow as tf

    return {
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "tensorflow": tf.__version__,
    }


def compile_times(
    engine: Engine, ids: list[int], max_new_tokens: int, repeat: int
) -> Measurement[list[Result]]:
    """Seconds to trace and to compile a prefill of `ids` and a step of one row. To trace: Python
    builds the graph of one shape. To compile: what the first execution of that graph takes longer
    than a warm one."""
    if not _is_xla(engine):
        return []
    from gentool.runtimes.xla.runtime import XlaRuntime

    runtime = engine.runtime
    assert isinstance(runtime, XlaRuntime)
    prefix, _ = engine.prefill(ids)
    token = np.array([ids[:1]])

    def extend(engine: Engine) -> Any:
        return engine.extend([prefix], None, [0], [0], token, max_new_tokens)[0]

    block = extend(engine).cache.blocks[0]
    prefill_shapes = prefill_inputs(prefix)
    step_shapes = _inputs(1, block.kv, block.prefix, block.prefix_mask)

    def run() -> tuple[float, ...]:
        fresh = XlaRuntime(runtime.family, runtime.arch, runtime.params, runtime.rules)
        again = Engine(fresh)
        prefill = trace_and_compile(fresh, prefill_shapes, lambda: again.prefill(ids))
        return *prefill, *trace_and_compile(fresh, step_shapes, lambda: extend(again))

    times = yield from repeated("compilation", repeat, run)
    names = "prefill_trace prefill_compile step_trace step_compile".split()
    columns = zip(*times, strict=True)
    return [result(name, "s", column) for name, column in zip(names, columns, strict=True)]


def trace_and_compile(
    fresh: XlaRuntime, inputs: StepInputs, call: Callable[[], object]
) -> tuple[float, float]:
    """Seconds to trace and to compile the step that `call` runs on a runtime that has run nothing
    of the shape of `inputs`."""
    traced = seconds(lambda: fresh.logits_step.get_concrete_function(inputs))
    first, *warm = (seconds(call) for _ in range(1 + WARM_RUNS))
    return traced, first - min(warm)


def prefill_inputs(prefix: Prefix) -> StepInputs:
    """Inputs of a step in the shape that computed this prefix."""
    import tensorflow as tf

    kv = tuple((tf.Variable(k), tf.Variable(v)) for k, v in prefix.cache.kv)
    return _inputs(kv[0][0].shape[1], kv, None, None)


def _inputs(t: int, kv: Any, prefix_kv: Any, prefix_mask: Any) -> StepInputs:
    """Inputs of a step for t tokens of one row, with a KV cache of [G, M, E] a layer."""
    import tensorflow as tf

    from gentool.runtimes.xla.runtime import StepInputs

    slots = kv[0][0].shape[1]
    zeros = functools.partial(tf.zeros, dtype=tf.int32)
    return StepInputs(
        ids=zeros([1, t]),
        positions=zeros([1, t]),
        slot=zeros([]),
        outputs=zeros([1]),
        slot_positions=zeros([1, slots]),
        mask=tf.zeros([1, t, slots], tf.bool),
        kv=kv,
        prefix_kv=prefix_kv,
        prefix_mask=prefix_mask,
    )


def machine_rates(engine: Engine, repeat: int) -> Measurement[list[Result]]:
    """Memory bandwidth and matrix products of this machine, by numpy, TensorFlow's graph or XLA,
    whichever is fastest; by numpy alone, which has no bfloat16, where TensorFlow does not run."""
    xla = _is_xla(engine)
    read = yield from machine.read_bandwidth(repeat, _reading if xla else None)
    fp32_ways = [machine.numpy_product(), *(_products("float32") if xla else ())]
    fp32 = yield from machine.matrix_rate("matrix_fp32", "float32", fp32_ways, repeat)
    if not xla:
        return [*read, *fp32]
    bf16 = yield from machine.matrix_rate("matrix_bf16", "bfloat16", _products("bfloat16"), repeat)
    return [*read, *fp32, *bf16]


def _reading(array: np.ndarray) -> machine.Ways:
    """TensorFlow's ways to read an array once."""
    import tensorflow as tf

    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    graph = tf.function(tf.reduce_sum, autograph=False)
    compiled = tf.function(tf.reduce_sum, jit_compile=True, autograph=False)
    return [lambda: graph(tensor).numpy(), lambda: compiled(tensor).numpy()]


def _products(dtype: str) -> machine.Ways:
    """TensorFlow's ways to multiply two matrices."""
    import tensorflow as tf

    shape = [machine.MATRIX_SIDE, machine.MATRIX_SIDE]
    x = tf.cast(tf.random.stateless_normal(shape, [0, SEED]), dtype)

    def way(xla: bool) -> Callable[[], object]:
        multiply = tf.function(tf.matmul, jit_compile=xla, autograph=False)
        return lambda: multiply(x, x)[0, 0].numpy()

    return [way(False), way(True)]


def disable_program_cache() -> None:
    """Makes TensorFlow, which is not imported yet, neither read nor keep compiled programs: a
    program of an earlier run would make compilation look free. Cold starts do use them, as every
    command does."""
    flags = os.environ.get("TF_XLA_FLAGS", "")
    if device.CACHE_FLAG not in flags and (not flags or flags.startswith("--")):
        os.environ["TF_XLA_FLAGS"] = f"{flags} {device.CACHE_FLAG}=".strip()


def start() -> list[Result]:
    """Imports TensorFlow without its program cache, and gives the memory that takes."""
    disable_program_cache()
    device.setup()
    return [machine.peak_memory("memory_tensorflow")]
