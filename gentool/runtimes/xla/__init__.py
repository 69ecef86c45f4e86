"""The TensorFlow runtime (XLA and oneDNN). TensorFlow is imported by `load`, not by this module."""

from __future__ import annotations

from collections.abc import Callable

from gentool.runtimes import Runtime


def load() -> Callable[..., Runtime]:
    """Imports TensorFlow without its log; returns `gentool.runtimes.xla.runtime.open_runtime`."""
    from gentool.runtimes.xla import device

    device.setup()
    from gentool.runtimes.xla.runtime import open_runtime

    return open_runtime
