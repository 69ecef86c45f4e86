"""Rows of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def take_rows(x: np.ndarray, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """x[indices]; a view of x if `indices` are its first rows in order."""
    count = len(indices)
    return x[:count] if [*indices] == [*range(count)] else x[indices]
