"""Facts about the machine, and what results are compared with."""

import math

import gentool
from gentool.benchmark import machine
from gentool.benchmark.measure import Result


def test_the_machine_is_described() -> None:
    facts = machine.facts()
    assert facts["cpu"] and facts["cores"] >= 1 and facts["gentool"] == gentool.__version__
    assert math.isfinite(machine.peak_memory("memory_peak").median)


def test_bf16_is_compared_with_products_of_bf16() -> None:
    results = [Result("decode_rate", "GFLOP/s", (4.0, 8.0), 2), Result("load", "s", (1.0,))]
    rates = [Result("matrix_fp32", "GFLOP/s", (16.0,)), Result("matrix_bf16", "GFLOP/s", (32.0,))]
    for precision, percents in (("bf16", (12.5, 25.0)), ("fp16", (25.0, 50.0))):
        assert machine.shares(results, rates, precision) == [
            Result("decode_rate_share", "%", percents, 2)
        ]
    assert machine.shares(results, [], "fp32") == []
    assert machine.shares(results, rates, "int8") == []


def test_rates_need_numpy_alone(small_machine: None, finish) -> None:
    titles, (read,) = finish(machine.read_bandwidth(1))
    assert (titles, read.unit) == (["memory bandwidth"] * 2, "GB/s") and read.median > 0
    ways = [machine.numpy_product()]
    titles, (product,) = finish(machine.matrix_rate("matrix_fp32", "float32", ways, 1))
    assert titles == ["matrix products in float32"] * 2 and product.median > 0


def test_the_fastest_way_counts(small_machine: None, finish) -> None:
    import time

    ways = [lambda: time.sleep(0.2), lambda: time.sleep(0.01)]
    _, (product,) = finish(machine.matrix_rate("m", "float32", ways, 1))
    seconds = 2 * machine.MATRIX_SIDE**3 / product.median / 1e9
    assert 0.01 <= seconds < 0.2


def test_a_runtime_reads_the_array_in_its_own_ways(small_machine: None, finish) -> None:
    seen = []
    finish(machine.read_bandwidth(1, lambda array: [lambda: seen.append(array)]))
    assert len(seen) == 2
    assert {(a.nbytes, a.ctypes.data % machine.ALIGNMENT) for a in seen} == {(1 << 22, 0)}
