"""Layouts of a few-shot prompt: labelled lines, alternating questions and answers, an example a
line, all examples on one line. Each function takes the parts between separators and `tail`, the
newlines after the last part, and returns None if the prompt has another layout."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from gentool.voting import cues, labels

# An instruction before the first example of a prompt of one line.
LEAD = re.compile(r"[^：:。]+[：:。][ \t]*")


class Layout(NamedTuple):
    """The parts of a prompt. The answers are also contained in the examples."""

    header: str
    examples: Sequence[str]
    question: str
    cue: str
    answers: Sequence[str]
    stop: str = ""  # where answers of several lines need a stop sequence of their own


def labelled(parts: Sequence[str], separator: str, tail: str) -> Layout | None:
    """Each part has several lines, the last of which begins with a label: 问题：…\\n答案：…"""
    before, line = split_last_line(parts[-1])
    label = labels.label_pattern(line)
    if label is None or not before.strip() or labels.answer_after_label(label, before) is not None:
        return None
    answers = _last_run([labels.answer_after_label(label, part) for part in parts[:-1]])
    if not answers:
        return None
    start = len(parts) - 1 - len(answers)
    cue, answers = _with_newline(labels.common_label(line, parts[start:-1]), tail, answers)
    return _layout(parts, start, separator, tail, cue, answers)


def alternating(parts: Sequence[str], separator: str, tail: str) -> Layout | None:
    """Questions and answers are parts of their own, and the answers begin with a label."""
    label = labels.label_pattern(parts[-1])
    if label is None:
        return None
    last = len(parts) - 1
    answer_at = [i for i, part in enumerate(parts[:-1]) if label.match(part)] + [last]
    starts = labels.starts_by_label(parts, answer_at) or labels.starts_by_distance(parts, answer_at)
    if len(starts) < 2:
        return None
    spans = list(zip(answer_at, [*starts[1:], last], strict=True))[:-1]
    answers = [labels.answer_after_label(label, separator.join(parts[i:j])) or "" for i, j in spans]
    if not all(answer.strip() for answer in answers):
        return None
    examples = [separator.join(parts[i:j]) for i, j in zip(starts, starts[1:], strict=False)]
    question = separator.join(parts[starts[-1] :]) + tail
    answers = [answer.rstrip("\r\n") for answer in answers]
    cue, answers = _with_newline(labels.common_label(parts[-1], examples), tail, answers)
    first = labels.label_of(parts[starts[-1]])
    # an answer of several parts ends only at the next label, which may be numbered
    several = any(separator in answer for answer in answers)
    stop = separator.lstrip("\r") + re.split("[0-9]", first)[0] if several and first else ""
    return Layout(_header(parts, starts[0], separator), examples, question, cue, answers, stop)


def line_each(parts: Sequence[str], separator: str, tail: str) -> Layout | None:
    """Question and answer stand on one line, with the cue between them."""
    before, line = split_last_line(parts[-1])
    if labels.is_answer_label(line):
        return None
    for question in dict.fromkeys((parts[-1] + tail, (parts[-1] + tail).rstrip())):
        suffix, n = cues.shared_suffix(question, parts[:-1], several_lines=True)
        cue = cues.canonical_cue(suffix)
        if not cue or not cues.is_cue(cue, n):
            continue
        if not before or cues.answer_after_cue(suffix, before) is None:
            start = len(parts) - 1 - n
            answers = [cues.answer_after_cue(suffix, part) or "" for part in parts[start:-1]]
            return _layout(parts, start, separator, tail, cue, answers)
    return None


def one_line(parts: Sequence[str], separator: str, tail: str) -> Layout | None:
    """All examples stand on one line, where prose is more likely and more evidence is needed."""
    for question in dict.fromkeys((parts[-1] + tail, (parts[-1] + tail).rstrip())):
        suffix, n = cues.shared_suffix(question, parts[:-1], several_lines=False)
        cue = cues.canonical_cue(suffix)
        start = len(parts) - 1 - n
        if not cue or not cues.is_cue_in_line(cue, n, separator, everywhere=not start):
            continue
        if cue.strip() and cues.answer_after_cue(suffix, question[: -len(suffix)]) is not None:
            continue  # the question contains an example, so the separator is another
        answers = [cues.answer_after_cue(suffix, part) or "" for part in parts[start:-1]]
        layout = _layout(parts, start, separator, tail, cue, answers)
        return layout if start else _without_lead(layout)
    return None


def split_last_line(text: str) -> tuple[str, str]:
    """The lines before the last one, and the last one."""
    at = text.rfind("\n") + 1
    return text[:at], text[at:]


def without_glued_header(layout: Layout) -> Layout:
    """Moves the lines before the first example's label, which the other examples and the question
    begin with, into the header."""
    label = labels.unnumbered_label(layout.question)
    first = layout.examples[0]
    if not label or layout.header or labels.unnumbered_label(first) == label:
        return layout
    lines = first.splitlines(keepends=True)
    starts = (i for i, line in enumerate(lines) if labels.unnumbered_label(line) == label)
    return _split_first(layout, len("".join(lines[: next(starts, 0)])))


def _without_lead(layout: Layout) -> Layout:
    """Moves an instruction before the first example on its line into the header."""
    lead = LEAD.match(layout.examples[0])
    if lead is None or any(LEAD.match(text) for text in (*layout.examples[1:], layout.question)):
        return layout
    rest = layout.examples[0][lead.end() :]
    if cues.answer_after_cue(layout.cue, rest) is None:
        return layout
    return _split_first(layout, lead.end())


def _split_first(layout: Layout, at: int) -> Layout:
    first, *others = layout.examples
    return layout._replace(header=layout.header + first[:at], examples=[first[at:], *others])


def _layout(
    parts: Sequence[str],
    start: int,
    separator: str,
    tail: str,
    cue: str,
    answers: Sequence[str],
) -> Layout:
    header = _header(parts, start, separator)
    return Layout(header, parts[start:-1], parts[-1] + tail, cue, answers)


def _header(parts: Sequence[str], start: int, separator: str) -> str:
    return "".join(part + separator for part in parts[:start])


def _last_run(answers: Sequence[str | None]) -> list[str]:
    """The answers after the last None."""
    run: list[str] = []
    for answer in reversed(answers):
        if answer is None:
            break
        run.append(answer)
    return run[::-1]


def _with_newline(cue: str, tail: str, answers: list[str]) -> tuple[str, list[str]]:
    """Moves the newline between a label and an answer on the next line into the cue."""
    if not tail or not all(answer.startswith(tail) for answer in answers):
        return cue, answers
    return cue + tail, [answer.removeprefix(tail) for answer in answers]
