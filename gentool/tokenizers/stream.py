"""Ids in, whole characters out. Held back are only the bytes of an unfinished character and text
that may turn out to be a stop string; what is given never changes later.
"""

from __future__ import annotations

import codecs
import copy
from collections.abc import Sequence

from gentool.tokenizers import Tokenizer, joined


class TextStream:
    """The text of one continuation. It starts after `prompt`, whose last bytes may be part of a
    character, and ends at the first of `stops` that is complete after `least` tokens or later."""

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        prompt: Sequence[int] = (),
        stops: Sequence[str] = (),
        include_stop: bool = False,
        least: int = 0,
    ) -> None:
        self.stopped = False
        self.text = ""  # all given so far
        self._tokenizer, self._stops = tokenizer, stops  # without a tokenizer there is no text
        self._include_stop, self._least = include_stop, least
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if tokenizer:
            self._decoder.decode(joined(tokenizer, prompt[-4:]))
        self._owed = bool(
            self._decoder.getstate()[0]
        )  # bytes of the prompt, if they come to nothing
        self._last = prompt[-1] if prompt else None
        self._tokens = 0
        self._ignored = 0  # characters of the first least - 1 tokens: no stop may end in them
        self._known = ""  # given and held back

    def fork(self) -> TextStream:
        """A copy that goes on by itself."""
        made = copy.copy(self)
        made._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        made._decoder.setstate(self._decoder.getstate())
        return made

    def push(self, token: int) -> str:
        """The characters that `token` makes certain; after a stop, none."""
        self._tokens += 1
        if not self._tokenizer:
            return ""
        new = self._decoder.decode(self._tokenizer.piece(token, self._last))
        self._last = token
        return self._advance(self._own(new))

    def finish(self, cut: bool = False) -> str:
        """What was held back, when no token follows. An unfinished character becomes U+FFFD, or
        nothing where the text was `cut` in its middle."""
        rest = "" if cut else self._own(self._decoder.decode(b"", final=True))
        given = self._advance(rest)
        return given if self.stopped else given + self._give(len(self._known))

    def _own(self, new: str) -> str:
        """`new` without what replaces an unfinished character of the prompt."""
        if new and self._owed:
            self._owed = False
            return new.removeprefix("\ufffd")
        return new

    def _advance(self, new: str) -> str:
        """Adds decoded text; gives what is certain: up to a complete stop text, which ends the
        stream, else all but what may become one."""
        if self.stopped:
            return ""
        self._known += new
        if self._tokens < self._least:
            self._ignored = len(self._known)
            return self._give(len(self._known) - self._held())
        places = [(at, stop) for stop in self._stops if (at := self._find(stop)) >= 0]
        if not places:
            return self._give(len(self._known) - self._held())
        at, stop = min(places, key=lambda place: (place[0] + len(place[1]), place[0]))
        self.stopped = True
        return self._give(at + len(stop) if self._include_stop else at)

    def _find(self, stop: str) -> int:
        before = max(self._ignored, len(self.text)) - len(stop) + 1  # no stop ends up to here
        return self._known.find(stop, max(0, before))

    def _held(self) -> int:
        """Length of the longest end of the text that is the beginning of a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._known)), 0, -1):
            if any(
                stop.startswith(self._known[-size:]) for stop in self._stops if len(stop) > size
            ):
                return size
        return 0

    def _give(self, end: int) -> str:
        given = self._known[len(self.text) : end]
        self.text += given
        return given
