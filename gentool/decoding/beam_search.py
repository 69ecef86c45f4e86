"""Parameters of beam search; importing them imports no numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BeamSearch:
    """Parameters of a beam search. A text ends with an end token, after the maximum number of new
    tokens, or with the context.

    rule "hf": of the `width` best candidates of a step, those that end with an end token become
    hypotheses and are frozen; the `width` best candidates that do not end continue. The best
    `width` hypotheses are kept, by total / tokens**length_penalty, the end token counted. End
    tokens are forbidden in the first `min_new_tokens`. Once there are `width` hypotheses the search
    stops: at once, if `early_stopping` is True; if False, when the best beam, ended now, would be
    no better than the worst of them; if "never", when no continuation can be better.

    `groups` (Vijayakumar et al. 2016) share the width. Within a step they choose in turn, and a
    token costs `diversity_penalty` for every beam of an earlier group that has chosen it in this
    step. The penalty stays in the total that a group searches and ranks by, and in the score. The
    `n_best` are the best of all groups; two groups may have the same text.

    rule "bert4keras": the best beam ends the search if it has ended; other ended beams are dropped
    and the width shrinks by their number. A beam has ended if its last token is an end token, at
    least `min_ends` of its tokens are, and it has at least `min_new_tokens` tokens; before that,
    end tokens are ordinary tokens. The score is the total; there is one hypothesis.
    """

    width: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    groups: int = 1
    diversity_penalty: float = 0.0
    rule: Literal["hf", "bert4keras"] = "hf"
    min_ends: int = 1
