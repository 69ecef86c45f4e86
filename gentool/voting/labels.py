"""Labels in a few-shot prompt: what a line of a question or an answer begins with, as 答案：."""

from __future__ import annotations

import re
from collections.abc import Sequence

# `问题：`, `Q:`, `**A:**`, `答案2：`, `## 输出`
LABEL = re.compile(r"[ \t]*(?:[#>*\-]+[ \t]*)?[^\s：:]{1,12}[ \t]*[：:]\**|[ \t]*#+[ \t]*\S.*")
# A line that is an answer label if other examples begin a line with the same text.
ANSWER_LABEL = re.compile(r"#+[ \t]*\S.*|.*[：:]\**|[\W_]+|<.*>|【.*】|\[.*\]|\*\*.*\*\*")
TRAILING_MARKS = re.compile(r"(?<![\W_])[\W_]+$|^[\W_]+$")
# Words that make a label an answer label even when no other example has it: a question and 答案：
# are one example, 长： is a question of its own.
ANSWER_WORDS = set(
    "答 答案 回答 解答 答复 输出 结果 译文 翻译 摘要 总结 标签 分类 情感 助手 助理".split()
) | set("a answer output response result translation summary label sentiment assistant".split())


def label_pattern(line: str) -> re.Pattern[str] | None:
    """Matches lines that begin with the label `line`, whatever numbers it has; None if `line` is no
    answer label."""
    text = line.strip()
    if not ANSWER_LABEL.fullmatch(text) or "\n" in text:
        return None
    numbered = re.sub(r"[0-9]+", "[0-9]+", re.escape(text))
    return re.compile(rf"^[ \t]*{numbered}", re.MULTILINE)


def answer_after_label(label: re.Pattern[str], part: str) -> str | None:
    """The text after the first match of `label`; None if it is blank or there is no match."""
    match = label.search(part)
    answer = part[match.end() :] if match else ""
    return answer if answer.strip() else None


def common_label(line: str, examples: Sequence[str]) -> str:
    """The label as all examples write it; of a numbered one, only the marks at its end."""
    cue = line.lstrip()
    for text in (cue, cue.rstrip()):
        if all(text in example for example in examples):
            return text
    marks = TRAILING_MARKS.search(cue.rstrip())
    return marks[0] if marks else cue


def label_of(part: str) -> str:
    """The label that `part` begins with, or an empty text."""
    match = LABEL.match(part)
    return match[0].strip() if match else ""


def unnumbered_label(part: str) -> str:
    """`label_of`, with every number replaced by 0: 问题1： and 问题2： compare equal."""
    return unnumbered(label_of(part))


def unnumbered(text: str) -> str:
    """`text` with every number replaced by 0."""
    return re.sub("[0-9]+", "0", text)


def is_answer_label(line: str) -> bool:
    """Whether the line is 答案： or the like, and nothing else."""
    colon = line.rstrip("* \t")[-1:] in {"：", ":"}
    return colon and re.sub(r"[\W\d_]+", "", line).lower() in ANSWER_WORDS


def starts_by_label(parts: Sequence[str], cues: Sequence[int]) -> list[int]:
    """The indexes of the parts where an example starts: those with a label that stands once before
    every answer. Empty if no label does. `cues` are the indexes of the answer labels."""
    places: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        if label := unnumbered_label(part):
            places.setdefault(label, []).append(i)
    for starts in places.values():
        ordered = [i for pair in zip(starts, cues, strict=False) for i in pair]
        if len(starts) == len(cues) and ordered == sorted(set(ordered)):
            return starts
    return []


def starts_by_distance(parts: Sequence[str], cues: Sequence[int]) -> list[int]:
    """The indexes of the parts where an example starts, if every question begins right after an
    answer: the first question is as long as the second."""
    if len(cues) < 2:
        return []  # there is no second question
    first = cues[0] - (cues[1] - cues[0] - 1)
    starts = [first, *(i + 1 for i in cues[:-1])]
    # where every line is an example, as 大：小, the question can equal one of them by chance
    marks = TRAILING_MARKS.search(parts[-1].strip())
    heads = [parts[i].split(marks[0])[:-1] if marks else [] for i in starts if i >= 0]
    distinct = len({unnumbered(head[0]) for head in heads if head}) == len(heads)
    by_chance = distinct and not is_answer_label(parts[-1])
    too_near = any(i >= j for i, j in zip(starts, cues, strict=True))
    return [] if first < 0 or by_chance or too_near else starts
