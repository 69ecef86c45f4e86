"""The bytes of all ids at once, for what must know them before they are drawn. What an id adds to
a text depends on the one before it, but these fall into a few contexts, found by asking.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from gentool.tokenizers import Tokenizer

# words, Chinese and punctuation: has pieces whose bytes depend on their context, if any do
VARIED = "a bc 今天, d."


class Pieces(NamedTuple):
    """`texts[context][id]` are the bytes an id adds in a context, `contexts[id]` is that of the
    ids after it, `contexts[-1]` that of the start of a text. Most ids lead to context 0."""

    texts: list[list[bytes]]  # [C][V]
    contexts: list[int]  # [V + 1]


def pieces(tokenizer: Tokenizer, n_vocab: int) -> Pieces:
    """Of the ids below `n_vocab`, which may be more than the tokenizer has."""
    befores = [*range(n_vocab), None]
    probes = _probes(tokenizer)
    signatures = [tuple(tokenizer.piece(t, before) for t in probes) for before in befores]
    order = [signature for signature, _ in Counter(signatures).most_common()]
    number = {signature: context for context, signature in enumerate(order)}
    contexts = [number[signature] for signature in signatures]
    examples = [befores[contexts.index(context)] for context in range(len(order))]
    texts = [[tokenizer.piece(t, before) for t in range(n_vocab)] for before in examples]
    return Pieces(texts, contexts)


def _probes(tokenizer: Tokenizer) -> list[int]:
    """Ids whose bytes tell the contexts apart: one of each way to depend on the id before."""
    spread = range(0, tokenizer.n_vocab, max(1, tokenizer.n_vocab // 64))
    sample = sorted({*tokenizer.encode(VARIED), *spread})
    by_way: dict[tuple[int, ...], int] = {}  # the first token of each way
    for token in sample:
        added = [tokenizer.piece(token, before) for before in (*sample, None)]
        by_way.setdefault(tuple(map(added.index, added)), token)  # which are equal
    return [token for ways, token in by_way.items() if any(ways)]
