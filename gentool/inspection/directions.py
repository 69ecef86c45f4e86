"""Directions of the normalised state in which a token's logit is large, and residual streams that
are normalised to them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gentool.inspection.output_layer import OutputLayer, project
from gentool.inspection.proofs import Rows

SAMPLED = 1 << 25  # numbers of the rows whose covariance is computed
CUTOFF = 1e-10  # of eigenvalues, of the largest
LARGE = 1e3  # times the normalised state: beside it a norm's eps is nothing


class Geometry(NamedTuple):
    """Mean and square root of the pseudo-inverse covariance of the rows [U, D] times gain, in the
    space of the normalised state."""

    mean: np.ndarray  # [D]
    root: np.ndarray  # [D, D]


def geometry_of(rows: Rows) -> Geometry:
    """Of every row, or of evenly spread ones of SAMPLED numbers."""
    step = -(-rows.weight.size // SAMPLED)
    sample = project(rows.layer, rows.exact(np.arange(0, len(rows.ids), step)))
    mean = sample.mean(axis=0)
    sample -= mean
    values, vectors = np.linalg.eigh(sample.T @ sample / len(sample))
    kept = values > max(CUTOFF * values[-1], 0)
    root = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    return Geometry(mean, root)


def whitened(rows: Rows, geometry: Geometry, tokens: np.ndarray) -> np.ndarray:
    """Of tokens [B]: the directions [B, D] in which their rows are far out of all rows' cloud."""
    return (rows.exact(tokens) - geometry.mean) @ geometry.root @ geometry.root


def centred(rows: Rows, geometry: Geometry, tokens: np.ndarray) -> np.ndarray:
    """Of tokens [B]: their rows less the mean row [B, D]."""
    return rows.exact(tokens) - geometry.mean


def own(rows: Rows, geometry: Geometry, tokens: np.ndarray) -> np.ndarray:
    """Of tokens [B]: their rows [B, D]."""
    return rows.exact(tokens)


def states(layer: OutputLayer, directions: np.ndarray) -> np.ndarray:
    """Residual streams [B, D] that are normalised to `directions`."""
    directions = project(layer, directions)
    length = np.linalg.norm(directions, axis=-1, keepdims=True)
    length[length == 0] = 1
    return directions * (LARGE * layer.width**0.5 / length)


def leads_over(rows: Rows, tokens: np.ndarray, rivals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """v [B, D] and c [B] of the leads v.n + c of tokens over rivals."""
    lead = project(rows.layer, rows.exact(tokens) - rows.exact(rivals))
    return lead, rows.constants[tokens] - rows.constants[rivals]
