"""The LiteRT runtime: one call of a graph from one attention to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

import numpy as np

from gentool.checkpoints import TensorSource
from gentool.config.model import Arch
from gentool.models.weights import Weight, read
from gentool.runtimes.litert import attention, kv_cache, store
from gentool.runtimes.litert.graph import Progress, silent
from gentool.runtimes.litert.identity import graph_name
from gentool.runtimes.litert.kv_cache import HeadShape, PrefixCache, RowCache
from gentool.runtimes.litert.lower import HEAD, Precision, Weights, lower
from gentool.runtimes.litert.positions import PositionInputs, Rotations, TopWeights
from gentool.runtimes.litert.program import Call, Program
from gentool.runtimes.litert.record import Recording, Value, record
from gentool.runtimes.litert.threads import available
from gentool.runtimes.numpy_ops import arrays

CHUNK = 512  # tokens of a prompt in one pass


def open_runtime(
    family: ModuleType,
    arch: Arch,
    plan: Mapping[str, Weight],
    source: TensorSource,
    precision: Precision,
    threads: int | None = None,
    progress: Progress = silent,
) -> LiteRTRuntime:
    """Opens a checkpoint's weights in fp32, int8 or int4, computed with `threads`; None: as many as
    there are cores for this process. `progress` is told of weights that are quantised, which is
    done once: the user's cache folder keeps them."""
    shapes = {name: weight.shape for name, weight in plan.items()}
    weights = Weights(shapes, lambda name: read(source, plan[name]))
    threads = threads or available()
    recording = record(family, arch, shapes)
    program = store.open_program(
        lambda: lower(recording, weights, precision),
        threads,
        (lambda: graph_name(family, arch, plan, source, precision)) if source.files else None,
        f"{source.files[0]}, {precision}" if source.files else "",
        progress,
    )
    return LiteRTRuntime(family, arch, weights, recording, program, threads)


Attend = Callable[[int, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class LiteRTRuntime:
    """One open model: its graph, what is computed outside it, and the attention between."""

    def __init__(
        self,
        family: ModuleType,
        arch: Arch,
        weights: Weights,
        recording: Recording,
        program: Program,
        threads: int,
    ) -> None:
        """`weights` are those that `program` was made of; only some outside the layers are read."""
        self.family, self.arch, self._threads = family, arch, threads
        self._top, self._recording = TopWeights(weights), recording
        self._calls = [
            _call(program, str(number), piece.inputs, piece.outputs)
            for number, piece in enumerate(recording.pieces)
        ]
        self._head = _call(program, HEAD, recording.head.inputs, recording.head.outputs)
        self._sources = [
            [self._source(value, number) for value in piece.inputs]
            for number, piece in enumerate(recording.pieces)
        ]
        self._shapes = tuple(
            HeadShape(cut.key.heads, cut.key.size, cut.value.size) for cut in recording.cuts
        )
        self._scorings = [
            attention.scoring(arch, index, shape.key) for index, shape in enumerate(self._shapes)
        ]
        self._positions = PositionInputs(family, arch, self._top, recording)

    def prefill(
        self,
        ids: np.ndarray,
        start: int,
        prefix: PrefixCache | None,
        all_positions: bool,
        hidden: bool,
    ) -> tuple[PrefixCache, np.ndarray]:
        """See `gentool.runtimes.Runtime`."""
        total = kv_cache.longer(self._shapes, prefix, len(ids))
        results = []
        for at in range(0, len(ids), CHUNK):
            part = ids[at : at + CHUNK]
            last = at + CHUNK >= len(ids)
            wanted = len(part) if all_positions else int(last)
            out = self._prompt(part, start + at, total, wanted)
            if wanted:
                results.append(out if hidden else self.head(out, False))
        return total, np.concatenate(results) if results[1:] else results[0]

    def rows(
        self, prefixes: Sequence[PrefixCache], max_new_tokens: int, batch_invariant: bool
    ) -> RowCache:
        """See `gentool.runtimes.Runtime`."""
        return kv_cache.empty(self._shapes, prefixes, max_new_tokens)

    def join(self, cache: RowCache, prefixes: Sequence[PrefixCache]) -> None:
        """See `gentool.runtimes.Runtime`."""
        cache.prefixes += prefixes

    def move(
        self, cache: RowCache, owner: np.ndarray, parents: np.ndarray, new_tokens: int
    ) -> None:
        """See `gentool.runtimes.Runtime`."""
        kv_cache.move(cache, owner, parents, new_tokens)

    def shrinks(self, rows: int, wanted: int) -> bool:
        """See `gentool.runtimes.Runtime`: any row less is."""
        return wanted < rows

    def step(
        self, cache: RowCache, tokens: np.ndarray, positions: np.ndarray, hidden: bool
    ) -> np.ndarray:
        """See `gentool.runtimes.Runtime`."""
        n, t = tokens.shape
        plan = attention.step_plan(cache, positions)

        def attend(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            q, k, v = (x.reshape(n, t, *x.shape[1:]) for x in (q, k, v))
            context = attention.attend_rows(self._scorings[layer], plan, cache, layer, q, k, v)
            return context.reshape(n * t, -1)

        out = self._stack(tokens.reshape(-1), positions.reshape(-1), attend, n * t)
        cache.length = cache.length + t
        out = out if hidden else self.head(out, False)
        return out.reshape(n, t, -1)

    def rewind(self, cache: RowCache, lengths: np.ndarray) -> None:
        """See `gentool.runtimes.Runtime`."""
        cache.length = np.minimum(cache.length, lengths)

    def head(self, hidden: np.ndarray, batch_invariant: bool) -> np.ndarray:
        """See `gentool.runtimes.Runtime`; rows do not depend on one another."""
        self._head.resize(len(hidden))
        self._head.write(0, hidden)
        self._head.run()
        return self._head.read(0)

    def describe(self) -> str:
        """The precision and the threads."""
        threads = f"{self._threads} thread" + ("s" if self._threads > 1 else "")
        return f"LiteRT, {threads}"

    def _prompt(self, ids: np.ndarray, start: int, prefix: PrefixCache, wanted: int) -> np.ndarray:
        """Hidden states [wanted, D] of the last of ids [T] at positions start.., whose keys and
        values are written to `prefix`. Of the last layer no others are computed."""

        def attend(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            first = start + len(k) - len(q)
            kv = prefix.layer(layer)
            context = attention.attend_prompt(self._scorings[layer], kv, first, start, q, k, v)
            return context.reshape(len(q), math.prod(context.shape[1:]))

        positions = start + np.arange(len(ids))
        return self._stack(ids, positions, attend, wanted)

    def _stack(
        self, ids: np.ndarray, positions: np.ndarray, attend: Attend, wanted: int
    ) -> np.ndarray:
        """Hidden states [wanted, D] of the last of ids [R] at positions [R]."""
        count, last = len(ids), len(self._calls) - 1
        positional, leaves, rotations = self._positions.at(positions)
        x = self.family.embed(arrays, self.arch, self._top, ids, positional)
        context = x  # until there is one
        for number, call in enumerate(self._calls):
            rows = wanted if number == last else count
            if number == last and not wanted:
                break
            call.resize(rows)
            for at, (kind, index, output) in enumerate(self._sources[number]):
                if kind == "x":
                    call.write(at, x[count - rows :])
                elif kind == "positional":
                    call.write(at, leaves[index][count - rows :])
                elif kind == "context":
                    call.write(at, context)
                elif rows == count:
                    call.inputs[at] = self._calls[index].outputs[output]
                else:
                    call.write(at, self._calls[index].read(output)[count - rows :])
            call.run()
            if number < last:
                asked = wanted if number == last - 1 else count
                context = self._attend(number, call, rotations, attend, asked)
        return call.read(0) if wanted else np.empty((0, self.arch.d_model), np.float32)

    def _attend(
        self,
        number: int,
        call: Call,
        rotations: Rotations,
        attend: Attend,
        asked: int,
    ) -> np.ndarray:
        """The context after a piece, of the last `asked` rows."""
        outputs = self._recording.pieces[number].outputs
        read: dict[int, np.ndarray] = {}
        heads = []
        for operand in self._recording.cuts[number]:
            value = operand.value
            if id(value) not in read:
                at = next(i for i, output in enumerate(outputs) if output is value)
                read[id(value)] = call.read(at)
            x = read[id(value)]
            x = x[:, operand.start : operand.start + operand.heads * operand.size]
            x = x.reshape(len(x), operand.heads, operand.size)
            if operand.rotation:
                x = attention.rotated(x, *rotations[operand.rotation])
            heads.append(x)
        q, k, v = heads
        return attend(number, q[len(q) - asked :], k, v)

    def _source(self, value: Value, number: int) -> tuple[str, int, int]:
        """Where an input of a piece comes from: its kind, and the number of the leaf, or those of
        another piece and its output."""
        recording = self._recording
        if value is recording.x:
            return "x", 0, 0
        for index, leaf in enumerate(recording.positional):
            if value is leaf:
                return "positional", index, 0
        if value.op == "context":
            return "context", 0, 0
        for at, output in enumerate(recording.pieces[value.piece].outputs):
            if value is output:
                return "piece", value.piece, at
        raise ValueError(f"piece {number} takes a {value.op} that no piece gives")


def _call(program: Program, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> Call:
    return program.call(name, [x.width for x in inputs], [y.width for y in outputs])
