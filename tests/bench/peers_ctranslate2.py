"""CTranslate2 as one of the peers; see peers_runner.py. Its tokens are words: token i is "i"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peers_runner
from peers_runner import Ids, Opening, Unsupported

TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class CTranslate2:
    def __init__(self, folder: Path, precision: str) -> None:
        import ctranslate2

        known = ctranslate2.get_supported_compute_types("cpu")
        if TYPES[precision] not in known:
            raise Unsupported(f"it computes in {', '.join(sorted(known))} on this CPU")
        self.model = ctranslate2.Generator(
            str(folder / "ct2"), intra_threads=2, compute_type=TYPES[precision]
        )

    def logits(self, ids: Ids) -> np.ndarray:
        return np.array(self.model.forward_batch([list(map(str, ids))]))[0, -1]

    def _generate(self, ids: Ids, count: int, **how: Any) -> list[list[int]]:
        (found,) = self.model.generate_batch(
            [list(map(str, ids))],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            **how,
        )
        return found.sequences_ids

    def greedy(self, ids: Ids, count: int) -> list[int]:
        return self._generate(ids, count)[0]

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        import ctranslate2

        ctranslate2.set_random_seed(seed)
        return self._generate(ids, count, sampling_topk=0, num_hypotheses=rows)


def opening() -> Opening:
    import ctranslate2

    return Opening(f"CTranslate2 {ctranslate2.__version__}", CTranslate2)


if __name__ == "__main__":
    peers_runner.run(opening)
