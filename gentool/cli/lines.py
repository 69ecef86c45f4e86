"""`gentool complete --lines`: reads prompts, a line each; gives what became of them in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gentool.batch.lines import WINDOW, Line, LineReader
from gentool.cli.inputs import ROWS_FROM_0, with_escapes
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.batch.answers import Outcome
    from gentool.batch.tasks import Settings, Task
    from gentool.cli.flags import ChatFlags, PromptFlags
    from gentool.generation.session import Model


def first_window(reader: LineReader) -> list[Line] | None:
    """The first lines, None if there are none."""
    while (lines := reader.window(WINDOW, wait=True)) == []:
        pass
    return lines


def messages(text: str, flags: ChatFlags) -> list[dict[str, str]]:
    """A prompt as a message of the user, after that of the system."""
    system = [] if flags.system is None else [{"role": "system", "content": flags.system}]
    return [*system, {"role": "user", "content": text}]


class Lines:
    """The lines of a reader, whose `first` are read; with `flags.row`, that line only. With `chat`
    each is a message."""

    def __init__(
        self,
        reader: LineReader,
        first: list[Line],
        settings: Settings,
        flags: PromptFlags,
        chat: ChatFlags | None,
    ) -> None:
        self._reader, self._first = reader, first
        self._settings, self._flags, self._chat, self._row = settings, flags, chat, flags.row
        self.read = 0  # lines

    def outcomes(self, model: Model, name: str) -> Iterator[Outcome]:
        """What became of the lines, each as soon as it and those before are done."""
        from gentool.batch import local

        done: dict[int, Outcome] = {}
        number = self._row or 0
        template = self._chat.chat_template if self._chat else None
        for outcomes in local.Work(model, self._task, self._window, template).run():
            done |= {outcome.task.number: outcome for outcome in outcomes}
            while number in done:
                yield done.pop(number)
                number += 1
        if self._row is not None and number == self._row:
            raise UsageError(f"--row is {self._row}, {name} has {self.read} lines", ROWS_FROM_0)

    def _task(self, line: Line) -> Task:
        from gentool.batch import tasks
        from gentool.voting import examples

        task = tasks.task(line, self._settings)
        if task.problem:
            return task
        try:
            text = with_escapes(task.prompt) if self._flags.escape else task.prompt
            text = examples.fill(text, dict(self._flags.var)) if self._flags.var else text
        except UsageError as e:
            return task._replace(problem=f"{e.message}; {e.hint}")
        task = tasks.text_task(line.number, text, self._settings)
        return task._replace(prompt=messages(text, self._chat)) if self._chat else task

    def _window(self, wait: bool) -> list[Line] | None:
        if self._row is not None and self.read > self._row:
            return None
        lines = self._first or self._reader.window(WINDOW, wait)
        self._first = []
        if lines is None:
            return None
        self.read += len(lines)
        return [line for line in lines if self._row in (None, line.number)]
