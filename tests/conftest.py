"""Fixtures of several rooms. TensorFlow is imported here, quietly, before any test asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from gentool import device

device.setup()
settings.register_profile("gentool", deadline=None)  # a busy machine is not a failure
settings.load_profile("gentool")


@pytest.fixture(scope="session")
def tiny_weights() -> dict[str, np.ndarray]:
    from tiny import TINY, random_weights

    return random_weights(TINY, seed=0)


@pytest.fixture(scope="session", params=[True, False], ids=["xla", "no-xla"])
def engine(request: pytest.FixtureRequest, tiny_weights: dict[str, np.ndarray]) -> Any:
    from tiny import TINY, make_engine

    return make_engine(TINY, tiny_weights, request.param)
