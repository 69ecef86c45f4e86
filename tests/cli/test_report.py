"""What the verdict of a vote says, and that it is as sure as the vote is."""

from __future__ import annotations

import pytest

from gentool.cli.fewshot.report import board, progress, verdict
from gentool.voting.counter import VoteCounter
from gentool.voting.tally import Ballot, Tally, Verdict

FILTERED = "(after temperature and filters)"


def sampled(votes: dict[str | None, int], ballot: Ballot, end: Verdict, begun: int = 0) -> Tally:
    counter, first = VoteCounter(0, ballot, seed=1, independent=True), 0
    counter.begun = begun
    for number, (answer, count) in enumerate(votes.items()):
        counter.add((number,), answer, answer or "", 0.1, range(first, first + count))
        first += count
    return counter.tally(end)


def exact(masses: dict[str | None, float]) -> Tally:
    counter = VoteCounter(0, Ballot(exact=True), seed=1, independent=True)
    for number, (answer, mass) in enumerate(masses.items()):
        counter.add((number,), answer, answer or "", mass, [])
    counter.unseen = 1 - sum(masses.values())
    counter.prefixes = 2
    return counter.tally("exact")


FEW = {"8": 59, None: 150, "7": 50, "9": 41}


@pytest.mark.parametrize(
    ("votes", "ballot", "end", "line"),
    [
        ({"8": 200, "7": 100}, Ballot(curtail=False), "decided", "8 wins with 200 of 300 votes"),
        (
            FEW,
            Ballot(curtail=False),
            "decided",
            "8 leads with 59 of 300 votes; but 50.0% of the samples gave no valid answer",
        ),
        (
            {"8": 2, "7": 2, None: 6},
            Ballot(n=10, curtail=False),
            "decided",
            "2 answers tie with 2 of 10 votes each; the most probable of them is 8; but 60.0% of"
            " the samples gave no valid answer",
        ),
        (
            FEW,
            Ballot(n=400),
            "running",
            "stopped: 8 has 59 of 300 votes; 400 samples were asked for; but 50.0% of the samples"
            " gave no valid answer",
        ),
        (
            {"8": 9},
            Ballot(confidence=0.95),
            "certified",
            f"certified: 8 is the most probable answer {FILTERED}, at confidence 95 % after 9"
            " samples",
        ),
        (
            {None: 20, "8": 9},
            Ballot(confidence=0.95),
            "certified",
            f"certified: 8 is the most probable answer {FILTERED}, at confidence 95 % after 29"
            " samples; but 69.0% of the samples gave no valid answer",
        ),
        ({"8": 60, None: 60}, Ballot(n=120), "decided", "8 wins with 60 of 120 votes"),
    ],
)
def test_a_verdict_of_samples(
    votes: dict[str | None, int], ballot: Ballot, end: Verdict, line: str
) -> None:
    assert verdict(sampled(votes, ballot, end)) == line


@pytest.mark.parametrize(
    ("masses", "line"),
    [
        (
            {"8": 0.75, None: 0.125, "7": 0.125},
            f"exact: 8 has probability 0.75 {FILTERED}, more than any other answer",
        ),
        (
            {"8": 0.25, None: 0.625, "7": 0.125},
            f"exact: 8 has probability 0.25 {FILTERED}, more than any other answer; but 62.5% of"
            " the probability gave no valid answer",
        ),
        (
            {"8": 0.5, "7": 0.5},
            f"exact: 2 answers tie with probability 0.5 {FILTERED}, 8 one of them",
        ),
    ],
)
def test_a_verdict_of_probabilities(masses: dict[str | None, float], line: str) -> None:
    assert verdict(exact(masses)) == line


def test_progress_says_how_many_samples_are_unfinished() -> None:
    running = sampled({"8": 10, "7": 2}, Ballot(n=300), "running", begun=300)
    assert progress(running, 2.0) == "12 of 300 samples, 288 unfinished, 6/s, 48 s left at most"
    waves = sampled({"8": 10, "7": 6}, Ballot(n=300, confidence=0.5), "running", begun=16)
    assert progress(waves, 2.0).startswith("4 of 300 samples, 2/s")  # certified by the fourth
    assert board(running, "").rows[0][:2] == ("8", "10")
