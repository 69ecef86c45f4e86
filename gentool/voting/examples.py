"""A few-shot prompt is plain text: examples, then an open question that ends where an answer is
due. Here it is taken apart and put together again; a prompt goes to the model as it is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_letters
from typing import NamedTuple

# In a prompt of one line, in this order: what parts examples is weaker further down, as the parts
# of one answer may be parted by commas.
MARKS = ("；", ";", "。", ". ", "|", "\t", " / ", "  ", "，", ",", "、", " ")
RULER = re.compile(
    r"(?<![\r\n])(?:\r?\n)+[ \t]*(?:#{2,}|={2,}|\*{3,}|-{3,}|~{3,}|_{3,})[ \t]*(?:\r?\n)+"
)
BLANK_LINES = re.compile(r"\r?\n(?:[ \t]*\r?\n)+")

SENTENCE_MARKS = set("，,。.；;、！!…")  # end a clause, and ask for no answer
STRONG_MARKS = set("=＝>＞→➔➜⇒⟶")  # ask for one wherever they stand
# A cue of letters that ends in one of these asks for an answer even when there is one example.
VERBS = ("是", "为", "叫", "有", "在", "于", "成", "得", " is", " are", " was", " means", " equals")
INSTRUCTION_END = set("。.：:！!")
LONGEST_CUE = 40

# `问题：`, `Q:`, `**A:**`, `答案2：`, `## 输出`: what a line begins with, and others do too
LABEL = re.compile(r"[ \t]*(?:[#>*\-]+[ \t]*)?[^\s：:]{1,12}[ \t]*[：:]\**|[ \t]*#+[ \t]*\S.*")
# What makes a line a label that an answer follows, when others begin with the same.
ASKS = re.compile(r"#+[ \t]*\S.*|.*[：:]\**|[\W_]+|<.*>|【.*】|\[.*\]|\*\*.*\*\*")
MARKS_AT_END = re.compile(r"(?<![\W_])[\W_]+$|^[\W_]+$")
# What is on such a line where nothing else says so: a question and 答案： are no example and 长：.
ANSWER_LABELS = set(
    "答 答案 回答 解答 答复 输出 结果 译文 翻译 摘要 总结 标签 分类 情感 助手 助理".split()
) | set("a answer output response result translation summary label sentiment assistant".split())
# An instruction before the first example of a prompt of one line.
LEAD = re.compile(r"[^：:。]+[：:。][ \t]*")

PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")


class Shots(NamedTuple):
    """A prompt in parts: see `joined`."""

    header: str  # an instruction, or nothing; ends in what parts it from the examples
    examples: tuple[str, ...]
    question: str
    separator: str
    cue: str  # where the question ends and an answer begins, in the examples too
    stop: str  # ends an answer


class Found(NamedTuple):
    """The parts of a prompt, the answers of the examples still among them."""

    header: str
    examples: Sequence[str]
    question: str
    cue: str
    answers: Sequence[str]
    end: str = ""  # what ends answers of several lines


def joined(shots: Shots, examples: Sequence[str]) -> str:
    """The prompt with these examples; with its own it is what was taken apart."""
    return shots.header + shots.separator.join([*examples, shots.question])


def shots(prompt: str) -> Shots | None:
    """None if no examples can be told apart."""
    body = prompt.rstrip("\r\n")
    tail = prompt[len(body) :]
    for separator in _line_separators(body):
        parts = body.split(separator)
        for look in (_labelled, _alternating, _inline):
            if (found := look(parts, separator, tail)) is not None:
                stop = found.end or _stop_of_lines(separator, found.answers)
                return _shots(_glued_header(found), separator, stop)
    before, last = _last_line(body)
    for separator in (found for mark in MARKS for found in _as_written(mark, last)):
        if (found := _one_line(last.split(separator), separator, tail)) is not None:
            stop = _stop_of_mark(separator, found.answers)
            return _shots(found._replace(header=before + found.header), separator, stop)
    return None


def placeholders(text: str) -> tuple[str, ...]:
    """The names in {braces}, each once."""
    return tuple(dict.fromkeys(PLACEHOLDER.findall(text)))


def fill(text: str, fields: Mapping[str, str]) -> str:
    """{name} becomes the field of that name if there is one; what is filled in is left alone."""
    return PLACEHOLDER.sub(lambda found: fields.get(found[1], found[0]), text)


def _shots(found: Found, separator: str, stop: str) -> Shots:
    return Shots(found.header, tuple(found.examples), found.question, separator, found.cue, stop)


# What may part examples, and what ends an answer


def _line_separators(body: str) -> Iterator[str]:
    """A line of ### or ---, blank lines, newlines."""
    for pattern in (RULER, BLANK_LINES):
        if found := Counter(pattern.findall(body)).most_common(1):
            yield found[0][0]
    windows = "\n" in body and body.count("\n") == body.count("\r\n")
    newline = "\r\n" if windows else "\n"
    for separator in (newline * 2, newline):
        if separator in body:
            yield separator


def _last_line(body: str) -> tuple[str, str]:
    at = body.rfind("\n") + 1
    return body[:at], body[at:]


def _as_written(mark: str, line: str) -> Iterator[str]:
    """The mark with the most blanks that stand around it, then as it is."""
    if mark not in line:
        return
    blanks = " {2,}" if mark == "  " else f"(?<! ) *{re.escape(mark.strip() or mark)} *"
    runs = [mark] if mark in {" ", "\t"} else re.findall(blanks, line)
    yield from dict.fromkeys((max((r for r in runs if mark in r), key=len, default=mark), mark))


def _stop_of_lines(separator: str, answers: Sequence[str]) -> str:
    """A newline ends an answer, unless there are some in those of the examples."""
    if not any("\n" in answer for answer in answers):
        return "\n"
    # of a line of ### its own newline is left for what comes behind
    return separator.rstrip("\r\n") or separator.lstrip("\r")


def _stop_of_mark(separator: str, answers: Sequence[str]) -> str:
    mark = separator.strip() or separator
    return separator if any(mark in answer for answer in answers) else mark


# Ways of asking. Each takes the parts and what stands behind the last one.


def _labelled(parts: Sequence[str], separator: str, tail: str) -> Found | None:
    """Parts of several lines, the last of which begins with a label: 问题：…\\n答案：…"""
    before, line = _last_line(parts[-1])
    label = _label_pattern(line)
    if label is None or not before.strip() or _answer_after(label, before) is not None:
        return None
    answers = _last_run([_answer_after(label, part) for part in parts[:-1]])
    if not answers:
        return None
    start = len(parts) - 1 - len(answers)
    cue, answers = _without_tail(_common_label(line, parts[start:-1]), tail, answers)
    return _found(parts, start, separator, tail, cue, answers)


def _alternating(parts: Sequence[str], separator: str, tail: str) -> Found | None:
    """Questions and answers are parts of their own, and the answers begin with a label."""
    label = _label_pattern(parts[-1])
    if label is None:
        return None
    last = len(parts) - 1
    cues = [i for i, part in enumerate(parts[:-1]) if label.match(part)] + [last]
    starts = _starts_by_label(parts, cues) or _starts_by_distance(parts, cues)
    if len(starts) < 2:
        return None
    pairs = list(zip(cues, [*starts[1:], last], strict=True))[:-1]
    answers = [_answer_after(label, separator.join(parts[i:j])) or "" for i, j in pairs]
    if not all(answer.strip() for answer in answers):
        return None
    groups = [separator.join(parts[i:j]) for i, j in zip(starts, starts[1:], strict=False)]
    question = separator.join(parts[starts[-1] :]) + tail
    answers = [answer.rstrip("\r\n") for answer in answers]
    cue, answers = _without_tail(_common_label(parts[-1], groups), tail, answers)
    first = _label_of(parts[starts[-1]])
    # where an answer is several parts only the next label ends it, and that may be numbered
    several = any(separator in answer for answer in answers)
    end = separator.lstrip("\r") + re.split("[0-9]", first)[0] if several and first else ""
    return Found(_head(parts, starts[0], separator), groups, question, cue, answers, end)


def _inline(parts: Sequence[str], separator: str, tail: str) -> Found | None:
    """Question and answer on one line, parted by what the open question ends in."""
    before, line = _last_line(parts[-1])
    if _awaits_answer(line):
        return None
    for question in dict.fromkeys((parts[-1] + tail, (parts[-1] + tail).rstrip())):
        suffix, n = _shared_suffix(question, parts[:-1], several_lines=True)
        cue = _canonical(suffix)
        if cue and _asks(cue, n) and (not before or _after(suffix, before) is None):
            start = len(parts) - 1 - n
            answers = [_after(suffix, part) or "" for part in parts[start:-1]]
            return _found(parts, start, separator, tail, cue, answers)
    return None


def _one_line(parts: Sequence[str], separator: str, tail: str) -> Found | None:
    """The same in a single line, where prose is likelier and more is asked for."""
    for question in dict.fromkeys((parts[-1] + tail, (parts[-1] + tail).rstrip())):
        suffix, n = _shared_suffix(question, parts[:-1], several_lines=False)
        cue = _canonical(suffix)
        start = len(parts) - 1 - n
        if not cue or not _convinces(cue, n, separator, everywhere=not start):
            continue
        if cue.strip() and _after(suffix, question[: -len(suffix)]) is not None:
            continue  # it has an example in it, which is parted otherwise
        answers = [_after(suffix, part) or "" for part in parts[start:-1]]
        found = _found(parts, start, separator, tail, cue, answers)
        return _lead_as_header(found) if not start else found
    return None


def _found(
    parts: Sequence[str],
    start: int,
    separator: str,
    tail: str,
    cue: str,
    answers: Sequence[str],
) -> Found:
    header = _head(parts, start, separator)
    return Found(header, parts[start:-1], parts[-1] + tail, cue, answers)


def _head(parts: Sequence[str], start: int, separator: str) -> str:
    return "".join(part + separator for part in parts[:start])


# Labels


def _label_pattern(line: str) -> re.Pattern[str] | None:
    """What begins with the label that `line` is, whatever numbers are in it; None if it is none."""
    text = line.strip()
    if not ASKS.fullmatch(text) or "\n" in text:
        return None
    numbered = re.sub(r"[0-9]+", "[0-9]+", re.escape(text))
    return re.compile(rf"^[ \t]*{numbered}", re.MULTILINE)


def _answer_after(label: re.Pattern[str], part: str) -> str | None:
    found = label.search(part)
    answer = part[found.end() :] if found else ""
    return answer if answer.strip() else None


def _last_run(answers: Sequence[str | None]) -> list[str]:
    """Those behind the last None."""
    run: list[str] = []
    for answer in reversed(answers):
        if answer is None:
            break
        run.append(answer)
    return run[::-1]


def _common_label(line: str, examples: Sequence[str]) -> str:
    """The label itself, or of one with numbers the marks it ends in."""
    cue = line.lstrip()
    for text in (cue, cue.rstrip()):
        if all(text in example for example in examples):
            return text
    marks = MARKS_AT_END.search(cue.rstrip())
    return marks[0] if marks else cue


def _without_tail(cue: str, tail: str, answers: list[str]) -> tuple[str, list[str]]:
    """Where answers stand on a line of their own the newline is part of the cue."""
    if not tail or not all(answer.startswith(tail) for answer in answers):
        return cue, answers
    return cue + tail, [answer.removeprefix(tail) for answer in answers]


def _label_of(part: str) -> str:
    found = LABEL.match(part)
    return found[0].strip() if found else ""


def _same_label(part: str) -> str:
    return _same_number(_label_of(part))


def _same_number(text: str) -> str:
    return re.sub("[0-9]+", "0", text)


def _awaits_answer(line: str) -> bool:
    """It is 答案： or the like, and nothing else."""
    colon = line.rstrip("* \t")[-1:] in {"：", ":"}
    return colon and re.sub(r"[\W\d_]+", "", line).lower() in ANSWER_LABELS


def _starts_by_label(parts: Sequence[str], cues: Sequence[int]) -> list[int]:
    """Where the parts with a label stand of which there is one before every answer."""
    places: dict[str, list[int]] = {}
    for i, part in enumerate(parts):
        if label := _same_label(part):
            places.setdefault(label, []).append(i)
    for at in places.values():
        ordered = [i for pair in zip(at, cues, strict=False) for i in pair]
        if len(at) == len(cues) and ordered == sorted(set(ordered)):
            return at
    return []


def _starts_by_distance(parts: Sequence[str], cues: Sequence[int]) -> list[int]:
    """Questions begin behind the answers, the first one as far before its own as the second."""
    if len(cues) < 2:
        return []  # nothing to measure by
    first = cues[0] - (cues[1] - cues[0] - 1)
    starts = [first, *(i + 1 for i in cues[:-1])]
    # where every line is an example, as 大：小, the one asked for just happens to be one of them
    marks = MARKS_AT_END.search(parts[-1].strip())
    heads = [parts[i].split(marks[0])[:-1] if marks else [] for i in starts if i >= 0]
    distinct = len({_same_number(head[0]) for head in heads if head}) == len(heads)
    unlike = distinct and not _awaits_answer(parts[-1])
    too_near = any(i >= j for i, j in zip(starts, cues, strict=True))
    return [] if first < 0 or unlike or too_near else starts


# Cues


def _after(suffix: str, part: str) -> str | None:
    """The answer: what follows the first `suffix` that has something before it."""
    at = part.find(suffix, len(part) - len(part.lstrip()) + 1)
    if at < 0:
        return None
    answer = part[at + len(suffix) :]
    return answer if answer.strip() else None


def _shared_suffix(question: str, parts: Sequence[str], several_lines: bool) -> tuple[str, int]:
    """The end of the question that most parts before it have too, and how many have it."""
    # something must be asked about: the whole question is no cue
    suffix, n = question.lstrip()[1:][-LONGEST_CUE:], 0
    for part in reversed(parts):
        shorter = _longest(suffix, part)
        old, new = _canonical(suffix), _canonical(shorter)
        # 的首都是 does not shrink to the 是 of an instruction
        if not new or (n and 2 * len(new) < len(old)):
            break
        suffix, n = shorter, n + 1
    while n > 1 and several_lines and _is_instruction(parts[-n], parts[-n + 1 :]):
        n -= 1
    return suffix, n


def _longest(suffix: str, part: str) -> str:
    """The longest end of `suffix` behind which there is an answer in `part`."""
    ends = (suffix[i:] for i in range(len(suffix)))
    return next((end for end in ends if _after(end, part) is not None), "")


def _is_instruction(part: str, others: Sequence[str]) -> bool:
    """It ends like a sentence, and no example does."""
    ends = [other.rstrip()[-1:] in INSTRUCTION_END for other in others]
    return part.rstrip()[-1:] in INSTRUCTION_END and not any(ends)


def _canonical(suffix: str) -> str:
    """The part of a shared end that is not shared by chance: marks, with the word before them if it
    is a whole one, else words; empty if it asks for nothing."""
    found = MARKS_AT_END.search(suffix)
    if not found:
        return _words(suffix)
    marks = found[0]
    if marks.strip() and not set(marks.strip()) - SENTENCE_MARKS:
        return ""
    word = re.search(r"(?<=[\W_])[^\W\d_]+$", suffix[: found.start()])
    return (word[0] if word else "") + marks


def _words(suffix: str) -> str:
    """Letters at the end of what is shared: from 的 on, whole words of an alphabet."""
    if not suffix or suffix[-1].isdigit():
        return ""
    if "的" in suffix[:-1]:
        return suffix[suffix.index("的") :]
    if suffix[-1].isascii():
        found = re.search(r"\s[A-Za-z]+$", suffix)
        return found[0] if found else ""
    clause = re.split(r"[\d\W_]+", suffix)[-1]
    return clause.lstrip(ascii_letters) or clause


def _asks(cue: str, n: int) -> bool:
    """Whether n examples are enough to trust a cue of this kind."""
    if not n:
        return False
    if not re.search(r"\w$", cue):
        return True
    verb = cue.endswith(VERBS)
    return len(cue) > 1 and verb if n == 1 else len(cue) > 1 or verb


def _convinces(cue: str, n: int, separator: str, everywhere: bool) -> bool:
    """The same in a prompt of one line, where the cue must be an arrow or be in every part."""
    strong = bool(STRONG_MARKS & set(cue))
    if separator == " ":
        return strong and n >= 2
    patterned = _asks(cue, n) and everywhere
    return (strong and n > 0) or (patterned and (n > 1 or (len(cue) > 2 and cue.endswith(VERBS))))


# Instructions on the line or in the part of the first example


def _glued_header(found: Found) -> Found:
    """Lines before the label that the other examples and the question begin with."""
    label = _same_label(found.question)
    first = found.examples[0]
    if not label or found.header or _same_label(first) == label:
        return found
    lines = first.splitlines(keepends=True)
    at = next((i for i, line in enumerate(lines) if _same_label(line) == label), 0)
    return _cut_first(found, len("".join(lines[:at])))


def _lead_as_header(found: Found) -> Found:
    lead = LEAD.match(found.examples[0])
    if lead is None or any(LEAD.match(text) for text in (*found.examples[1:], found.question)):
        return found
    rest = found.examples[0][lead.end() :]
    return _cut_first(found, lead.end()) if _after(found.cue, rest) is not None else found


def _cut_first(found: Found, at: int) -> Found:
    first, *others = found.examples
    return found._replace(header=found.header + first[:at], examples=[first[at:], *others])
