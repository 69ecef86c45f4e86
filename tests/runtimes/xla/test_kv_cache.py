"""The memory that the KV cache of TensorFlow takes."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from gentool.runtimes import devices, memory
from gentool.runtimes.xla import backend, kv_cache
from gentool.runtimes.xla.runtime import XlaRuntime


def runtime() -> XlaRuntime:
    source = tiny.Arrays(tiny.random_weights(tiny.TINY, 0))
    rules = (backend.BackendRule(1, backend.GRAPH),)
    return XlaRuntime(tiny.llama, tiny.TINY, tiny.load(source, tiny.TINY), rules)


def test_room_for_many_tokens_is_not_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It doubles as tokens come, and the logits are those of room taken at once."""
    monkeypatch.setattr(kv_cache, "FIRST_TOKENS", 16)
    steps = []
    for batch_invariant in (False, True):
        opened = runtime()
        prefix, _ = opened.prefill(np.arange(1, 9), 0, None, False, False)
        cache = opened.rows([prefix], 128, batch_invariant)
        opened.move(cache, np.zeros(2, int), np.full(2, -1), 1)
        slots = cache.mask.shape[1]
        assert slots == (128 if batch_invariant else 16)
        logits = []
        for t in range(40):
            opened.move(cache, np.zeros(2, int), np.arange(2), 1)
            tokens = np.array([[t % 7 + 1], [t % 5 + 3]], np.int32)
            positions = np.full((2, 1), 8 + t, np.int32)
            logits.append(opened.step(cache, tokens, positions, False)[:, 0].copy())
        assert cache.mask.shape[1] == (128 if batch_invariant else 64)
        steps.append(np.stack(logits))
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(devices.has_gpu(), reason="TensorFlow says it of a GPU")
def test_a_kv_cache_that_does_not_fit() -> None:
    free = memory.free_bytes()
    if free is None:
        pytest.skip("nobody says what is free")
    slots = 2 * free // (2 * tiny.TINY.n_layer * tiny.TINY.n_kv_head * tiny.TINY.d_head * 4)
    with pytest.raises(memory.NotEnoughMemory):
        kv_cache.new_kv(tiny.TINY, kv_cache.kv_shape(tiny.TINY, 1, slots))
