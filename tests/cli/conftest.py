"""Runs in the test's own process, which open a model once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gentool import session


@pytest.fixture(scope="session")
def opened() -> Callable[..., session.Model]:
    """Opens a model once for all runs in this process."""
    really, models = session.open_model, {}

    def open_model(*how: Any) -> session.Model:
        key = repr(how)
        if key not in models:
            models[key] = really(*how)
        return models[key]

    return open_model


@pytest.fixture
def models_stay_open(monkeypatch: pytest.MonkeyPatch, opened: Callable[..., session.Model]) -> None:
    monkeypatch.setattr(session, "open_model", opened)
