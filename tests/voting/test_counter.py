"""Counting of samples: what is finished, what is not, and who leads."""

from __future__ import annotations

from gentool.voting.counter import VoteCounter
from gentool.voting.tally import Ballot


def counter(ballot: Ballot, begun: int) -> VoteCounter:
    made = VoteCounter(0, ballot, seed=1, independent=True)
    made.begun = begun
    return made


def test_samples_that_have_begun_and_not_ended_are_unfinished():
    votes = counter(Ballot(n=100), begun=40)
    assert votes.tally("running").unfinished == 40
    votes.add((1,), "a", "a", 0.5, range(25))
    votes.add((2,), None, "", 0.1, range(25, 30))
    running = votes.tally("running")
    assert (running.drawn, running.invalid, running.unfinished) == (30, 5, 10)
    votes.add((3, 4), "b", "b", 0.2, range(30, 40))
    assert votes.tally("running").unfinished == 0


def test_a_sample_that_waits_for_its_turn_is_finished():
    votes = counter(Ballot(n=16, confidence=0.95), begun=16)
    votes.add((1,), "a", "a", 0.5, [1, 2, 3])  # sample 0 is longer
    running = votes.tally("running")
    assert (running.drawn, running.unfinished) == (0, 13)
    votes.add((2, 2), "b", "b", 0.2, [0])
    running = votes.tally("running")
    assert (running.drawn, running.unfinished) == (4, 12)


def test_samples_cut_off_when_the_winner_is_sure_are_unfinished():
    votes = counter(Ballot(n=10), begun=10)
    votes.add((1,), "a", "a", 0.5, range(6))
    assert votes.over
    decided = votes.tally("decided")
    assert (decided.drawn, decided.unfinished) == (6, 4)
    assert (decided.answers[0].low, decided.answers[0].high) == (0.6, 1.0)


def test_a_text_counts_its_probability_once():
    votes = counter(Ballot(n=10), begun=10)
    votes.add((1,), "7", "七", 0.25, [0, 1, 2])
    votes.add((1,), "7", "七", 0.25, [3])
    votes.add((2,), "7", "7", 0.125, [4])
    (seven,) = votes.tally("running").answers
    assert (seven.votes, seven.mass, seven.text) == (5, 0.375, "七")


def test_ties_go_to_the_more_probable_answer_then_to_the_first_sample():
    votes = counter(Ballot(n=6, curtail=False), begun=6)
    votes.add((1,), "a", "a", 0.25, [1, 5])
    votes.add((2,), "b", "b", 0.5, [3, 4])
    votes.add((3,), "c", "c", 0.25, [0, 2])
    tally = votes.tally("decided")
    assert [answer.answer for answer in tally.answers] == ["b", "c", "a"]
    assert tally.tied == 3
