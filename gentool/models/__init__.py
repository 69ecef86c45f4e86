"""Model families. A family is a module with two tables of shapes (`top_tensors`, `layer_tensors`),
a table of names in checkpoints (`DIALECTS`), and five pure functions over a table of operations
(`gentool.runtimes.ops`): `positional` computes the inputs of layers that depend on positions;
`embed`, `layer`, `final` and `head` are the model. It knows no runtime, KV cache, text or loop.

To add a family: a row of `gentool.config.model.FAMILIES`, and the module of its name in this
folder.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from gentool.config.model import FAMILIES

__all__ = ["FAMILIES", "load_family"]


def load_family(name: str) -> ModuleType:
    """The module of a family in FAMILIES."""
    return import_module(f"gentool.models.{name}")
