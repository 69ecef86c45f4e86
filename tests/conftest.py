"""Fixtures of several rooms. TensorFlow is imported here, quietly, before any test asks for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from gentool.runtimes.xla import device

# not the user's: what tests keep is removed by `make clean`
CACHE = Path(__file__).parents[1] / ".pytest_cache/user"
CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
os.environ["XDG_CACHE_HOME"] = str(CACHE)
os.environ["TF_XLA_FLAGS"] = f"{device.CACHE_FLAG}="  # what a run compiles is its own
device.setup()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # of a job in the background, for all below
    signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("gentool", deadline=None)  # a busy machine is not a failure
settings.load_profile("gentool")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: last, one of two processes would wait for it."""
    items.sort(key=lambda item: item.path.name != "test_pages.py")


@pytest.fixture(scope="session")
def tiny_weights() -> dict[str, np.ndarray]:
    from tiny import TINY, random_weights

    return random_weights(TINY, seed=0)


@pytest.fixture(scope="session")
def plain(tiny_weights: dict[str, np.ndarray]) -> Any:
    """The engine of laws that any runtime keeps."""
    from tiny import TINY, make_engine

    return make_engine(TINY, tiny_weights)


@pytest.fixture(scope="session", params=["default", "XLA_LAYER"])
def engine(request: pytest.FixtureRequest, tiny_weights: dict[str, np.ndarray]) -> Any:
    """The default runtime, and the compiled layers of XLA."""
    from tiny import TINY, make_engine

    from gentool.runtimes.xla import backend

    return make_engine(TINY, tiny_weights, getattr(backend, request.param, None))
