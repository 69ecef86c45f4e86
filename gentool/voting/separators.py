"""Separators between the examples of a few-shot prompt, and the stop sequences they imply."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

# Separators of a prompt of one line, tried in this order: the later ones also stand inside
# examples, as commas between the parts of one answer.
MARKS = ("；", ";", "。", ". ", "|", "\t", " / ", "  ", "，", ",", "、", " ")
RULER = re.compile(
    r"(?<![\r\n])(?:\r?\n)+[ \t]*(?:#{2,}|={2,}|\*{3,}|-{3,}|~{3,}|_{3,})[ \t]*(?:\r?\n)+"
)
BLANK_LINES = re.compile(r"\r?\n(?:[ \t]*\r?\n)+")


def line_separators(body: str) -> Iterator[str]:
    """Candidate separators of a prompt of several lines, strongest first: a line of ### or ---,
    blank lines, a newline."""
    for pattern in (RULER, BLANK_LINES):
        if counts := Counter(pattern.findall(body)).most_common(1):
            yield counts[0][0]
    windows = "\n" in body and body.count("\n") == body.count("\r\n")
    newline = "\r\n" if windows else "\n"
    for separator in (newline * 2, newline):
        if separator in body:
            yield separator


def mark_separators(line: str) -> Iterator[str]:
    """Candidate separators of a prompt of one line, strongest first."""
    for mark in MARKS:
        yield from _with_blanks(mark, line)


def _with_blanks(mark: str, line: str) -> Iterator[str]:
    """The mark with the most blanks that stand around it in the line, then the mark alone."""
    if mark not in line:
        return
    pattern = " {2,}" if mark == "  " else f"(?<! ) *{re.escape(mark.strip() or mark)} *"
    runs = [mark] if mark in {" ", "\t"} else re.findall(pattern, line)
    longest = max((run for run in runs if mark in run), key=len, default=mark)
    yield from dict.fromkeys((longest, mark))


def line_stop(separator: str, answers: Sequence[str]) -> str:
    """The stop sequence of a prompt of several lines: a newline, unless an example's answer
    contains one."""
    if not any("\n" in answer for answer in answers):
        return "\n"
    # the newline after a line of ### belongs to the next example, not to the stop sequence
    return separator.rstrip("\r\n") or separator.lstrip("\r")


def mark_stop(separator: str, answers: Sequence[str]) -> str:
    """The stop sequence of a prompt of one line: the bare mark, unless an answer contains it."""
    mark = separator.strip() or separator
    return separator if any(mark in answer for answer in answers) else mark
