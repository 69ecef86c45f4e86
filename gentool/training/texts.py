"""A user's own files as documents to train on: text files, and JSONL with a text in each row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gentool.errors import GentoolError, UsageError
from gentool.training import corpus

SUFFIXES = (".txt", ".txt.zst", ".jsonl")
MIN_TO_HOLD_OUT = 10  # documents, of which at least one is held out
Separation = Literal["blank-lines", "lines", "files"]


class Split(NamedTuple):
    """Documents to train on and documents to evaluate with."""

    train: list[str]
    held_out: list[str]


def find(names: Sequence[str]) -> list[Path]:
    """The files of these names; of a folder those that end in one of SUFFIXES, by name."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        try:
            inside = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
            exists = path.exists()
        except OSError as e:
            raise GentoolError(
                f"cannot read {path}: {e.strerror}", "check its permissions"
            ) from None
        if not exists:
            raise UsageError(f"--data {name} does not exist", "check the path")
        readable = [p for p in inside if p.name.lower().endswith(SUFFIXES)]
        if not readable:
            what = f"has no {', '.join(SUFFIXES)} in it" if path.is_dir() else "is no text file"
            raise UsageError(f"--data {name} {what}", f"its name ends in {', '.join(SUFFIXES)}")
        found += readable
    return found


def read(path: Path, separation: Separation) -> list[str]:
    """The documents of a file. Raises GentoolError where it is not UTF-8 or not JSONL."""
    lines = corpus.lines(path)
    if path.suffix.lower() == ".jsonl":
        return [_text(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if separation == "blank-lines":
        return corpus.paragraphs(lines)
    documents = list(lines) if separation == "lines" else ["\n".join(lines).strip("\n")]
    return [document for document in documents if document.strip()]


def _text(path: Path, number: int, line: str) -> str:
    """The text of a row of JSONL."""
    try:
        row = json.loads(line)
        text = row.get("text") if isinstance(row, dict) else None
        if isinstance(text, str) and text.strip():
            text.encode()
            return text
        problem = "it has no text under the key text"
    except UnicodeEncodeError:
        problem = "it has half a surrogate pair, which is no text"
    except (ValueError, RecursionError) as e:
        problem = f"it is not JSON: {e}"
    raise GentoolError(f"{path}, line {number}: {problem}", 'write {"text": "…"} in every line')


def split(documents: Sequence[str], percent: int) -> Split:
    """`percent` of the documents held out, chosen by SHA-256 of their text: at least one of ten."""
    count = round(len(documents) * percent / 100)
    if percent and len(documents) >= MIN_TO_HOLD_OUT:
        count = max(1, count)
    digests = sorted((hashlib.sha256(d.encode()).digest(), i) for i, d in enumerate(documents))
    chosen = {index for _, index in digests[:count]}
    parts = Split([], [])
    for index, document in enumerate(documents):
        (parts.held_out if index in chosen else parts.train).append(document)
    return parts
