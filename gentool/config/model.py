"""A model's YAML file as one frozen `ModelConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from gentool.checkpoints import FORMATS
from gentool.config.sampling import SamplingParams
from gentool.config.schema import Strict

Positive = Annotated[int, Field(gt=0, le=1 << 24)]  # no dimension is larger
PositiveFloat = Annotated[float, Field(gt=0)]
Words = Annotated[str, Field(min_length=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# Family, which is the module gentool.models.FAMILY -> how it knows positions.
FAMILIES: dict[str, Literal["learned", "rotary"]] = {
    "gpt2": "learned",
    "gpt2_ml": "learned",
    "pangu": "learned",
    "llama": "rotary",
    "qwen2": "rotary",
    "qwen3": "rotary",
    "gemma": "rotary",
    "gemma2": "rotary",
}
LEARNED_POSITIONS = tuple(name for name, kind in FAMILIES.items() if kind == "learned")

# Kinds of tokenizers, each the module gentool.tokenizers.KIND.
KINDS = ("cpm", "huggingface", "sentencepiece", "wordpiece")


class OneOf(NamedTuple):
    """Tells pydantic that a text is one of these names."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        return {"type": "literal", "expected": list(self.names)}


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


# kind -> how it can split a text into words, first the default: a vocab.json as GPT-2 or Qwen2 do,
# WordPiece as BERT's own code or transformers' do
SPLITS = {"huggingface": ("gpt2", "qwen2"), "wordpiece": ("google", "transformers")}


class TokenizerConfig(Strict):
    """`model` is the vocabulary's file; the keys that are not for every kind name theirs."""

    kind: Annotated[str, OneOf(KINDS)]
    model: Words
    add_bos: bool | None = None  # left out: as the file itself says, and a SentencePiece says no
    add_prefix_space: bool | None = None  # before a text; left out: as the file itself says
    split: Literal["gpt2", "qwen2", "google", "transformers"] | None = None  # see SPLITS
    legacy: bool = False  # SentencePiece: a prefix space after each special token, too
    lower_case: bool = True
    strip_accents: bool | None = None  # left out: where lower_case is
    tokenize_chinese_chars: bool = True  # each a word of its own
    special_tokens: bool = False  # "[CLS]" in a text is that token, not five characters
    end: list[Annotated[int, Field(ge=0)]] | None = None  # left out: as the file itself says

    @model_validator(mode="after")
    def _keys(self) -> TokenizerConfig:
        for key, kinds in {
            "add_bos": ("huggingface", "sentencepiece"),
            "add_prefix_space": ("huggingface", "sentencepiece"),
            "split": ("huggingface", "wordpiece"),
            "legacy": ("sentencepiece",),
            "lower_case": ("wordpiece",),
            "strip_accents": ("wordpiece",),
            "tokenize_chinese_chars": ("wordpiece",),
            "special_tokens": ("sentencepiece", "wordpiece"),
        }.items():
            if key in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"{key} is for kind {' or '.join(kinds)}, not {self.kind}")
        if self.split not in (None, *SPLITS.get(self.kind, ())):
            known = ", ".join(SPLITS[self.kind])
            raise ValueError(f"split {self.split} is not for kind {self.kind}, which has {known}")
        return self


def _listed(value: Any) -> Any:
    """A list of the one text that may stand for it."""
    return [value] if isinstance(value, str) else value


class ModelFile(Strict):
    """The keys of a model's YAML file."""

    name: Words
    family: Annotated[str, OneOf(tuple(FAMILIES))]
    checkpoint: Words
    format: Annotated[str, OneOf(tuple(FORMATS))] | None = None
    arch: Arch
    tokenizer: TokenizerConfig | None = None
    adapter: Annotated[list[Words], BeforeValidator(_listed)] = []  # merged in this order
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8", "int4"] = "auto"
    sampling: SamplingParams = SamplingParams()
    chat_template: Words | None = None  # a name or a file; left out: beside the tokenizer's file
    sha256: dict[Words, Digest] = {}  # of the files above, by path

    @model_validator(mode="after")
    def _consistent(self) -> ModelFile:
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
    """A model's YAML file and the folder its relative paths start from. `source` is the file that
    was read: that YAML, or the one by which a folder describes itself."""

    folder: Path
    source: Path | None = None
