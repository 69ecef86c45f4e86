"""Scores of texts and choices, for `Model.score` and `Model.choose`: log-probabilities of texts."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gentool.errors import UsageError
from gentool.tokenizers import Tokenizer, joined, special_id

if TYPE_CHECKING:  # checks of a request need no numpy
    from gentool.decoding.engine import Engine

Normalize = Literal["none", "tokens", "characters"]
CONTEXTS = ("\n", "。", "a", "")  # texts after which a choice is encoded to get its own tokens


@dataclass(frozen=True)
class Score:
    """The natural log-probabilities of the tokens of a text under the model itself, each given the
    tokens before it. That of the first token, or of the tokenizer's start token, is None: the
    others are conditioned on it, and no number below includes it."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]  # the text that each adds; a character comes with its last byte
    logprobs: tuple[float | None, ...]
    stride: int | None  # from window to window, where the text is longer than the context

    @property
    def unscored(self) -> str:
        """The first part of the text, which is not scored."""
        return "".join(self.tokens[: self.logprobs.count(None)])

    @property
    def total(self) -> float:
        return math.fsum(p for p in self.logprobs if p is not None)

    @property
    def n_tokens(self) -> int:
        return len(self.logprobs) - self.logprobs.count(None)

    @property
    def n_characters(self) -> int:
        return max(0, len(self.text) - len(self.unscored))

    @property
    def perplexity(self) -> float:
        return _exp(-self.total / self.n_tokens)

    @property
    def perplexity_character(self) -> float | None:
        """None for a text without characters: ids without a tokenizer."""
        return _exp(-self.total / self.n_characters) if self.n_characters else None

    @property
    def bits_per_character(self) -> float | None:
        return -self.total / self.n_characters / math.log(2) if self.n_characters else None


@dataclass(frozen=True)
class Choice:
    """A given continuation. `logprob` is that of all its tokens, and of the end if requested;
    `probability` is its share among the choices: softmax over `logprob`, or over one of its two
    averages, by `normalize`."""

    text: str
    ids: tuple[int, ...]
    logprob: float
    probability: float
    logprob_per_token: float  # the end counts as a token
    logprob_per_character: float | None  # the end has no character


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def check_stride(stride: int | None, context: int) -> int:
    """The given stride, checked; half the context if it is None."""
    if stride is not None and not 1 <= stride <= context:
        raise UsageError(f"stride is {stride}", f"it can be 1 to {context}, the model's context")
    return stride or max(1, context // 2)


def score(
    engine: Engine,
    tokenizer: Tokenizer | None,
    text: str | Sequence[int],
    ids: Sequence[int],
    stride: int | None,
) -> Score:
    """The score of a text, or of ids."""
    from gentool.decoding import scoring

    context = engine.arch.n_ctx
    stride = check_stride(stride, context)
    start = list(tokenizer.start) if tokenizer else []
    n_start = len(start) if list(ids[: len(start)]) == start else 0
    if len(ids) <= max(n_start, 1):
        raise UsageError("the text has one token, and nothing before it", "give a longer text")
    logprobs = scoring.score(engine, ids, context, stride, n_start)
    if not isinstance(text, str):
        text = tokenizer.decode(ids) if tokenizer else ""
    return Score(
        text,
        tuple(ids),
        pieces(tokenizer, ids),
        (*[None] * max(n_start, 1), *map(float, logprobs)),
        stride if len(ids) > context + 1 else None,
    )


def pieces(tokenizer: Tokenizer | None, ids: Sequence[int]) -> tuple[str, ...]:
    """The text that each id adds; they join to the decoded text."""
    if tokenizer is None:
        return ("",) * len(ids)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    added = [decoder.decode(tokenizer.piece(i, p)) for i, p in zip(ids, [None, *ids], strict=False)]
    return (*added[:-1], "".join(added[-1:]) + decoder.decode(b"", final=True))


def continuation(
    tokenizer: Tokenizer, prompt: str | None, ids: Sequence[int], choice: str
) -> list[int]:
    """The ids of a choice after a prompt (its ids, its text if known): that of the special token
    that the choice is; else the ids that the choice adds when prompt and choice are encoded
    together. If that changes the ids of the prompt, as when a word continues across the boundary,
    the ids that the choice adds after a newline, a full stop, a letter or nothing; so they include
    neither a start token nor the blank that some tokenizers put before a text. The first context
    whose ids decode to exactly the choice after the prompt is used, else the first that adds ids at
    all."""
    if (special := special_id(tokenizer, choice)) is not None:
        return [special]
    fallback: list[int] = []
    for context in (*(() if prompt is None else (prompt,)), *CONTEXTS):
        context_ids, all_ids = tokenizer.encode(context), tokenizer.encode(context + choice)
        new = all_ids[len(context_ids) :] if all_ids[: len(context_ids)] == context_ids else []
        if new and joined(tokenizer, new, ids[-1] if ids else None) == choice.encode():
            return new
        fallback = fallback or new
    return fallback


def continuations(
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    ids: Sequence[int],
    choices: Sequence[str | Sequence[int]],
) -> tuple[list[str], list[list[int]]]:
    """The texts and the ids of choices, each given as text or as ids, after a prompt and its ids.
    UsageError for a choice without tokens, and for two of equal tokens. Ids need no tokenizer."""
    texts: list[str] = []
    ids_of_choices: list[list[int]] = []
    for choice in choices:
        if not isinstance(choice, str):
            texts.append(tokenizer.decode(choice) if tokenizer else "")
            ids_of_choices.append(list(choice))
        elif tokenizer:
            texts.append(choice)
            prompt_text = prompt if isinstance(prompt, str) else None
            ids_of_choices.append(continuation(tokenizer, prompt_text, ids, choice))
    if not texts:
        raise UsageError("there are no choices", "give at least one")
    text_of_ids: dict[tuple[int, ...], str] = {}
    for text, new in zip(texts, map(tuple, ids_of_choices), strict=True):
        if not new:
            raise UsageError(f"the choice '{text}' holds no token", "give other text")
        if new in text_of_ids:
            raise UsageError(
                f"the choices '{text_of_ids[new]}' and '{text}' are the same tokens",
                "leave one out",
            )
        text_of_ids[new] = text
    return texts, ids_of_choices


def ends(
    tokenizer: Tokenizer | None,
    ids: Sequence[int],
    own: frozenset[int],
    stops: str | Sequence[str],
) -> frozenset[int]:
    """The tokens that may follow a complete choice: the model's own end tokens, and the first token
    of each stop string."""
    end_ids = set(own)
    for stop in [stops] if isinstance(stops, str) else stops:
        if tokenizer:
            end_ids.update(continuation(tokenizer, None, ids, stop)[:1])
    if not end_ids:
        raise UsageError("the model has no end token", "give a stop text")
    return frozenset(end_ids)


def choose(
    engine: Engine,
    ids: Sequence[int],
    texts: Sequence[str],
    choices: Sequence[Sequence[int]],
    ends: frozenset[int] | None,
    normalize: Normalize,
) -> list[Choice]:
    """The choices after a prompt, most probable first; equal ones in the given order."""
    from gentool.decoding.choices import masses, shares

    prefix, logits = engine.prefill(ids)
    totals = masses(engine, prefix, logits, choices, ends)
    n_end = 0 if ends is None else 1
    per_token = [x / (len(new) + n_end) for x, new in zip(totals, choices, strict=True)]
    per_character = [x / len(text) if text else None for x, text in zip(totals, texts, strict=True)]
    logprobs: dict[str, Sequence[float | None]] = {
        "none": totals,
        "tokens": per_token,
        "characters": per_character,
    }
    if normalize not in logprobs:
        raise UsageError(f"normalize is {normalize!r}", f"it can be {', '.join(logprobs)}")
    ranked_by = [x for x in logprobs[normalize] if x is not None]
    if len(ranked_by) < len(texts):
        raise UsageError("a choice of ids has no characters", "normalize by tokens")
    p = shares(ranked_by)
    scored = [
        Choice(text, tuple(choices[i]), totals[i], float(p[i]), per_token[i], per_character[i])
        for i, text in enumerate(texts)
    ]
    return sorted(scored, key=lambda choice: -choice.probability)
