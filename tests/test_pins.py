"""An install today and one next year are the same: whatever gentool requires is pinned."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINS = Path(__file__).parents[1] / ".ci/constraints.txt"


def required(name: str, seen: set[str]) -> set[str]:
    """The distributions that an installed one requires here, and those that these require."""
    try:
        lines = requires(name) or []
    except PackageNotFoundError:
        return seen
    for requirement in map(Requirement, lines):
        marker, other = requirement.marker, canonicalize_name(requirement.name)
        if other not in seen and (marker is None or marker.evaluate({"extra": ""})):
            seen.add(other)
            required(other, seen)
    return seen


def test_every_distribution_that_is_required_is_pinned() -> None:
    lines = [line for line in PINS.read_text("utf-8").splitlines() if "==" in line]
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines}
    names = required("gentool", set())
    assert {"tensorflow", "ai-edge-litert"} <= names
    assert not names - pinned
