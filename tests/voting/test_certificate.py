"""The certificate against the definition in exact fractions over the whole list of draws, and its
promise by exact probabilities over all sequences of draws."""

import math
import time
from collections import Counter
from fractions import Fraction
from functools import cache
from itertools import islice, product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gentool.errors import UsageError
from gentool.voting.certificate import Certificate, log_e

CONFIDENCES = [0.01, 0.5, 0.9, 0.95, 0.99]


@cache
def exact_e(a: int, b: int) -> Fraction:
    """2^(a+b+1) times the integral of t^a (1-t)^b over [1/2, 1], (1-t)^b multiplied out."""
    integral = sum(
        Fraction((-1) ** i * math.comb(b, i), a + i + 1) * (1 - Fraction(1, 2 ** (a + i + 1)))
        for i in range(b + 1)
    )
    return 2 ** (a + b + 1) * integral


def certified(draws, confidence):
    """From scratch: after each draw, every answer against every rival and one never seen."""
    for at in range(1, len(draws) + 1):
        drawn = draws[:at]
        answers = list(dict.fromkeys(filter(None, drawn)))
        passing = []
        for k, answer in enumerate(answers, 1):
            after = Counter(drawn[drawn.index(answer) + 1 :])
            rivals = [after[rival] for rival in answers if rival != answer] + [0]
            least = min(exact_e(after[answer], b) for b in rivals)
            if least >= math.pi**2 * k**2 / (6 * (1 - confidence)):
                passing.append(answer)
        assert len(passing) <= 1
        if passing:
            return passing[0], at
    return None, None


def run(draws, confidence=0.95):
    certificate = Certificate(confidence)
    for answer in draws:
        certificate.add(answer)
    return certificate


@pytest.mark.parametrize(
    "confidence, needed", [(0.5, 4), (0.8, 6), (0.9, 7), (0.95, 9), (0.99, 11), (0.999, 15)]
)
def test_so_many_equal_answers_certify(confidence, needed):
    # (2^n - 1) / n for n equal answers: 31.9 for eight, 56.8 for nine; 0.95 wants 32.9
    assert run(["a"] * (needed - 1), confidence).certified is None
    certificate = run(["a"] * (needed + 5), confidence)
    assert (certificate.certified, certificate.at) == ("a", needed)
    assert certificate.drawn == needed + 5


def test_e_is_the_exact_integral():
    for a, b in product(range(40), repeat=2):
        e = exact_e(a, b)
        logarithm = math.log(e.numerator) - math.log(e.denominator)
        assert log_e(a, b) == pytest.approx(logarithm, rel=1e-12, abs=1e-12)
    assert log_e(0, 0) == 0
    assert math.exp(log_e(8, 0)) == pytest.approx(511 / 9)


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@example(5000, 5000)
@example(5000, 4999)
@example(100_000, 0)
@example(0, 100_000)
def test_e_keeps_its_mean_on_a_fair_coin(a, b):
    # E(a + 1, b) / 2 + E(a, b + 1) / 2 = E(a, b): the law that carries the promise
    up, down = log_e(a + 1, b), log_e(a, b + 1)
    assert up > log_e(a, b) > down
    mean = up + math.log1p(math.exp(down - up)) - math.log(2)
    assert mean == pytest.approx(log_e(a, b), abs=1e-9)


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d", None]), st.integers(1, 14)), max_size=9
    ),
    st.sampled_from(CONFIDENCES),
)
@example([("a", 5), ("b", 5), ("a", 1), ("b", 12)], 0.95)  # the second to appear
@example([("a", 3), ("c", 3), ("a", 5), ("c", 5), ("b", 30)], 0.95)  # the third
@example([("c", 1), ("a", 6), ("b", 6), ("a", 6)], 0.95)  # held back by the stronger rival
def test_draw_by_draw_equals_from_scratch(runs, confidence):
    draws = [answer for answer, times in runs for _ in range(times)]
    certificate = run(draws, confidence)
    assert (certificate.certified, certificate.at) == certified(draws, confidence)
    assert certificate.drawn == len(draws)


def test_a_certified_answer_need_not_lead():
    # what was drawn before it first appeared does not count against it
    draws = ["a", "b"] * 20 + ["c"] * 12
    certificate = run(draws)
    assert certified(draws, 0.95) == (certificate.certified, certificate.at) == ("c", 52)
    assert certificate.evidence().answer == "a"


def test_it_stays():
    certificate = run(["a"] * 9 + ["b"] * 100)
    assert (certificate.certified, certificate.at) == ("a", 9)
    assert certificate.evidence().answer == "b"


@given(st.lists(st.sampled_from(["a", "a", "a", "b", None]), max_size=60))
def test_invalid_draws_are_nobodys(draws):
    with_them, without = run(draws), run([answer for answer in draws if answer])
    assert with_them.certified == without.certified
    assert with_them.evidence() == without.evidence()
    if with_them.at is not None:
        valid = (i for i, answer in enumerate(draws, 1) if answer)
        assert with_them.at == next(islice(valid, without.at - 1, None))


def test_state():
    needed = math.log(math.pi**2 / 6 / 0.05)
    assert run([]).evidence() == (None, 0, pytest.approx(needed))
    assert run([None]).evidence() == (None, 0, pytest.approx(needed))
    assert run("aab").evidence() == (
        "a",
        pytest.approx(math.log(exact_e(1, 1))),
        pytest.approx(needed),
    )
    assert run("ab").evidence().answer == "a"  # the first of equals
    assert run("abcbaac").evidence().log_e == pytest.approx(math.log(exact_e(2, 2)))
    # the second to appear needs four times as much; "a" counts against it only once
    wanted = ("b", pytest.approx(math.log(exact_e(3, 1))), pytest.approx(needed + math.log(4)))
    assert run("aabbabb").evidence() == wanted


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, math.nan])
def test_confidence_is_a_probability(confidence):
    with pytest.raises(UsageError, match=f"confidence is {confidence}"):
        Certificate(confidence)


@pytest.mark.parametrize("confidence", [0.05, 0.5, 0.8])
@pytest.mark.parametrize("p", [(0.5, 0.5), (0.4, 0.4, 0.2), (0.38, 0.36, 0.26), (0.34, 0.33, 0.33)])
def test_wrong_with_probability_alpha_at_most(p, confidence):
    modes = [i for i, x in enumerate(p) if x == max(p)]
    mode = "abc"[modes[0]] if len(modes) == 1 else "no one"
    wrong = 0.0
    for draws in product(range(len(p)), repeat=13 if len(p) == 2 else 8):
        if run(["abc"[i] for i in draws], confidence).certified not in (None, mode):
            wrong += math.prod(p[i] for i in draws)
    assert wrong <= 1 - confidence


@pytest.mark.parametrize("confidence", [0.5, 0.8])
def test_e_stopped_at_certification_is_one_on_average(confidence):
    # of the first answer against the other on a fair coin, exactly, whatever the stopping rule
    n, mean = 10, Fraction(0)
    for draws in product("ab", repeat=n):
        stop = run(draws, confidence).at or n
        after = Counter(draws[1:stop])
        other = "b" if draws[0] == "a" else "a"
        mean += exact_e(after[draws[0]], after[other]) / 2**n
    assert mean == 1


def coin(n, confidence):
    """The probability that n tosses of a fair coin ever certify a side. The side that shows first
    is "a"; a state is how many more a came before the first b, how many a after the first, and
    how many b."""
    first, second = (math.log(math.pi**2 * k**2 / 6 / (1 - confidence)) for k in (1, 2))
    states, wrong = {(0, 0, 0): 1.0}, 0.0
    for _ in range(1, n):
        following: Counter[tuple[int, int, int]] = Counter()
        for (before, a, b), p in states.items():
            following[before + (b == 0), a + 1, b] += p / 2
            following[before, a, b + 1] += p / 2
        states = {}
        for (before, a, b), p in following.items():
            if log_e(a, b) >= first or (b and log_e(b - 1, a - before) >= second):
                wrong += p
            else:
                states[before, a, b] = p
    return wrong


def test_a_fair_coin_over_300_tosses():
    certified = sum(run(draws, 0.5).certified is not None for draws in product("ab", repeat=13))
    assert coin(13, 0.5) == pytest.approx(certified / 2**13)  # the same as by the class
    assert coin(300, 0.95) == pytest.approx(0.0241970, rel=1e-5)  # of 0.05 it may be wrong


def test_many_draws_are_quick():
    draws = [str(i * i % 601) for i in range(2000)]  # 301 answers
    began = time.perf_counter()
    certificate = run(draws)
    assert time.perf_counter() - began < 1
    assert certificate.certified is None
