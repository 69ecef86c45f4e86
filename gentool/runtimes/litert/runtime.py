"""The LiteRT runtime: one call of a graph from one attention to the next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from gentool.checkpoints import TensorSource
from gentool.config.model import Arch
from gentool.models.weights import Weight, read
from gentool.runtimes.litert import attention, blas, kv_cache, store
from gentool.runtimes.litert.graph import Progress, silent
from gentool.runtimes.litert.identity import graph_name
from gentool.runtimes.litert.kv_cache import HeadShape, PrefixCache, RowCache
from gentool.runtimes.litert.lower import HEAD, Precision, Weights, lower
from gentool.runtimes.litert.positions import PositionInputs, TopWeights
from gentool.runtimes.litert.program import Program
from gentool.runtimes.litert.record import Recording, record
from gentool.runtimes.litert.stack import Attend, Stack, call_of
from gentool.runtimes.litert.threads import available, best_threads, weight_bytes
from gentool.runtimes.litert.workers import Workers
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
    there are cores for this process. `progress` reports quantised weights; they are
    quantised once, as the user's cache folder keeps them. NotEnoughMemory: weights that it does
    not keep need more than is free."""
    shapes = {name: weight.shape for name, weight in plan.items()}
    weights = Weights(shapes, lambda name: read(source, plan[name]))
    threads = threads or available()
    recording = record(family, arch, shapes)
    # a graph that is too large to be kept needs no name, for which all of the file would be read
    kept = source.files and weight_bytes(shapes, precision) <= store.MAX_BYTES
    program = store.open_program(
        lambda: lower(recording, weights, precision),
        best_threads(threads, shapes, precision),
        (lambda: graph_name(family, arch, plan, source, precision)) if kept else None,
        f"{source.files[0]}, {precision}" if source.files else "",
        progress,
    )
    return LiteRTRuntime(family, arch, weights, recording, program, threads)


class LiteRTRuntime:
    """One open model: its graph, the inputs computed outside it, the attention between pieces."""

    exact_prefixes = True
    joins_freely = True

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
        self.family, self.arch, self._workers = family, arch, Workers(threads)
        self._top = TopWeights(weights)
        self._stack = Stack(program, recording, self._workers)
        self._head = call_of(program, HEAD, recording.head)
        self._shapes = tuple(
            HeadShape(attention.key.heads, attention.key.size, attention.value.size)
            for attention in recording.attentions
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
        batch_invariant: bool = False,
    ) -> tuple[PrefixCache, np.ndarray]:
        """See `gentool.runtimes.Runtime`."""
        total = kv_cache.extend_prefix(self._shapes, prefix, len(ids))
        results = []
        for at in range(0, len(ids), CHUNK):
            part = ids[at : at + CHUNK]
            last = at + CHUNK >= len(ids)
            wanted = len(part) if all_positions else int(last)
            out = self._prompt(part, start + at, total, wanted, hidden, batch_invariant)
            results += [out] if wanted else []
        return total, np.concatenate(results) if results[1:] else results[0]

    def crop(self, prefix: PrefixCache, length: int) -> PrefixCache:
        """See `gentool.runtimes.Runtime`; shares the memory."""
        return prefix._replace(length=length)

    def rows(
        self, prefixes: Sequence[PrefixCache], max_new_tokens: int, batch_invariant: bool
    ) -> RowCache:
        """See `gentool.runtimes.Runtime`."""
        return kv_cache.empty(self._shapes, prefixes, max_new_tokens, batch_invariant)

    def join(self, cache: RowCache, prefixes: Sequence[PrefixCache]) -> None:
        """See `gentool.runtimes.Runtime`."""
        cache.prefixes += prefixes

    def keep_prefixes(self, cache: RowCache, kept: Sequence[int], places: np.ndarray) -> None:
        """See `gentool.runtimes.Runtime`."""
        cache.prefixes, cache.owner = [cache.prefixes[place] for place in kept], places[cache.owner]

    def move(
        self, cache: RowCache, owner: np.ndarray, parents: np.ndarray, new_tokens: int
    ) -> None:
        """See `gentool.runtimes.Runtime`."""
        kv_cache.move(cache, owner, parents, new_tokens)

    def worth_shrinking(self, rows: int, wanted: int) -> bool:
        """See `gentool.runtimes.Runtime`: any row less is."""
        return wanted < rows

    def step(
        self, cache: RowCache, tokens: np.ndarray, positions: np.ndarray, hidden: bool
    ) -> np.ndarray:
        """See `gentool.runtimes.Runtime`."""
        n, t = tokens.shape
        plan = attention.step_plan(cache, positions, self.arch.n_head, self._workers)

        def attend(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            q, k, v = (x.reshape(n, t, *x.shape[1:]) for x in (q, k, v))
            scoring = self._scorings[layer]
            context = attention.attend_rows(scoring, self._workers, plan, cache, layer, q, k, v)
            return context.reshape(n * t, -1)

        out = self._run(tokens.reshape(-1), positions.reshape(-1), attend, n * t, hidden)
        kv_cache.advance(cache, t)
        return out.reshape(n, t, -1)

    def rewind(self, cache: RowCache, lengths: np.ndarray) -> None:
        """See `gentool.runtimes.Runtime`."""
        kv_cache.rewind(cache, lengths)

    def row_prefix(self, cache: RowCache, row: int, length: int) -> PrefixCache:
        """See `gentool.runtimes.Runtime`."""
        return kv_cache.row_prefix(cache, row, length)

    def head(self, hidden: np.ndarray, batch_invariant: bool) -> np.ndarray:
        """See `gentool.runtimes.Runtime`; rows do not depend on one another."""
        self._head.resize(len(hidden))
        self._head.write(0, hidden)
        self._head.run()
        return self._head.read(0)

    def describe(self) -> str:
        """The precision and the threads."""
        count = self._workers.threads
        return f"LiteRT, {count} thread" + ("s" if count > 1 else "")

    def _prompt(
        self,
        ids: np.ndarray,
        start: int,
        prefix: PrefixCache,
        wanted: int,
        hidden: bool,
        batch_invariant: bool,
    ) -> np.ndarray:
        """As `_run`, for ids [T] at positions start.., whose keys and values are written to
        `prefix`."""

        def attend(layer: int, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            first = start + len(k) - len(q)
            scoring, kv = self._scorings[layer], prefix.layer(layer)
            context = attention.attend_prompt(
                scoring, self._workers, kv, first, start, q, k, v, batch_invariant
            )
            return context.reshape(len(q), math.prod(context.shape[1:]))

        positions = start + np.arange(len(ids))
        return self._run(ids, positions, attend, wanted, hidden)

    def _run(
        self, ids: np.ndarray, positions: np.ndarray, attend: Attend, wanted: int, hidden: bool
    ) -> np.ndarray:
        """Logits [wanted, V], or `hidden` states, of the last of ids [S] at positions [S]."""
        positional, leaves, rotations = self._positions.at(positions)
        x = self.family.embed(arrays, self.arch, self._top, ids, positional)
        with blas.one_thread():
            last = self._stack.run(x, leaves, rotations, attend, wanted)
        if last is None:
            return np.empty((0, 0), np.float32)
        if hidden:
            return last.read(0)
        self._head.resize(wanted)
        self._head.inputs[0] = last.outputs[0]
        self._head.run()
        return self._head.read(0)
