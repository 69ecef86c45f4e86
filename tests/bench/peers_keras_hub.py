"""KerasHub on TensorFlow as one of the peers; see peers_runner.py."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peers_runner
from peers_runner import THREADS, Ids, Opening, Unsupported, seconds

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class KerasHub:
    def __init__(self, folder: Path, precision: str) -> None:
        import keras_hub

        if precision not in DTYPES:
            raise Unsupported(f"it is measured in {', '.join(DTYPES)}")
        keys = json.loads((folder / "config.json").read_text())
        # its reader of LLaMA's config.json leaves this number out
        missing = {"layer_norm_epsilon": keys["rms_norm_eps"]} if "rms_norm_eps" in keys else {}
        backbone = keras_hub.models.Backbone.from_preset(
            str(folder), dtype=DTYPES[precision], **missing
        )
        kind = type(backbone).__name__.removesuffix("Backbone")
        self.model = getattr(keras_hub.models, f"{kind}CausalLM")(backbone, preprocessor=None)
        self._sampler = ""

    def logits(self, ids: Ids) -> np.ndarray:
        inputs = {"token_ids": np.array([ids]), "padding_mask": np.ones((1, len(ids)), bool)}
        return np.array(self.model(inputs), np.float32)[0, -1]

    def _generate(self, ids: Ids, rows: int, count: int, sampler: str) -> list[list[int]]:
        if sampler != self._sampler:
            self.model.compile(sampler=sampler)
            self._sampler = sampler
        prompt = np.pad(np.array([ids] * rows), ((0, 0), (0, count)))
        mask = np.arange(len(ids) + count)[None] < len(ids)
        inputs = {"token_ids": prompt, "padding_mask": np.repeat(mask, rows, axis=0)}
        output = self.model.generate(inputs, stop_token_ids=None)["token_ids"]
        return np.array(output)[:, len(ids) :].tolist()

    def prefill(self, ids: Ids) -> None:
        self._generate(ids, 1, 1, "greedy")

    def step_seconds(self, ids: Ids, steps: int) -> float:
        long, short = (
            seconds(lambda n=n: self._generate(ids, 1, n, "greedy")) for n in (1 + steps, 1)
        )
        return (long - short) / steps

    def stream(self, ids: Ids, count: int) -> Iterator[int]:
        yield from self._generate(ids, 1, count, "greedy")[0]  # it gives all of them at the end

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        import keras

        keras.utils.set_random_seed(seed)
        return self._generate(ids, rows, count, "random")


def opening() -> Opening:
    os.environ |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import keras
    import keras_hub
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    version = f"KerasHub {keras_hub.__version__}, Keras {keras.__version__}"
    return Opening(f"{version}, TensorFlow {tf.__version__}", KerasHub)


if __name__ == "__main__":
    peers_runner.main(opening)
