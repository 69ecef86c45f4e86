"""The commands of a conversation on a terminal. Each takes the rest of its line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.chat import transcript
from gentool.cli.chat.answering import Answering
from gentool.cli.chat.terminal import without_echo
from gentool.cli.flags import SEED_NUMBER
from gentool.errors import UsageError, nearest

if TYPE_CHECKING:
    from gentool.generation.thinking import Part

GAP = 2  # between a command and its line of help; before that where it has a line of its own
NAME = re.compile(r"/[a-z]+(?=\s|$)")


class Leave(Exception):
    """The conversation is over."""


class ChatCommand(NamedTuple):
    """The argument's name, a line of help, and the function, which gets the argument's text."""

    argument: str
    help: str
    run: Callable[[Answering, str], None]


def run(answering: Answering, line: str) -> bool:
    """Runs the command of a line; False where it is a message."""
    named = NAME.match(line)
    if not named:
        return False
    name, text = named[0], line[named.end() :].strip()
    if name not in COMMANDS:
        raise UsageError(f"no command {name}", nearest(name, COMMANDS, "commands"))
    command = COMMANDS[name]
    if text and not command.argument:
        raise UsageError(f"{name} takes no argument, and '{text}' is given", "drop it")
    command.run(answering, text)
    return True


def show(answering: Answering, parts: Generator[Part, None, None]) -> None:
    """Prints an answer; Ctrl-C stops it."""
    with answering.console.signals.stoppable() as stopped, without_echo():
        answering.show(parts, stopped)


def show_help(answering: Answering, text: str) -> None:
    """Lists the commands and the keys."""
    rows = [(f"{name} {row.argument}".rstrip(), row.help) for name, row in COMMANDS.items()]
    rows += KEYS
    width = max(len(name) for name, _ in rows)
    wide = width + GAP + max(len(line) for _, line in rows) <= shutil.get_terminal_size().columns
    for name, line in rows:
        for part in [f"{name:{width + GAP}}{line}"] if wide else [name, f"{' ' * GAP}{line}"]:
            answering.console.write(f"{part}\n")


def set_system(answering: Answering, text: str) -> None:
    """Shows or sets the system message."""
    conversation = answering.conversation
    if text:
        conversation.set_system(None if text == '""' else text)
    shown = f"system: {conversation.system}" if conversation.system else "no system message"
    answering.console.write(f"{shown}\n")


def reset(answering: Answering, text: str) -> None:
    """Begins a new conversation."""
    answering.conversation.reset()
    if answering.transcript:
        answering.transcript.begin()
    answering.console.note("a new conversation")


def retry(answering: Answering, text: str) -> None:
    """Answers the last message again."""
    show(answering, answering.conversation.retry())


def set_seed(answering: Answering, text: str) -> None:
    """Shows or sets the seed."""
    conversation = answering.conversation
    if text:
        try:
            conversation.seed(SEED_NUMBER.read(text))
        except ValueError as instead:
            raise UsageError(f"the seed is '{text}'", str(instead)) from None
    answering.console.write(f"seed {conversation.request.seed}, row {conversation.row}\n")


def save(answering: Answering, text: str) -> None:
    """Appends the conversation to a file."""
    if not answering.conversation.messages:
        raise UsageError("there is nothing to save", "write a message first")
    path = _path("/save", text)
    transcript.append(path, answering.conversation.messages)
    answering.console.note(f"saved to {path}")


def load(answering: Answering, text: str) -> None:
    """Goes on with the last conversation of a file."""
    path = _path("/load", text)
    messages = transcript.last_conversation(path)
    answering.conversation.reset(messages)
    if answering.transcript:
        answering.transcript.begin()
    answering.console.note(f"{len(messages)} messages of {path}; the last one:")
    answering.console.note(f"{messages[-1]['role']}: {messages[-1]['content']}")


def leave(answering: Answering, text: str) -> None:
    """Ends the conversation."""
    raise Leave


def _path(name: str, text: str) -> Path:
    if not text:
        raise UsageError(f"{name} needs a file", f"write {name} talk.jsonl")
    return Path(text).expanduser()


COMMANDS = {
    "/help": ChatCommand("", "show this", show_help),
    "/system": ChatCommand("TEXT", 'set the system message; "" removes it', set_system),
    "/reset": ChatCommand("", "begin anew; the system message stays", reset),
    "/retry": ChatCommand("", "answer the last message again", retry),
    "/seed": ChatCommand("N", "set the seed of the next answers", set_seed),
    "/save": ChatCommand("FILE", "add the conversation as JSONL", save),
    "/load": ChatCommand("FILE", "go on with the last one of FILE", load),
    "/exit": ChatCommand("", "leave, as Ctrl-D does", leave),
}
KEYS = [
    ("Enter", "send"),
    ("Alt-Enter", 'new line; so do \\ Enter and """ … """'),
    ("Ctrl-C", "stop an answer; clear the line"),
    ("Ctrl-D", "leave"),
]
