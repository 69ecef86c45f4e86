"""What a training run is made of: one YAML file, checked before TensorFlow is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gentool.config.model import Arch
from gentool.config.sampling import SamplingParams
from gentool.config.schema import Strict, parse, read_yaml

Share = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Pieces(Strict):
    """The SentencePiece unigram vocabulary; its size is arch.n_vocab."""

    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.995
    sample_characters: Annotated[int, Field(gt=0)] = 12_000_000


class Mixture(Strict):
    """Shares of the tokens drawn: text files by name (FILE.txt or FILE.txt.zst), and documents
    made by gentool.training.synthetic.documents."""

    sources: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9]\w*$")], Share]
    synthetic: Annotated[float, Field(ge=0)] = 0.0
    synthetic_documents: Annotated[int, Field(gt=0)] = 60_000


class Optimizer(Strict):
    """AdamW with linear warm-up and a cosine down to `final` times the learning rate."""

    tokens: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Fraction = 0.02
    final: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    clip: Annotated[float, Field(gt=0)] = 1.0


class Recipe(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    family: Literal["llama"]
    seed: Annotated[int, Field(ge=0)] = 1
    arch: Arch
    pieces: Pieces = Pieces()
    data: Mixture
    optimizer: Optimizer
    sampling: SamplingParams = SamplingParams()  # goes into the finished model's YAML

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        if self.arch.n_vocab > 1 << 16:
            raise ValueError(f"arch.n_vocab {self.arch.n_vocab} is more than 65536")
        if "synthetic" in self.data.sources:
            raise ValueError("data.sources synthetic is the name of the documents made here")
        return self


def load(path: Path) -> Recipe:
    return parse(Recipe, read_yaml(path), str(path))
