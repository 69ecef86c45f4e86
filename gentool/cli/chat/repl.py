"""A conversation on a terminal: messages are typed, with history, several lines and completion."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gentool.cli.chat import commands
from gentool.cli.chat.answering import Answering
from gentool.cli.chat.commands import COMMANDS, Leave
from gentool.errors import GentoolError, UsageError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from gentool.cli.console import Console

PROMPT, CONTINUATION = "> ", "  "
QUOTES = '"""'
PATH_COMMANDS = ("/save", "/load")
MENU_ROWS = 4


def check() -> None:
    """Raises UsageError where prompt_toolkit is not installed."""
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        raise UsageError(
            "a conversation on a terminal needs prompt_toolkit",
            "install it with: pip install 'gentool[chat]'; or give a MESSAGE",
        ) from None


def run(answering: Answering) -> None:
    """Reads messages and prints answers until the user leaves."""
    console, conversation = answering.console, answering.conversation
    name = conversation.model.config.name
    console.note(f"{name}, seed {conversation.request.seed}; /help, Ctrl-D leaves")
    if conversation.messages[conversation.system is not None :]:
        console.note(f"the conversation goes on after {len(conversation.messages)} messages")
    session = prompt_session(console)
    while True:
        try:
            line = message_of(session.prompt(PROMPT))
            console.write(PROMPT + line.replace("\n", f"\n{CONTINUATION}") + "\n")
            if line.strip() and not commands.run(answering, line):
                commands.show(answering, conversation.ask(line))
        except KeyboardInterrupt:  # at the prompt, or the second one during an answer
            console.end_line()
        except (EOFError, Leave):
            return
        except GentoolError as failure:
            console.end_line()
            console.error(failure.message, failure.hint)


def message_of(text: str) -> str:
    """What was typed, without the three quotes around it, or without the newlines at its end."""
    stripped = text.strip()
    if len(stripped) >= 2 * len(QUOTES) and stripped.startswith(QUOTES):
        return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return text.rstrip("\n")


def is_open(text: str) -> bool:
    """Whether Enter adds a line to a text: its three quotes are open."""
    return text.lstrip().startswith(QUOTES) and text.count(QUOTES) == 1


def prompt_session(console: Console) -> PromptSession[str]:
    """Where messages are typed."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application.current import get_app
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.layout import BufferControl, Dimension

    typing_command = Condition(lambda: get_app().current_buffer.text.startswith("/"))
    session: PromptSession[str] = PromptSession(
        history=history(console),
        multiline=True,
        key_bindings=key_bindings(),
        completer=completer(),
        complete_while_typing=typing_command,
        prompt_continuation=CONTINUATION,
        reserve_space_for_menu=MENU_ROWS,
        enable_suspend=True,
        erase_when_done=True,  # what was typed is written whole, once, however much it is
    )

    def height() -> Dimension:
        """Never as high as the screen, below which a terminal would keep a second copy."""
        half = get_app().output.get_size().rows // 2
        return Dimension(min=MENU_ROWS if typing_command() else 1, max=max(half, MENU_ROWS))

    for window in session.layout.find_all_windows():
        if isinstance(window.content, BufferControl):
            window.height = height
    return session


def history(console: Console) -> History:
    """Messages of earlier conversations, in a file of the user's state folder that is the user's
    alone; where that cannot be written, of this one."""
    from platformdirs import user_state_path
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    path = user_state_path("gentool") / "chat_history"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as e:
        console.note(f"messages are not kept: cannot write {path}: {e.strerror}")
        return InMemoryHistory()
    return FileHistory(str(path))


def key_bindings() -> KeyBindings:
    """Enter sends, unless the text is open or ends with a backslash; Alt-Enter adds a line."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def alt_enter(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def completer() -> Completer:
    """Completes names of commands, and paths after those that take one."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Commands(Completer):
        paths = PathCompleter(expanduser=True)

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
            text = document.text_before_cursor
            name, blank, argument = text.partition(" ")
            if blank and name in PATH_COMMANDS:
                yield from self.paths.get_completions(Document(argument), event)
            elif not blank:
                for command, row in COMMANDS.items():
                    if text and command.startswith(text):
                        yield Completion(command, -len(text), display_meta=row.help)

    return Commands()
