"""Votes as tables for a person, and as records for a program."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.board import Board

if TYPE_CHECKING:
    from gentool.voting.accuracy import Accuracy
    from gentool.voting.tally import Answer, Tally

MAX_ROWS = 12  # rows of a board; --json has them all
# What probabilities are of: not of the model's own distribution.
FILTERED = "(after temperature and filters)"


def board(tally: Tally, footer: str) -> Board:
    """Each answer with its votes, its share, and between what the share lies."""
    shown = tally.answers[:MAX_ROWS]
    exact = tally.way == "exact"
    rows: list[tuple[str, ...]] = [(answer.text, *_cells(answer, tally)) for answer in shown]
    bars = [answer.share for answer in shown]
    if hidden := tally.answers[MAX_ROWS:]:
        votes = sum(answer.votes for answer in hidden)
        share = sum(answer.share for answer in hidden)
        rows.append((f"{len(hidden)} more", str(votes), _percent(share), ""))
        bars.append(share)
    if tally.invalid or tally.invalid_mass > 5e-4:
        rows.append(("(no answer)", str(tally.invalid), _percent(tally.invalid_share), ""))
        bars.append(tally.invalid_share)
    if exact and tally.unseen > 5e-4:
        rows.append(("(not seen)", "", "", f"0-{_percent(tally.unseen)}"))
        bars.append(0.0)
    heading = {"of all n": f"of all {tally.n}", "exact": "bounds"}.get(tally.bounds, tally.bounds)
    columns: tuple[str, ...] = ("answer", "votes", "share", heading)
    if exact and not tally.drawn:  # no votes: nothing was drawn
        rows = [(row[0], *row[2:]) for row in rows]
        columns = ("answer", "share", heading)
    elif not tally.bounds:
        rows, columns = [row[:3] for row in rows], columns[:3]
    return Board(columns, tuple(rows), tuple(bars), footer)


def _cells(answer: Answer, tally: Tally) -> tuple[str, str, str]:
    bounds = ""
    if answer.low is not None and answer.high is not None:
        ends = dict.fromkeys((_percent(answer.low), _percent(answer.high)))
        bounds = "-".join(ends)
    return str(answer.votes), _percent(answer.share), bounds


def _percent(part: float) -> str:
    return f"{100 * part:.1f}%"


def progress(tally: Tally, seconds: float) -> str:
    """How far a vote is."""
    if tally.way == "exact":
        return f"{_computed(tally)}, {_percent(tally.unseen)} not seen yet"
    speed = tally.drawn / max(seconds, 1e-3)
    left = (tally.n - tally.drawn) / speed if tally.drawn else math.inf
    # short answers end first: until no sample is unfinished, the shares lean to them
    unfinished = f", {tally.unfinished} unfinished" if tally.unfinished else ""
    line = f"{tally.drawn} of {tally.n} samples{unfinished}, {speed:.0f}/s"
    line += f", {left:.0f} s left at most" if math.isfinite(left) else ""
    if tally.log_e is not None and tally.log_threshold is not None:
        line += f", evidence {_evidence(tally)}"
    return line


def _evidence(tally: Tally) -> str:
    return f"e^{tally.log_e:.1f} of e^{tally.log_threshold:.1f}"


def verdict(tally: Tally) -> str:
    """One line: who won, by what, and how sure that is. Where more samples, or more probability,
    have no valid answer than the winner has, it says that too."""
    won = tally.winner
    if won is None:
        what = _computed(tally) if tally.way == "exact" else _count(tally.drawn, "sample")
        return f"{'stopped: ' if tally.verdict == 'running' else ''}no valid answer in {what}"
    line = _exact_verdict(tally, won) if tally.way == "exact" else _sampled_verdict(tally, won)
    if tally.invalid_share <= won.share:
        return line
    of = "the probability" if tally.way == "exact" else "the samples"
    return f"{line}; but {_percent(tally.invalid_share)} of {of} gave no valid answer"


def _sampled_verdict(tally: Tally, won: Answer) -> str:
    votes = f"{won.votes} of {tally.drawn} votes"
    tie = f"{tally.tied} answers tie with {votes} each; the most probable of them is {won.text}"
    if tally.verdict == "running":
        return f"stopped: {won.text} has {votes}; {tally.n} samples were asked for"
    if tally.way == "certified":
        level = f"{100 * (tally.confidence or 0):g} %"
        if tally.verdict == "certified":
            return (
                f"certified: {won.text} is the most probable answer {FILTERED}, at confidence"
                f" {level} after {tally.certified_at} samples"
            )
        leads = tie if tally.tied > 1 else f"{won.text} leads with {votes}"
        return f"undecided at confidence {level}: {leads}, evidence {_evidence(tally)}"
    if tally.tied > 1:
        return tie
    wins = "leads" if tally.invalid > won.votes else "wins"
    if left := tally.n - tally.drawn:
        return f"{won.text} {wins} with {votes}; the {left} samples left cannot change it"
    return f"{won.text} {wins} with {votes}"


def _exact_verdict(tally: Tally, won: Answer) -> str:
    low, high = won.low or 0.0, won.high or 0.0
    between = f"probability {low:.4g}" + (f" to {high:.4g}" if high - low > 1e-6 else "")
    between = f"{between} {FILTERED}"
    if tally.verdict == "running":
        return f"stopped: {won.text} has {between}, after {_computed(tally)}"
    if tally.verdict == "estimated":
        return (
            f"estimated: the budget left {_percent(tally.unseen)} unseen; by {tally.drawn} samples"
            f" of that, {won.text} has the most, {_percent(won.share)} {FILTERED}"
        )
    if tally.tied > 1:
        return f"exact: {tally.tied} answers tie with {between}, {won.text} one of them"
    return f"exact: {won.text} has {between}, more than any other answer"


def _computed(tally: Tally) -> str:
    return _count(tally.prefixes, "prefix", "es")


def _count(count: int, what: str, several: str = "s") -> str:
    return f"{count} {what}{several if count != 1 else ''}"


def record(tally: Tally) -> dict[str, object]:
    """A vote as JSON has it."""
    fields = asdict(tally)
    for key in ("prompt", "winner", "prefixes", "tokens", "tokens_of_rows"):
        fields.pop(key)
    won = tally.winner
    return {
        "answer": won.answer if won else None,
        "text": won.text if won else None,
        "certified": tally.certain,
        "partial": tally.verdict == "running",
        **fields,
        "computed": {"prefixes": tally.prefixes, "tokens": tally.tokens},
        "independent": {"rows": tally.drawn, "tokens": tally.tokens_of_rows},
    }


class Change(NamedTuple):
    """A changed prompt, and between what the probability of an answer lies after it."""

    prompt: str
    low: float
    high: float


def explained(changes: Sequence[Change], text: str) -> Board:
    """How probable an answer is under changed prompts, the largest change first."""
    before, *others = changes
    ranked = sorted(others, key=lambda change: -abs(change.low - before.low))
    rows = [(before.prompt, _percent(before.low), "")]
    rows += [(c.prompt, _percent(c.low), _moved(c.low - before.low)) for c in ranked]
    bars = [change.low for change in (before, *ranked)]
    unseen = max(change.high - change.low for change in changes)
    footer = f"probability of {text} {FILTERED}; at most {_percent(unseen)} more is not seen"
    return Board(("prompt", "probability", "change"), tuple(rows), tuple(bars), footer)


def _moved(part: float) -> str:
    return f"{round(100 * part, 1) + 0.0:+.1f}"  # what is added makes -0.0 a plain 0.0


def accuracies(summary: Mapping[str, Accuracy]) -> Board:
    """The accuracy of each way, over all rows and per class."""
    rows, bars = [], []
    for way, accuracy in summary.items():
        for name, part in [("all", accuracy.all), *accuracy.classes.items()]:
            share = f"{_percent(part.share)}"
            between = f"{_percent(part.low)}-{_percent(part.high)}"
            rows.append((f"{way}, {name}", f"{part.right} of {part.of}", share, between))
            bars.append(part.share)
    columns = ("accuracy", "right", "share", "95 % interval")
    return Board(columns, tuple(rows), tuple(bars), "labels are compared as answers are")
