"""The writer of LiteRT graphs: subgraphs of one model, op by op, as a flatbuffer with the weights
behind it. It knows no family. Tensors are [N, width] in float32, N unknown until a graph is run.
"""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np

ALIGNMENT = 64  # bytes: where weights start in the file
IDENTIFIER = b"TFL3"
BITS = {"float32": 32, "int8": 8, "int4": 4}
COPY_BYTES = 1 << 22

Progress = Callable[[int, int], None]
"""progress(bytes written, bytes of all weights)"""


def silent(written: int, total: int) -> None:
    """Progress that nobody wants to see."""


class Stored(NamedTuple):
    """A weight's data as it lies in the file, and the scales of int8 [out] or int4 [out, in/32]."""

    data: np.ndarray
    scales: np.ndarray | None = None


class Weight(NamedTuple):
    """A weight to be written: `dtype` float32, int8 or int4, its shape, and what reads it when its
    turn comes; `blocks` is the shape of the scales of int4, float16."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Stored]
    blocks: tuple[int, int] | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BITS[self.dtype] // 8


@dataclass
class _Buffer:
    """A weight in the file, with the entries of its own position and that of its scales."""

    number: int
    weight: Weight
    entry: Any
    scales_number: int = 0
    scales_entry: Any = None
    packed: bool = False  # whether XNNPACK packs it: then it is not needed once that is done
    quantizations: list[Any] = field(default_factory=list)  # that take the scales of int8


class GraphWriter:
    """Subgraphs by name, each from `begin` to `end`. A weight that several of them take is written
    once: weights are known by a key."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema = schema
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, b""
        self._model.buffers = [schema.BufferT()]  # the first is that of tensors without data
        self._model.subgraphs, self._model.signatureDefs = [], []
        self._model.operatorCodes, self._codes = [], dict[tuple[int, int], int]()
        self._buffers = dict[str, _Buffer]()
        self._end = 0  # of the flatbuffer in the file, once it is written

    @property
    def nbytes(self) -> int:
        """Of all weights."""
        return sum(buffer.weight.nbytes for buffer in self._buffers.values())

    def begin(self, name: str, inputs: Sequence[int]) -> list[int]:
        """Starts a subgraph with inputs of these widths."""
        self._graph = self._schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = name.encode(), [], []
        self._graph.inputs = [self._tensor(width) for width in inputs]
        return list(self._graph.inputs)

    def end(self, outputs: Sequence[int]) -> None:
        self._graph.outputs = list(outputs)
        signature = self._schema.SignatureDefT()
        signature.signatureKey = self._graph.name
        signature.subgraphIndex = len(self._model.subgraphs)
        signature.inputs = self._named("x", self._graph.inputs)
        signature.outputs = self._named("y", outputs)
        self._model.subgraphs.append(self._graph)
        self._model.signatureDefs.append(signature)

    def linear(self, x: int, key: str, weight: Weight, bias: int, asymmetric: bool) -> int:
        """x times weight [out, in], plus `bias`, which is -1 where there is none. Inputs of a
        quantised product are quantised for each row as it runs."""
        index = self._weight_tensor(key, weight)
        self._buffers[key].packed = True
        options = self._schema.FullyConnectedOptionsT()
        options.asymmetricQuantizeInputs = asymmetric
        version = {"float32": 1, "int8": 3, "int4": 13}[weight.dtype]
        kind = self._schema.BuiltinOptions.FullyConnectedOptions
        return self._op(
            "FULLY_CONNECTED", [x, index, bias], [weight.shape[0]], options, kind, version
        )

    def vector(self, key: str, weight: Weight) -> int:
        """A weight [width] for sums and products with rows."""
        return self._weight_tensor(key, weight)

    def number(self, value: float) -> int:
        return self._constant(np.array([value], np.float32), "FLOAT32")

    def add(self, a: int, b: int) -> int:
        return self._binary("ADD", a, b, self._schema.AddOptionsT(), "AddOptions")

    def sub(self, a: int, b: int) -> int:
        return self._binary("SUB", a, b, self._schema.SubOptionsT(), "SubOptions")

    def mul(self, a: int, b: int) -> int:
        return self._binary("MUL", a, b, self._schema.MulOptionsT(), "MulOptions")

    def mean(self, x: int) -> int:
        """Of each row, [N, 1]."""
        options = self._schema.ReducerOptionsT()
        options.keepDims = True
        axis = self._constant(np.array([1], np.int32), "INT32")
        return self._op("MEAN", [x, axis], [1], options, self._schema.BuiltinOptions.ReducerOptions)

    def rsqrt(self, x: int) -> int:
        return self._op("RSQRT", [x], [self._width(x)])

    def logistic(self, x: int) -> int:
        return self._op("LOGISTIC", [x], [self._width(x)])

    def tanh(self, x: int) -> int:
        return self._op("TANH", [x], [self._width(x)])

    def gelu(self, x: int, approximate: bool) -> int:
        options = self._schema.GeluOptionsT()
        options.approximate = approximate
        kind = self._schema.BuiltinOptions.GeluOptions
        return self._op("GELU", [x], [self._width(x)], options, kind)

    def halves(self, x: int) -> tuple[int, int]:
        """x [N, 2 W] as two [N, W]."""
        options = self._schema.SplitOptionsT()
        options.numSplits = 2
        axis, width = self._constant(np.array(1, np.int32), "INT32"), self._width(x) // 2
        kind = self._schema.BuiltinOptions.SplitOptions
        before = len(self._graph.tensors)
        self._op("SPLIT", [axis, x], [width, width], options, kind)
        return before, before + 1

    def reshape(self, x: int, width: int) -> int:
        """The same numbers as rows of another width."""
        shape = np.array([-1, width], np.int32)
        options = self._schema.ReshapeOptionsT()
        options.newShape = shape
        kind = self._schema.BuiltinOptions.ReshapeOptions
        return self._op("RESHAPE", [x, self._constant(shape, "INT32")], [width], options, kind)

    def write(self, file: BinaryIO, progress: Progress = silent, workers: int = 1) -> None:
        """The whole model. Weights are read and quantised by `workers` threads."""
        self._end = at = -(-len(self._pack()) // ALIGNMENT) * ALIGNMENT
        buffers = list(self._buffers.values())
        written = 0
        for buffer, stored in zip(buffers, _read(buffers, workers), strict=True):
            at = _write_aligned(file, at, buffer.entry, stored.data)
            for quantization in buffer.quantizations:
                quantization.scale = stored.scales
            if buffer.scales_entry is not None and stored.scales is not None:
                at = _write_aligned(file, at, buffer.scales_entry, stored.scales)
            written += buffer.weight.nbytes
            progress(written, self.nbytes)
        file.truncate(at)
        file.seek(0)
        file.write(self._pack().ljust(self._end, b"\0"))

    def write_stub(self, whole: BinaryIO, file: BinaryIO) -> int:
        """What `write` wrote to `whole`, with holes where weights lie that XNNPACK packs; gives the
        bytes of the flatbuffer at its start."""
        ranges = [(0, self._end)]
        for buffer in self._buffers.values():
            entries = [buffer.scales_entry, None if buffer.packed else buffer.entry]
            ranges += [(entry.offset, entry.size) for entry in entries if entry is not None]
        for start, size in ranges:
            whole.seek(start)
            file.seek(start)
            for left in range(size, 0, -COPY_BYTES):
                file.write(whole.read(min(left, COPY_BYTES)))
        file.truncate(whole.seek(0, io.SEEK_END))
        return self._end

    def _named(self, letter: str, tensors: Sequence[int]) -> list[Any]:
        maps = []
        for number, index in enumerate(tensors):
            entry = self._schema.TensorMapT()
            entry.name, entry.tensorIndex = f"{letter}{number}".encode(), index
            maps.append(entry)
        return maps

    def _tensor(self, width: int) -> int:
        """A tensor [N, width]."""
        tensor = self._schema.TensorT()
        tensor.name, tensor.type = b"", self._schema.TensorType.FLOAT32
        tensor.buffer, tensor.hasRank = 0, True
        tensor.shape, tensor.shapeSignature = [1, width], [-1, width]
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _width(self, tensor: int) -> int:
        return self._graph.tensors[tensor].shape[-1]

    def _constant(self, array: np.ndarray, kind: str) -> int:
        """A small constant within the flatbuffer."""
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._data_tensor(array.shape, kind, len(self._model.buffers) - 1)

    def _data_tensor(self, shape: Sequence[int], kind: str, buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.name, tensor.type = b"", getattr(self._schema.TensorType, kind)
        tensor.shape, tensor.hasRank, tensor.buffer = list(shape), True, buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _weight_tensor(self, key: str, weight: Weight) -> int:
        if key not in self._buffers:
            number, entry = self._outside(weight.nbytes)
            buffer = self._buffers[key] = _Buffer(number, weight, entry)
            if weight.blocks:
                scales = self._outside(math.prod(weight.blocks) * 2)
                buffer.scales_number, buffer.scales_entry = scales
        buffer = self._buffers[key]
        index = self._data_tensor(weight.shape, weight.dtype.upper(), buffer.number)
        if weight.dtype != "float32":
            self._graph.tensors[index].quantization = self._quantization(buffer)
        return index

    def _outside(self, size: int) -> tuple[int, Any]:
        """The number and the entry of a buffer that lies behind the flatbuffer."""
        entry = self._schema.BufferT()
        entry.offset, entry.size = 1 << 40, size  # as wide as an offset may be, until it is known
        self._model.buffers.append(entry)
        return len(self._model.buffers) - 1, entry

    def _quantization(self, buffer: _Buffer) -> Any:
        quantization, weight = self._schema.QuantizationParametersT(), buffer.weight
        if weight.blocks is None:
            quantization.scale = np.ones(weight.shape[0], np.float32)
            quantization.zeroPoint = np.zeros(weight.shape[0], np.int64)
            quantization.quantizedDimension = 0
            buffer.quantizations.append(quantization)
            return quantization
        blocks = self._schema.BlockwiseQuantizationT()
        blocks.scales = self._data_tensor(weight.blocks, "FLOAT16", buffer.scales_number)
        blocks.zeroPoints, blocks.blockSize = -1, weight.shape[1] // weight.blocks[1]
        quantization.detailsType = self._schema.QuantizationDetails.BlockwiseQuantization
        quantization.details = blocks
        return quantization

    def _binary(self, code: str, a: int, b: int, options: Any, kind: str) -> int:
        width = max(self._width(a), self._width(b))
        return self._op(code, [a, b], [width], options, getattr(self._schema.BuiltinOptions, kind))

    def _op(
        self,
        code: str,
        inputs: Sequence[int],
        widths: Sequence[int],
        options: Any = None,
        kind: int = 0,
        version: int = 1,
    ) -> int:
        """Adds an operator; gives its first output."""
        number = getattr(self._schema.BuiltinOperator, code)
        if (number, version) not in self._codes:
            entry = self._schema.OperatorCodeT()
            entry.builtinCode, entry.version = number, version
            entry.deprecatedBuiltinCode = min(number, 127)
            self._codes[number, version] = len(self._codes)
            self._model.operatorCodes.append(entry)
        operator = self._schema.OperatorT()
        operator.opcodeIndex, operator.inputs = self._codes[number, version], list(inputs)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        operator.outputs = [self._tensor(width) for width in widths]
        self._graph.operators.append(operator)
        return operator.outputs[0]

    def _pack(self) -> bytes:
        import flatbuffers

        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


def _read(buffers: Sequence[_Buffer], workers: int) -> Iterator[Stored]:
    """Yields the weights in order; `workers` threads read ahead while earlier ones are written."""
    if workers == 1:
        yield from (buffer.weight.read() for buffer in buffers)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting = deque[Future[Stored]]()
        for buffer in buffers:
            if len(waiting) > workers:
                yield waiting.popleft().result()
            waiting.append(pool.submit(buffer.weight.read))
        while waiting:
            yield waiting.popleft().result()


def _write_aligned(file: BinaryIO, at: int, entry: Any, array: np.ndarray) -> int:
    """Writes an array at `at`, has its entry say so, and gives where the next may start."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    file.seek(at)
    file.write(raw.data)
    entry.offset, entry.size = at, raw.nbytes
    return at + -(-raw.nbytes // ALIGNMENT) * ALIGNMENT
