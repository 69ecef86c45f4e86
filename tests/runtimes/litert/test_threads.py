"""Threads: how many, whose work, and numpy's products on one of them."""

import threading

import litert_models
import numpy as np
import pytest

from gentool.runtimes.litert import blas, threads
from gentool.runtimes.litert.workers import PARALLEL, Workers


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 4), ("150000 100000", 1), ("200000 100000", 2), ("", 4)]
)
def test_cores_within_a_quota(tmp_path, monkeypatch, quota, count):
    """Two processors of a core count once."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 4},{cpu % 4 + 4}\n", "ascii")
    (tmp_path / "cpu.max").write_text(quota, "ascii")
    monkeypatch.setattr(threads, "CPUS", tmp_path)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(8)))
    assert threads.available() == count
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {1, 5})
    assert threads.available() == 1


def test_a_quota_of_version_1(tmp_path, monkeypatch):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n", "ascii")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n", "ascii")
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    monkeypatch.setattr(threads, "CPUS", tmp_path)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: {0, 1, 2})
    assert threads.available() == 3
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("200000\n", "ascii")
    assert threads.available() == 2


def test_all_tasks_run_and_an_error_is_raised():
    workers, done = Workers(3), []
    workers.run([lambda number=number: done.append(number) for number in range(10)])
    assert sorted(done) == list(range(10))
    with pytest.raises(ZeroDivisionError):
        workers.run([lambda: None, lambda: 1 / 0])
    started = threading.active_count()
    Workers(3).run([lambda: None])  # one task needs no thread
    assert threading.active_count() == started


def test_parts_of_an_axis():
    workers = Workers(2)
    assert workers.parts(5, PARALLEL) == [slice(0, 2), slice(2, 5)]
    assert workers.parts(5, PARALLEL - 1) == [slice(0, 5)]
    assert workers.parts(1, PARALLEL) == [slice(0, 1)]


def test_bits_do_not_depend_on_the_number_of_threads(monkeypatch):
    from gentool.runtimes.litert import attention, workers

    monkeypatch.setattr(workers, "PARALLEL", 1)
    monkeypatch.setattr(attention, "PARALLEL", 1)
    ids, found = np.arange(60), []
    for count in (1, 2, 3):
        runtime, _ = litert_models.random_runtime("llama", "int8", count)
        prefix, logits = runtime.prefill(ids, 0, None, True, False)
        cache = runtime.rows([prefix], 2, True)
        runtime.move(cache, np.zeros(7, int), np.full(7, -1), 2)
        tokens = np.arange(14).reshape(7, 2)
        positions = np.tile([60, 61], (7, 1))
        found.append((logits, runtime.step(cache, tokens, positions, False)))
    for other in found[1:]:
        np.testing.assert_array_equal(other[0], found[0][0])
        np.testing.assert_array_equal(other[1], found[0][1])


def test_numpy_computes_on_one_thread():
    functions = blas._openblas()
    if functions is None:
        pytest.skip("numpy has another library than its wheels'")
    get, set_ = functions
    before = get()
    set_(2)
    try:
        with blas.one_thread():
            assert get() == 1
            with blas.one_thread():
                assert get() == 1
            assert get() == 1
        assert get() == 2
    finally:
        set_(before)
