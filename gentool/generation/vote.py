"""Votes: prompts to tallies, by sampling a tree of texts or by expanding it exactly."""

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

FIRST_WAVE = 16  # samples that a certified vote begins with; each wave doubles their number
MAX_ROWS = 1024  # samples drawn together, of all prompts
MAX_LOGITS = 1 << 26  # elements of their logits: 256 MB
MAX_GROUP = 32  # prompts computed together
SELECT_STEP = 2**32 - 1  # the step whose random number selects a prefix of the frontier


def tallies(prepared: PreparedRequest, ballots: Sequence[Ballot]) -> Iterator[Tally]:
    """Yields the tallies of votes on each prompt of a request, in groups of prompts, while they
    grow; the last tally of a vote has a verdict. The common prefix of all prompts is computed once,
    but not with --batch-invariant, where no result may depend on the other prompts."""
    stratified = isinstance(prepared.request.search, Sampled) and prepared.request.search.stratified
    for ballot in ballots:
        _check(prepared, ballot, stratified)
    roots = _Roots(prepared)
    max_n = max([ballot.n for ballot in ballots if not ballot.exact], default=1)
    size = max(1, min(MAX_GROUP, _max_rows(prepared) // max_n))
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
            "stratified samples depend on each other: drop one of the two",
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
    return max(FIRST_WAVE, min(MAX_ROWS, MAX_LOGITS // prepared.engine.arch.n_vocab))


class _Roots:
    """Computes prompts, their common prefix once."""

    def __init__(self, prepared: PreparedRequest) -> None:
        self._prepared = prepared
        common = commonprefix(prepared.prompts)[: min(map(len, prepared.prompts)) - 1]
        separate = len(prepared.prompts) == 1 or prepared.request.batch_invariant or not common
        self._n_common = 0 if separate else len(common)
        self._prefix = None if separate else prepared.engine.prefill(common)[0]

    def root(self, prompt: int) -> tree.Root:
        prepared, ids = self._prepared, self._prepared.prompts[prompt]
        prefix, logits = prepared.engine.prefill(ids[self._n_common :], self._prefix)
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
        for index in live:
            counters[index].begun = wave.stop
        levels = tree.sample(
            prepared.engine,
            [roots[index] for index in live],
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


def _waves(ballot: Ballot, max_rows: int) -> Iterator[range]:
    """Yields the samples to draw together, `max_rows` at a time; the waves of a certified vote
    begin small and grow."""
    first, size = 0, max_rows if ballot.confidence is None else FIRST_WAVE
    while first < ballot.n:
        yield range(first, min(first + size, ballot.n))
        first, size = first + size, min(first + size, max_rows)


def _verdict(counter: VoteCounter) -> Verdict:
    if counter.ballot.confidence is None:
        return "decided"
    return "certified" if counter.certified else "undecided"


def _exact(
    prepared: PreparedRequest, roots: Sequence[tree.Root], counters: Sequence[VoteCounter]
) -> Iterator[Tally]:
    """Exact votes of a group of prompts; where the budget is too small, an estimate follows."""
    options = _options(prepared, counters[0].ballot)
    trees = [exact.Expansion(root, index, options) for index, root in enumerate(roots)]
    live = list(range(len(roots)))
    while live:
        budgets = [counters[index].ballot.budget - trees[index].computed for index in live]
        for leaf in exact.expand(prepared.engine, [trees[index] for index in live], budgets):
            _add(prepared, counters[leaf.root], leaf)
        for index in list(live):
            expansion, counter = trees[index], counters[index]
            counter.unseen = expansion.unseen
            counter.prefixes, counter.tokens = expansion.computed, expansion.tokens
            if counter.over or (expansion.complete and expansion.unseen <= ROUNDING):
                live.remove(index)
                yield counter.tally("exact")
            elif expansion.complete or expansion.computed >= counter.ballot.budget:
                live.remove(index)
                yield from _estimated(prepared, expansion, counter)
            else:
                yield counter.tally("running")


def _estimated(
    prepared: PreparedRequest, expansion: exact.Expansion, counter: VoteCounter
) -> Iterator[Tally]:
    """Estimates the votes of the frontier of a tree: draws its prefixes by the mass of their
    unexplored tokens, and samples the texts that continue them with these."""
    frontier, n, seed = expansion.frontier(), counter.ballot.n, prepared.request.seed
    cumulated = np.cumsum([mass for _, _, mass in frontier])
    u = uniform(seed, np.array(expansion.root.rng_row), np.arange(n), np.array(SELECT_STEP))
    drawn = np.searchsorted(cumulated, u * cumulated[-1], side="right")
    excluded = {ids: explored for ids, explored, _ in frontier}
    for wave in _waves(counter.ballot, _max_rows(prepared)):
        counter.begun = wave.stop
        prefixes = [frontier[drawn[sample]][0] for sample in wave]
        levels = tree.sample(
            prepared.engine,
            [expansion.root],
            wave,
            expansion.options,
            seed,
            forced=tree.ForcedPrefixes(prefixes, excluded),
        )
        for level in levels:
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
    """The answer of a text, None if the text is not finished, and its spelling."""
    text = prepared.finished_text(counter.prompt, leaf.ids).text
    rule = counter.ballot.rule
    return answers.answer(text, rule) if leaf.finished else None, answers.spelling(text, rule)
