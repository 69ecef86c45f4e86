"""What a tokenizer.json may hold. The `tokenizers` library would follow one into any amount of time
and memory, so it may only name the steps below, whose work is bounded by the length of the text,
and which `huggingface` can undo piece by piece.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from gentool.errors import ModelError

STEPS = {
    "normalizer": "BertNormalizer Lowercase NFC NFD NFKC NFKD Prepend Replace Strip StripAccents",
    "pre_tokenizer": "BertPreTokenizer ByteLevel Digits Metaspace Punctuation Split Whitespace "
    "WhitespaceSplit",
    "model": "BPE WordPiece",
    "post_processor": "BertProcessing ByteLevel RobertaProcessing TemplateProcessing",
    "decoder": "ByteFallback ByteLevel Fuse Metaspace Replace Strip WordPiece",
}
OPTIONAL = ("normalizer", "pre_tokenizer", "post_processor")
INNER = ("normalizers", "pretokenizers", "processors", "decoders")  # the steps of a Sequence

MAX_IDS = 1 << 24
MAX_STEPS = 16
MAX_LENGTH = 1000  # characters of a regular expression, and of a word of WordPiece

# a step -> how many times longer it makes a text at most; their product is limited
GROWTH = {"BertNormalizer": 6, "Lowercase": 2, "NFC": 3, "NFD": 3, "NFKC": 18, "NFKD": 18}
MAX_GROWTH = 64.0

# of a regular expression: escapes and classes, which hold no operators, and the groups it may have
PLAIN = re.compile(r"\\[pP]\{[^}]*\}|\\[^0-9gkQ]|\[(?:\\.|[^\]\\])*\]", re.DOTALL)
GROUP = re.compile(r"\((?:\?(?:i?:|<?[=!]))?")
REPEATED = re.compile(r"\)\??[*{]|\)\+|[*+}]\??[*{]|\}\+")


# branches of published tokenizers that `_is_linear` refuses: their repeats overlap, but where they
# fail another branch takes the whole run, so that the time stays linear
KNOWN_BRANCHES = (
    r"\s*[\r\n]+",
    r"\s*[\r\n]",
    r"\s+(?!\S)",
    r"\s+$",
    *(
        rf"[^\r\n\p{{L}}\p{{N}}]?{first}{second}(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        for first, second in (
            (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"),
            (r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"),
        )
    ),
)
MAX_CHOICES = 64  # ways to match the optional items before one that can fail
MAX_REPEATS = 10  # a repeat of more counts as one without a limit
ITEM = re.compile(
    r"(\\[pP]\{[^}]*\}|\\.|\[(?:\\.|[^\]\\])*\]|\(|.)([*+?]|\{[^}]*\})?[?+]?", re.DOTALL
)


class _Wrong(Exception):
    """What a file holds that it may not."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON mapping whose keys are not given twice: two readers could take different ones."""
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key is given twice")
    return data


def flat(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a part, those of its sequences one by one."""
    if step is not None and step["type"] != "Sequence":
        yield step
    elif step is not None:
        for key in INNER:
            for inner in step.get(key, ()):
                yield from flat(inner)


def check(path: Path, data: Mapping[str, Any]) -> None:
    """A ModelError where the file holds what it may not, or no tokenizer at all."""
    try:
        for part, known in STEPS.items():
            steps = list(flat(data.get(part) if part in OPTIONAL else data[part]))
            for name in (step["type"] for step in steps):
                if name not in known.split():
                    raise _Wrong(f"{part} {name!r}")
            if part != "model":
                _check_steps(part, steps)
        _check_model(data["model"], data.get("added_tokens") or ())
    except _Wrong as what:
        raise ModelError(
            f"{path}: {str(what)[:200]} is not supported", f"known: {'; '.join(STEPS.values())}"
        ) from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        raise ModelError(
            f"{path} is not a tokenizer.json", "restore the file from its source"
        ) from None


def with_prefix_space(path: Path, data: Mapping[str, Any], wanted: bool) -> dict[str, Any]:
    """`data` with the prefix space that tokenizer_config.json asks for, as transformers has it.

    Raises:
        ModelError: no step of the file can do so.
    """
    changed = copy.deepcopy(dict(data))
    steps = [*flat(changed.get("pre_tokenizer")), *flat(changed.get("normalizer"))]
    for step in steps:
        match step["type"]:
            case "ByteLevel":
                cast(dict[str, Any], step)["add_prefix_space"] = wanted
                return changed
            case "Metaspace":
                if wanted == (_scheme(step) != "never"):
                    return changed
                cast(dict[str, Any], step).pop("add_prefix_space", None)
                cast(dict[str, Any], step)["prepend_scheme"] = "first" if wanted else "never"
                return changed
            case "Prepend" if wanted:
                return changed
    if not wanted and not any(step["type"] == "Prepend" for step in steps):
        return changed
    raise ModelError(
        f"{path} does not do what tokenizer_config.json: add_prefix_space {wanted} says",
        "restore both files from their source, or set tokenizer.add_prefix_space",
    )


def _scheme(step: Mapping[str, Any]) -> str:
    """Where a Metaspace step puts a prefix space: always, first or never."""
    prefix = step.get("add_prefix_space", True)
    return str(step.get("prepend_scheme", "always" if prefix else "never"))


def _check_model(model: Mapping[str, Any], added: Iterable[Mapping[str, Any]]) -> None:
    if model.get("dropout"):
        raise _Wrong("dropout, which draws ids by chance,")
    # the library cuts bytes off by the length of these, and aborts where that splits a character
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if (value := model.get(key)) and (model["type"], value) != ("WordPiece", "##"):
            raise _Wrong(f"{key} {value!r}")
    if model.get("max_input_chars_per_word", 100) > MAX_LENGTH:
        raise _Wrong(f"a word of {model['max_input_chars_per_word']} characters")
    for token in [*model["vocab"].values(), *(token["id"] for token in added)]:
        if not 0 <= token < MAX_IDS:
            raise _Wrong(f"token id {token}")


def _check_steps(part: str, steps: list[Mapping[str, Any]]) -> None:
    if len(steps) > MAX_STEPS or part == "decoder" and not steps:
        raise _Wrong(f"{part} of {len(steps)} steps")
    growth = 1.0
    for step in steps:
        if "Regex" in (pattern := step.get("pattern") or {}):
            _check_regex(pattern["Regex"])
        if pattern.get("String") == "":
            raise _Wrong("an empty pattern")
        match step["type"]:
            case "Replace" if part == "decoder" or "String" in pattern:
                growth *= max(1, len(step["content"].encode()) / len(pattern["String"].encode()))
            case "Replace":
                growth *= 1 + len(step["content"].encode())
            case "Prepend":
                growth *= 1 + len(step["prepend"].encode())
            case "Strip" if part == "decoder":
                if (step["content"], step["stop"]) != (" ", 0) or step["start"] not in (0, 1):
                    raise _Wrong(f"decoder {dict(step)}")
            case "Metaspace":
                growth *= max(1, len(step["replacement"].encode()))
            case name:
                growth *= GROWTH.get(name, 1)
    if growth > MAX_GROWTH:
        raise _Wrong(f"{part} that makes a text {growth:.0f} times longer")


def _branches(pattern: str) -> list[str]:
    """The alternatives of a pattern, those inside its groups left whole."""
    branches, depth = [""], 0
    for match in re.finditer(r"\\.|\[(?:\\.|[^\]\\])*\]|.", pattern, re.DOTALL):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if match[0] == "|" and not depth:
            branches.append("")
        else:
            branches[-1] += match[0]
    return branches


def _is_linear(branch: str) -> bool:
    """Whether a branch takes time linear in the text: behind a repeat nothing can fail, so that it
    is never tried again at another length."""
    unbounded, choices, at = False, 1, 0
    while at < len(branch):
        match = ITEM.match(branch, at)
        if match is None:
            return False
        quantifier, at = match[2] or "", match.end()
        inside = ""
        if match[1] == "(":
            end = _end_of_group(branch, match.start())
            inside = re.sub(r"^\?(?:i?:|<?[=!])", "", branch[match.start() + 1 : end - 1])
            tail = re.compile(r"([*+?]|\{[^}]*\})?[?+]?").match(branch, end)
            quantifier, at = (tail[1] or "", tail.end()) if tail else ("", end)
            if not all(_is_linear(inner) for inner in _branches(inside)):
                return False
        low, high = _bounds(quantifier)
        if low > 0 and (unbounded or choices > MAX_CHOICES):
            return False
        unbounded |= high > MAX_REPEATS or bool(re.search(r"[*+]|\{\d*,\}", PLAIN.sub(".", inside)))
        choices *= min(high, MAX_CHOICES) - min(low, MAX_CHOICES) + 1
    return True


def _bounds(quantifier: str) -> tuple[int, int]:
    """The least and the greatest number of repeats."""
    if quantifier in ("", "*", "+", "?"):
        return {"": (1, 1), "*": (0, MAX_LENGTH), "+": (1, MAX_LENGTH), "?": (0, 1)}[quantifier]
    match = re.fullmatch(r"\{(\d{0,4})(,?)(\d{0,4})\}", quantifier)
    if match is None:
        return 1, MAX_LENGTH
    low = int(match[1] or 0)
    return low, int(match[3]) if match[3] else MAX_LENGTH if match[2] else low


def _end_of_group(branch: str, start: int) -> int:
    depth = 0
    for match in re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|.", re.DOTALL).finditer(branch, start):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if not depth:
            return match.end()
    return len(branch) + 1


def _check_regex(pattern: str) -> None:
    """No repeated groups and no references: those can take time exponential in the text."""
    operators = GROUP.sub("(", PLAIN.sub(".", pattern))
    slow = not all(b in KNOWN_BRANCHES or _is_linear(b) for b in _branches(pattern))
    if (
        slow
        or len(pattern) > MAX_LENGTH
        or REPEATED.search(operators)
        or re.search(r"\\|\(\?", operators)
    ):
        raise _Wrong(f"regular expression {pattern!r}")
