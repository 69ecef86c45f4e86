"""Drafts for lookup decoding (Saxena 2023, prompt lookup): what stood behind the last tokens when
they last occurred. A draft costs nothing and is verified by the model, so it changes no text.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 3  # tokens that are looked for, then fewer


def draft(ids: Sequence[int], count: int) -> list[int]:
    """`count` tokens that may follow `ids`: those after the latest earlier place of its last three
    tokens, or two, or one, going on in what is drafted; none where the last token is new."""
    text = list(ids)
    for size in range(min(LONGEST, len(text) - 1), 0, -1):
        last = text[-size:]
        for end in range(len(text) - 1, size - 1, -1):
            if text[end - 1] == last[-1] and text[end - size : end] == last:
                for at in range(end, end + count):
                    text.append(text[at])
                return text[len(ids) :]
    return []
