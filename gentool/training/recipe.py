"""The recipes of training: YAML files, checked before TensorFlow is imported. `train` learns a
model from nothing, `finetune` goes on from a model's weights; both have the same block `optimizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gentool.config.model import Arch
from gentool.config.sampling import SamplingParams
from gentool.config.schema import Strict, parse, read_yaml
from gentool.errors import UsageError

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
    """How weights are changed. A step learns from `accumulate` batches of `batch` rows. The rate
    rises linearly over the share `warmup` of the run, is full for the share `stable`, and then
    falls along a cosine to `final` times it. AdaFactor's is relative to the root mean square
    of each weight, and it has no betas. `precision` is that of products and activations; the
    weights that are trained are always in fp32. `recompute` keeps only what each layer begins with,
    and computes the layer again for its gradient."""

    method: Literal["adamw", "adafactor"] = "adamw"
    tokens: Annotated[int, Field(gt=0, le=10**15)] | None = None  # of a run of `train`
    epochs: Annotated[float, Field(gt=0, le=1e6)] | None = None  # of a run of `finetune`
    batch: Annotated[int, Field(gt=0, le=1 << 20)]
    accumulate: Annotated[int, Field(gt=0, le=1 << 20)] = 1
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    recompute: bool = False
    learning_rate: Annotated[float, Field(gt=0, le=1e6)]
    warmup: Fraction = 0.02
    stable: Fraction = 0.0
    final: Fraction = 0.05
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.1
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    clip: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    dropout: Fraction = 0.0  # of what a layer adds, against learning few texts by heart


def _check_schedule(o: Optimizer) -> None:
    if o.warmup + o.stable >= 1:
        raise ValueError("optimizer.warmup and optimizer.stable leave nothing of the run")


class Recipe(Strict):
    """A run of `train`."""

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
        _check_schedule(self.optimizer)
        if self.optimizer.tokens is None:
            raise ValueError("optimizer.tokens is missing")
        if self.optimizer.epochs is not None:
            raise ValueError("optimizer.epochs is for finetune, train has optimizer.tokens")
        if "synthetic" in self.data.sources:
            raise ValueError("data.sources synthetic is the name of the documents that are made")
        return self


class Lora(Strict):
    """Low-rank adaptation (Hu et al. 2021): beside each product of a layer, alpha / rank times the
    product of two thin matrices; only these are trained."""

    rank: Annotated[int, Field(gt=0, le=1 << 16)]
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None  # left out: twice the rank

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return (2.0 * self.rank if self.alpha is None else self.alpha) / self.rank


class FinetuneRecipe(Strict):
    """A run of `finetune`."""

    model: Annotated[str, Field(min_length=1)]
    data: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    chat_template: Annotated[str, Field(min_length=1)] | None = None  # left out: the model's
    documents: Literal["blank-lines", "lines", "files"] = "blank-lines"  # what separates them
    # per cent of the documents that the model is evaluated with instead
    held_out: Annotated[int, Field(ge=0, le=90)] = 5
    length: Annotated[int, Field(gt=1, le=1 << 24)] = 256  # tokens of a row
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 1
    lora: Lora | None = None  # left out: all weights are trained
    evaluate_every: Annotated[int, Field(gt=0, le=10**9)] | None = (
        None  # steps; left out: 10 times a run
    )
    optimizer: Optimizer

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneRecipe:
        _check_schedule(self.optimizer)
        if self.optimizer.tokens is not None:
            raise ValueError("optimizer.tokens is for train, finetune has optimizer.epochs")
        return self


def load(path: Path) -> Recipe:
    """The recipe in a YAML file. Raises UsageError naming the wrong key and value."""
    return parse(Recipe, read_yaml(path), str(path))


# Of `finetune`, where neither recipe nor flags say otherwise. A rate for all weights is smaller
# than one for LoRA's factors, which begin at zero; AdaFactor's is relative to each weight.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"epochs": 3.0, "batch": 8, "warmup": 0.05, "final": 0.1, "weight_decay": 0.01}
)
RATE, LORA_RATE, ADAFACTOR_RATE = 1e-4, 1e-3, 1e-3


def finetune(path: Path | None, flags: Mapping[str, Any], model: str) -> FinetuneRecipe:
    """The recipe in a YAML file with values by dotted key instead of its own, completed by
    DEFAULTS and `model`. Raises UsageError naming the wrong key and value."""
    data = {"model": model} | (read_yaml(path) if path else {})
    for key, value in flags.items():
        *way, last = key.split(".")
        place = data
        for part in way:
            inner = place.get(part)
            place[part] = place = dict(inner) if isinstance(inner, dict) else {}
        place[last] = value
    if not data.get("data"):
        raise UsageError("no data is given", "give --data FILE, or data: [FILE] in a recipe")
    said = data.get("optimizer", {})
    if isinstance(said, dict):
        adafactor = said.get("method") == "adafactor"
        rate = LORA_RATE if data.get("lora") else ADAFACTOR_RATE if adafactor else RATE
        data["optimizer"] = {**DEFAULTS, "learning_rate": rate} | said
    return parse(FinetuneRecipe, data, str(path) if path else "gentool finetune")
