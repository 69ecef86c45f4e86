"""Model families. A family is a module with two tables of shapes (`top_tensors`, `layer_tensors`),
a table of names in checkpoints (`DIALECTS`), and five pure functions over a table of operations
(`gentool.runtimes.ops`): `positional` computes the inputs of layers that depend on positions;
`embed`, `layer`, `final` and `head` are the model. It knows no runtime, KV cache, text or loop.
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
