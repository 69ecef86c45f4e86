"""Dialects: how checkpoints of different programs name and lay out a family's weights. Each family
has a literal table, from our names to theirs, for every dialect of its checkpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from gentool.config.adapter import MERGE_HINT

Shapes = Mapping[str, tuple[int, ...]]

_FLOATS = "get the model in float16, bfloat16 or float32"
# Names of tensors of checkpoints that are not read: what they are, what to do.
FOREIGN = {
    r"\.lora_[AB]\.|\.base_layer\.": (
        "of an adapter (LoRA) that is not merged",
        MERGE_HINT,
    ),
    r"\.(qweight|qzeros|g_idx)$": ("of weights quantised by GPTQ or AWQ", _FLOATS),
    r"\.(weight_packed|weight_scale(_inv)?|input_scale)$": (
        "of weights quantised to fp8 or by compressed-tensors",
        _FLOATS,
    ),
    r"\.(SCB|absmax|quant_map|quant_state\..*)$": ("of weights quantised by bitsandbytes", _FLOATS),
    r"^(score|classifier|qa_outputs)\.": (
        "the head of a classifier, which generates no text",
        "get the language model that it was made of",
    ),
    r"^(module|_orig_mod|pretrained_model)\.": (
        "of a state_dict whose names have a wrapper's prefix",
        "save the wrapped model: unwrap it, then save_pretrained(FOLDER)",
    ),
}
VALUE_HEAD = re.compile(r"v_head\.")  # of trl's reinforcement learning; computes no logits
LM_HEAD = "lm_head.weight"  # in the dialect of transformers


class TensorRef(NamedTuple):
    """The tensors of a weight, by name, to be concatenated along their outputs; `transposed` if
    they are stored [in, out]."""

    names: tuple[str, ...]
    transposed: bool = False


class Dialect(NamedTuple):
    """The tensors of all weights, outside the layers and of a layer; {i} in a name is the number of
    the layer. `ignored` is a regular expression for tensors that are not weights."""

    top: Mapping[str, TensorRef]
    layer: Mapping[str, TensorRef]
    ignored: str = r"(?!)"  # matches nothing


def as_stored(*names: str) -> TensorRef:
    """Tensors that are stored [out, in]."""
    return TensorRef(names)


def transposed(*names: str) -> TensorRef:
    """Tensors that are stored [in, out]."""
    return TensorRef(names, transposed=True)


def own(top: Iterable[str], layer: Iterable[str]) -> Dialect:
    """The dialect of our own names, which `gentool train` and `gentool convert` write."""
    return Dialect(
        {name: as_stored(name) for name in top},
        {name: as_stored(f"layers.{{i}}.{name}") for name in layer},
        ignored=r"^padding\.",
    )


def foreign(shapes: Shapes) -> tuple[str, str, str] | None:
    """The first tensor of a checkpoint that is not read, what it is, what to do; None if all may
    be weights."""
    for name in shapes:
        for pattern, (what, hint) in FOREIGN.items():
            if re.search(pattern, name):
                return name, what, hint
    return None


def choose(dialects: Mapping[str, Dialect], shapes: Shapes) -> Dialect | None:
    """The first dialect whose embedding is among the tensors; None if there is none."""
    for dialect in dialects.values():
        if all(name in shapes for name in dialect.top["embedding"].names):
            return dialect
    return None
