"""CTranslate2 as one of the peers; see peers_runner.py. Its tokens are words: token i is "i"."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers_runner
from peers_runner import THREADS, Ids, Opening, Unsupported, seconds

# int8 weights and products, the rest in float32
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8_float32"}


class CTranslate2:
    def __init__(self, folder: Path, precision: str) -> None:
        import ctranslate2

        known = ctranslate2.get_supported_compute_types("cpu")
        if TYPES.get(precision) not in known:
            raise Unsupported(f"it computes in {', '.join(sorted(known))} on this CPU")
        self.model = ctranslate2.Generator(
            str(folder), intra_threads=THREADS, compute_type=TYPES[precision]
        )

    def logits(self, ids: Ids) -> np.ndarray:
        return np.array(self.model.forward_batch([list(map(str, ids))]))[0, -1]

    def _generate(self, ids: Ids, count: int, **options: Any) -> list[list[int]]:
        (result,) = self.model.generate_batch(
            [list(map(str, ids))],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            **options,
        )
        return result.sequences_ids

    def prefill(self, ids: Ids) -> None:
        self._generate(ids, 1)

    def step_seconds(self, ids: Ids, steps: int) -> float:
        long, short = (seconds(lambda n=n: self._generate(ids, n)) for n in (1 + steps, 1))
        return (long - short) / steps

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        import ctranslate2

        ctranslate2.set_random_seed(seed)
        return self._generate(ids, count, sampling_topk=0, num_hypotheses=rows)

    def stream(self, ids: Ids, count: int) -> Iterator[int]:
        words = list(map(str, ids))
        for result in self.model.generate_tokens(words, max_length=count, min_length=count):
            yield result.token_id


def opening() -> Opening:
    import ctranslate2

    return Opening(f"CTranslate2 {ctranslate2.__version__}", CTranslate2)


if __name__ == "__main__":
    peers_runner.main(opening)
