"""A model's YAML file as one frozen `ModelConfig`, checked before TensorFlow is imported, and where
the YAML files of models are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from platformdirs import user_config_path
from pydantic import Field, model_validator

from gentool import folder
from gentool.errors import GentoolError, ModelError, UsageError, nearest
from gentool.schema import NOT_YAML, Strict, from_yaml, parse, read_yaml

PACKAGE = Path(__file__).parent
FOLDER_FILE = "gentool.yaml"  # what the YAML file of a model folder is called
NOTHING: Mapping[str, object] = MappingProxyType({})

Positive = Annotated[int, Field(gt=0, le=1 << 24)]  # no dimension is larger
PositiveFloat = Annotated[float, Field(gt=0)]
Words = Annotated[str, Field(min_length=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LEARNED_POSITIONS = ("gpt2", "gpt2_ml", "pangu")


class RopeScaling(Strict):
    """How rotary frequencies were changed for a longer context: all divided by `factor` (linear),
    or the slow ones only: those of fewer than low_frequency turns over original_n_ctx, and a
    mixture up to high_frequency turns. llama3 mixes by the number of turns; yarn by the number of
    the pair, whose limits are whole where `whole_pairs`, and multiplies cos and sin by
    `attention_factor`."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: Annotated[float, Field(ge=1)]
    low_frequency: Annotated[float, Field(gt=0)] = 1.0
    high_frequency: Annotated[float, Field(gt=0)] = 4.0
    original_n_ctx: Positive = 8192
    attention_factor: PositiveFloat = 1.0
    whole_pairs: bool = True

    @model_validator(mode="after")
    def _order(self) -> RopeScaling:
        if self.low_frequency >= self.high_frequency:
            raise ValueError(
                f"low_frequency {self.low_frequency} is not below {self.high_frequency}"
            )
        return self


class Arch(Strict):
    """The numbers of an architecture. A different structure is a different family, not a switch.
    Left out, n_kv_head is n_head, d_head is d_model / n_head and n_position is n_ctx. The numbers
    behind `activation` stretch a context and are off unless given: hierarchical_alpha makes up to
    n_position^2 positions out of a learned table (kexue.fm 7947), log_n multiplies the scores of a
    token that sees n others by log(max(n, 16)) / log(log_n) (kexue.fm 8823)."""

    n_layer: Annotated[int, Field(gt=0, le=1000)]
    n_head: Positive
    n_kv_head: Positive
    d_model: Positive
    d_head: Positive
    d_ff: Positive
    n_vocab: Positive
    n_ctx: Positive
    n_position: Positive  # rows of a learned position table
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: RopeScaling | None = None
    window: Positive | None = None  # positions a token sees, itself included, in window_layers
    window_layers: list[Annotated[int, Field(ge=0)]] = []
    query_scale: PositiveFloat | None = None  # queries are divided by its root instead of d_head's
    score_cap: PositiveFloat | None = None  # of attention's scores
    logit_cap: PositiveFloat | None = None
    tied_head: bool = True
    activation: Literal["gelu_tanh", "gelu_erf"] = "gelu_tanh"
    hierarchical_alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    log_n: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _left_out(cls, data: Any) -> Any:
        heads, width = (data.get(k) if isinstance(data, dict) else 0 for k in ("n_head", "d_model"))
        if not (isinstance(heads, int) and isinstance(width, int) and heads > 0):
            return data  # the fields themselves say what is wrong
        context = {"n_position": data["n_ctx"]} if "n_ctx" in data else {}
        return {"n_kv_head": heads, "d_head": width // heads} | context | data

    @model_validator(mode="after")
    def _heads(self) -> Arch:
        if self.n_head % self.n_kv_head:
            raise ValueError(
                f"n_head {self.n_head} is not a multiple of n_kv_head {self.n_kv_head}"
            )
        return self

    @model_validator(mode="after")
    def _positions(self) -> Arch:
        alpha = self.hierarchical_alpha
        if alpha == 0.5:
            raise ValueError("hierarchical_alpha 0.5 gives two positions one vector; 0.4 is usual")
        most = self.n_position if alpha is None else self.n_position**2
        if self.n_ctx > most:
            raise ValueError(f"n_ctx {self.n_ctx} is more than the {most} positions there are")
        return self


class TokenizerConfig(Strict):
    """`model` is the vocabulary's file; the keys that are not for every kind name theirs."""

    kind: Literal["cpm", "huggingface", "sentencepiece", "wordpiece"]
    model: Words
    add_bos: bool | None = None  # left out: as the file itself says, and a SentencePiece says no
    lower_case: bool = True
    special_tokens: bool = False  # "[CLS]" in a text is that token, not five characters
    end: list[Annotated[int, Field(ge=0)]] | None = None  # left out: as the file itself says

    @model_validator(mode="after")
    def _keys(self) -> TokenizerConfig:
        for key, kinds in {
            "add_bos": ("huggingface", "sentencepiece"),
            "lower_case": ("wordpiece",),
            "special_tokens": ("wordpiece",),
        }.items():
            if key in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"{key} is for kind {' or '.join(kinds)}, not {self.kind}")
        return self


class Sampling(Strict):
    """The law samples are drawn by and where they end. Temperature 0 is greedy; the defaults of
    the other filters keep every token as it is."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: PositiveFloat = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: Annotated[int, Field(ge=0)] = 0
    logit_bias: dict[Annotated[int, Field(ge=0)], float] = {}  # by token id
    ban: list[Words] = []  # texts that never appear
    max_tokens: Positive = 64
    min_tokens: Annotated[int, Field(ge=0)] = 0
    stop: list[Words] = []
    include_stop: bool = False

    @model_validator(mode="after")
    def _length(self) -> Sampling:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens {self.min_tokens} is more than max_tokens {self.max_tokens}"
            )
        return self


class ModelFile(Strict):
    """The keys of a model's YAML file."""

    name: Words
    family: Literal["gpt2", "gpt2_ml", "pangu", "llama", "qwen2", "qwen3", "gemma", "gemma2"]
    checkpoint: Words
    format: Literal["megatron", "safetensors", "shards", "tensorflow", "torch"] | None = None
    arch: Arch
    tokenizer: TokenizerConfig | None = None
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    sampling: Sampling = Sampling()
    sha256: dict[Words, Digest] = {}  # of the files above, by path

    @model_validator(mode="after")
    def _fits(self) -> ModelFile:
        a = self.arch
        learned = self.family in LEARNED_POSITIONS
        if learned and (a.n_kv_head, a.n_head * a.d_head) != (a.n_head, a.d_model):
            raise ValueError(
                f"{self.family} with n_head {a.n_head} has n_kv_head {a.n_head} and d_head "
                f"{a.d_model} / {a.n_head}, not {a.n_kv_head} and {a.d_head}"
            )
        if a.hierarchical_alpha is not None and not learned:
            raise ValueError(
                f"hierarchical_alpha {a.hierarchical_alpha} is for learned positions, {self.family}"
                " has rotary ones: see rope_scaling"
            )
        if a.d_head % 2 and not learned:
            raise ValueError(f"d_head {a.d_head} is odd, rotary positions need pairs")
        return self


class ModelConfig(ModelFile):
    """A model's YAML file and the folder its relative paths start from."""

    folder: Path


def load(model: str, overrides: Mapping[str, object] = NOTHING) -> ModelConfig:
    """The model of this name, in this folder or of this YAML file. `overrides` are values by dotted
    key, read as YAML where they are text; the files it names exist."""
    try:
        return _load(model, overrides)
    except OSError as e:  # a name too long, a folder that may not be looked into
        raise UsageError(f"model {model}: {e.strerror}", "check the path") from None


def _load(model: str, overrides: Mapping[str, object]) -> ModelConfig:
    path = locate(model)
    return checked(path, keys(path), overrides)


def keys(path: Path) -> dict[str, Any]:
    """What a file that `locate` found says, as the keys of a model's YAML."""
    return folder.describe(path.parent) if folder.is_such(path) else read_yaml(path, _to(path))


def checked(path: Path, data: dict[str, Any], overrides: Mapping[str, object]) -> ModelConfig:
    """The model of these keys, which stand in the file `path`."""
    error = _to(path)
    for key, value in overrides.items():
        _override(data, key, value)
    file = parse(ModelFile, data, str(path), error, overrides)
    named = {"checkpoint": file.checkpoint}
    if file.tokenizer:
        named["tokenizer.model"] = file.tokenizer.model
    for key, value in named.items():
        # a model folder may come from anywhere, so what it names stays inside it
        if error is ModelError and key not in overrides and _leaves(Path(value)):
            raise ModelError(f"{path}: {key} {value} leaves the model's folder", "move it inside")
        if not (path.parent / value).exists():
            hint = f"put it there, or give its place with --set {key}=PATH"
            if path.parent == configs():
                hint = f"get the model from its source, then: gentool models add {file.name} FOLDER"
            raise ModelError(f"{path}: {key} {path.parent / value} does not exist", hint)
    return ModelConfig(folder=path.parent, **dict(file))


def _to(path: Path) -> type[GentoolError]:
    """Whose mistake it is if this file is wrong: that of a folder, or of a YAML's author."""
    return ModelError if path.name == FOLDER_FILE or folder.is_such(path) else UsageError


def locate(model: str) -> Path:
    """The YAML file of a model, or the file by which a folder describes itself. A bare word is a
    known name first, then a path."""
    path = Path(model)
    names = known() if model == path.name else {}
    if model in names:
        return names[model]
    if path.is_dir():
        if (path / FOLDER_FILE).exists():
            return path / FOLDER_FILE
        if found := folder.describes_itself(path):
            return found
        raise ModelError(
            f"the folder {model} has no {', '.join((FOLDER_FILE, *folder.SELF))}",
            "give a folder with one of them, or write a YAML file and give that",
        )
    if path.suffix in (".yaml", ".yml"):
        return path
    if path.exists():
        raise UsageError(
            f"model {model} is not a YAML file", "give a name, a folder or a file ending in .yaml"
        )
    if names:
        raise UsageError(f"unknown model {model}", nearest(model, names, "known models"))
    raise ModelError(f"model {model} does not exist", "check the path")


def known() -> dict[str, Path]:
    """The YAML files of all models that have a name. One of the user's own stands before one in
    configs/, whose weights nobody has until they say where, but not before a packaged model."""
    named = {path.stem: path for path in (*configs().glob("*.yaml"), *own().glob("*.yaml"))}
    return named | packaged()


def packaged() -> dict[str, Path]:
    """The YAML files of the models inside the package."""
    return {p.parent.name: p for p in (PACKAGE / "data").glob(f"*/{FOLDER_FILE}")}


def own() -> Path:
    """The folder of the user's own YAML files."""
    return user_config_path("gentool") / "models"


def configs() -> Path:
    """The folder configs/: inside the package in a wheel, beside it in a clone."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def _leaves(path: Path) -> bool:
    return path.is_absolute() or ".." in path.parts


def _override(data: dict[str, Any], key: str, value: object) -> None:
    """Sets a dotted key, making the mappings on its way."""
    *way, last = key.split(".")
    for depth, part in enumerate(way, 1):
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {key}: {'.'.join(way[:depth])} has no keys", "shorten the key")
    try:
        data[last] = from_yaml(value) if isinstance(value, str) else value
    except NOT_YAML:
        raise UsageError(f"--set {key}: {value!r} is not YAML", "put it in quotes") from None
