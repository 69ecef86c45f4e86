"""gentool as one of the peers; see peers_runner.py."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import peers_runner
from peers_runner import Ids, Opening


class Gentool:
    def __init__(self, folder: Path, precision: str) -> None:
        import gentool

        self.model = gentool.load(str(folder / "hf"), precision=precision)

    def logits(self, ids: Ids) -> np.ndarray:
        return self.model.logits(ids)[-1]

    def greedy(self, ids: Ids, count: int) -> list[int]:
        (done,) = self.model.complete(ids, temperature=0, max_tokens=count, eos=None)
        return list(done.ids)

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        law = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": count}
        done = self.model.complete(ids, rows, seed=seed, eos=None, **law)
        return [list(one.ids) for one in done]


def opening() -> Opening:
    from gentool.runtimes.xla import device

    device.setup()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    return Opening(
        f"gentool {importlib.metadata.version('gentool')}, TensorFlow {tf.__version__}", Gentool
    )


if __name__ == "__main__":
    peers_runner.run(opening)
