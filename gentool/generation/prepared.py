"""A checked request with what it runs on, and what every search needs of it: the constraint, the
filters as an adjustment of scores, stop texts, and tokens as samples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gentool.config.sampling import SamplingParams
from gentool.decoding import beam, constraints, loop
from gentool.decoding.constraints import Constraint, Following
from gentool.decoding.engine import Engine
from gentool.decoding.filters import adjusted
from gentool.generation.request import Finish, Request, Sample, Step, TokenLogprob
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.stream import TextStream
from gentool.tokenizers.token_bytes import Pieces


@dataclass(frozen=True)
class PreparedRequest:
    """A request whose prompts are ids, and what it runs on; `token_bytes` are made when they are
    asked for."""

    engine: Engine
    tokenizer: Tokenizer | None
    token_bytes: Callable[[], Pieces]
    request: Request
    prompts: list[list[int]]
    ends: frozenset[int]

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    def max_new_tokens(self, prompt: int) -> int:
        """How many tokens may follow a prompt."""
        return min(self.sampling.max_tokens, self.engine.arch.n_ctx - len(self.prompts[prompt]))

    def text(self, prompt: int) -> TextStream:
        """The text of a continuation of a prompt, which has none yet."""
        s = self.sampling
        ids = self.prompts[prompt]
        return TextStream(self.tokenizer, ids, s.stop, s.include_stop, s.min_tokens)

    @functools.cached_property
    def constraint(self) -> Constraint | None:
        """What the request asks of all continuations, if anything."""
        rules = []
        if self.request.regex is not None:
            rules.append(constraints.regex(self.request.regex))
        if self.request.json_schema is not None:
            rules.append(constraints.json_schema(self.request.json_schema))
        if not rules and not self.sampling.ban:
            return None
        vocabulary = constraints.Vocabulary(*self.token_bytes(), self.ends)
        restrictions: list[constraints.Restriction] = [
            constraints.Grammar(rule, vocabulary) for rule in rules
        ]
        if self.sampling.ban:
            restrictions.append(constraints.Banned(self.sampling.ban, vocabulary))
        return Constraint(restrictions, vocabulary)

    def following(self, prompt: int) -> Following | None:
        """What the constraint leaves after a prompt."""
        constraint = self.constraint
        return constraints.following(constraint, self.prompts[prompt]) if constraint else None

    def adjust(self, prompt: int, following: Following | None) -> beam.Adjust:
        """What filters and the constraint do to the scores of texts after a prompt."""
        sampling, ids = self.sampling, np.array(self.prompts[prompt])

        def adjust(
            scores: np.ndarray, _: Sequence[int], outputs: Sequence[tuple[int, ...]]
        ) -> np.ndarray:
            changed = adjusted(scores, sampling, [ids] * len(outputs), outputs)
            if following and changed is scores:
                changed = scores.copy()
            for row, output in zip(changed, outputs, strict=True):
                mask = following.mask(output) if following else None
                if mask is not None:
                    row[~mask] = -np.inf
            return changed

        return adjust

    def stops(self, prompt: int, following: Following | None) -> beam.Stops:
        """Whether new tokens end a text: by a stop text; or because nothing can be added and there
        is no end token to say so."""

        @functools.cache  # each text is one token longer than one that was asked about
        def text(ids: tuple[int, ...]) -> TextStream:
            if not ids:
                return self.text(prompt)
            longer = text(ids[:-1]).fork()
            longer.push(ids[-1])
            return longer

        def ended(ids: tuple[int, ...]) -> bool:
            complete = not self.ends and following and following.complete(ids)
            return text(ids).stopped or bool(complete)

        return ended

    def finished_text(self, prompt: int, ids: Iterable[int]) -> TextStream:
        """The text of all of `ids` after a prompt, end tokens left out."""
        text = self.text(prompt)
        for id in ids:
            if id not in self.ends:
                text.push(id)
        text.finish()
        return text

    def steps(self, prompt: int, tokens: Sequence[loop.Token]) -> tuple[Step, ...]:
        """The log-probabilities of each step, if they were asked for."""
        if self.request.logprobs is None:
            return ()
        before = [self.prompts[prompt][-1], *(token.id for token in tokens)]
        return tuple(
            Step(
                self._logprob(token.id, token.log_probability, last),
                tuple(self._logprob(*top, last) for top in token.top_logprobs),
            )
            for token, last in zip(tokens, before, strict=False)
        )

    def _logprob(self, id: int, logprob: float, before: int) -> TokenLogprob:
        piece = self.tokenizer.piece(id, before) if self.tokenizer else b""
        return TokenLogprob(id, piece.decode("utf-8", "replace"), logprob)


class SampleBuilder:
    """A continuation of a prompt while its tokens come in."""

    def __init__(self, prepared: PreparedRequest, prompt: int) -> None:
        self._prepared, self._prompt = prepared, prompt
        self._max_new_tokens = prepared.max_new_tokens(prompt)
        self._text = prepared.text(prompt)
        self._tokens: list[loop.Token] = []

    def push(self, token: loop.Token) -> tuple[str, Sample | None]:
        """The characters a token makes certain, and the sample if it is the last."""
        self._tokens.append(token)
        new = "" if token.ended else self._text.push(token.id)
        full = len(self._tokens) == self._max_new_tokens
        if not (self._text.stopped or token.ended or token.complete or full):
            return new, None
        new += self._text.finish()
        finish: Finish = "eos" if token.ended or token.complete else "length"
        finish = "stop" if self._text.stopped else finish
        total = 0.0
        for t in self._tokens:  # in order: the sum of a text is the same however it was cut
            total += t.log_probability
        ids = tuple(t.id for t in self._tokens)
        steps = self._prepared.steps(self._prompt, self._tokens)
        return new, Sample(self._text.text, ids, total, total, finish, steps)
