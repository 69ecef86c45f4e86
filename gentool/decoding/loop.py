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
    Draws,
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

MIN_FORGOTTEN = 64  # ended rows, from which it pays to drop them


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
    """How rows are drawn; rows of one loop may have different ones, but for `max_new_tokens` and
    `lookup`. `end` tokens end a row and are forbidden in its first `min_new_tokens`;
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
    """The state of one row. `prompt` and `number` are its places in the loop's lists."""

    def __init__(
        self,
        prompt: int,
        number: int,
        keys: Sample,
        options: DecodeOptions,
        constraint: Constraint | None,
        constraint_state: Any,
        lookup: int,
    ) -> None:
        self.prompt, self.number, self.keys, self.options = prompt, number, keys, options
        self.constraint, self.constraint_state = constraint, constraint_state
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
        self._rows: dict[int, _RowState] = {}
        self._next_row = 0
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

    def add(
        self,
        prompt: Prompt,
        samples: Sequence[Sample],
        options: DecodeOptions | None = None,
        constraint: Constraint | None = None,
    ) -> range:
        """Adds samples of a prompt; returns their row numbers. Without `options` of their own they
        are drawn as the loop says, options and constraint."""
        if options is None:
            options, constraint = self._options, self._constraint
        state = constraint.start(prompt.ids.tolist()) if constraint else None
        rows = range(self._next_row, self._next_row + len(samples))
        place, number = len(self._prompts), len(self._rows)
        for row, keys in zip(rows, samples, strict=True):
            self._rows[row] = _RowState(
                place, number, keys, options, constraint, state, self._options.lookup
            )
            number += 1
        self._prompts.append(prompt)
        rng_rows, rng_samples = zip(*((k.rng_row, k.rng_sample) for k in samples), strict=True)
        self._numbers.add(rng_rows, rng_samples, options.seed, options.strata)
        self._next_row = rows.stop
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
            self._forget()
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

    def _forget(self) -> None:
        """Drops the prompts and rows that have ended, once they are as many as the others, so that
        a loop that rows join and leave takes no more memory than these."""
        kept = {*self._live, *self._joining, *self._slot}
        if len(self._rows) < 2 * len(kept) + MIN_FORGOTTEN:
            return
        self._rows = {row: state for row, state in self._rows.items() if row in kept}
        states = list(self._rows.values())
        self._numbers.keep([state.number for state in states])
        prompts = sorted({state.prompt for state in states})
        self._prompts = [self._prompts[prompt] for prompt in prompts]
        if self._cache is not None:
            self._engine.keep_prefixes(self._cache, prompts)
        places = {prompt: place for place, prompt in enumerate(prompts)}
        for number, state in enumerate(states):
            state.number, state.prompt = number, places[state.prompt]

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
        states = [self._rows[row] for row in rows]
        numbers = np.array([state.number for state in states])
        steps = np.array([len(state.output) for state in states])
        drawn = self._pick(states, finite(current), self._numbers.at(numbers, steps))
        self._numbers.rescale(numbers, drawn.low, drawn.high)
        forced = [state.keys.forced_first if not state.output else None for state in states]
        ids = [id if f is None else f for id, f in zip(drawn.ids.tolist(), forced, strict=True)]
        logprobs = drawn.logprobs
        unknown = np.flatnonzero(np.isnan(logprobs) | (drawn.ids != ids))
        if len(unknown):
            chosen = np.array(ids)[unknown]
            logprobs[unknown] = log_probabilities(take_rows(current, unknown), chosen)
        tokens = []
        for index, (row, state, id) in enumerate(zip(rows, states, ids, strict=True)):
            options = state.options
            state.output.append(id)
            complete = False
            if state.constraint:
                state.constraint_state = state.constraint.after(state.constraint_state, id)
                complete = not options.end and state.constraint.only_ends(state.constraint_state)
            top: tuple[tuple[int, float], ...] = ()
            if options.top_logprobs:
                all_logprobs = normalized(current[index])
                top_ids = top_k_ids(all_logprobs, options.top_logprobs)
                top = tuple((int(i), float(all_logprobs[i])) for i in top_ids)
            ended = id in options.end
            tokens.append(Token(row, id, float(logprobs[index]), ended, complete, top))
        return tokens

    def _pick(self, states: Sequence[_RowState], current: np.ndarray, u: np.ndarray) -> Draws:
        """Draws one id for each row of logits [n, V], by the numbers u [n]; rows of one sampling
        distribution together."""
        alike: dict[int, list[int]] = {}
        for index, state in enumerate(states):
            alike.setdefault(id(state.options.sampling), []).append(index)
        draws = Draws(np.zeros(len(states), int), *np.zeros((3, len(states))))
        for indices in alike.values():
            group = [states[index] for index in indices]
            logits, sampling = take_rows(current, indices), group[0].options.sampling
            prompts = [self._prompts[state.prompt].ids for state in group]
            allowed = adjusted(logits, sampling, prompts, [state.output for state in group])
            allowed = self._masked(allowed, logits, group)
            strata = any(state.options.strata for state in group)
            drawn = pick(allowed, sampling, u[indices], intervals=strata)
            if allowed is not logits:  # the probabilities of others than the model's logits
                drawn.logprobs[:] = np.nan
            for values, part in zip(draws, drawn, strict=True):
                values[indices] = part
        return draws

    def _masked(
        self, logits: np.ndarray, original: np.ndarray, states: Sequence[_RowState]
    ) -> np.ndarray:
        """Logits [n, V] with -inf for tokens that the constraint or `min_new_tokens` forbids. They
        are changed in place, but copied if they are the `original` ones."""
        masks = [s.constraint.allowed(s.constraint_state) if s.constraint else None for s in states]
        too_short = [
            index
            for index, state in enumerate(states)
            # a complete text has to end, however short it is
            if len(state.output) < state.options.min_new_tokens
            and not (state.constraint and state.constraint.only_ends(state.constraint_state))
        ]
        if not too_short and all(mask is None for mask in masks):
            return logits
        logits = logits.copy() if logits is original else logits
        for index in too_short:
            logits[index, sorted(states[index].options.end)] = -np.inf
        for index, mask in enumerate(masks):
            if mask is not None:
                logits[index, ~mask] = -np.inf
        return logits
