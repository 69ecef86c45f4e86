"""llama.cpp over the rows of a batch, as its server with parallel slots; see batch.py."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import llama_cpp as ll
from peers_llama_cpp import F32, opening
from peers_runner import THREADS

SLOTS = 64
BATCH = 2048  # tokens of a call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("precision")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--unified", action="store_true")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    opening()
    model = ll.llama_model_load_from_file(
        str(options.weights).encode(), ll.llama_model_default_params()
    )
    slots = min(SLOTS, len(rows))
    params = ll.llama_context_default_params()
    params.n_ctx = slots * max(len(row["prompt"]) + row["max_tokens"] for row in rows)
    params.n_seq_max, params.n_batch, params.kv_unified = slots, BATCH, options.unified
    params.n_threads = params.n_threads_batch = THREADS
    if options.precision == "fp32":
        params.type_k = params.type_v = F32
    context = ll.llama_init_from_model(model, params)
    if not context:
        raise RuntimeError("llama.cpp makes no context")
    memory = ll.llama_get_memory(context)
    batch, sampler = ll.llama_batch_init(BATCH, 0, 1), ll.llama_sampler_init_dist(1)
    waiting = list(range(len(rows)))[::-1]
    pending: dict[int, list[int]] = {}  # slot -> tokens that are not computed yet
    row_of, position, left = dict[int, int](), dict[int, int](), dict[int, int]()
    texts: dict[int, list[int]] = {}
    while waiting or pending:
        for slot in range(slots):
            if slot not in pending and waiting:
                row = waiting.pop()
                row_of[slot], position[slot] = row, 0
                pending[slot], left[slot] = list(rows[row]["prompt"]), rows[row]["max_tokens"]
                texts[row] = []
                ll.llama_memory_seq_rm(memory, slot, -1, -1)
        batch.n_tokens, wanted = 0, {}
        # tokens of rows that generate first, then as much of the prompts as fits
        for slot in sorted(pending, key=lambda slot: len(pending[slot])):
            for _ in range(min(len(pending[slot]), BATCH - batch.n_tokens)):
                i = batch.n_tokens
                batch.token[i], batch.pos[i] = pending[slot].pop(0), position[slot]
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, slot
                batch.logits[i] = not pending[slot]
                position[slot] += 1
                batch.n_tokens += 1
                if not pending[slot]:
                    wanted[slot] = i
        if code := ll.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode gives {code}")
        for slot, index in wanted.items():
            token = ll.llama_sampler_sample(sampler, context, index)
            texts[row_of[slot]].append(token)
            left[slot] -= 1
            if left[slot]:
                pending[slot] = [token]
            else:
                del pending[slot]
    assert all(len(texts[i]) == row["max_tokens"] for i, row in enumerate(rows))


if __name__ == "__main__":
    main()
