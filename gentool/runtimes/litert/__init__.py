"""The LiteRT runtime. Importing this costs nothing; `load` imports it."""

from __future__ import annotations

from collections.abc import Callable

from gentool.runtimes import Runtime


def load() -> Callable[..., Runtime]:
    """`gentool.runtimes.litert.runtime.open_runtime`."""
    from gentool.runtimes.litert.runtime import open_runtime

    return open_runtime
