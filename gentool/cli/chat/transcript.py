"""Transcripts: files of one conversation a line, {"messages": [{"role": …, "content": …}, …]}, as
trainers of chat models read them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.generation.conversation import Message

FORM = '{"messages": [{"role": "user", "content": "…"}, …]}'
HINT = f"each line is one conversation: {FORM}"
ROLES = ("system", "user", "assistant", "tool")


def last_conversation(path: Path) -> list[Message]:
    """The messages of the last line of a file.

    Raises:
        UsageError: there is none, or it has another form.
    """
    lines = _lines(path)
    if not lines:
        raise UsageError(f"{path} holds no conversation", HINT)
    return _messages(lines[-1], f"line {len(lines)} of {path}")


def append(path: Path, messages: list[Message]) -> None:
    """Adds a conversation to a file, which need not exist."""
    _write(path, [*(_lines(path) if os.path.exists(path) else []), _line(messages)])


class Transcript:
    """A file whose last conversation is continued: each `save` replaces its line."""

    def __init__(self, path: Path) -> None:
        """Reads the file, if it exists.

        Raises:
            UsageError: it holds anything else, or its folder does not exist.
        """
        if not path.parent.is_dir():  # an error before an answer, not after
            raise UsageError(f"the transcript is {path}, in no folder", "make the folder")
        self._path = path
        self._earlier = _lines(path) if os.path.exists(path) else []  # lines that stay
        self.messages: list[Message] = []  # of the conversation that is continued
        if self._earlier:
            self.messages = last_conversation(path)
            self._earlier.pop()

    def save(self, messages: list[Message]) -> None:
        """Writes the conversation as it is now."""
        self.messages = list(messages)
        _write(self._path, [*self._earlier, _line(messages)])

    def begin(self) -> None:
        """The next `save` adds a line."""
        if self.messages:
            self._earlier.append(_line(self.messages))
        self.messages = []


def _line(messages: list[Message]) -> str:
    return json.dumps({"messages": messages}, ensure_ascii=False)


def _lines(path: Path) -> list[str]:
    if os.path.exists(path) and not path.is_file():
        raise UsageError(f"{path} is no file", "give a file of conversations, or a new name")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as e:
        raise UsageError(
            f"cannot read {path}: {e.strerror}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is not UTF-8 (byte {e.start})", HINT) from None
    return [line for line in text.split("\n") if line.strip()]


def _messages(line: str, where: str) -> list[Message]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is no JSON", HINT) from None
    messages = record.get("messages") if isinstance(record, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UsageError(f"{where} has no list of messages", HINT)
    for number, message in enumerate(messages):
        fields = message if isinstance(message, dict) else {}
        if fields.get("role") not in ROLES or not _is_text(fields.get("content")):
            raise UsageError(
                f"message {number} of {where} has no role and text content",
                f"the role is {', '.join(ROLES)}; the content is text",
            )
    return messages


def _is_text(content: object) -> bool:
    """Whether it is text; JSON may hold halves of surrogate pairs, which are none."""
    return isinstance(content, str) and content == content.encode(errors="ignore").decode()


def _write(path: Path, lines: list[str]) -> None:
    """Replaces a file at once, so that no crash leaves half of it."""
    path = path.resolve()
    made = None
    try:
        descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write("".join(f"{line}\n" for line in lines))
        if os.path.exists(path):
            shutil.copymode(path, made)
        os.replace(made, path)
    except OSError as e:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(made)
        raise UsageError(
            f"cannot write {path}: {e.strerror}", "give a file in a folder of your own"
        ) from None
