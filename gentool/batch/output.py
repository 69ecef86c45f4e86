"""The output of a run over rows: lines in the order of the rows, whatever the order they are done
in, and the journal that says how far it came."""

from __future__ import annotations

from collections.abc import Callable

from gentool.batch.journal import (
    NO_INPUT,
    OTHERWISE,
    Journal,
    Resumed,
    State,
    Waiting,
    extended,
    input_hash,
)
from gentool.errors import UsageError


class Output:
    """`begin`, `accept` every row's input in order, and `put` its line when it is done. Without a
    journal nothing is kept but the rows that wait for others."""

    def __init__(
        self, write: Callable[[str], None], journal: Journal | None, resumed: Resumed | None
    ) -> None:
        self._write, self._journal = write, journal
        self.state = resumed.now if resumed else State()
        self._known = resumed.known if resumed else State()
        self._waiting = dict(resumed.waiting) if resumed else {}
        self._resumed = set(self._waiting)
        self._inputs = NO_INPUT  # hash of the inputs of rows that are written
        self._accepted: dict[int, bytes] = {}  # hash of the input of each row that is not written

    def begin(self) -> None:
        """Begins the journal: from here on there is a result."""
        if self._journal:
            self._journal.begin(self._known, self._waiting)

    def accept(self, number: int, data: bytes) -> bool:
        """Whether the row of this input is to be computed: it is neither in the output nor done.
        Raises UsageError where the output is that of other inputs."""
        input = input_hash(data)
        if number < self.state.rows:
            self._inputs = extended(self._inputs, input)
            if number + 1 == self._known.rows and self._inputs.hex() != self._known.inputs:
                raise UsageError(
                    f"the first {self._known.rows} rows of the input are not those of the output",
                    OTHERWISE,
                )
            return False
        self._accepted[number] = input
        if number in self._resumed and self._waiting[number].input == input:
            self._flush()
            return False
        self._waiting.pop(number, None)
        return True

    def end(self, rows: int) -> None:
        """Says that there are so many rows. Raises UsageError if the output has more."""
        if rows < self.state.rows:
            raise UsageError(
                f"the input has {rows} rows, the output {self.state.rows}",
                OTHERWISE,
            )

    @property
    def done(self) -> int:
        """Rows that are written, or wait for others."""
        return self.state.rows + len(self._waiting)

    @property
    def resumable(self) -> bool:
        """Whether another run can go on."""
        return self._journal is not None

    def put(self, number: int, line: bytes, failed: bool) -> None:
        """Writes the line of a row, or keeps it until those before are written."""
        row = Waiting(self._accepted[number], line, failed)
        self._waiting[number] = row
        if number == self.state.rows:
            self._flush()
        elif self._journal:
            self._journal.add_waiting(number, row)

    def _flush(self) -> None:
        """Writes the rows whose turn it is."""
        rows, size, failures, _ = self.state
        lines = []
        while rows in self._waiting and rows in self._accepted:
            row = self._waiting.pop(rows)
            self._inputs = extended(self._inputs, self._accepted.pop(rows))
            lines.append(row.line)
            rows, size, failures = rows + 1, size + len(row.line), failures + row.failed
        if not lines:
            return
        self._write(b"".join(lines).decode())
        self.state = State(rows, size, failures, self._inputs.hex())
        if self._journal:
            self._journal.add_state(self.state, self._waiting)
