"""Answers on stdout: streamed, whole, or as JSON; what is worth a note goes to stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.complete import matches, sample_fields
from gentool.errors import GentoolError

if TYPE_CHECKING:
    from gentool.cli.chat.transcript import Transcript
    from gentool.cli.console import Console
    from gentool.cli.flags import GrammarFlags
    from gentool.generation.conversation import Answer, Conversation
    from gentool.generation.thinking import Part

THINKING = "<think>\n", "\n</think>\n\n"  # before and after it in a pipe


class Piece(NamedTuple):
    """Text as it is printed."""

    text: str
    dim: bool = False


@dataclass
class Answering:
    """Where the answers of a conversation go, and in which form. `stream` None is on a terminal."""

    console: Console
    conversation: Conversation
    transcript: Transcript | None
    json: bool
    stream: bool | None
    show_thinking: bool

    def show(
        self, parts: Generator[Part, None, None], stopped: Callable[[], bool] = lambda: False
    ) -> Answer | None:
        """Prints an answer while it grows, and saves the transcript. The answer ends where it is
        `stopped`; it is None if there was no text yet."""
        start = time.monotonic()
        pieces = self._pieces(_until(parts, stopped))
        stream = self.console.on_terminal if self.stream is None else self.stream
        for piece in pieces if stream and not self.json else list(pieces):
            if not self.json:
                self.console.write(*piece)
        answer = self.conversation.last
        if answer and self.json:
            self.console.write(self._json(answer) + "\n")
        elif answer:
            self.console.write("\n")
        self.console.end_line()
        if answer and self.transcript:
            self.transcript.save(self.conversation.messages)
        self._notes(answer, time.monotonic() - start)
        return answer

    def _pieces(self, parts: Iterator[Part]) -> Iterator[Piece]:
        """What is printed of an answer. Where thinking is hidden, a terminal says so meanwhile."""
        opened = closed = ""
        if not self.console.on_terminal:
            opened, closed = THINKING
        thinking = waiting = False
        with ExitStack() as hidden:
            for part in parts:
                if part.thinking and not self.show_thinking:
                    if not waiting:
                        hidden.enter_context(self.console.waiting("thinking …"))
                    waiting = True
                    continue
                hidden.close()
                if part.thinking != thinking:
                    yield Piece(opened if part.thinking else closed or "\n\n")
                    thinking = part.thinking
                yield Piece(part.text, part.thinking)
        if thinking:  # the answer was cut in it
            yield Piece(closed.rstrip("\n"))

    def _json(self, answer: Answer) -> str:
        """An answer as `gentool complete --json` prints it, with messages in place of a prompt."""
        conversation, request = self.conversation, self.conversation.request
        sample = answer.sample
        fields: dict[str, object] = {"text": answer.text, "finish": "interrupted"}
        if sample:
            fields = sample_fields(sample) | {"text": answer.text}
        if answer.thinking:
            fields["thinking"] = answer.thinking
        record = {
            "messages": conversation.messages[:-1],
            "row": answer.row,
            "model": conversation.model.config.name,
            "seed": request.seed,
            "precision": conversation.model.precision,
            "law": asdict(request.sampling),
            "samples": [fields],
        }
        return json.dumps(record, ensure_ascii=False)

    def _notes(self, answer: Answer | None, seconds: float) -> None:
        """What a person wants to know of an answer that is not whole; with -v, how fast it was."""
        console = self.console
        if answer is None:
            console.note("stopped before there was any text; the conversation is as before")
            return
        context = self.conversation.model.config.arch.n_ctx
        if answer.dropped:
            turns = (
                "the oldest turn is"
                if answer.dropped == 1
                else f"the {answer.dropped} oldest turns are"
            )
            console.note(f"the context of {context} tokens is full: {turns} left out")
        if answer.sample is None:
            console.after("stopped; the text so far is kept")
        elif answer.sample.finish == "length":
            length = len(answer.sample.ids)
            full = answer.prompt_tokens + length >= context
            at = f"the end of the context, {context} tokens" if full else f"--max-tokens {length}"
            if answer.thinking and not answer.text:
                console.note(f"the thinking was cut at {at}: there is no answer")
            else:
                console.after(f"cut at {at}")
        count = f"{len(answer.sample.ids)} tokens" if answer.sample else "a part"
        console.detail(
            f"{answer.prompt_tokens} tokens of prompt, {answer.cached_tokens} of them cached;"
            f" {count} of answer in {seconds:.2f} s"
        )

    def check(self, grammar: GrammarFlags) -> None:
        """Raises an error where the answer was cut before it matched the grammar."""
        answer = self.conversation.last
        if answer and answer.sample and answer.sample.finish == "length":
            if not matches(answer.text, grammar):
                name = "--regex" if grammar.json_schema is None else "--json-schema"
                raise GentoolError(
                    f"the answer was cut before it matched {name}", "raise --max-tokens"
                )


def _until(parts: Generator[Part, None, None], stopped: Callable[[], bool]) -> Iterator[Part]:
    """Parts of an answer, which is closed after the one during which it was stopped."""
    for part in parts:
        yield part
        if stopped():
            parts.close()
            return
