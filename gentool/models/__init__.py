"""Model families. A family is a module with two tables of shapes (`top_tensors`, `layer_tensors`),
one of names in checkpoints (`DIALECTS`) and five pure functions (`embed`, `qkv`, `merge`, `final`,
`head`); it knows no cache, no text, no loop.

Shape letters, used in every comment: N rows, T tokens in a call, P prefix bucket, M tail bucket,
B prefixes, L layers, D width, H query heads, G key/value heads, E head size, V vocabulary.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

FAMILIES = {
    "gpt2": "gentool.models.gpt2",
    "gpt2_ml": "gentool.models.gpt2_ml",
    "pangu": "gentool.models.pangu",
    "llama": "gentool.models.llama",
    "qwen2": "gentool.models.qwen2",
    "qwen3": "gentool.models.qwen3",
    "gemma": "gentool.models.gemma",
    "gemma2": "gentool.models.gemma2",
}


def load_family(name: str) -> ModuleType:
    """The module of a family named in FAMILIES."""
    return import_module(FAMILIES[name])
