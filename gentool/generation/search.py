"""Requests to samples: what each kind of search has the engine do, and its tokens as text."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gentool.config.sampling import SamplingParams
from gentool.decoding import beam, choices, constraints, contrastive, loop
from gentool.decoding.engine import Engine
from gentool.decoding.filters import adjusted
from gentool.decoding.philox import uniform
from gentool.decoding.sampling import likeliest
from gentool.generation import score as scores
from gentool.generation.request import (
    Alternatives,
    BeamSearch,
    Choose,
    Chunk,
    Contrastive,
    Draw,
    Finish,
    Likely,
    Request,
    Sample,
    Step,
)
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.stream import TextStream
from gentool.tokenizers.token_bytes import Pieces

GROUP_ROWS = 64  # rows decoded together when there are many prompts
MOST_ROWS = 512  # of one prompt decoded together

Restrictions = tuple[list[constraints.Restriction], constraints.Vocabulary] | None


@dataclass(frozen=True)
class Job:
    """A request whose prompts are ids, and what it runs on; `pieces` are made when they are asked
    for."""

    engine: Engine
    tokenizer: Tokenizer | None
    pieces: Callable[[], Pieces]
    request: Request
    prompts: list[list[int]]
    ends: frozenset[int]

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    def text(self, prompt: int) -> TextStream:
        """The text of a continuation of a prompt, which has none yet."""
        s = self.sampling
        ids = self.prompts[prompt]
        return TextStream(self.tokenizer, ids, s.stop, s.include_stop, s.min_tokens)

    def restrictions(self) -> Restrictions:
        """What the request asks of all continuations."""
        rules = []
        if self.request.regex is not None:
            rules.append(constraints.regex(self.request.regex))
        if self.request.json_schema is not None:
            rules.append(constraints.json_schema(self.request.json_schema))
        if not rules and not self.sampling.ban:
            return None
        vocabulary = constraints.Vocabulary(*self.pieces(), self.ends)
        found: list[constraints.Restriction] = [
            constraints.Grammar(rule, vocabulary) for rule in rules
        ]
        if self.sampling.ban:
            found.append(constraints.Banned(self.sampling.ban, vocabulary))
        return found, vocabulary


def chunks(job: Job) -> Iterator[Chunk]:
    """All samples of a request, chunk by chunk as they grow. Samples of one prompt and of
    neighbouring prompts are computed together, and their chunks interleave."""
    request = job.request
    restrictions = job.restrictions()
    match request.search:
        case BeamSearch() as search:
            yield from _beams(job, search, restrictions)
        case Contrastive() as search:
            yield from _contrasted(job, search, restrictions)
        case Choose() as search:
            yield from _chosen(job, search)
        case Draw() | Alternatives() as search:
            size = max(1, GROUP_ROWS // request.n)
            for first in range(0, len(job.prompts), size):
                group = range(first, min(first + size, len(job.prompts)))
                for sample in range(0, request.n, MOST_ROWS):
                    samples = range(sample, min(sample + MOST_ROWS, request.n))
                    yield from _drawn(job, search, restrictions, group, samples)


def _drawn(
    job: Job,
    search: Draw | Alternatives,
    restrictions: Restrictions,
    group: range,
    samples: range,
) -> Iterator[Chunk]:
    """The given samples of a group of prompts, together."""
    request, s = job.request, job.sampling
    computed = []
    for prompt in group:
        prefix, logits = job.engine.prefill(job.prompts[prompt])
        computed.append(loop.Prompt(np.array(job.prompts[prompt]), prefix, logits[0]))
    rows = [
        loop.Row(index, request.rows[prompt], sample)
        for index, prompt in enumerate(group)
        for sample in samples
    ]
    law, draw = job.sampling, search if isinstance(search, Draw) else Draw()
    if isinstance(search, Alternatives):
        firsts = [likeliest(prompt.logits, request.n) for prompt in computed]
        rows = [row._replace(first=int(firsts[row.prompt][row.sample])) for row in rows]
        law = replace(law, temperature=0.0)
    strata, told = request.n if draw.stratified else 0, request.logprobs or 0
    # a product of several tokens sums in another order, so to be invariant nothing is drafted
    lookup = 0 if request.batch_invariant else draw.lookup
    how = loop.How(law, request.seed, request.batch_invariant, strata, told, lookup)
    context = job.engine.arch.n_ctx
    most = tuple(min(s.max_tokens, context - len(job.prompts[prompt])) for prompt in group)
    limits = loop.Limits(s.min_tokens, most, min(s.max_tokens, context), job.ends)
    constraint = None
    if restrictions:
        prompts = [job.prompts[group[row.prompt]] for row in rows]
        constraint = constraints.Constraint(*restrictions, prompts)
    grown = [Growing(job, group[row.prompt], most[row.prompt]) for row in rows]
    stopped: set[int] = set()
    steps = loop.decode(job.engine, computed, rows, how, limits, stopped, constraint)
    for token in itertools.chain.from_iterable(steps):
        new, done = grown[token.row].push(token)
        if done and done.finish == "stop":
            stopped.add(token.row)
        if new or done:
            row = rows[token.row]
            yield Chunk(group[row.prompt], row.sample, new, done)


class Growing:
    """A continuation of a prompt while its tokens come in, `most` of them."""

    def __init__(self, job: Job, prompt: int, most: int) -> None:
        self._job, self._prompt, self._most = job, prompt, most
        self._text = job.text(prompt)
        self._tokens: list[loop.Token] = []

    def push(self, token: loop.Token) -> tuple[str, Sample | None]:
        """The characters a token makes certain, and the sample if it is the last."""
        self._tokens.append(token)
        new = "" if token.ended else self._text.push(token.id)
        full = len(self._tokens) == self._most
        if not (self._text.stopped or token.ended or token.whole or full):
            return new, None
        new += self._text.finish()
        finish: Finish = "eos" if token.ended or token.whole else "length"
        finish = "stop" if self._text.stopped else finish
        total = 0.0
        for one in self._tokens:  # in order: the sum of a text is the same however it was cut
            total += one.log_probability
        ids = tuple(one.id for one in self._tokens)
        steps = _steps(self._job, self._prompt, self._tokens)
        return new, Sample(self._text.text, ids, total, total, finish, steps)


def _steps(job: Job, prompt: int, tokens: Sequence[loop.Token]) -> tuple[Step, ...]:
    """What was told of each step, if it was asked for."""
    if job.request.logprobs is None:
        return ()
    before = [job.prompts[prompt][-1], *(token.id for token in tokens)]
    return tuple(
        Step(
            _likely(job, token.id, token.log_probability, last),
            tuple(_likely(job, *best, last) for best in token.told),
        )
        for token, last in zip(tokens, before, strict=False)
    )


def _likely(job: Job, id: int, logprob: float, before: int) -> Likely:
    piece = job.tokenizer.piece(id, before) if job.tokenizer else b""
    return Likely(id, piece.decode("utf-8", "replace"), logprob)


def _beams(
    job: Job,
    search: BeamSearch,
    restrictions: Restrictions,
) -> Iterator[Chunk]:
    """The best texts of each prompt. Filters that look at a text so far change its scores; those
    that narrow a distribution, and temperature, have nothing to do in a search."""
    s, request = job.sampling, job.request
    beams = beam.Beams(
        max_tokens=s.max_tokens, min_tokens=s.min_tokens, n_best=request.n, **vars(search)
    )
    for prompt, ids in enumerate(job.prompts):
        prefix, logits = job.engine.prefill(ids)
        follow = following(job, prompt, restrictions)
        found = beam.search(
            job.engine,
            [prefix],
            logits,
            beams,
            job.ends,
            adjusting(job, prompt, follow),
            request.batch_invariant,
            [stops(job, prompt, follow)] if s.stop or follow else [],
        )
        for sample, best in enumerate(found[0]):
            text = pushed(job, prompt, (i for i in best.ids if i not in job.ends))
            finish: Finish = "eos" if best.ended else "length"
            finish = "stop" if text.stopped else finish
            pairs = zip(best.ids, best.logprobs, strict=True)
            steps = _steps(job, prompt, [loop.Token(sample, id, p, False) for id, p in pairs])
            done = Sample(text.text, best.ids, best.logprob, best.score, finish, steps)
            yield Chunk(prompt, sample, text.text, done)


def following(job: Job, prompt: int, restrictions: Restrictions) -> constraints.Following | None:
    """What restrictions leave after a prompt."""
    return constraints.following(*restrictions, job.prompts[prompt]) if restrictions else None


def adjusting(job: Job, prompt: int, follow: constraints.Following | None) -> beam.Adjust:
    """What filters and restrictions do to the scores of texts after a prompt."""
    law, ids = job.sampling, np.array(job.prompts[prompt])

    def adjust(
        scores: np.ndarray, _: Sequence[int], outputs: Sequence[tuple[int, ...]]
    ) -> np.ndarray:
        changed = adjusted(scores, law, [ids] * len(outputs), outputs)
        if follow and changed is scores:
            changed = scores.copy()
        for row, output in zip(changed, outputs, strict=True):
            mask = follow.mask(output) if follow else None
            if mask is not None:
                row[~mask] = -np.inf
        return changed

    return adjust


def stops(job: Job, prompt: int, follow: constraints.Following | None) -> beam.Stops:
    """Whether new tokens end a text: by a stop text; or because nothing can be added and there is
    no end token to say so."""

    @functools.cache  # each text is one token longer than one that was asked about
    def text(ids: tuple[int, ...]) -> TextStream:
        if not ids:
            return job.text(prompt)
        longer = text(ids[:-1]).fork()
        longer.push(ids[-1])
        return longer

    def ended(ids: tuple[int, ...]) -> bool:
        return text(ids).stopped or bool(not job.ends and follow and follow.whole(ids))

    return ended


def pushed(job: Job, prompt: int, ids: Iterable[int]) -> TextStream:
    """The text of all of `ids` after a prompt."""
    text = job.text(prompt)
    for token in ids:
        text.push(token)
    text.finish()
    return text


def _contrasted(
    job: Job,
    search: Contrastive,
    restrictions: Restrictions,
) -> Iterator[Chunk]:
    """One text for each prompt."""
    s = job.sampling
    how = contrastive.Contrast(search.alpha, search.k, s.max_tokens, s.min_tokens)
    for prompt, ids in enumerate(job.prompts):
        grown = Growing(job, prompt, min(s.max_tokens, job.engine.arch.n_ctx - len(ids)))
        tokens = contrastive.search(
            job.engine,
            ids,
            how,
            job.ends,
            adjusting(job, prompt, following(job, prompt, restrictions)),
            job.request.batch_invariant,
            job.request.logprobs or 0,
        )
        for token in tokens:
            new, done = grown.push(token)
            if new or done:
                yield Chunk(prompt, 0, new, done)
            if done:
                break


def _chosen(job: Job, search: Choose) -> Iterator[Chunk]:
    """Choices drawn by their probabilities among each other."""
    request = job.request
    for prompt, (ids, row) in enumerate(zip(job.prompts, request.rows, strict=True)):
        texts, new = scores.continuations(job.tokenizer, request.prompts[prompt], ids, search.texts)
        ends = scores.ends(job.tokenizer, ids, job.ends, job.sampling.stop) if search.end else None
        prefix, logits = job.engine.prefill(ids)
        masses = choices.masses(job.engine, prefix, logits, new, ends, request.batch_invariant)
        samples = np.arange(request.n)
        u = uniform(request.seed, np.array(row), samples, np.array(0))
        greedy = job.sampling.temperature == 0
        drawn = [int(np.argmax(masses))] * request.n if greedy else choices.draw(masses, u)
        for sample, index in enumerate(drawn):
            mass = masses[index]
            done = Sample(texts[index], tuple(new[index]), mass, mass, "stop")
            yield Chunk(prompt, sample, texts[index], done)
