"""Votes on the packaged model and the example prompts, by the Python interface."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from tiny import XLA

import gentool
from gentool.config.sampling import SamplingParams
from gentool.decoding import exact as decoding_exact
from gentool.errors import UsageError
from gentool.generation import vote as votes
from gentool.generation.request import Request, Sampled
from gentool.voting.examples import parse_few_shot
from gentool.voting.intervals import clopper_pearson
from gentool.voting.tally import Ballot

PROMPTS = sorted((Path(__file__).parents[2] / "configs/prompts").glob("*.txt"))
SUMS = "3+5=8\n2+2=4\n6+1=7\n1+7=8\n4+5="


@pytest.fixture(scope="module")
def model():
    """Nothing is compiled: of many shapes, a few steps each."""
    return gentool.load("tiny-zh", precision="fp32", xla=XLA)


def request(prompts, n=300, seed=1, **more):
    params = {"temperature": 1.0, "top_p": 0.95, "max_tokens": 16, "stop": ["\n"]}
    params |= {
        key: more.pop(key) for key in list(more) if key in SamplingParams.__dataclass_fields__
    }
    rows = tuple(more.pop("rows", range(len(prompts))))
    return Request(tuple(prompts), rows, n, SamplingParams(**params), seed, **more)


def final(tallies):
    """The last tally of each prompt and way."""
    actual = {}
    for tally in tallies:
        assert (tally.prompt, tally.way) not in actual or actual[
            tally.prompt, tally.way
        ].verdict == "running"
        actual[tally.prompt, tally.way] = tally
    assert all(tally.verdict != "running" for tally in actual.values())
    return actual


@pytest.mark.parametrize("count", [2, pytest.param(len(PROMPTS), marks=pytest.mark.slow)])
def test_exact_masses_lie_within_the_samples_intervals(model, count):
    """Simultaneously at 99.9 %, over all answers of so many example prompts."""
    prompts = [path.read_text("utf-8") for path in PROMPTS[:count]]
    stops = {parse_few_shot(prompt).stop for prompt in prompts}
    assert stops == {"\n"}
    n = 200
    ask = request(prompts, n)
    ballots = [Ballot(n, curtail=False), Ballot(exact=True, budget=48, within=0.01)]
    actual = final(model.votes(ask, ballots))
    checked = []
    for index in range(len(prompts)):
        sampled, exact = actual[index, "sampled"], actual[index, "exact"]
        assert sampled.drawn == n == sum(a.votes for a in sampled.answers) + sampled.invalid
        masses = {answer.answer: answer.low for answer in exact.answers}
        counts = {answer.answer: answer.votes for answer in sampled.answers}
        for answer in {*masses, *counts}:
            low = masses.get(answer, 0.0)
            checked.append((counts.get(answer, 0), low, low + exact.unseen))
        low = exact.invalid_mass
        checked.append((sampled.invalid, low, low + exact.unseen))
    confidence = 1 - 0.001 / len(checked)
    for count, low, high in checked:
        bottom, top = clopper_pearson(count, n, confidence)
        assert bottom <= high + 1e-6 and low <= top + 1e-6


def test_masses_of_an_exact_vote_sum_to_one(model):
    for tally in model.votes(request([SUMS]), [Ballot(exact=True, within=1e-6)]):
        total = sum(answer.mass for answer in tally.answers)
        assert total + tally.invalid_mass + tally.unseen == pytest.approx(1, abs=1e-9)
    assert tally.verdict == "exact" and tally.seed is None and tally.drawn == 0
    assert tally.winner.low == tally.winner.mass
    assert tally.winner.high == pytest.approx(tally.winner.mass + tally.unseen)


def test_curtailment_never_changes_the_winner(model):
    for seed in range(4):
        ask = request([SUMS, "1+1=2\n2+3="], 60, seed, temperature=1.5)
        short, whole = (
            final(model.votes(ask, [Ballot(60, curtail=curtail)])) for curtail in (True, False)
        )
        for key, tally in short.items():
            full = whole[key]
            assert tally.winner.answer == full.winner.answer
            bounds = {answer.answer: (answer.low, answer.high) for answer in tally.answers}
            for answer in full.answers:  # what is printed of a curtailed vote holds for all n
                low, high = bounds.get(answer.answer, (0.0, (60 - tally.drawn) / 60))
                assert low <= answer.votes / 60 <= high
            assert full.drawn == 60 and full.bounds == "95 % interval"


def test_a_certified_vote_counts_draws_in_order_of_their_index(model):
    ask = request([SUMS], 300, 3)
    tally = final(model.votes(ask, [Ballot(300, confidence=0.95)]))[0, "certified"]
    assert tally.verdict == "certified" and tally.certified_at == tally.drawn
    samples = model.complete(
        SUMS, tally.drawn, temperature=1.0, top_p=0.95, max_tokens=16, stop="\n", seed=3
    )
    counts = defaultdict(int)
    for sample in samples:
        counts[sample.text] += 1
    assert {a.text: a.votes for a in tally.answers} == counts
    assert tally.log_e >= tally.log_threshold


def test_a_text_counts_once_however_often_it_is_drawn(model, monkeypatch):
    """Its probability decides ties; it comes again in every wave."""
    monkeypatch.setattr(votes, "MAX_ROWS", 16)
    whole = final(model.votes(request([SUMS], 64), [Ballot(64, curtail=False)]))[0, "sampled"]
    monkeypatch.undo()
    once = final(model.votes(request([SUMS], 64), [Ballot(64, curtail=False)]))[0, "sampled"]
    for mine, other in zip(whole.answers, once.answers, strict=True):
        assert (mine.answer, mine.votes) == (other.answer, other.votes)
        assert mine.mass == pytest.approx(other.mass, abs=1e-5)
    assert sum(a.mass for a in whole.answers) + whole.invalid_mass <= 1 + 1e-9


WIDE = request([SUMS], 600, temperature=1.5, top_p=1.0, max_tokens=4)


@pytest.fixture(scope="module")
def exact(model):
    return final(model.votes(WIDE, [Ballot(exact=True, within=0.02, budget=2000)]))[0, "exact"]


@pytest.mark.parametrize("kept", [3, 1 << 12])
def test_estimates_are_unbiased(model, exact, monkeypatch, kept):
    """Also where most tokens of a node are forgotten."""
    monkeypatch.setattr(decoding_exact, "MAX_NODE_TOKENS", kept)
    ballot = Ballot(600, exact=True, within=0.02, budget=2)
    guess = final(model.votes(WIDE, [ballot]))[0, "exact"]
    assert guess.verdict == "estimated" and guess.unseen > 0.2
    shares = {answer.answer: answer.share for answer in guess.answers}
    for answer in exact.answers[:5]:
        assert shares.get(answer.answer, 0.0) == pytest.approx(answer.mass, abs=0.08)
    shown = sum(shares.values()) + guess.invalid_share
    assert shown == pytest.approx(1, abs=1e-9)


def test_dropped_tokens_widen_the_bounds_of_an_exact_vote(model, monkeypatch):
    monkeypatch.setattr(decoding_exact, "MAX_NODE_TOKENS", 1)
    ask = request(["今天天气很好\n今天天气很"], 20, temperature=3.0, top_p=1.0, max_tokens=2)
    tally = final(model.votes(ask, [Ballot(20, exact=True)]))[0, "exact"]
    assert tally.verdict == "estimated"


@pytest.mark.parametrize("ballot", [Ballot(40), Ballot(40, exact=True)])
def test_grammars_hold_without_end_tokens_and_into_dead_ends(model, ballot):
    ask = request([SUMS], 40, regex=r"\d", eos=None, stop=[])
    tally = final(model.votes(ask, [ballot]))[0, ballot.way]
    assert tally.answers and all(len(a.answer) == 1 for a in tally.answers)  # whole: it ends
    ask = request([SUMS], 40, regex="ab", ban=["b"], stop=[])
    tally = final(model.votes(ask, [ballot]))[0, ballot.way]
    assert tally.winner is None and tally.invalid_share == pytest.approx(1, abs=1e-6)


def test_an_undecided_vote_says_so(model):
    ask = request([SUMS], 5)
    tally = final(model.votes(ask, [Ballot(5, confidence=0.99)]))[0, "certified"]
    assert tally.verdict == "undecided" and tally.winner and tally.certified_at is None
    assert tally.drawn == 5


def test_a_budget_that_is_too_small_is_an_estimate(model):
    prompt = (PROMPTS[-1].parent / "triple.txt").read_text("utf-8")
    ask = request([prompt], 200, temperature=1.2, top_p=1.0)
    tally = final(model.votes(ask, [Ballot(200, exact=True, budget=20)]))[0, "exact"]
    assert tally.verdict == "estimated" and tally.unseen > 0.1
    assert tally.drawn == 200 and tally.seed == 1
    shares = sum(answer.share for answer in tally.answers)
    assert shares + tally.invalid_share == pytest.approx(1, abs=1e-6)
    for answer in tally.answers:
        assert answer.low <= answer.share <= answer.high + 1e-12
    again = final(model.votes(ask, [Ballot(200, exact=True, budget=20)]))[0, "exact"]
    assert again == tally


def test_a_common_prefix_is_computed_once(model, monkeypatch):
    lengths = []
    runtime = model.engine.runtime
    prefill = runtime.prefill

    def counted(ids, *more):
        lengths.append(len(ids))
        return prefill(ids, *more)

    monkeypatch.setattr(runtime, "prefill", counted)
    examples = "大=>小\n高=>矮\n快=>慢\n"
    prompts = [f"{examples}{word}=>" for word in ("长", "冷", "好")]
    together = final(model.votes(request(prompts, 20), [Ballot(20, curtail=False)]))
    shared = lengths[0]
    assert shared >= 12 and max(lengths[1:]) <= 4
    for index, prompt in enumerate(prompts):
        ask = request([prompt], 20, rows=[index])
        alone = final(model.votes(ask, [Ballot(20, curtail=False)]))[0, "sampled"]
        one = together[index, "sampled"]
        assert {a.answer: a.votes for a in one.answers} == {
            a.answer: a.votes for a in alone.answers
        }
    lengths.clear()
    final(model.votes(request(prompts, 20, batch_invariant=True), [Ballot(20)]))
    assert min(lengths) >= shared  # each by itself


def test_stratified_votes_are_nearer_to_the_masses(model):
    """And no binomial interval is printed of them."""
    exact = final(model.votes(request([SUMS], temperature=1.5), [Ballot(exact=True, within=1e-3)]))
    masses = exact[0, "exact"].answers
    distances = {}
    for stratified in (False, True):
        for seed in range(4):
            ask = request([SUMS], 40, seed, temperature=1.5, search=Sampled(stratified))
            sampled = final(model.votes(ask, [Ballot(40, curtail=False)]))[0, "sampled"]
            assert sampled.bounds == ("" if stratified else "95 % interval")
            counts = {answer.answer: answer.votes / 40 for answer in sampled.answers}
            distance = sum(abs(counts.get(a.answer, 0) - a.mass) for a in masses)
            distances[stratified] = distances.get(stratified, 0) + distance
    assert distances[True] < 0.7 * distances[False]


def test_an_unfinished_text_is_no_answer(model):
    ask = request(["今天天气很好\n今天天气很"], 20, max_tokens=1)
    for tally in final(model.votes(ask, [Ballot(20), Ballot(exact=True)])).values():
        assert tally.winner is None and not tally.answers
        assert tally.invalid == 20 or tally.invalid_mass > 0.9


def test_the_python_interface(model):
    tally = model.vote(SUMS, 50, seed=1)  # the stop is inferred, the law is the model's
    assert tally.winner and tally.n == 50 and tally.way == "sampled"
    assert model.vote(SUMS, exact=True).verdict == "exact"
    assert model.vote(SUMS, confidence=0.9, seed=1).verdict == "certified"
    ids = model.tokenizer.encode(SUMS)
    assert model.vote(ids, 50, seed=1, stop="\n") == tally
    assert model.vote(SUMS, 1, temperature=0).winner


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"n": 0}, "n is 0"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"confidence": 0.9, "exact": True}, "certified or exact"),
        ({"exact": True, "budget": 0}, "budget is 0"),
        ({"temperature": 0.0}, "temperature is 0, of 300 samples"),
        ({"confidence": 0.9, "stratified": True}, "stratified"),
        ({"answer_regex": "("}, "("),
        ({"n": 3, "max_tokens": 0}, "max_tokens"),
    ],
)
def test_invalid_votes_are_refused(model, said, error):
    with pytest.raises(UsageError) as caught:
        model.vote(SUMS, **said)
    assert error in caught.value.message


def test_ties_go_to_the_higher_probability(model):
    """One vote each: the more probable one of the two wins, not the first."""
    params = {"temperature": 2.0, "top_p": 1.0}
    for seed in range(60):
        tally = final(model.votes(request([SUMS], 2, seed, **params), [Ballot(2)]))[0, "sampled"]
        if tally.tied == 2:
            first, second = tally.answers
            assert first.votes == second.votes == 1 and first.mass >= second.mass
            break
    else:
        raise AssertionError("no tie in 60 votes")
    assert math.isfinite(first.mass) and np.isfinite(second.mass)
