"""Drafts for lookup decoding (Saxena 2023, prompt lookup): what stood behind the last tokens when
they last occurred. A draft costs nothing and is verified by the model, so it changes no text.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST, SHORTEST = 3, 2  # tokens that are looked for
ENOUGH = 2  # tokens of a draft that have to come true: about what a step for a draft costs more
REST = 4  # tokens without a draft after one that was in vain
LONGER = 4  # times as many after the next


def draft(ids: Sequence[int], count: int) -> list[int]:
    """`count` tokens that may follow `ids`: those after the latest earlier place of its last three
    tokens, or two, going on in what is drafted; none where these are new."""
    text = list(ids)
    for size in range(min(LONGEST, len(text) - 1), SHORTEST - 1, -1):
        last = text[-size:]
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - 1] == last[-1] and text[end - size : end] == last:
                for at in range(end, end + count):
                    text.append(text[at])
                return text[len(ids) :]
    return []


class Drafter:
    """Drafts for one row, which rests where they do not come true: a text that copies gets one at
    every step, any other hardly any."""

    def __init__(self, count: int) -> None:
        self._count, self._resting, self._rest = count, 0, REST

    def draft(self, ids: Sequence[int]) -> list[int]:
        return [] if self._resting > 0 else draft(ids, self._count)

    def record(self, drafted: int, accepted: int) -> None:
        """Notes that `accepted` of `drafted` tokens were drawn, and one token more."""
        if not drafted:
            self._resting -= 1
        elif accepted >= min(ENOUGH, drafted):
            self._rest = REST
        else:
            self._resting, self._rest = self._rest, self._rest * LONGER
