"""Computes the rows of a batch with an open model: blocks of lines in, lines out; no files. Rows
are computed together whatever their parameters, longest prompts of a window first. That changes no
text: a sample depends on its seed, row and sample index.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from gentool.batch import answers
from gentool.batch.answers import Origin, Outcome
from gentool.batch.lines import WINDOW, Line
from gentool.batch.tasks import Settings, Task, task
from gentool.config.sampling import SamplingParams
from gentool.errors import GentoolError, UsageError
from gentool.generation import continuous, search
from gentool.generation.chat import AnswerEnds
from gentool.generation.continuous import Batch, Unit
from gentool.generation.prepared import PreparedRequest
from gentool.generation.request import Alternatives, Request, Sample, Sampled
from gentool.generation.session import Model

OPEN_LINES = WINDOW  # since the first row that is not done, for which no more lines are read
JOIN_SECONDS = 0.1  # for prompts that join, before a signal is looked at

Window = Callable[[bool], "Sequence[Line] | None"]
"""The next lines, perhaps none yet; None at the end. It may wait where its argument is True."""
Read = Callable[[Line], Task]


class _Row(NamedTuple):
    """A row that is computed: its request, and the samples that it has so far."""

    task: Task
    prepared: PreparedRequest
    samples: dict[int, Sample]


def compute_block(
    model: Model, settings: Settings, origin: Origin, block: Sequence[Line]
) -> list[bytes]:
    """The answers to a block of lines, in their order. They depend on no other block."""
    blocks = iter([block])
    work = Work(model, lambda line: task(line, settings), lambda _: next(blocks, None))
    outcomes = [outcome for part in work.run() for outcome in part]
    lines = {outcome.task.number: answers.line(outcome, origin) for outcome in outcomes}
    return [lines[line.number] for line in block]


class Work:
    """The rows of a batch while they are computed. `read` makes rows of lines; the messages of a
    chat go through `template`, or the model's own."""

    def __init__(
        self, model: Model, read: Read, window: Window, template: str | None = None
    ) -> None:
        self._model, self._read, self._window = model, read, window
        self._template = template
        self._rows: dict[int, _Row] = {}  # by number, those that are not done
        self._waiting: deque[Unit] = deque()
        self._alone: deque[int] = deque()  # rows that are computed one by one
        self._batch: Batch | None = None
        self._read_until, self._ended = 0, False  # the number of the next line
        self._ends: AnswerEnds | None = None  # of a chat's answers
        self._chat_sampling: dict[int, tuple[SamplingParams, SamplingParams]] = {}  # by identity

    def drain(self) -> None:
        """From now on starts no row; those in flight go on."""
        self._ended = True
        for number in {*self._alone, *(unit.key for unit in self._waiting)}:
            del self._rows[number]
        self._alone.clear()
        self._waiting.clear()

    def run(self) -> Iterator[list[Outcome]]:
        """Yields the rows that are done, perhaps none, after each step of the model; rows of a
        window come in any order."""
        while self._rows or not self._ended:
            done = self._admit()
            if self._alone:
                done.append(self._computed_alone(self._alone.popleft()))
            try:
                done += self._step()
            except GentoolError:  # of one of the rows: alone each has its own
                self._separate()
            yield done

    def _admit(self) -> list[Outcome]:
        """Reads a window where rows are wanted; gives the rows of it that have problems."""
        first = next(iter(self._rows), self._read_until)
        too_far = self._read_until - first > OPEN_LINES  # where one row takes long
        if self._ended or self._waiting or self._alone or too_far:
            return []
        lines = self._window(not self._rows)
        if lines is None:
            self._ended = True
            return []
        done: list[Outcome] = []
        units: list[Unit] = []
        for line in lines:
            row, self._read_until = self._read(line), line.number + 1
            try:
                if row.problem:
                    raise UsageError(row.problem, "")
                prepared = self._model.prepare(self._request(row))
            except GentoolError as e:
                done.append(Outcome(row, (), said(e)))
                continue
            self._rows[row.number] = _Row(row, prepared, {})
            if isinstance(row.request.search, Sampled | Alternatives):
                units += continuous.units(prepared, 0, row.number)
            else:
                self._alone.append(row.number)
        self._waiting += sorted(units, key=lambda unit: -len(unit.prepared.prompts[0]))
        return done

    def _request(self, row: Task) -> Request:
        """The request of a row; of a chat, with its messages as ids and what ends an answer."""
        request = row.request
        if self._model.engine.runtime.joins_freely and request.search == Sampled():
            # costs nothing but for samples of one prompt, whose bits depend on their slots else
            request = replace(request, batch_invariant=True)
        if not row.is_chat:
            return request
        ids = self._model.chat_ids(row.prompt, template=self._template)
        self._ends = self._ends or self._model.answer_ends(self._template)
        sampling = self._with_stops(row.request.sampling, self._ends.stops)
        ends = tuple(self._ends.ids)
        return replace(request, prompts=(tuple(ids),), eos=ends, sampling=sampling)

    def _with_stops(self, sampling: SamplingParams, stops: tuple[str, ...]) -> SamplingParams:
        """Sampling parameters with more stop texts: for the same ones the same object, so that
        their rows are drawn together."""
        if not stops:
            return sampling
        if len(self._chat_sampling) > WINDOW:
            self._chat_sampling.clear()
        if id(sampling) not in self._chat_sampling:
            changed = replace(sampling, stop=(*sampling.stop, *stops))
            self._chat_sampling[id(sampling)] = sampling, changed
        return self._chat_sampling[id(sampling)][1]

    def _step(self) -> list[Outcome]:
        """Lets rows join, and computes a token of each."""
        waiting, done = self._waiting, []
        if waiting and self._batch is None:
            self._batch = Batch(waiting[0].prepared.engine)
        until = time.monotonic() + JOIN_SECONDS
        while waiting and self._batch and self._batch.fits(waiting[0]):
            self._batch.add(waiting.popleft())
            if time.monotonic() > until:
                return []
        if not self._batch or self._batch.done:
            return []
        for number, chunk in self._batch.step():
            row = self._rows.get(number)  # none, if its other samples were given up
            if row and chunk.done:
                row.samples[chunk.sample] = chunk.done
                if len(row.samples) == row.prepared.request.n:
                    done.append(self._finished(number))
        return done

    def _finished(self, number: int) -> Outcome:
        row = self._rows.pop(number)
        samples = [row.samples[sample] for sample in sorted(row.samples)]
        return Outcome(row.task, samples, "", len(row.prepared.prompts[0]))

    def _computed_alone(self, number: int) -> Outcome:
        row = self._rows[number]
        try:
            for chunk in search.chunks(row.prepared):
                if chunk.done:
                    row.samples[chunk.sample] = chunk.done
        except GentoolError as e:
            del self._rows[number]
            return Outcome(row.task, (), said(e))
        return self._finished(number)

    def _separate(self) -> None:
        """Computes the rows of the batch one by one."""
        numbers = [] if self._batch is None else self._batch.keys()
        self._batch = None
        for number in numbers:
            self._rows[number].samples.clear()
        self._alone += numbers
        self._waiting = deque(unit for unit in self._waiting if unit.key not in numbers)


def said(failure: GentoolError) -> str:
    """An error as one line."""
    return "; ".join(filter(None, [failure.message, failure.hint]))
