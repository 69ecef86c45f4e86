"""The model that is inspected: its files, opened, and the recording of its stack."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import NamedTuple

import numpy as np

from gentool.checkpoints import TensorSource
from gentool.config.model import ModelConfig
from gentool.models import weights
from gentool.models.quantized import Quantized
from gentool.models.weights import Weight
from gentool.runtimes.litert.record import Recording, record
from gentool.tokenizers import Tokenizer


class Subject(NamedTuple):
    """A model whose weights are planned; `read` reads one."""

    config: ModelConfig
    tokenizer: Tokenizer | None
    source: TensorSource
    plan: Mapping[str, Weight]
    recording: Recording

    def read(self, name: str) -> np.ndarray | Quantized:
        """A weight by its name, a matrix as [out, in]; a view of the file where possible."""
        return weights.read(self.source, self.plan[name])

    def text(self, token: int) -> str:
        """A token as text: of a special one its name, of an id without a piece nothing. Bytes that
        are no text, or that the tokenizer would write as another token, are <0xE4>."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return ""
        names = {id: name for name, id in tokenizer.special.items()}
        if token in names:
            return names[token]
        data = tokenizer.piece(token, token)
        text = data.decode(errors="ignore")
        if text.encode() != data or (len(data) == 1 and token not in tokenizer.encode(text)):
            return "".join(f"<0x{byte:02X}>" for byte in data)
        return text


def subject(
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    family: ModuleType,
    source: TensorSource,
    plan: Mapping[str, Weight],
) -> Subject:
    """A model of open files, its stack recorded; no weight is read."""
    shapes = {name: weight.shape for name, weight in plan.items()}
    return Subject(config, tokenizer, source, plan, record(family, config.arch, shapes))
