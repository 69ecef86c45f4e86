"""The recipe of a training run: one YAML file, checked before TensorFlow is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gentool.config.model import Arch
from gentool.config.sampling import SamplingParams
from gentool.config.schema import Strict, parse, read_yaml

Share = Annotated[float, Field(gt=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class VocabularyOptions(Strict):
    """How the SentencePiece unigram vocabulary is trained; its size is arch.n_vocab."""

    # the share of the text whose characters get pieces of their own
    character_coverage: Annotated[float, Field(gt=0.9, le=1)] = 0.995
    # of the corpus that it is trained on; SentencePiece indexes its text with 32 bits
    sample_characters: Annotated[int, Field(gt=0, le=1_000_000_000)] = 12_000_000


class Mixture(Strict):
    """Shares of the tokens drawn from each source: text files by name (FILE.txt or FILE.txt.zst),
    and documents that gentool.training.synthetic.documents makes."""

    sources: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9]\w*$")], Share]
    without_speakers: list[str] = []  # sources whose lines lose a 问：, 答：, 唐凤：
    synthetic: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    synthetic_documents: Annotated[int, Field(gt=0, le=1 << 24)] = 60_000


class Optimizer(Strict):
    """AdamW with linear warm-up, the full learning rate for the share `stable` of the run, then a
    cosine decay to `final` times it."""

    tokens: Annotated[int, Field(gt=0, le=10**15)]
    batch: Annotated[int, Field(gt=0, le=1 << 20)]
    learning_rate: Annotated[float, Field(gt=0, le=1e6)]
    warmup: Fraction = 0.02
    stable: Fraction = 0.0
    final: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    clip: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    dropout: Fraction = 0.0  # of what a layer adds, against learning few texts by heart


class Recipe(Strict):
    """A training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
    family: Literal["llama"]
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 1
    arch: Arch
    pieces: VocabularyOptions = VocabularyOptions()
    data: Mixture
    optimizer: Optimizer
    sampling: SamplingParams = SamplingParams()  # goes into the finished model's YAML

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.arch.n_vocab > 1 << 16:
            raise ValueError(f"arch.n_vocab {self.arch.n_vocab} is more than 65536")
        if strange := sorted({*self.data.without_speakers} - {*self.data.sources}):
            raise ValueError(f"data.without_speakers {strange[0]} is not among data.sources")
        if self.optimizer.warmup + self.optimizer.stable >= 1:
            raise ValueError("optimizer.warmup and optimizer.stable leave nothing of the run")
        if "synthetic" in self.data.sources:
            raise ValueError("data.sources synthetic is the name of the documents that are made")
        return self


def load(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises UsageError naming the wrong key and value."""
    return parse(Recipe, read_yaml(path), str(path))
