"""How many draws rules for ending a vote take, and how often the answer they stop with is not the
most probable one, over simulated draws from known distributions of answers.

    python tests/bench/certificate.py --trials 2000 --seed 1

The rules, all with at most 300 draws:
    fixed          the plurality of all 300
    curtailment    stops when the lead exceeds what is left: the plurality of all 300, sooner
    AC Beta 0.95   Adaptive-Consistency (Aggarwal et al. 2023): stops when the leader beats the
                   second with 0.95, by a flat prior on the two; looked at after every draw
    ESC window 5   (Li et al. 2024) draws five at a time and stops when all five are equal; the
                   plurality of all drawn
    certificate    gentool's own at 0.95, fed in the order of the sample index
Wrong is an answer that is not the only mode, so any in a tie. Of the rules that may stop only
those count that stopped; fixed and curtailment always answer.

A second table is of answers that take different numbers of steps to write: the samples of a wave
step together and the short ones finish first. Fed in the order of completion, the certificate's
draws are not independent and its promise is void. In index order a check sees the finished prefix.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from gentool.voting.certificate import Certificate
from gentool.voting.intervals import clopper_pearson

CAP, CONFIDENCE, WINDOW = 300, 0.95, 5

DISTRIBUTIONS = {
    ".9/.05/.05": (0.9, 0.05, 0.05),
    ".7/.2/.1": (0.7, 0.2, 0.1),
    ".5/.3/.2": (0.5, 0.3, 0.2),
    ".45/.40/.15": (0.45, 0.4, 0.15),
    ".40/.35/.25": (0.4, 0.35, 0.25),
    ".34/.33/.33": (0.34, 0.33, 0.33),
    ".5/.5": (0.5, 0.5),
    ".3 + 14 x .05": (0.3, *[0.05] * 14),
}

P, STEPS = (0.4, 0.35, 0.25), np.array([12, 3, 6])  # the mode is long, its rival short
WAVES = (8, 32, 128)


class Result(NamedTuple):
    name: str
    rule: str
    draws: float  # on average
    trials: int
    stopped: int | None  # by itself; None where a rule always answers
    wrong: int


def main() -> None:
    parser = argparse.ArgumentParser(description="Rules for ending a vote, on simulated draws.")
    parser.add_argument("--trials", type=int, default=2000, help="a distribution (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    options = parser.parse_args()
    start = time.monotonic()
    print(table("answers", rules(options.trials, options.seed)), end="\n\n")
    print(table(".40 long/.35 short/.25", waves(options.trials, options.seed)))
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)


def rules(trials: int, seed: int) -> Iterator[Result]:
    for i, (name, p) in enumerate(DISTRIBUTIONS.items()):
        draws = drawn(p, trials, (seed, i))
        mode = 0 if p[0] > p[1] else None
        tops = two_most(draws, len(p))
        for rule, stops in STOPS.items():
            yield judged(name, rule, draws, stops(draws, tops), mode)
        yield certificates(name, f"certificate {CONFIDENCE}", draws.tolist(), mode)


def drawn(p: tuple[float, ...], trials: int, seed: tuple[int, ...]) -> np.ndarray:
    """Answers [trials, CAP] by number; the most probable is 0."""
    return np.random.default_rng(seed).choice(len(p), size=(trials, CAP), p=p)


def two_most(draws: np.ndarray, answers: int) -> np.ndarray:
    """The largest and the second count after each draw, [2, trials, CAP]."""
    counts = np.stack([np.cumsum(draws == k, axis=1, dtype=np.int16) for k in range(answers)])
    return np.partition(counts, (-2, -1), axis=0)[:-3:-1]


def never(draws: np.ndarray, tops: np.ndarray) -> np.ndarray:
    return np.zeros(draws.shape, bool)


def curtailed(draws: np.ndarray, tops: np.ndarray) -> np.ndarray:
    return tops[0] - tops[1] > CAP - np.arange(1, CAP + 1)


def adaptive_consistency(draws: np.ndarray, tops: np.ndarray) -> np.ndarray:
    return beta_above_half()[tops[0], tops[1]] > CONFIDENCE


def beta_above_half() -> np.ndarray:
    """P(t > 1/2) for t of Beta(a + 1, b + 1), [a, b]: it is P(Bin(a + b + 1, 1/2) <= a), which
    the last of these tosses splits into two halves."""
    table = np.ones((CAP + 1, CAP + 1))
    for a in range(CAP + 1):
        for b in range(CAP + 1):
            table[a, b] = ((table[a - 1, b] if a else 0) + (table[a, b - 1] if b else 1)) / 2
    return table


def equal_window(draws: np.ndarray, tops: np.ndarray) -> np.ndarray:
    windows = draws.reshape(len(draws), -1, WINDOW)
    stop = np.zeros(draws.shape, bool)
    stop[:, WINDOW - 1 :: WINDOW] = (windows == windows[..., :1]).all(axis=-1)
    return stop


Stops = Callable[[np.ndarray, np.ndarray], np.ndarray]
STOPS: dict[str, Stops] = {
    "fixed": never,
    "curtailment": curtailed,
    f"AC Beta {CONFIDENCE}": adaptive_consistency,
    f"ESC window {WINDOW}": equal_window,
}
ALWAYS = ("fixed", "curtailment")  # they answer


def judged(name: str, rule: str, draws: np.ndarray, stop: np.ndarray, mode: int | None) -> Result:
    """What a rule does that says after which draws it would stop, [trials, CAP]."""
    stopped = stop.any(axis=1)
    at = np.where(stopped, stop.argmax(axis=1) + 1, CAP)
    claims = stopped | (rule in ALWAYS)
    answers = [plurality(row[:n]) for row, n in zip(draws.tolist(), at, strict=True)]
    wrong = sum(c and answer != mode for c, answer in zip(claims, answers, strict=True))
    count = None if rule in ALWAYS else int(stopped.sum())
    return Result(name, rule, float(at.mean()), len(draws), count, int(wrong))


def plurality(answers: list[int]) -> int:
    return Counter(answers).most_common(1)[0][0]  # of equals the first


def certificates(name: str, rule: str, fed: Iterable[Iterable[int]], mode: int | None) -> Result:
    ends = [certified(map(str, answers)) for answers in fed]
    stopped = [answer for answer, _ in ends if answer is not None]
    wrong = sum(answer != str(mode) for answer in stopped)
    draws = float(np.mean([at for _, at in ends]))
    return Result(name, rule, draws, len(ends), len(stopped), wrong)


def certified(answers: Iterable[str]) -> tuple[str | None, int]:
    certificate = Certificate(CONFIDENCE)
    for answer in answers:
        certificate.add(answer)
        if certificate.certified is not None:
            break
    return certificate.certified, certificate.drawn


def waves(trials: int, seed: int) -> Iterator[Result]:
    draws = drawn(P, trials, (seed, len(DISTRIBUTIONS)))
    for size in WAVES:
        orders = [completed(steps, size) for steps in STEPS[draws].tolist()]
        for rule, seen in (("completion order", iter), ("index order", finished_prefix)):
            fed = ((row[i] for i in seen(order)) for row, order in zip(draws, orders, strict=True))
            yield certificates(f"waves of {size}", rule, fed, 0)


def completed(steps: list[int], size: int) -> list[int]:
    """The samples in the order they finish in, wave after wave; of equals the lowest index."""
    return sorted(range(len(steps)), key=lambda i: (i // size, steps[i], i))


def finished_prefix(order: Iterable[int]) -> Iterator[int]:
    """The samples in the order a check gets to see them that waits for all of lower index."""
    finished: set[int] = set()
    following = 0
    for sample in order:
        finished.add(sample)
        while following in finished:
            yield following
            following += 1


def table(title: str, results: Iterable[Result]) -> str:
    lines = [f"{title:24}{'rule':18}{'draws':>7}{'stopped':>10}{'wrong':>9}   95 % interval"]
    last = None
    for name, rule, draws, trials, stopped, wrong in results:
        low, high = clopper_pearson(wrong, trials)
        share = "" if stopped is None else f"{stopped / trials:.1%}"
        line = f"{'' if name == last else name:24}{rule:18}{draws:7.1f}{share:>10}"
        lines.append(f"{line}{wrong / trials:9.1%}   [{low:.1%}, {high:.1%}]")
        last = name
    return "\n".join(lines)


if __name__ == "__main__":
    main()
