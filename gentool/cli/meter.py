"""Counts what a command has generated, for what it says beside its result."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gentool.cli.inputs import RowsError
from gentool.errors import GentoolError

if TYPE_CHECKING:
    from gentool.cli.flags import GrammarFlags
    from gentool.generation.request import Sample


class Meter:
    """Counts tokens, seconds, and texts that were cut, of texts while they are made."""

    def __init__(self, grammar: GrammarFlags) -> None:
        self._grammar, self._start = grammar, time.monotonic()
        self.tokens, self.first, self.seconds = 0, 0.0, 0.0
        self.texts = self.cut = self.broken = 0  # broken: cut before they matched the grammar

    def count(self, samples: Sequence[Sample]) -> None:
        """Counts samples that are done."""
        self.seconds = time.monotonic() - self._start
        self.first = self.first or self.seconds
        for sample in samples:
            cut = sample.finish == "length"
            self.texts, self.cut = self.texts + 1, self.cut + cut
            self.broken += cut and not matches(sample.text, self._grammar)
            self.tokens += len(sample.ids)

    def cut_note(self, max_tokens: int) -> str:
        """What to say of texts that were cut; nothing where none was."""
        which = "" if self.texts == 1 else f"{self.cut} of {self.texts} texts "
        return f"; {which}cut at --max-tokens {max_tokens}" if self.cut else ""

    def check(self) -> None:
        """Raises an error where texts were cut before they matched the grammar."""
        name = "--regex" if self._grammar.json_schema is None else "--json-schema"
        if not self.broken:
            return
        if self.texts == 1:
            raise GentoolError(f"the text was cut before it matched {name}", "raise --max-tokens")
        raise RowsError(
            f"{self.broken} of {self.texts} texts were cut before they matched {name}",
            "raise --max-tokens",
        )

    def __str__(self) -> str:
        return (
            f"{self.tokens} tokens in {self.seconds:.2f} s, {self.speed},"
            f" the first after {self.first:.2f} s"
        )

    @property
    def speed(self) -> str:
        """Tokens of texts that are done, by seconds."""
        return f"{self.tokens / self.seconds if self.seconds else 0.0:.1f} tokens/s"


def matches(text: str, grammar: GrammarFlags) -> bool:
    """Whether a text that was cut is whole nevertheless."""
    if grammar.json_schema is not None:
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
    if grammar.regex is not None:
        try:
            return bool(re.fullmatch(grammar.regex, text))
        except re.error:  # Python's are not quite the library's
            return False
    return True
