"""A conversation with a model, whose KV cache is continued from turn to turn."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gentool.decoding import loop
from gentool.decoding.prompt_cache import PromptCache
from gentool.errors import UsageError
from gentool.generation import search
from gentool.generation.request import Request, Sample, Sampled
from gentool.generation.thinking import OPEN, Part, ThinkingParser

if TYPE_CHECKING:
    from gentool.generation.session import Model

Message = dict[str, str]  # role and content

ANSWER_SHARE = 4  # a quarter of the context is kept for an answer that may be that long
TAIL_TOKENS = 8  # of a prompt, where <think> may stand


@dataclass(frozen=True)
class Answer:
    """An answer. Its text is without its thinking; `sample` is None where it was interrupted. The
    prompt had `prompt_tokens`, and `cached_tokens` of them were in the KV cache. `dropped` more
    turns no longer fitted the context."""

    text: str
    thinking: str
    sample: Sample | None
    row: int
    prompt_tokens: int
    cached_tokens: int
    dropped: int


class Conversation:
    """Messages, and the KV cache of what the model has computed of them. Answers are drawn as
    `request` says, whose prompts do not matter, with the random numbers of rows 0, 1, 2, … A
    batch-invariant request computes every prompt from its beginning: the bits are those of the same
    messages in one prompt. Else only new tokens are computed."""

    def __init__(self, model: Model, request: Request, template: str | None = None) -> None:
        sampling = replace(request.sampling, include_stop=False)
        self.request = model.answer_ends(template).of(replace(request, sampling=sampling))
        self.model, self.template = model, template
        self.messages: list[Message] = []
        self.row = 0  # of the next answer
        self.last: Answer | None = None
        self._first_turn = 0  # turns before it no longer fit the context
        self._cache = PromptCache()

    @property
    def system(self) -> str | None:
        """The text of the system message."""
        first = self.messages[:1]
        return first[0]["content"] if first and first[0]["role"] == "system" else None

    def set_system(self, text: str | None) -> None:
        """Replaces the system message, or removes it; the other messages stay."""
        others = self.messages if self.system is None else self.messages[1:]
        self.messages = [*([{"role": "system", "content": text}] if text else []), *others]

    def reset(self, messages: Sequence[Message] = ()) -> None:
        """Begins anew, after these messages if there are any, else after the system message."""
        system = self.messages[: self.system is not None]
        self.messages = list(messages) or system
        self.last, self._first_turn = None, 0

    def seed(self, seed: int) -> None:
        """The next answers draw the random numbers of this seed, from row 0."""
        self.request = replace(self.request, seed=seed)
        self.row = 0

    def ask(self, text: str) -> Generator[Part, None, None]:
        """Yields the answer to a message, part by part; afterwards it is `last`. Closed early, the
        conversation keeps the part that was yielded. A message without any answer is not kept.

        Raises:
            UsageError: the message does not fit the context, or the template refuses it.
        """
        if not text:
            raise UsageError("the message is empty", "give at least one character")
        return self._answer([*self.messages, {"role": "user", "content": text}])

    def retry(self) -> Generator[Part, None, None]:
        """Yields another answer to the last message of the user, in the place of the one before."""
        messages = list(self.messages)
        while messages and messages[-1]["role"] != "user":
            messages.pop()
        if not messages:
            raise UsageError("there is no message to answer again", "write one")
        return self._answer(messages)

    def _answer(self, messages: list[Message]) -> Generator[Part, None, None]:
        """Yields the answer to messages, which become those of the conversation with it."""
        for message in messages:
            try:
                message["content"].encode()
            except UnicodeEncodeError as e:
                raise UsageError(
                    f"the message of the {message['role']} is not text (character {e.start})",
                    "write it in UTF-8",
                ) from None
        ids, first_turn = self._prompt(messages)
        request = replace(self.request, prompts=(tuple(ids),), rows=(self.row,))
        prepared = self.model.prepare(request)
        way = request.search
        if not isinstance(way, Sampled):
            raise UsageError("a conversation draws samples", "give no other search")
        if request.batch_invariant:
            self._cache.clear()
        decoding = search.decode_loop(prepared, way)
        prefix, logits = self._cache.prefill(prepared.engine, ids)
        decoding.add(prepared.computed(0, prefix, logits[0]), [loop.Sample(self.row, 0)])
        parser = ThinkingParser(opened=self._ends_in_think(ids))
        parts: list[Part] = []
        sample: Sample | None = None
        self.row, self.last = self.row + 1, None
        try:
            for chunk in search.sampled(prepared, decoding, [(0, 0)]):
                new = parser.push(chunk.text)
                sample = chunk.done
                for part in [*new, *parser.finish()] if sample else new:
                    parts.append(part)
                    yield part
        except GeneratorExit:  # closed, between two steps: what was yielded is kept
            pass
        text = "".join(part.text for part in parts if not part.thinking)
        thinking = "".join(part.text for part in parts if part.thinking)
        if not sample and not text:
            return
        output, grown = decoding.computed(0)
        reused, dropped = self._cache.reused, first_turn - self._first_turn
        self._cache.keep([*ids, *output], grown)
        self.last = Answer(text, thinking, sample, self.row - 1, len(ids), reused, dropped)
        self.messages = [*messages, {"role": "assistant", "content": text}]
        self._first_turn = first_turn

    def _prompt(self, messages: Sequence[Message]) -> tuple[list[int], int]:
        """The ids of messages, without the oldest turns where all would not leave room for an
        answer, and the first turn that is in them. The system message and the last turn stay."""
        context = self.model.config.arch.n_ctx
        room = context - min(self.request.sampling.max_tokens, context // ANSWER_SHARE)
        system, turns = _turns(messages)

        def rendered(first: int) -> list[int]:
            shown = itertools.chain(system, *turns[first:])
            return self.model.chat_ids(list(shown), template=self.template)

        ids, last = rendered(self._first_turn), len(turns) - 1
        if len(ids) <= room or self._first_turn == last:
            return ids, self._first_turn
        later = range(self._first_turn + 1, last)
        fits = bisect.bisect_left(later, True, key=lambda turn: len(rendered(turn)) <= room)
        first = self._first_turn + 1 + fits
        return rendered(first), first

    def _ends_in_think(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends in <think>, so that the answer begins in the thinking."""
        return self.model.tokenizer.decode(ids[-TAIL_TOKENS:]).rstrip().endswith(OPEN)


def _turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages at the front, and the turns: a message of the user and what follows."""
    rest = list(itertools.dropwhile(lambda message: message["role"] == "system", messages))
    turns: list[list[Message]] = []
    for message in rest:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return list(messages[: len(messages) - len(rest)]), turns
