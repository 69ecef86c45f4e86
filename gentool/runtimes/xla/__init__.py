"""The TensorFlow runtime. Importing this costs nothing; `load` imports TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

from gentool.runtimes import Runtime


def load() -> Callable[..., Runtime]:
    """`gentool.runtimes.xla.runtime.open_runtime`, after TensorFlow is imported quietly."""
    from gentool.runtimes.xla import device

    device.setup()
    from gentool.runtimes.xla.runtime import open_runtime

    return open_runtime
