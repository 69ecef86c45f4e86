"""Drafts for prompt lookup decoding (Saxena 2023): the tokens that followed the last tokens when
these last occurred in the text. A draft costs nothing and is verified by the model, so it changes
no text.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_NGRAM, MIN_NGRAM = 3, 2  # tokens that are looked up
MIN_ACCEPTED = 2  # accepted tokens from which a draft saves more than its longer step costs
PAUSE = 4  # steps without a draft after a rejected one
PAUSE_GROWTH = 4  # times as many after the next


def draft(ids: Sequence[int], count: int) -> list[int]:
    """`count` tokens that may follow `ids`: those after the latest earlier occurrence of the last
    three tokens, or two, reading on in the draft itself; none where there is no occurrence."""
    text = list(ids)
    for size in range(min(MAX_NGRAM, len(text) - 1), MIN_NGRAM - 1, -1):
        ngram = text[-size:]
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - 1] == ngram[-1] and text[end - size : end] == ngram:
                for position in range(end, end + count):
                    text.append(text[position])
                return text[len(ids) :]
    return []


class Drafter:
    """Drafts for one row. It pauses after rejected drafts: a text that repeats itself gets a draft
    at every step, any other hardly any."""

    def __init__(self, count: int) -> None:
        self._count, self._paused_steps, self._pause = count, 0, PAUSE

    def draft(self, ids: Sequence[int]) -> list[int]:
        """A draft after `ids`, empty while it pauses."""
        return [] if self._paused_steps > 0 else draft(ids, self._count)

    def record(self, drafted: int, accepted: int) -> None:
        """Records a step of the model in which `accepted` of `drafted` tokens were drawn, and one
        more."""
        if not drafted:
            self._paused_steps -= 1
        elif accepted >= min(MIN_ACCEPTED, drafted):
            self._pause = PAUSE
        else:
            self._paused_steps, self._pause = self._pause, self._pause * PAUSE_GROWTH
