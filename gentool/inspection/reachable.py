"""Which tokens can have the largest logit (Grivas et al., Low-Rank Softmax Can Have Unargmaxable
Classes in Theory but Rarely in Practice, ACL 2022). A few directions prove most tokens possible; an
ascent corrects those that fail; a linear program on the rivals met so far decides the rest.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gentool.inspection import programs
from gentool.inspection.ascent import ascent, ascent_in_ball
from gentool.inspection.directions import centred, geometry_of, own, states, whitened
from gentool.inspection.output_layer import OutputLayer
from gentool.inspection.proofs import Combination, Duplicate, Proof, Witness, distinct_rows, win

BLOCK_LOGITS = 1 << 24  # logits computed at a time

Show = Callable[[int, int, float, str], None]


class Reachable(NamedTuple):
    """How many tokens are possible, why others are not, and which are undecided; by id."""

    possible: int
    impossible: tuple[Combination | Duplicate, ...]
    unknown: tuple[int, ...]


def verdicts(proofs: Iterable[Proof], n_vocab: int) -> Reachable:
    """The verdicts of proofs about the tokens below `n_vocab`."""
    possible, impossible = set[int](), list[Combination | Duplicate]()
    for proof in proofs:
        if isinstance(proof, Witness):
            possible.add(proof.token)
        else:
            impossible.append(proof)
    decided = possible | {proof.token for proof in impossible}
    unknown = tuple(token for token in range(n_vocab) if token not in decided)
    return Reachable(len(possible), tuple(sorted(impossible, key=lambda p: p.token)), unknown)


def has_scipy() -> bool:
    """Whether linear programs can be solved."""
    return importlib.util.find_spec("scipy") is not None


def proofs(layer: OutputLayer, seconds: float, show: Show) -> Iterator[Proof]:
    """A proof for each token that is decided within `seconds`; the others are unknown. `show` gets
    the tokens decided, all tokens, the seconds left and what is done. Without scipy there are no
    linear programs."""
    deadline = time.monotonic() + seconds
    total = len(layer.weight)
    rows, duplicates = distinct_rows(layer)
    yield from duplicates
    geometry = geometry_of(rows)
    block = max(1, min(len(rows.ids), BLOCK_LOGITS // len(rows.ids)))
    done, undecided = len(duplicates), list[int]()
    for start in range(0, len(rows.ids), block):
        if time.monotonic() > deadline:
            return
        tokens = np.arange(start, min(start + block, len(rows.ids)))
        for directions in (whitened, centred, own):
            x = states(layer, directions(rows, geometry, tokens))
            proven, _ = win(rows, tokens, x)
            for index in np.flatnonzero(proven):
                yield Witness(int(rows.ids[tokens[index]]), x[index])
            done += int(proven.sum())
            tokens = tokens[~proven]
            if not len(tokens):
                break
        undecided += tokens.tolist()
        show(done, total, max(0.0, deadline - time.monotonic()), "directions")
    for start in range(0, len(undecided), block):
        tokens = np.array(undecided[start : start + block])
        rivals: dict[int, list[int]] = {token: [] for token in tokens.tolist()}
        for climb in (ascent, ascent_in_ball) if rows.biased else (ascent,):
            for token, proof in climb(rows, geometry, np.array([*rivals], int), rivals, deadline):
                done += 1
                del rivals[token]
                yield proof
            show(done, total, max(0.0, deadline - time.monotonic()), "ascent")
        for token, met in rivals.items() if has_scipy() else ():
            if time.monotonic() > deadline:
                return
            decided = programs.decide(rows, geometry, token, met, deadline)
            if decided:
                done += 1
                yield decided
            show(done, total, max(0.0, deadline - time.monotonic()), "linear programs")
