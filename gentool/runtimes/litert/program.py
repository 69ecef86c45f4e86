"""A graph file, open: its subgraphs as calls on arrays of any number of rows. The only code that
touches LiteRT's process-wide state.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gentool.runtimes.litert.threads import Threads
from gentool.stderr import redirected_stderr


class Program:
    """The subgraphs of a graph file, which share one pool of threads."""

    def __init__(self, graph: str | bytes, threads: Threads, weight_cache: str = "") -> None:
        """`graph` is a file's path, or a file's bytes. Weights packed for the processor
        are mapped from `weight_cache`, or written there if it does not exist."""
        self._one_up_to = threads.one_up_to if threads.total > 1 else 0
        self._model = _compiled(graph, threads.total, weight_cache)
        self._small = _compiled(graph, 1, weight_cache) if self._one_up_to else self._model

    def call(self, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> Call:
        """A subgraph with inputs and outputs of these widths."""
        return Call(self, self._model.get_signature_index(name), inputs, outputs)

    def model(self, rows: int) -> Any:
        """The compiled model for calls of so many rows."""
        return self._small if rows <= self._one_up_to else self._model


def _compiled(graph: str | bytes, threads: int, weight_cache: str) -> Any:
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import CpuOptions, Options

    cpu = CpuOptions(num_threads=threads, xnnpack_weight_cache_path=weight_cache)
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    environment = _environment()
    read = CompiledModel.from_file if isinstance(graph, str) else CompiledModel.from_buffer
    with redirected_stderr():
        return read(graph, environment=environment, options=options)


class Call:
    """A subgraph. Its buffers hold `rows` rows; an output's buffer may be the input of another with
    as many."""

    def __init__(
        self, program: Program, index: int, inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        self._program, self._index = program, index
        self._model = program.model(0)
        self._input_widths, self._output_widths = inputs, outputs
        self.rows = 0
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def resize(self, rows: int) -> None:
        """Makes buffers for `rows` rows."""
        if rows == self.rows:
            return
        self._model = self._program.model(rows)
        for number, width in enumerate(self._input_widths):
            self._model.resize_input_tensor(number, [rows, width], self._index)
        self.inputs = self._model.create_input_buffers(self._index)
        self.outputs = self._model.create_output_buffers(self._index)
        self.rows = rows

    def write(self, number: int, array: np.ndarray) -> None:
        """Sets an input to float32 [rows, width]."""
        self.inputs[number].write(array)

    def run(self) -> None:
        self._model.run_by_index(self._index, self.inputs, self.outputs)

    def read(self, number: int) -> np.ndarray:
        """A copy of an output, float32 [rows, width]."""
        width = self._output_widths[number]
        return self.outputs[number].read(self.rows * width, np.float32).reshape(self.rows, width)


@functools.cache
def _environment() -> Any:
    """LiteRT's environment of this process. LiteRT makes a second environment when the first buffer
    is written; both log to stderr at exit, which is silenced."""
    with redirected_stderr():
        from ai_edge_litert.environment import Environment
        from ai_edge_litert.tensor_buffer import TensorBuffer

        environment = Environment.create()
        buffer = TensorBuffer.create_from_host_memory(np.zeros(16, np.float32))
        buffer.write(np.zeros(16, np.float32))
    atexit.register(_end_quietly)
    return environment


def _end_quietly() -> None:
    """Redirects file descriptor 2 to the null device."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 2)
        os.close(nothing)
