"""gentool as one of the peers; see peers_runner.py. Its command is `gentool complete` itself."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers_runner
from peers_runner import THREADS, Ids, Opening, Unsupported


class Gentool:
    def __init__(self, folder: Path, precision: str) -> None:
        import gentool
        from gentool.errors import GentoolError

        try:
            self.model = gentool.load(str(folder), precision=precision, threads=THREADS)
        except GentoolError as e:
            raise Unsupported(e.message) from None

    def logits(self, ids: Ids) -> np.ndarray:
        return self.model.logits(ids)[-1]

    def prefill(self, ids: Ids) -> None:
        self.model.engine.prefill(list(ids))

    def step_seconds(self, ids: Ids, steps: int) -> float:
        from gentool.benchmark.model import decode_loop
        from gentool.config.sampling import SamplingParams

        greedy = SamplingParams(temperature=0)
        return decode_loop(self.model.engine, list(ids), greedy, 1, steps + 1)() / steps

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        whole = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": count}
        samples = self.model.complete(ids, rows, seed=seed, eos=None, **whole)
        return [list(sample.ids) for sample in samples]

    def stream(self, ids: Ids, count: int) -> Iterator[int]:
        raise NotImplementedError("peers.py runs gentool complete")


def opening() -> Opening:
    import gentool  # noqa: F401

    return Opening(f"gentool {importlib.metadata.version('gentool')}", Gentool)


if __name__ == "__main__":
    peers_runner.main(opening)
