"""Chinese-first text generation on LiteRT and TensorFlow. Importing this imports nothing heavy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gentool.generation.session import Model

__version__ = "0.1.0"
__all__ = ["Sample", "load"]


def load(
    model: str = "tiny-zh",
    precision: str | None = None,
    set: Mapping[str, object] | None = None,
    xla: bool | None = None,
    threads: int | None = None,
    adapter: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
) -> Model:
    """Opens a model: a name, a folder or a YAML file. `set` overrides keys of its YAML, dotted;
    `precision` is the YAML's where it is not given, `threads` (of LiteRT) a core each. `adapter`
    is a folder of PEFT, or several, merged in this order."""
    from gentool.config import lookup
    from gentool.generation import opening

    adapters = [adapter] if isinstance(adapter, str | os.PathLike) else adapter
    chosen = lookup.load(model, set or {}, [os.fspath(folder) for folder in adapters])
    return opening.open_model(chosen, precision or chosen.precision, xla, threads)


def __getattr__(name: str) -> Any:
    if name == "Sample":
        from gentool.generation.request import Sample

        return Sample
    raise AttributeError(f"module 'gentool' has no attribute {name!r}")
