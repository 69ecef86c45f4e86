"""Hugging Face's transformers on torch as one of the peers; see peers_runner.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers_runner
from peers_runner import THREADS, Ids, Opening, Unsupported, seconds

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Transformers:
    def __init__(self, folder: Path, precision: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        if precision not in DTYPES:
            raise Unsupported(f"it is measured in {', '.join(DTYPES)}")
        dtype = getattr(torch, DTYPES[precision])
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def logits(self, ids: Ids) -> np.ndarray:
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([ids]), logits_to_keep=1).logits
        return logits[0, -1].float().numpy()

    def _generate(self, ids: Ids, count: int, **options: Any) -> list[list[int]]:
        import torch

        with torch.inference_mode():
            prompt = torch.tensor([ids])
            mask = torch.ones_like(prompt)
            output = self.model.generate(
                prompt, attention_mask=mask, max_new_tokens=count, **options
            )
        return output[:, len(ids) :].tolist()

    def prefill(self, ids: Ids) -> None:
        self._generate(ids, 1, do_sample=False)

    def step_seconds(self, ids: Ids, steps: int) -> float:
        long, short = (
            seconds(lambda n=n: self._generate(ids, n, do_sample=False)) for n in (1 + steps, 1)
        )
        return (long - short) / steps

    def stream(self, ids: Ids, count: int) -> Iterator[int]:
        text = list(ids)
        for _ in range(count):
            text += self._generate(text, 1, do_sample=False)[0]
            yield text[-1]

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        import torch

        torch.manual_seed(seed)
        whole = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        return self._generate(ids, count, num_return_sequences=rows, **whole)


def opening() -> Opening:
    os.environ["USE_TF"] = "0"  # TensorFlow is installed for KerasHub, and would be imported
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    transformers.utils.logging.set_verbosity_error()
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return Opening(version, Transformers)


if __name__ == "__main__":
    peers_runner.main(opening)
