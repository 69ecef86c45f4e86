"""llama.cpp, by the bindings of llama-cpp-python, as one of the peers; see peers_runner.py."""

from __future__ import annotations

import ctypes
import importlib.metadata
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np
import peers_runner
from peers_runner import Ids, Opening

F32 = 0  # of ggml_type
MOST_SEQUENCES = 256  # which a context can hold; one of them is the prompt


class Context:
    """Cells for `rows` sequences after a prompt that they share, which is sequence `rows`."""

    def __init__(self, model: Any, cells: int, rows: int, fp32: bool) -> None:
        params = ll.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cells, rows + 1
        params.n_threads = params.n_threads_batch = 2
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
    def __init__(self, folder: Path, precision: str) -> None:
        params = ll.llama_model_default_params()
        path = str(folder / "model.gguf").encode()
        self.model = ll.llama_model_load_from_file(path, params)
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

    def greedy(self, ids: Ids, count: int) -> list[int]:
        self.one.prompt(ids)
        found = [int(self._last().argmax())]
        while len(found) < count:
            self.one.run(found[-1:], [len(ids) + len(found) - 1], [0], every=False)
            found.append(int(self._last().argmax()))
        return found

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        """In parts of equal size, as many as there have to be; they share the prompt's cells."""
        parts = -(-rows // (MOST_SEQUENCES - 1))
        size = -(-rows // parts)
        if self.many is None:
            self.many = Context(self.model, len(ids) + size * count, size, self.fp32)
        sampler = ll.llama_sampler_init_dist(seed)
        self.many.prompt(ids, size)
        first = [ll.llama_sampler_sample(sampler, self.many.raw, -1) for _ in range(rows)]
        found: list[list[int]] = []
        for begin in range(0, rows, size):
            part = [[token] for token in first[begin : begin + size]]
            self._grow(part, len(ids), count, sampler, size)
            found += part
        ll.llama_sampler_free(sampler)
        return found

    def _grow(self, part: list[list[int]], at: int, count: int, sampler: Any, prompt: int) -> None:
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
    """Only what went wrong is said."""
    if level == 4:
        print(text.decode(errors="replace"), end="", flush=True)


def opening() -> Opening:
    ll.llama_log_set(_silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    version = importlib.metadata.version("llama-cpp-python")
    return Opening(f"llama.cpp in llama-cpp-python {version}", LlamaCpp)


if __name__ == "__main__":
    peers_runner.run(opening)
