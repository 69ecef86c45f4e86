"""The pieces of a model's stack, run one after the other with attention between them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gentool.runtimes.litert.positions import Rotations
from gentool.runtimes.litert.program import Call, Program
from gentool.runtimes.litert.record import AttentionInputs, Operand, Piece, Recording, Value
from gentool.runtimes.litert.workers import Workers

Attend = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""attend(layer, q [Q, H, E] of the last rows, k [S, G, E], v [S, G, Ev]) -> context [Q, H*Ev]"""


class _Source(NamedTuple):
    """Where an input of a piece comes from: x, a positional input, the context, or another piece
    and the number of its output."""

    kind: str
    number: int = 0
    output: int = 0


class _Slice(NamedTuple):
    """Heads within an output of a piece, and the rotation that they still need."""

    output: int
    start: int
    stop: int
    size: int
    rotation: tuple[int, int] | None


class _Heads(NamedTuple):
    """Queries, keys and values within the outputs of a piece; `joint` are queries and keys, if they
    are neighbours that rotate alike, of which `n_head` are queries."""

    query: _Slice
    key: _Slice
    value: _Slice
    joint: _Slice | None
    n_head: int


class Stack:
    """A model between embedding and head."""

    def __init__(self, program: Program, recording: Recording, workers: Workers) -> None:
        pieces, self._workers = recording.pieces, workers
        self._calls = [call_of(program, str(n), piece) for n, piece in enumerate(pieces)]
        self._sources = [[_source(recording, x) for x in piece.inputs] for piece in pieces]
        self._heads = [
            _heads(piece, attention)
            for piece, attention in zip(pieces[:-1], recording.attentions, strict=True)
        ]

    def run(
        self,
        x: np.ndarray,
        leaves: Sequence[np.ndarray],
        rotations: Rotations,
        attend: Attend,
        wanted: int,
    ) -> Call | None:
        """The last piece, whose output holds hidden states [wanted, D] of the last rows of x
        [S, D]; None where `wanted` is 0. The last layer computes no other rows."""
        count, last = len(x), len(self._calls) - 1
        context = x  # until there is one
        for number, call in enumerate(self._calls[:-1] if not wanted else self._calls):
            rows = wanted if number == last else count
            call.resize(rows)
            for at, (kind, source, output) in enumerate(self._sources[number]):
                if kind == "context":
                    call.write(at, context)
                elif kind == "piece" and rows == count:
                    call.inputs[at] = self._calls[source].outputs[output]
                else:
                    if kind == "x":
                        array = x
                    elif kind == "piece":
                        array = self._calls[source].read(output)
                    else:
                        array = leaves[source]
                    call.write(at, array[count - rows :])
            call.run()
            if number < last:
                q, k, v = self._read(call, self._heads[number], rotations)
                asked = wanted if number == last - 1 else count
                context = attend(number, q if asked == count else q[count - asked :], k, v)
        return self._calls[-1] if wanted else None

    def _read(
        self, call: Call, heads: _Heads, rotations: Rotations
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """q [S, H, E], k [S, G, E] and v [S, G, Ev] out of a piece."""
        outputs: dict[int, np.ndarray] = {}

        def cut(part: _Slice) -> np.ndarray:
            if part.output not in outputs:
                outputs[part.output] = call.read(part.output)
            x = outputs[part.output][:, part.start : part.stop].reshape(call.rows, -1, part.size)
            return x if part.rotation is None else self._rotated(x, *rotations[part.rotation])

        if heads.joint is None:
            return cut(heads.query), cut(heads.key), cut(heads.value)
        both = cut(heads.joint)
        return both[:, : heads.n_head], both[:, heads.n_head :], cut(heads.value)

    def _rotated(self, x: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
        """x [S, H, E] with the halves of each head rotated by cosines and sines [S, 1, 2, E/2] that
        are doubled, the first half of the sines negated."""
        halves = x.reshape(*x.shape[:2], 2, -1)
        rows = self._workers.parts(len(x), x.size) if len(x) > 1 else ()
        if len(rows) <= 1:
            turned = halves[:, :, ::-1] * sines
            turned += halves * cosines
            return turned.reshape(x.shape)
        turned = np.empty(halves.shape, np.float32)

        def rotate(part: slice) -> None:
            np.multiply(halves[part, :, ::-1], sines[part], out=turned[part])
            turned[part] += halves[part] * cosines[part]

        self._workers.run([functools.partial(rotate, part) for part in rows])
        return turned.reshape(x.shape)


def call_of(program: Program, name: str, piece: Piece) -> Call:
    return program.call(name, [x.width for x in piece.inputs], [y.width for y in piece.outputs])


def _heads(piece: Piece, attention: AttentionInputs) -> _Heads:
    """The slices of a piece's outputs that its attention reads."""
    query, key, value = (_slice(piece, operand) for operand in attention)
    joint = None
    alike = (query.output, query.size, query.rotation) == (key.output, key.size, key.rotation)
    if query.rotation and alike and query.stop == key.start:
        joint = query._replace(stop=key.stop)
    return _Heads(query, key, value, joint, attention.query.heads)


def _slice(piece: Piece, operand: Operand) -> _Slice:
    output = next(i for i, value in enumerate(piece.outputs) if value is operand.value)
    stop = operand.start + operand.heads * operand.size
    return _Slice(output, operand.start, stop, operand.size, operand.rotation)


def _source(recording: Recording, value: Value) -> _Source:
    if value is recording.x:
        return _Source("x")
    for index, leaf in enumerate(recording.positional):
        if value is leaf:
            return _Source("positional", index)
    if value.op == "context":
        return _Source("context")
    outputs = recording.pieces[value.piece].outputs
    output = next(i for i, other in enumerate(outputs) if other is value)
    return _Source("piece", value.piece, output)
