"""What a folder of an adapter says of itself: PEFT's adapter_config.json. A setting that changes
what the adapter computes is honoured or refused by name."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from gentool.config.folder import ADAPTER, read_json
from gentool.config.schema import Strict, parse
from gentool.errors import ModelError, nearest

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # the first that is there
MERGE_HINT = "merge it with PEFT: merge_and_unload(), then save_pretrained(FOLDER)"

# Keys that are about training, or that only say what the tensors say themselves.
NOT_READ = {
    *("auto_mapping", "task_type", "inference_mode", "revision", "peft_version", "lora_dropout"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "bias", "fan_in_fan_out", "megatron_core", "megatron_config"),
    *("eva_config", "loftq_config", "lora_ga_config", "corda_config", "qalora_group_size"),
    *("runtime_config", "unsloth_fixed", "finetuned_by"),
}
# Keys that change the arithmetic in a way that is not computed here.
UNSUPPORTED = {
    *("alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "kasa_config"),
    *("layer_replication", "lora_bias", "monteclora_config", "target_parameters"),
    *("trainable_token_indices", "use_bdlora", "use_qalora", "velora_config"),
}
# Initialisations that leave the model's own weights as they are; the others subtract from them.
INITIALISATIONS = ("gaussian", "eva", "orthogonal")
# A path, in which \. is a dot, . any character, \d+ a number; .* first and once more.
PATTERN = re.compile(
    r"(?:\^|\.\*)?(?:[\w.-]|\\\.|\\d\+|\[0-9\]\+)*(?:\.\*(?:[\w.-]|\\\.)*)?\$?", re.ASCII
)
MAX_PATTERNS = 1024  # by which one setting is looked up
MAX_PATTERN = 200  # characters

Rank = Annotated[int, Field(gt=0, le=1 << 16)]
Alpha = Annotated[float, Field(ge=-1e9, le=1e9)]


class AdapterConfig(Strict):
    """The keys that are read; those left out have PEFT's defaults."""

    peft_type: Literal["LORA"]
    base_model_name_or_path: str = ""
    r: Rank = 8
    lora_alpha: Alpha = 8
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, Rank] = {}
    alpha_pattern: dict[str, Alpha] = {}

    def rank(self, module: str) -> int:
        """The rank for a module by its path."""
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """The factor of B A for a module by its path."""
        rank = self.rank(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha)
        return alpha / (rank**0.5 if self.use_rslora else rank)


class AdapterFiles(NamedTuple):
    """The files of an adapter, its configuration read and checked."""

    config: AdapterConfig
    config_path: Path
    weights: Path


def read_adapter_config(folder: Path) -> AdapterFiles:
    """The configuration of the adapter in a folder.

    Raises:
        ModelError: the folder holds no LoRA adapter, or one of a kind that is not read.
    """
    path = folder / ADAPTER
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    if not path.is_file() or not weights:
        lacking = " or ".join(WEIGHTS) if path.is_file() else ADAPTER
        raise ModelError(
            f"{folder} is no adapter: it has no {lacking}", "give a folder that PEFT wrote"
        )
    given = {key: value for key, value in read_json(path).items() if not _is_unset(value)}
    kind = given.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{path}: peft_type is {kind!r:.80}", "only LORA is supported")
    for key in sorted(given.keys() & UNSUPPORTED):
        raise ModelError(f"{path}: {key} {given[key]!r:.80} is not supported", MERGE_HINT)
    initialised = given.get("init_lora_weights", True)
    if initialised is not True and initialised not in INITIALISATIONS:
        raise ModelError(
            f"{path}: init_lora_weights {initialised!r:.80} changed the model's own weights, too",
            MERGE_HINT,
        )
    settings = {key: given[key] for key in given.keys() - NOT_READ - {"init_lora_weights"}}
    for key in sorted(settings.keys() - AdapterConfig.model_fields.keys()):
        hint = nearest(key[:80], AdapterConfig.model_fields, "known keys")
        raise ModelError(f"{path}: unknown key {key!r:.80}", hint)
    for name in ("rank_pattern", "alpha_pattern"):
        _check_patterns(path, name, settings.get(name))
    return AdapterFiles(parse(AdapterConfig, settings, str(path), ModelError), path, weights[0])


def _check_patterns(path: Path, name: str, patterns: object) -> None:
    """Refuses patterns that could take long to match."""
    if not isinstance(patterns, dict):
        return  # which the schema says
    if len(patterns) > MAX_PATTERNS:
        hint = f"at most {MAX_PATTERNS} are supported"
        raise ModelError(f"{path}: {name} has {len(patterns)} keys", hint)
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN or not PATTERN.fullmatch(pattern):
            raise ModelError(
                f"{path}: {name} has the key {pattern!r:.80}, which is not supported",
                r"a key is the end of a module's path; it may have \., \d+ and .*",
            )


def _is_unset(value: Any) -> bool:
    """Whether a key has the value that it has when it is left out: null, false or empty."""
    return value is None or value is False or value in ({}, [])


def _by_pattern(patterns: dict[str, Any], module: str, default: float) -> float:
    """The value of the first pattern that matches the end of a path, from a dot on."""
    for pattern, value in patterns.items():
        if _compiled(pattern).match(module):
            return float(value)
    return default


@functools.lru_cache(MAX_PATTERNS)
def _compiled(pattern: str) -> re.Pattern[str]:
    """PEFT's expression of a key, without the second of two .* in a row."""
    return re.compile(f"{pattern}$" if pattern.startswith(".*") else rf"(.*\.)?({pattern})$")
