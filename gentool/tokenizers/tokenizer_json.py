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


def _check_regex(pattern: str) -> None:
    """No repeated groups and no references: those can take time exponential in the text."""
    operators = GROUP.sub("(", PLAIN.sub(".", pattern))
    if len(pattern) > MAX_LENGTH or REPEATED.search(operators) or re.search(r"\\|\(\?", operators):
        raise _Wrong(f"regular expression {pattern!r}")
