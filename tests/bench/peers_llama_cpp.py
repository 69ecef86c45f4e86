"""llama.cpp, by the bindings of llama-cpp-python, as one of the peers; see peers_runner.py."""

from __future__ import annotations

import ctypes
import importlib.metadata
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np
import peers_runner
from peers_runner import THREADS, Ids, Opening

F32 = 0  # of ggml_type
MAX_SEQUENCES = 256  # of a context; the prompt is a sequence, too


class Context:
    """A KV cache for `rows` sequences after a prompt that they share, which is sequence `rows`."""

    def __init__(self, model: Any, slots: int, rows: int, fp32: bool) -> None:
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_seq_max = slots, rows + 1
        params.n_threads = params.n_threads_batch = THREADS
        params.kv_unified = True
        if fp32:
            params.type_k = params.type_v = F32
        self.raw = ll.llama_init_from_model(model, params)
        if not self.raw:
            raise RuntimeError("llama.cpp makes no context")
        self.memory = ll.llama_get_memory(self.raw)
        self._batch = ll.llama_batch_init(2048, 0, 1)

    def clear(self) -> None:
        ll.llama_memory_clear(self.memory, False)

    def run(self, tokens: Ids, positions: Ids, sequences: Ids, every: bool) -> None:
        """Computes tokens, and logits after the last of them, or after `every` one."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence) in enumerate(
            zip(tokens, positions, sequences, strict=True)
        ):
            batch.token[i], batch.pos[i] = token, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
            batch.logits[i] = every or i == len(tokens) - 1
        if code := ll.llama_decode(self.raw, batch):
            raise RuntimeError(f"llama_decode gives {code}")

    def prompt(self, ids: Ids, sequence: int = 0) -> None:
        self.clear()
        self.run(ids, range(len(ids)), [sequence] * len(ids), every=False)


class LlamaCpp:
    def __init__(self, path: Path, precision: str) -> None:
        params = ll.llama_model_default_params()
        self.model = ll.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise RuntimeError("llama.cpp does not load the model")
        self.n_vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        self.fp32 = precision == "fp32"
        self.one = Context(self.model, 1024, 0, self.fp32)
        self.many: Context | None = None

    def _last(self) -> np.ndarray:
        return np.ctypeslib.as_array(ll.llama_get_logits_ith(self.one.raw, -1), (self.n_vocab,))

    def logits(self, ids: Ids) -> np.ndarray:
        self.one.prompt(ids)
        return self._last().copy()

    def prefill(self, ids: Ids) -> None:
        self.one.prompt(ids)
        self._last()

    def step_seconds(self, ids: Ids, steps: int) -> float:
        tokens = self.stream(ids, 1 + steps)
        next(tokens)
        start = time.perf_counter()
        for _ in tokens:
            pass
        return (time.perf_counter() - start) / steps

    def stream(self, ids: Ids, count: int) -> Iterator[int]:
        self.one.prompt(ids)
        for position in range(len(ids), len(ids) + count):
            token = int(self._last().argmax())
            yield token
            if position + 1 < len(ids) + count:
                self.one.run([token], [position], [0], every=False)

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        """In as few parts of equal size as possible; they share the prompt's KV cache."""
        parts = -(-rows // (MAX_SEQUENCES - 1))
        size = -(-rows // parts)
        if self.many is None:
            self.many = Context(self.model, len(ids) + size * count, size, self.fp32)
        sampler = ll.llama_sampler_init_dist(seed)
        self.many.prompt(ids, size)
        first = [ll.llama_sampler_sample(sampler, self.many.raw, -1) for _ in range(rows)]
        texts: list[list[int]] = []
        for begin in range(0, rows, size):
            part = [[token] for token in first[begin : begin + size]]
            self._continue(part, len(ids), count, sampler, size)
            texts += part
        ll.llama_sampler_free(sampler)
        return texts

    def _continue(
        self, part: list[list[int]], at: int, count: int, sampler: Any, prompt: int
    ) -> None:
        """Continues texts after the prompt, which is the sequence `prompt` and stays."""
        context = self.many
        ll.llama_memory_seq_keep(context.memory, prompt)
        for row in range(len(part)):
            ll.llama_memory_seq_cp(context.memory, prompt, row, -1, -1)
        for position in range(at, at + count - 1):
            last = [text[-1] for text in part]
            context.run(last, [position] * len(part), range(len(part)), every=True)
            for row, text in enumerate(part):
                text.append(ll.llama_sampler_sample(sampler, context.raw, row))


@ll.llama_log_callback
def _silent(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    """Prints errors only."""
    if level == 4:
        print(text.decode(errors="replace"), end="", flush=True)


def opening() -> Opening:
    ll.llama_log_set(_silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    version = importlib.metadata.version("llama-cpp-python")
    return Opening(f"llama.cpp in llama-cpp-python {version}", LlamaCpp)


if __name__ == "__main__":
    peers_runner.main(opening)
