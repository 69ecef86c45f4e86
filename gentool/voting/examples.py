"""Few-shot prompts: examples, then an open question that ends where the answer begins. Functions
fill in placeholders, parse a prompt into its parts and assemble it from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gentool.voting import layouts
from gentool.voting.layouts import Layout
from gentool.voting.separators import line_separators, line_stop, mark_separators, mark_stop

PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")


class FewShotPrompt(NamedTuple):
    """The parts of a prompt; `assemble` is the inverse of `parse_few_shot`."""

    header: str  # an instruction with the separator after it, or empty
    examples: tuple[str, ...]
    question: str
    separator: str  # between the examples
    cue: str  # the text between question and answer; the open question ends in it
    stop: str  # the stop sequence of an answer


def parse_few_shot(prompt: str) -> FewShotPrompt | None:
    """The parts of a prompt; None if it has no examples that end as its question does."""
    body = prompt.rstrip("\r\n")
    tail = prompt[len(body) :]
    for separator in line_separators(body):
        parts = body.split(separator)
        for read in (layouts.labelled, layouts.alternating, layouts.line_each):
            if (layout := read(parts, separator, tail)) is not None:
                stop = layout.stop or line_stop(separator, layout.answers)
                return _prompt(layouts.without_glued_header(layout), separator, stop)
    before, line = layouts.split_last_line(body)
    for separator in mark_separators(line):
        if (layout := layouts.one_line(line.split(separator), separator, tail)) is not None:
            stop = mark_stop(separator, layout.answers)
            return _prompt(layout._replace(header=before + layout.header), separator, stop)
    return None


def _prompt(layout: Layout, separator: str, stop: str) -> FewShotPrompt:
    header, examples, question, cue, *_ = layout
    return FewShotPrompt(header, tuple(examples), question, separator, cue, stop)


def assemble(prompt: FewShotPrompt, examples: Sequence[str]) -> str:
    """The text of a prompt with these examples in place of its own."""
    return prompt.header + prompt.separator.join([*examples, prompt.question])


def placeholders(text: str) -> tuple[str, ...]:
    """The names in {braces}, each once."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(text)))


def fill(text: str, fields: Mapping[str, str]) -> str:
    """Replaces {name} by the field of that name, if there is one. Braces in a field stay."""
    return PLACEHOLDER.sub(lambda match: fields.get(match[1], match[0]), text)
