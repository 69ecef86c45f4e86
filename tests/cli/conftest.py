"""Runs in the test's own process, which open a model once and compile nothing unasked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gentool.generation import opening
from gentool.generation.session import Model


@pytest.fixture(scope="session")
def opened() -> Callable[..., Model]:
    """Opens a model once for all runs in this process. They are of many shapes, a few steps each;
    what a user gets who does not say, compiled layers, the processes of `gentool` compute."""
    really, models = opening.open_model, {}

    def open_model(
        config: Any,
        precision: str | None,
        xla: bool | None,
        threads: int | None = None,
        progress: Any = None,
    ) -> Model:
        how = config, precision, xla or None, threads
        key = repr(how)
        if key not in models:
            models[key] = really(*how)
        return models[key]

    return open_model


@pytest.fixture
def models_stay_open(monkeypatch: pytest.MonkeyPatch, opened: Callable[..., Model]) -> None:
    monkeypatch.setattr(opening, "open_model", opened)
