"""The decode loop: draws rows that share prefixes token by token until each has ended. It knows ids
and end tokens; text, and so stop strings, belong to the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gentool.config.sampling import SamplingParams
from gentool.decoding.engine import Engine, Prefix, Rows
from gentool.decoding.filters import adjusted
from gentool.decoding.lookup import Drafter
from gentool.decoding.sampling import (
    RandomNumbers,
    finite,
    log_probabilities,
    normalized,
    pick,
    top_k_ids,
)
from gentool.runtimes.rows import take_rows

if TYPE_CHECKING:
    from gentool.decoding.constraints import Constraint


class Prompt(NamedTuple):
    """A computed prompt: its ids, its prefix, the logits [V] after it, and the maximum number of
    new tokens of a row."""

    ids: np.ndarray
    prefix: Prefix
    logits: np.ndarray
    max_new_tokens: int


class Sample(NamedTuple):
    """A sample of a prompt: the two keys of its random numbers, and the token it must begin with,
    if any."""

    rng_row: int
    rng_sample: int
    forced_first: int | None = None


class DecodeOptions(NamedTuple):
    """How rows are drawn. `end` tokens end a row and are forbidden in its first `min_new_tokens`;
    `max_new_tokens` is the largest of any prompt, so that shapes do not depend on the other rows;
    `strata` is the number of stratified samples of a prompt, or 0 for independent ones; at each
    step the `top_logprobs` most probable tokens are recorded, and `lookup` tokens are drafted from
    the text so far."""

    sampling: SamplingParams
    seed: int
    max_new_tokens: int
    min_new_tokens: int = 0
    end: frozenset[int] = frozenset()
    strata: int = 0
    top_logprobs: int = 0
    lookup: int = 0


class Token(NamedTuple):
    """A drawn token of a row. `ended` if it is an end token; `complete` if the constraint allows no
    token after it and the model has no end token to draw."""

    row: int
    id: int
    log_probability: float  # under the model itself, before any filter
    ended: bool
    complete: bool = False
    top_logprobs: tuple[tuple[int, float], ...] = ()


class _RowState:
    """The state of one row."""

    def __init__(self, prompt: int, keys: Sample, lookup: int, constraint: Any) -> None:
        self.prompt, self.keys = prompt, keys
        self.constraint = constraint  # its ConstraintState, if there is a constraint
        self.output: list[int] = []
        self.drafter, self.draft = Drafter(lookup), list[int]()
        self.length_when_drafted = 0  # tokens of the output when `draft` was made
        self.stopped = False


class DecodeLoop:
    """Rows between two steps. Call `add` before the first step or between any two, `step` until
    `done`, and `stop` to end a row early."""

    def __init__(
        self, engine: Engine, options: DecodeOptions, constraint: Constraint | None = None
    ) -> None:
        self._engine, self._options, self._constraint = engine, options, constraint
        self._prompts: list[Prompt] = []
        self._rows: list[_RowState] = []
        self._numbers = RandomNumbers(options.seed, options.strata)
        self._cache: Rows | None = None
        self._slot: dict[int, int] = {}  # row -> its slot: index in the KV cache and in the logits
        self._logits: np.ndarray | None = None  # [slots, T, V] of the last step of the model
        self._column = 0  # index into T of the logits that are drawn from next
        self._joining: list[int] = []  # rows that are not in the KV cache yet
        self._accepted: list[int] = []  # rows whose draft came true: they draw from the next column
        self._live: list[int] = []  # rows of the current step of the model, and those that join it

    @property
    def done(self) -> bool:
        """Whether all rows have ended."""
        return not self._joining and all(self._rows[row].stopped for row in self._live)

    def add(self, prompt: Prompt, samples: Sequence[Sample]) -> range:
        """Adds samples of a prompt; returns their row numbers."""
        first = len(self._rows)
        constraint = self._constraint.start(prompt.ids.tolist()) if self._constraint else None
        lookup = self._options.lookup
        self._rows += [_RowState(len(self._prompts), keys, lookup, constraint) for keys in samples]
        self._prompts.append(prompt)
        self._numbers.add([keys.rng_row for keys in samples], [keys.rng_sample for keys in samples])
        rows = range(first, len(self._rows))
        self._joining += rows
        return rows

    def stop(self, row: int) -> None:
        """Ends a row: it draws no more tokens."""
        self._rows[row].stopped = True

    def computed(self, row: int) -> tuple[list[int], Prefix]:
        """The tokens of a row that are in the KV cache, all but the last one, and the prefix of its
        prompt and these. The row took part in the last step."""
        output, prompt = self._rows[row].output, self._prompts[self._rows[row].prompt]
        if self._cache is None or row not in self._slot:  # it ended with its first token
            return [], prompt.prefix
        slot = self._slot[row]
        count = min(len(output) - 1, int(self._cache.length[slot]))
        return output[:count], self._engine.row_prefix(self._cache, slot, count)

    def step(self) -> list[Token]:
        """Draws one token for each row that has logits to draw from; if none has, runs a step of
        the model first. Rows whose drafts come true draw several times between two such steps."""
        drawing = [row for row in self._accepted if not self._rows[row].stopped]
        joining: list[int] = []
        if not drawing:
            self._live = [row for row in self._live if not self._rows[row].stopped]
            joining = [row for row in self._joining if not self._rows[row].stopped]
            self._joining = []
            if self._live:
                self._compute()
            drawing = list(self._live)
            self._live = drawing + joining
            self._column = 0
        tokens = self._draw(drawing + joining, self._current_logits(drawing, joining))
        self._accepted = []
        for token in tokens:
            state = self._rows[token.row]
            is_last = len(state.output) >= self._prompts[state.prompt].max_new_tokens
            state.stopped = token.ended or token.complete or is_last
            if state.draft[self._column : self._column + 1] == [token.id]:
                self._accepted.append(token.row)
        self._column += 1
        return tokens

    def _current_logits(self, drawing: list[int], joining: list[int]) -> np.ndarray:
        """The logits [n, V] of rows in the KV cache, then those of the prompts of new rows."""
        first = [self._prompts[self._rows[row].prompt].logits for row in joining]
        if self._logits is None or not drawing:
            return np.stack(first)
        slots = [self._slot[row] for row in drawing]
        current = take_rows(self._logits[:, self._column], slots)
        return np.concatenate([current, np.stack(first)]) if first else current

    def _compute(self) -> None:
        """Runs a step of the model for all live rows and the tokens drafted for them."""
        options, live = self._options, self._live
        if options.lookup:
            self._draft()
        drafted = any(self._rows[row].draft for row in live)
        present = list(self._slot)
        if self._cache is not None and options.lookup:
            kept = [max(0, len(self._rows[row].output) - 1) for row in present]
            self._engine.rewind(self._cache, np.array(kept))
        rows = live
        joined = any(row not in self._slot for row in live)
        if (
            present
            and not joined
            and not self._engine.runtime.worth_shrinking(len(present), len(live))
        ):
            rows = present  # stopped rows are still computed: cheaper here than another shape
        new, alive = np.zeros((len(rows), 1 + options.lookup * drafted), int), set(live)
        for slot, row in enumerate(rows):
            if row in alive:
                state = self._rows[row]
                tokens = [state.output[-1], *state.draft]
                new[slot, : len(tokens)] = tokens
        self._cache, self._logits = self._engine.extend(
            [prompt.prefix for prompt in self._prompts],
            self._cache,
            [self._rows[row].prompt for row in rows],
            [self._slot.get(row, -1) for row in rows],
            new,
            max_new_tokens=options.max_new_tokens + options.lookup,
        )
        self._slot = {row: slot for slot, row in enumerate(rows)}

    def _draft(self) -> None:
        """Records how many tokens of the last drafts were accepted, and drafts the next tokens of
        each live row."""
        for row in self._live:
            state = self._rows[row]
            accepted = len(state.output) - state.length_when_drafted - 1
            state.drafter.record(len(state.draft), accepted)
            prompt = self._prompts[state.prompt].ids.tolist()
            state.draft = state.drafter.draft([*prompt, *state.output])
            state.length_when_drafted = len(state.output)

    def _draw(self, rows: list[int], current: np.ndarray) -> list[Token]:
        """Draws one token for each of `rows`, whose logits are `current` [n, V]."""
        options, states = self._options, [self._rows[row] for row in rows]
        prompts = [self._prompts[state.prompt].ids for state in states]
        outputs = [state.output for state in states]
        allowed = adjusted(finite(current), options.sampling, prompts, outputs)
        allowed = self._masked(allowed, current, states)
        indices, steps = np.array(rows), np.array([len(output) for output in outputs])
        drawn = pick(allowed, options.sampling, self._numbers.at(indices, steps))
        self._numbers.rescale(indices, drawn.low, drawn.high)
        forced = [state.keys.forced_first if not state.output else None for state in states]
        ids = [id if f is None else f for id, f in zip(drawn.ids.tolist(), forced, strict=True)]
        logprobs = log_probabilities(current, np.array(ids))
        all_logprobs = normalized(current) if options.top_logprobs else None
        tokens = []
        for index, (row, state, id) in enumerate(zip(rows, states, ids, strict=True)):
            state.output.append(id)
            complete = False
            if self._constraint:
                state.constraint = self._constraint.after(state.constraint, id)
                complete = not options.end and self._constraint.only_ends(state.constraint)
            top: tuple[tuple[int, float], ...] = ()
            if all_logprobs is not None:
                top_ids = top_k_ids(all_logprobs[index], options.top_logprobs)
                top = tuple((int(i), float(all_logprobs[index, i])) for i in top_ids)
            ended = id in options.end
            tokens.append(Token(row, id, float(logprobs[index]), ended, complete, top))
        return tokens

    def _masked(
        self, logits: np.ndarray, original: np.ndarray, states: Sequence[_RowState]
    ) -> np.ndarray:
        """Logits [n, V] with -inf for tokens that the constraint or `min_new_tokens` forbids. They
        are changed in place, but copied if they are the `original` ones."""
        constraint, options = self._constraint, self._options
        masks = [constraint.allowed(s.constraint) if constraint else None for s in states]
        too_short = [
            index
            for index, state in enumerate(states)
            # a complete text has to end, however short it is
            if len(state.output) < options.min_new_tokens
            and not (constraint and constraint.only_ends(state.constraint))
        ]
        if not too_short and all(mask is None for mask in masks):
            return logits
        logits = logits.copy() if logits is original else logits
        logits[np.ix_(too_short, sorted(options.end))] = -np.inf
        for index, mask in enumerate(masks):
            if mask is not None:
                logits[index, ~mask] = -np.inf
        return logits
