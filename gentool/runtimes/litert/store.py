"""Graphs kept in the user's cache folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

from gentool.runtimes.litert.lower import Precision, Weights, lower
from gentool.runtimes.litert.program import Program
from gentool.runtimes.litert.record import Recording


def open_program(
    recording: Recording,
    weights: Weights,
    precision: Precision,
    threads: int,
    identity: Callable[[], str] | None,
) -> Program:
    """The program of a recording."""
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        lower(recording, weights, precision).write(file.file, lambda count: None)
        file.flush()
        return Program(file.name, threads)
