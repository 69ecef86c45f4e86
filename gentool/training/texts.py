"""A user's own files as documents to train on: text files, and JSONL with a text or a conversation
in each row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

from gentool.errors import GentoolError, UsageError
from gentool.training import corpus

ASSISTANT = "assistant"  # the role of the answers, which are learnt
SUFFIXES = (".txt", ".txt.zst", ".jsonl")
MIN_TO_HOLD_OUT = 10  # documents, of which at least one is held out
Separation = Literal["blank-lines", "lines", "files"]


@dataclass(frozen=True)
class Conversation:
    """Messages, each with `role` and `content`, and the tools that they may call."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


Document = str | Conversation


class Split(NamedTuple):
    """Documents to train on and documents to evaluate with."""

    train: list[Document]
    held_out: list[Document]


def find(names: Sequence[str]) -> list[Path]:
    """The files of these names; of a folder those that end in one of SUFFIXES, by name."""
    paths: list[Path] = []
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
        paths += readable
    return paths


def read(path: Path, separation: Separation) -> list[Document]:
    """The documents of a file. Raises GentoolError where it is not UTF-8 or not JSONL."""
    lines = corpus.lines(path)
    if path.suffix.lower() == ".jsonl":
        return [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if separation == "blank-lines":
        return list(corpus.paragraphs(lines))
    documents = list(lines) if separation == "lines" else ["\n".join(lines).strip("\n")]
    return [document for document in documents if document.strip()]


def _row(path: Path, number: int, line: str) -> Document:
    """The text or the conversation of a row of JSONL."""
    try:
        row = json.loads(line)
        row = row if isinstance(row, dict) else {}
        json.dumps(row, ensure_ascii=False).encode()
        text, messages, tools = (row.get(key) for key in ("text", "messages", "tools"))
        if isinstance(text, str) and text.strip():
            return text
        if _is_conversation(messages) and (tools is None or isinstance(tools, list)):
            return Conversation(messages, tools)
        problem = "it has no text under the key text, and no messages"
        if messages is not None:
            problem = "its messages are no list of role and content with an answer of the assistant"
    except UnicodeEncodeError:
        problem = "it has half a surrogate pair, which is no text"
    except (ValueError, RecursionError) as e:
        problem = f"it is not JSON: {e}"
    raise GentoolError(
        f"{path}, line {number}: {problem}",
        'write {"text": "…"}, or {"messages": [{"role": "user", "content": "…"}, …]}',
    )


def _is_conversation(messages: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether these are messages, with one to learn."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        return False
    named = all(isinstance(message.get("role"), str) for message in messages)
    return named and any(message["role"] == ASSISTANT for message in messages)


def _digest(document: Document) -> bytes:
    text = document if isinstance(document, str) else json.dumps(asdict(document), sort_keys=True)
    return hashlib.sha256(text.encode()).digest()


def split(documents: Sequence[Document], percent: int) -> Split:
    """`percent` of the documents held out, chosen by SHA-256 of their text: at least one of ten."""
    count = round(len(documents) * percent / 100)
    if percent and len(documents) >= MIN_TO_HOLD_OUT:
        count = max(1, count)
    digests = sorted((_digest(document), index) for index, document in enumerate(documents))
    chosen = {index for _, index in digests[:count]}
    parts = Split([], [])
    for index, document in enumerate(documents):
        (parts.held_out if index in chosen else parts.train).append(document)
    return parts
