"""Continuous batching: samples of any requests are decoded together. They join between two steps,
and leave when they end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

from gentool.decoding import loop
from gentool.decoding.engine import Engine
from gentool.decoding.sampling import finite, top_k_ids
from gentool.errors import UsageError
from gentool.generation.prepared import PreparedRequest, SampleBuilder
from gentool.generation.request import Alternatives, Chunk, Sampled

MAX_ROWS = 64  # rows of several prompts that are decoded together
MAX_ROWS_OF_PROMPT = 512  # rows of one prompt that are decoded together
MAX_TOKENS = 1 << 17  # of the KV caches of all rows together, whatever their number


class Unit(NamedTuple):
    """Samples of one prompt of a request, which join together: their results do not depend on who
    else is there. `key` is the caller's name for the prompt."""

    key: int
    prepared: PreparedRequest
    prompt: int
    samples: range

    @property
    def rows(self) -> int:
        """Rows that it takes."""
        return len(self.samples)

    @property
    def tokens(self) -> int:
        """Tokens that its KV cache takes at most."""
        new = self.prepared.max_new_tokens(self.prompt)
        return len(self.prepared.prompts[self.prompt]) + new * self.rows


class Batch:
    """The rows that are decoded together. `add` units while they fit, `step` until `done`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: loop.DecodeLoop | None = None
        self._shape: tuple[int, int] | None = None  # what all rows of the loop have in common
        self._units: dict[int, Unit] = {}  # by number, while they have rows
        self._rows: dict[int, tuple[int, int, SampleBuilder]] = {}  # unit, sample, text
        self._left: dict[int, int] = {}  # rows of each unit that have not ended
        self._next, self._started = 0, False

    @property
    def done(self) -> bool:
        """Whether no row is left."""
        return not self._rows

    def keys(self) -> list[int]:
        """The keys of units with rows that have not ended, each once."""
        return list(dict.fromkeys(unit.key for unit in self._units.values()))

    def fits(self, unit: Unit) -> bool:
        """Whether a unit can join now. Into an empty batch each can."""
        if self.done:
            return True
        if self._started and not self._engine.runtime.joins_freely:
            return False
        tokens = sum(other.tokens for other in self._units.values())
        return (
            len(self._rows) + unit.rows <= MAX_ROWS
            and tokens + unit.tokens <= MAX_TOKENS
            and self._shape == self._shape_of(unit)
        )

    def add(self, unit: Unit) -> None:
        """Computes the prompt of a unit that fits, and adds its samples."""
        prepared, prompt = unit.prepared, unit.prompt
        request, search = prepared.request, prepared.request.search
        assert isinstance(search, Sampled | Alternatives)
        drawing = options(prepared)
        if self.done:
            self._loop, self._shape = loop.DecodeLoop(self._engine, drawing), self._shape_of(unit)
            self._started = False
        assert self._loop
        number = self._next
        self._units[number], self._left[number], self._next = unit, unit.rows, number + 1
        prefix, logits = self._engine.prefill(prepared.prompts[prompt])
        drawn = [loop.Sample(request.rows[prompt], sample) for sample in unit.samples]
        if isinstance(search, Alternatives):
            first = top_k_ids(finite(logits)[0], request.n)
            if len(first) < request.n:
                raise UsageError(
                    f"{request.n} alternatives, the vocabulary has {len(first)} tokens",
                    "give fewer",
                )
            drawn = [s._replace(forced_first=int(first[s.rng_sample])) for s in drawn]
        computed = prepared.computed(prompt, prefix, logits[0])
        rows = self._loop.add(computed, drawn, drawing, prepared.constraint)
        for row, sample in zip(rows, unit.samples, strict=True):
            self._rows[row] = number, sample, SampleBuilder(prepared, prompt)

    def step(self) -> list[tuple[int, Chunk]]:
        """Draws a token for each row; gives what is new, with the key of its unit."""
        assert self._loop
        self._started = True
        chunks = []
        for token in self._loop.step():
            number, sample, builder = self._rows[token.row]
            unit = self._units[number]
            new, done = builder.push(token)
            if done:
                self._loop.stop(token.row)
                del self._rows[token.row]
                self._left[number] -= 1
                if not self._left[number]:
                    del self._units[number], self._left[number]
            if new or done:
                chunks.append((unit.key, Chunk(unit.prompt, sample, new, done)))
        return chunks

    def _shape_of(self, unit: Unit) -> tuple[int, int]:
        drawing = options(unit.prepared)
        tokens = 0 if self._engine.runtime.joins_freely else drawing.max_new_tokens
        return tokens, drawing.lookup


def units(prepared: PreparedRequest, prompt: int, key: int) -> Iterator[Unit]:
    """The samples of a prompt, in units."""
    n = prepared.request.n
    for first in range(0, n, MAX_ROWS_OF_PROMPT):
        yield Unit(key, prepared, prompt, range(first, min(first + MAX_ROWS_OF_PROMPT, n)))


def run(engine: Engine, waiting: Iterable[Unit]) -> Iterator[Chunk]:
    """Decodes units in their order, as many together as fit; their chunks interleave."""
    batch, left = Batch(engine), iter(waiting)
    unit = next(left, None)
    while unit or not batch.done:
        while unit and batch.fits(unit):
            batch.add(unit)
            unit = next(left, None)
        for _, chunk in batch.step():
            yield chunk


def options(prepared: PreparedRequest) -> loop.DecodeOptions:
    """How the rows of a request are drawn."""
    request, s, search = prepared.request, prepared.sampling, prepared.request.search
    sampled = search if isinstance(search, Sampled) else Sampled()
    return loop.DecodeOptions(
        sampling=replace(s, temperature=0.0) if isinstance(search, Alternatives) else s,
        seed=request.seed,
        max_new_tokens=min(s.max_tokens, prepared.engine.arch.n_ctx),
        min_new_tokens=s.min_tokens,
        end=prepared.ends,
        strata=request.n if sampled.stratified else 0,
        top_logprobs=request.logprobs or 0,
        # products of several tokens sum in another order, so batch-invariant rows get no drafts
        lookup=0 if request.batch_invariant else sampled.lookup,
    )
