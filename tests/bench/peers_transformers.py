"""Hugging Face's transformers on torch as one of the peers; see peers_runner.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import peers_runner
from peers_runner import Ids, Opening

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Transformers:
    def __init__(self, folder: Path, precision: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, DTYPES[precision])
        self.model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=dtype).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0

    def logits(self, ids: Ids) -> np.ndarray:
        import torch

        with torch.inference_mode():
            found = self.model(torch.tensor([ids]), logits_to_keep=1).logits
        return found[0, -1].float().numpy()

    def _generate(self, ids: Ids, count: int, **how: Any) -> list[list[int]]:
        import torch

        with torch.inference_mode():
            prompt = torch.tensor([ids])
            mask = torch.ones_like(prompt)
            found = self.model.generate(prompt, attention_mask=mask, max_new_tokens=count, **how)
        return found[:, len(ids) :].tolist()

    def greedy(self, ids: Ids, count: int) -> list[int]:
        return self._generate(ids, count, do_sample=False)[0]

    def sample(self, ids: Ids, rows: int, count: int, seed: int) -> list[list[int]]:
        import torch

        torch.manual_seed(seed)
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        return self._generate(ids, count, num_return_sequences=rows, **law)


def opening() -> Opening:
    os.environ["USE_TF"] = "0"  # it is there for KerasHub, and would be imported
    import torch
    import transformers

    torch.set_num_threads(2)
    transformers.utils.logging.set_verbosity_error()
    version = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return Opening(version, Transformers)


if __name__ == "__main__":
    peers_runner.run(opening)
