"""Prepared requests: a checked request with its engine and tokenizer, and what all searches derive
from it: the constraint, the adjustment of scores, the stop criterion, and samples of tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gentool.config.sampling import SamplingParams
from gentool.decoding import beam, constraints, loop
from gentool.decoding.constraints import Constraint, Following
from gentool.decoding.engine import Engine, Prefix
from gentool.decoding.filters import adjusted
from gentool.generation.request import Finish, Request, Sample, Step, TokenLogprob
from gentool.tokenizers import Tokenizer, special_id
from gentool.tokenizers.stream import TextStream
from gentool.tokenizers.token_bytes import Pieces


@dataclass(frozen=True)
class PreparedRequest:
    """A request with its prompts as ids, the engine and the tokenizer, and what makes the
    constraint on all continuations, if there is one. `ends` are the tokens that end a text; those
    that are a stop text are in `stop_tokens` (id -> text), too."""

    engine: Engine
    tokenizer: Tokenizer | None
    make_constraint: Callable[[], Constraint | None]
    request: Request
    prompts: list[list[int]]
    ends: frozenset[int]
    stop_tokens: Mapping[int, str]

    @property
    def sampling(self) -> SamplingParams:
        return self.request.sampling

    def max_new_tokens(self, prompt: int) -> int:
        """The maximum number of new tokens after a prompt."""
        return min(self.sampling.max_tokens, self.engine.arch.n_ctx - len(self.prompts[prompt]))

    def computed(self, prompt: int, prefix: Prefix, logits: np.ndarray) -> loop.Prompt:
        """A prompt for the decode loop, with its prefix and the logits [V] after it."""
        ids = np.array(self.prompts[prompt])
        return loop.Prompt(ids, prefix, logits, self.max_new_tokens(prompt))

    def text(self, prompt: int) -> TextStream:
        """A new, empty text stream for a continuation of a prompt."""
        s = self.sampling
        ids = self.prompts[prompt]
        stops = [stop for stop in s.stop if stop not in self.stop_tokens.values()]
        return TextStream(self.tokenizer, ids, stops, s.include_stop, s.min_tokens)

    def stop_text(self, last: int) -> str:
        """What a text whose last token is `last` has behind it: the stop text that this token is,
        where stop texts are kept."""
        return self.stop_tokens.get(last, "") if self.sampling.include_stop else ""

    def finish(self, last: int, ended: bool, stopped: bool) -> Finish:
        """Why a text ended: its last token, whether that ended it, and whether a stop text did."""
        if stopped or (ended and last in self.stop_tokens):
            return "stop"
        return "eos" if ended else "length"

    @functools.cached_property
    def constraint(self) -> Constraint | None:
        """The constraint on all continuations, if there is one."""
        return self.make_constraint()

    def following(self, prompt: int) -> Following | None:
        """The constraint after a prompt, if there is one."""
        constraint = self.constraint
        return constraints.following(constraint, self.prompts[prompt]) if constraint else None

    def adjust(self, prompt: int, following: Following | None) -> beam.Adjust:
        """The function that applies filters and the constraint to scores after a prompt."""
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
        """The function that says whether a text of new tokens ends without an end token: by a stop
        string; or because the constraint allows no token, and the model has no end token."""

        @functools.cache  # the text without the last token is cached already
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

    def finished_text(self, prompt: int, ids: Sequence[int]) -> TextStream:
        """The complete text of new tokens `ids` after a prompt, without end tokens."""
        text = self.text(prompt)
        for id in ids:
            if id not in self.ends:
                text.push(id)
        text.finish(cut=not ids or ids[-1] not in self.ends)
        return text

    def steps(self, prompt: int, tokens: Sequence[loop.Token]) -> tuple[Step, ...]:
        """The log-probabilities of each step, if the request asks for them."""
        if self.request.logprobs is None:
            return ()
        previous_ids = [self.prompts[prompt][-1], *(token.id for token in tokens)]
        return tuple(
            Step(
                self._logprob(token.id, token.log_probability, previous),
                tuple(self._logprob(*top, previous) for top in token.top_logprobs),
            )
            for token, previous in zip(tokens, previous_ids, strict=False)
        )

    def _logprob(self, id: int, logprob: float, previous: int) -> TokenLogprob:
        piece = self.tokenizer.piece(id, previous) if self.tokenizer else b""
        return TokenLogprob(id, piece.decode("utf-8", "replace"), logprob)


class ConstraintKey(NamedTuple):
    """What a constraint is made of."""

    regex: str | None
    json_schema: str | None
    ban: tuple[str, ...]
    ban_tokens: tuple[tuple[str, int], ...]  # banned texts that are special tokens, their ids
    ends: frozenset[int]


def constraint_key(
    request: Request, ends: frozenset[int], tokenizer: Tokenizer | None, n_vocab: int
) -> ConstraintKey:
    """What the constraint of a request is made of."""
    ban, tokens = [], []
    for text in request.sampling.ban:
        special = special_id(tokenizer, text)
        if special is None:
            ban.append(text)
        elif special < n_vocab:  # an added token may have no row
            tokens.append((text, special))
    return ConstraintKey(request.regex, request.json_schema, tuple(ban), tuple(tokens), ends)


def make_constraint(key: ConstraintKey, token_bytes: Callable[[], Pieces]) -> Constraint | None:
    """The constraint on continuations, if there is one. `token_bytes` is called only for one,
    because it is slow."""
    rules = []
    if key.regex is not None:
        rules.append(constraints.regex(key.regex))
    if key.json_schema is not None:
        rules.append(constraints.json_schema(key.json_schema))
    banned = key.ban or key.ban_tokens
    if not rules and not banned:
        return None
    vocabulary = constraints.Vocabulary(*token_bytes(), key.ends)
    restrictions: list[constraints.Restriction] = [
        constraints.Grammar(rule, vocabulary) for rule in rules
    ]
    if banned:
        restrictions.append(constraints.Banned(key.ban, vocabulary, dict(key.ban_tokens)))
    return Constraint(restrictions, vocabulary)


class SampleBuilder:
    """Builds a sample from the tokens of a continuation, one by one."""

    def __init__(self, prepared: PreparedRequest, prompt: int) -> None:
        self._prepared, self._prompt = prepared, prompt
        self._max_new_tokens = prepared.max_new_tokens(prompt)
        self._text = prepared.text(prompt)
        self._tokens: list[loop.Token] = []

    def push(self, token: loop.Token) -> tuple[str, Sample | None]:
        """Adds a token. Returns the text that is final with it, and the sample if it is the last
        token."""
        self._tokens.append(token)
        new = "" if token.ended else self._text.push(token.id)
        is_last = len(self._tokens) == self._max_new_tokens
        if not (self._text.stopped or token.ended or token.complete or is_last):
            return new, None
        ended = token.ended or token.complete
        stop = self._prepared.stop_text(token.id)
        new += self._text.finish(cut=not ended) + stop
        finish = self._prepared.finish(token.id, ended, self._text.stopped)
        total = 0.0
        for t in self._tokens:  # in order: the sum does not depend on the chunks of the text
            total += t.log_probability
        ids = tuple(t.id for t in self._tokens)
        steps = self._prepared.steps(self._prompt, self._tokens)
        return new, Sample(self._text.text + stop, ids, total, total, finish, steps)
