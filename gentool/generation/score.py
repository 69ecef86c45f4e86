"""What `Model.score` and `Model.choose` give: log-probabilities with the text they belong to."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gentool.errors import UsageError
from gentool.tokenizers import Tokenizer, joined

if TYPE_CHECKING:  # which imports TensorFlow
    from gentool.decoding.engine import Engine

Normalize = Literal["none", "tokens", "characters"]
BEFORE = ("\n", "。", "a", "")  # texts that a choice is put behind to see its own tokens


@dataclass(frozen=True)
class Score:
    """A text under the model itself: natural log-probabilities of its tokens, each given all before
    it. The tokenizer's own start token has none (None), nor has the first token where there is no
    start token: the others are conditioned on it, and it counts in nothing below."""

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]  # what each adds to the text; a character comes with its last byte
    logprobs: tuple[float | None, ...]
    stride: int | None  # from window to window, where the text is longer than the context

    @property
    def unscored(self) -> str:
        """The part of the text that only the rest is conditioned on."""
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
        """None for a text without characters, as ids have that no tokenizer reads."""
        return _exp(-self.total / self.n_characters) if self.n_characters else None

    @property
    def bits_per_character(self) -> float | None:
        return -self.total / self.n_characters / math.log(2) if self.n_characters else None


@dataclass(frozen=True)
class Choice:
    """A given continuation. `logprob` is that of all its tokens, with the end where one was asked
    for; `probability` is its share among the choices: e^x / sum of e^x, where x is `logprob`, or
    the one of its two averages that was asked for."""

    text: str
    ids: tuple[int, ...]
    logprob: float
    probability: float
    logprob_per_token: float  # the end is one of them
    logprob_per_character: float | None  # the end has none


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def check_stride(stride: int | None, context: int) -> int:
    """The stride asked for, else half the context."""
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
    start = tokenizer.encode("") if tokenizer else []
    given = len(start) if list(ids[: len(start)]) == start else 0
    if len(ids) <= max(given, 1):
        raise UsageError("the text has one token, and nothing before it", "give a longer text")
    found = scoring.score(engine, ids, context, stride, given)
    if not isinstance(text, str):
        text = tokenizer.decode(ids) if tokenizer else ""
    return Score(
        text,
        tuple(ids),
        pieces(tokenizer, ids),
        (*[None] * max(given, 1), *map(float, found)),
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
    """The ids of a choice after a prompt (its ids, and its text where that is known): what encoding
    both adds to the ids of the prompt. Where these become others, as when a word goes on over the
    border, it is the choice's own ids: what encoding it after a newline, a full stop or a letter
    adds to the ids of that. So neither a start token nor the blank that some tokenizers put before
    a text gets between. The first way counts whose ids add just the choice to the prompt's text,
    else the first that gives ids at all."""
    some: list[int] = []
    for before in (*(() if prompt is None else (prompt,)), *BEFORE):
        known, both = tokenizer.encode(before), tokenizer.encode(before + choice)
        new = both[len(known) :] if both[: len(known)] == known else []
        if new and joined(tokenizer, new, ids[-1] if ids else None) == choice.encode():
            return new
        some = some or new
    return some


def continuations(
    tokenizer: Tokenizer | None,
    prompt: str | Sequence[int],
    ids: Sequence[int],
    choices: Sequence[str | Sequence[int]],
) -> tuple[list[str], list[list[int]]]:
    """The texts and the ids of choices that are one or the other, after a prompt and its ids. Those
    that are no tokens, or the same ones, are refused. Ids need no tokenizer."""
    texts: list[str] = []
    found: list[list[int]] = []
    for choice in choices:
        if not isinstance(choice, str):
            texts.append(tokenizer.decode(choice) if tokenizer else "")
            found.append(list(choice))
        elif tokenizer:
            texts.append(choice)
            known = prompt if isinstance(prompt, str) else None
            found.append(continuation(tokenizer, known, ids, choice))
    if not texts:
        raise UsageError("there are no choices", "give at least one")
    seen: dict[tuple[int, ...], str] = {}
    for text, new in zip(texts, map(tuple, found), strict=True):
        if not new:
            raise UsageError(f"the choice '{text}' holds no token", "give other text")
        if new in seen:
            raise UsageError(
                f"the choices '{seen[new]}' and '{text}' are the same tokens", "leave one out"
            )
        seen[new] = text
    return texts, found


def ends(
    tokenizer: Tokenizer | None,
    ids: Sequence[int],
    own: frozenset[int],
    stops: str | Sequence[str],
) -> frozenset[int]:
    """The tokens that may come after a finished choice: the model's own ends, and the first of each
    stop text."""
    found = set(own)
    for stop in [stops] if isinstance(stops, str) else stops:
        if tokenizer:
            found.update(continuation(tokenizer, None, ids, stop)[:1])
    if not found:
        raise UsageError("the model has no end token", "give a stop text")
    return frozenset(found)


def choose(
    engine: Engine,
    ids: Sequence[int],
    texts: Sequence[str],
    choices: Sequence[Sequence[int]],
    ends: frozenset[int] | None,
    normalize: Normalize,
) -> list[Choice]:
    """The choices after a prompt, by probability, of equal ones in the order given."""
    from gentool.decoding.choices import masses, shares

    prefix, logits = engine.prefill(ids)
    found = masses(engine, prefix, logits, choices, ends)
    extra = 0 if ends is None else 1
    tokens = [x / (len(new) + extra) for x, new in zip(found, choices, strict=True)]
    characters = [x / len(text) if text else None for x, text in zip(found, texts, strict=True)]
    ways: dict[str, Sequence[float | None]] = {
        "none": found,
        "tokens": tokens,
        "characters": characters,
    }
    if normalize not in ways:
        raise UsageError(f"normalize is {normalize!r}", f"it can be {', '.join(ways)}")
    weighed = [x for x in ways[normalize] if x is not None]
    if len(weighed) < len(texts):
        raise UsageError("a choice of ids has no characters", "normalize by tokens")
    p = shares(weighed)
    made = [
        Choice(text, tuple(choices[i]), found[i], float(p[i]), tokens[i], characters[i])
        for i, text in enumerate(texts)
    ]
    return sorted(made, key=lambda choice: -choice.probability)
