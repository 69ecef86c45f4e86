"""The cue of a few-shot prompt: the text between question and answer, as => or 的首都是."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_letters

from gentool.voting.labels import TRAILING_MARKS

SENTENCE_MARKS = set("，,。.；;、！!…")  # end a clause, so they are no cue
STRONG_MARKS = set("=＝>＞→➔➜⇒⟶")  # a cue wherever they stand
# Letters that end in one of these are a cue even when there is only one example.
VERBS = ("是", "为", "叫", "有", "在", "于", "成", "得", " is", " are", " was", " means", " equals")
INSTRUCTION_END = set("。.：:！!")
MAX_LENGTH = 40  # characters of a cue


def answer_after_cue(cue: str, part: str) -> str | None:
    """The text after the first `cue` that has something before it; None if it is blank or the cue
    is missing."""
    at = part.find(cue, len(part) - len(part.lstrip()) + 1)
    if at < 0:
        return None
    answer = part[at + len(cue) :]
    return answer if answer.strip() else None


def shared_suffix(question: str, parts: Sequence[str], several_lines: bool) -> tuple[str, int]:
    """The end of the question that most of the parts before it contain, and how many do."""
    # a cue needs something before it: the whole question is no cue
    suffix, n = question.lstrip()[1:][-MAX_LENGTH:], 0
    for part in reversed(parts):
        shorter = _longest_suffix(suffix, part)
        old, new = canonical_cue(suffix), canonical_cue(shorter)
        # 的首都是 does not shrink to the 是 of an instruction
        if not new or (n and 2 * len(new) < len(old)):
            break
        suffix, n = shorter, n + 1
    while n > 1 and several_lines and _is_instruction(parts[-n], parts[-n + 1 :]):
        n -= 1
    return suffix, n


def _longest_suffix(text: str, part: str) -> str:
    """The longest suffix of `text` that is followed by an answer in `part`."""
    suffixes = (text[i:] for i in range(len(text)))
    return next((suffix for suffix in suffixes if answer_after_cue(suffix, part) is not None), "")


def _is_instruction(part: str, others: Sequence[str]) -> bool:
    """Whether the part ends like a sentence and none of the others does."""
    ends = [other.rstrip()[-1:] in INSTRUCTION_END for other in others]
    return part.rstrip()[-1:] in INSTRUCTION_END and not any(ends)


def canonical_cue(suffix: str) -> str:
    """The part of a shared suffix that is not shared by chance: marks with the whole word before
    them, or words; empty if there are none."""
    match = TRAILING_MARKS.search(suffix)
    if not match:
        return _words(suffix)
    marks = match[0]
    if marks.strip() and not set(marks.strip()) - SENTENCE_MARKS:
        return ""
    word = re.search(r"(?<=[\W_])[^\W\d_]+$", suffix[: match.start()])
    return (word[0] if word else "") + marks


def _words(suffix: str) -> str:
    """The letters at the end: from 的 on, or whole words of an alphabet."""
    if not suffix or suffix[-1].isdigit():
        return ""
    if "的" in suffix[:-1]:
        return suffix[suffix.index("的") :]
    if suffix[-1].isascii():
        match = re.search(r"\s[A-Za-z]+$", suffix)
        return match[0] if match else ""
    clause = re.split(r"[\d\W_]+", suffix)[-1]
    return clause.lstrip(ascii_letters) or clause


def is_cue(cue: str, n: int) -> bool:
    """Whether n examples are enough evidence for this cue."""
    if not n:
        return False
    if not re.search(r"\w$", cue):
        return True
    verb = cue.endswith(VERBS)
    return len(cue) > 1 and verb if n == 1 else len(cue) > 1 or verb


def is_cue_in_line(cue: str, n: int, separator: str, everywhere: bool) -> bool:
    """The same in a prompt of one line, where the cue must be an arrow or stand in every part."""
    strong = bool(STRONG_MARKS & set(cue))
    if separator == " ":
        return strong and n >= 2
    patterned = is_cue(cue, n) and everywhere
    return (strong and n > 0) or (patterned and (n > 1 or (len(cue) > 2 and cue.endswith(VERBS))))
