"""The thinking of a model: the part between <think> and </think> that its answer begins with."""

from __future__ import annotations

from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"


class Part(NamedTuple):
    """A piece of an answer's text, of its thinking or of what follows that."""

    text: str
    thinking: bool


class ThinkingParser:
    """Splits a growing text. <think> opens the thinking only before any other text, </think> ends
    it; both tags, and the white space around them, belong to neither part. With `opened` the text
    begins in the thinking, because the prompt ends in <think>."""

    def __init__(self, opened: bool = False) -> None:
        self._thinking = opened
        self._decided = opened  # whether it is known that the text begins with <think>, or not
        self._after_tag = opened  # white space here is dropped
        self._held = ""

    def push(self, text: str) -> list[Part]:
        """The parts that are certain with `text`."""
        self._held += text
        parts: list[Part] = []
        if not self._decided:
            start = self._held.lstrip()
            if OPEN.startswith(start[: len(OPEN)]) and len(start) < len(OPEN):
                return parts  # it may become <think>
            self._decided = True
            if start.startswith(OPEN):
                self._thinking = self._after_tag = True
                self._held = start.removeprefix(OPEN)
        if self._thinking:
            thought, tag, rest = self._held.partition(CLOSE)
            if tag:
                self._add(parts, thought.rstrip())
                self._thinking, self._after_tag, self._held = False, True, rest
            else:
                stable = thought[: len(thought) - _open_end(thought)]
                self._held = thought[len(stable) :]
                self._add(parts, stable)
        if not self._thinking:
            self._add(parts, self._held)
            self._held = ""
        return parts

    def finish(self) -> list[Part]:
        """The parts that were held back, when no text follows."""
        self._decided = True
        parts: list[Part] = []
        self._add(parts, self._held.rstrip() if self._thinking else self._held)
        self._held = ""
        return parts

    def _add(self, parts: list[Part], text: str) -> None:
        if self._after_tag:
            text = text.lstrip()
        if text:
            self._after_tag = False
            parts.append(Part(text, self._thinking))


def _open_end(text: str) -> int:
    """How many of the last characters are white space, or may become </think>: they wait."""
    body = text
    for size in range(min(len(CLOSE) - 1, len(text)), 0, -1):
        if CLOSE.startswith(text[-size:]):
            body = text[:-size]
            break
    return len(text) - len(body.rstrip())
