"""Votes: prompts to tallies, from the tree of their samples or of all texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from os.path import commonprefix

import numpy as np

from gentool.decoding import exact, tree
from gentool.decoding.philox import uniform
from gentool.errors import UsageError
from gentool.generation.prepared import PreparedRequest
from gentool.generation.request import Sampled
from gentool.voting import answers
from gentool.voting.counter import VoteCounter
from gentool.voting.tally import ROUNDING, Ballot, Tally, Verdict

WAVE = 16  # samples that a certified vote begins with; each wave doubles what is drawn
MAX_ROWS = 1024  # samples drawn together, of all prompts
MAX_LOGITS = 1 << 26  # and numbers in their logits: 256 MB
GROUP = 32  # prompts held together at most
SELECT = 2**32 - 1  # the step whose number selects a prefix of the frontier


def tallies(prepared: PreparedRequest, ballots: Sequence[Ballot]) -> Iterator[Tally]:
    """Holds votes on each prompt of a request, some together: their tallies as they grow, the last
    of each with a verdict. What all prompts begin with is computed once; but under
    --batch-invariant, where nothing may depend on the others, each is computed by itself."""
    stratified = isinstance(prepared.request.search, Sampled) and prepared.request.search.stratified
    for ballot in ballots:
        _check(prepared, ballot, stratified)
    roots = _Roots(prepared)
    most = max([ballot.n for ballot in ballots if not ballot.exact], default=1)
    size = max(1, min(GROUP, _max_rows(prepared) // most))
    for first in range(0, len(prepared.prompts), size):
        group = range(first, min(first + size, len(prepared.prompts)))
        computed = [roots.root(prompt) for prompt in group]
        for ballot in ballots:
            counters = [
                VoteCounter(prompt, ballot, prepared.request.seed, not stratified)
                for prompt in group
            ]
            if ballot.exact:
                yield from _exact(prepared, computed, counters)
            else:
                yield from _drawn(prepared, computed, counters, ballot.n if stratified else 0)


def _check(prepared: PreparedRequest, ballot: Ballot, stratified: bool) -> None:
    if stratified and ballot.confidence is not None:
        raise UsageError(
            f"confidence is {ballot.confidence}, of stratified samples",
            "these depend on each other: drop one",
        )
    if (
        ballot.way in ("sampled", "certified")
        and prepared.sampling.temperature == 0
        and ballot.n > 1
    ):
        raise UsageError(
            f"temperature is 0, of {ballot.n} samples: every vote would be the same",
            "give a higher temperature, or --n 1",
        )


def _max_rows(prepared: PreparedRequest) -> int:
    return max(WAVE, min(MAX_ROWS, MAX_LOGITS // prepared.engine.arch.n_vocab))


class _Roots:
    """Computes prompts, what they all begin with once."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self._prepared = prepared
        shared = commonprefix(prepared.prompts)[: min(map(len, prepared.prompts)) - 1]
        alone = len(prepared.prompts) == 1 or prepared.request.batch_invariant or not shared
        self._begun = 0 if alone else len(shared)
        self._prefix = None if alone else prepared.engine.prefill(shared)[0]

    def root(self, prompt: int) -> tree.Root:
        prepared, ids = self._prepared, self._prepared.prompts[prompt]
        prefix, logits = prepared.engine.prefill(ids[self._begun :], self._prefix)
        following = prepared.following(prompt)
        return tree.Root(
            prefix,
            logits[0],
            prepared.request.rows[prompt],
            prepared.adjust(prompt, following),
            prepared.stops(prompt, following),
            prepared.max_new_tokens(prompt),
        )


def _options(prepared: PreparedRequest, ballot: Ballot) -> tree.TreeOptions:
    s = prepared.sampling
    params = replace(s, temperature=0.0) if ballot.greedy else s
    max_new_tokens = min(s.max_tokens, prepared.engine.arch.n_ctx)
    return tree.TreeOptions(params, prepared.ends, s.min_tokens, max_new_tokens)


def _drawn(
    prepared: PreparedRequest,
    roots: Sequence[tree.Root],
    counters: Sequence[VoteCounter],
    strata: int,
) -> Iterator[Tally]:
    """Sampled and certified votes of a group of prompts."""
    live, ballot = list(range(len(roots))), counters[0].ballot
    for wave in _waves(ballot, _max_rows(prepared)):
        closed: set[int] = set()
        some = [roots[index] for index in live]
        for index in live:
            counters[index].begun = wave.stop
        levels = tree.sample(
            prepared.engine,
            some,
            wave,
            _options(prepared, ballot),
            prepared.request.seed,
            strata,
            closed,
        )
        for level in levels:
            for leaf in level.leaves:
                counter = counters[live[leaf.root]]
                _add(prepared, counter, leaf)
                counter.tokens_of_rows += max(0, len(leaf.ids) - 1) * len(leaf.samples)
            for place, index in enumerate(live):
                if place in closed:
                    continue
                if counters[index].over:
                    closed.add(place)
                    yield counters[index].tally(_verdict(counters[index]))
                else:
                    counters[index].prefixes += int(level.nodes[place])
                    counters[index].tokens += int(level.nodes[place])
                    yield counters[index].tally("running")
        live = [index for place, index in enumerate(live) if place not in closed]
        if not live:
            return


def _waves(ballot: Ballot, most: int) -> Iterator[range]:
    """The samples to draw together, `most` at a time; of a certified vote the more, the longer it
    is open."""
    first, size = 0, most if ballot.confidence is None else WAVE
    while first < ballot.n:
        yield range(first, min(first + size, ballot.n))
        first, size = first + size, min(first + size, most)


def _verdict(counter: VoteCounter) -> Verdict:
    if counter.ballot.confidence is None:
        return "decided"
    return "certified" if counter.certified else "undecided"


def _exact(
    prepared: PreparedRequest, roots: Sequence[tree.Root], counters: Sequence[VoteCounter]
) -> Iterator[Tally]:
    """Exact votes of a group of prompts, and what is estimated where the budget is too small."""
    options = _options(prepared, counters[0].ballot)
    trees = [exact.Expansion(root, index, options) for index, root in enumerate(roots)]
    live = list(range(len(roots)))
    while live:
        budgets = [counters[index].ballot.budget - trees[index].computed for index in live]
        for leaf in exact.expand(prepared.engine, [trees[index] for index in live], budgets):
            _add(prepared, counters[leaf.root], leaf)
        for index in list(live):
            grown, counter = trees[index], counters[index]
            counter.unseen = grown.unseen
            counter.prefixes, counter.tokens = grown.computed, grown.tokens
            if counter.over or (grown.complete and grown.unseen <= ROUNDING):
                live.remove(index)
                yield counter.tally("exact")
            elif grown.complete or grown.computed >= counter.ballot.budget:
                live.remove(index)
                yield from _estimated(prepared, grown, counter)
            else:
                yield counter.tally("running")


def _estimated(
    prepared: PreparedRequest, grown: exact.Expansion, counter: VoteCounter
) -> Iterator[Tally]:
    """Draws from the frontier of a tree, each computed prefix by the mass of what was not looked at
    after it, and goes on from there."""
    frontier, n, seed = grown.frontier(), counter.ballot.n, prepared.request.seed
    cumulated = np.cumsum([mass for _, _, mass in frontier])
    u = uniform(seed, np.array(grown.root.row), np.arange(n), np.array(SELECT))
    drawn = np.searchsorted(cumulated, u * cumulated[-1], side="right")
    barred = {ids: looked for ids, looked, _ in frontier}
    for wave in _waves(counter.ballot, _max_rows(prepared)):
        counter.begun = wave.stop
        begun = tree.Begun([frontier[drawn[sample]][0] for sample in wave], barred)
        for level in tree.sample(
            prepared.engine, [grown.root], wave, grown.options, seed, begun=begun
        ):
            counter.prefixes += int(level.nodes[0])
            counter.tokens += int(level.nodes[0])
            for leaf in level.leaves:
                counter.tokens_of_rows += max(0, len(leaf.ids) - 1) * len(leaf.samples)
                counter.estimate(*_read(prepared, counter, leaf), len(leaf.samples))
            yield counter.tally("running")
    yield counter.tally("estimated")


def _add(prepared: PreparedRequest, counter: VoteCounter, leaf: tree.Leaf) -> None:
    counter.add(leaf.ids, *_read(prepared, counter, leaf), leaf.mass, leaf.samples)


def _read(
    prepared: PreparedRequest, counter: VoteCounter, leaf: tree.Leaf
) -> tuple[str | None, str]:
    """The answer a text gives, if it is finished, and how it is written."""
    text = prepared.finished_text(counter.prompt, leaf.ids).text
    rule = counter.ballot.rule
    return answers.answer(text, rule) if leaf.finished else None, answers.spelling(text, rule)
