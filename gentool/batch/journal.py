"""The journal of a run over rows, a file beside its output: what the run is, how far it came, and
rows that are done before those that stand ahead of them. The same run goes on from it, whenever it
was killed; another run is told what differs.

Lines of JSON: {"job": …} first, then {"rows", "size", "failed", "inputs"}, the state of the output,
and {"row", "input", "line"}, a row that waits for others. What is written is a line at its end and
one write; the file begins anew now and then, by a rename.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gentool.errors import GentoolError, UsageError

SUFFIX = ".journal"  # after the name of the output
MAX_BYTES = 1 << 20  # and twice the rows that wait, before the file begins anew
NO_INPUT = hashlib.sha256().digest()
ROWS = (b'{"row": %d, ', b'{"id": "batch_req_%d", ')  # how the line of a row begins
SUMMARY = b'{"accuracy": '  # a last line that is no row, written anew
OTHERWISE = "give another --output, or begin anew: --force"

Job = Mapping[str, Any]


class State(NamedTuple):
    """Rows of an output, its bytes, how many rows failed, and the hash of their inputs."""

    rows: int = 0
    size: int = 0
    failed: int = 0
    inputs: str = NO_INPUT.hex()


class Waiting(NamedTuple):
    """A row that waits for others: the hash of its input, its line, and whether it has a
    problem."""

    input: bytes
    line: bytes
    failed: bool


class Resumed(NamedTuple):
    """What an output and its journal hold: the job, the last state that the journal knows, the
    state of the output now, and rows that wait."""

    job: Job
    known: State
    now: State
    waiting: dict[int, Waiting]


def path_of(output: Path) -> Path:
    """The journal of an output."""
    return output.with_name(output.name + SUFFIX)


def input_hash(data: bytes) -> bytes:
    """The hash of a row's input."""
    return hashlib.sha256(data).digest()


def extended(inputs: bytes, input: bytes) -> bytes:
    """The hash of several inputs and one more."""
    return hashlib.sha256(inputs + input).digest()


def failed(line: bytes) -> bool:
    """Whether a line is that of a row with a problem."""
    try:
        return json.loads(line).get("error") is not None
    except (ValueError, RecursionError, AttributeError):
        return True


def resume(output: Path, job: Job) -> Resumed | None:
    """What an interrupted run of the same job left; None if nothing. A job without a seed goes on
    with the one that was drawn. Raises UsageError if the output holds anything else."""
    try:
        size = output.stat().st_size if output.is_file() else 0
        if not size:
            return None
        lines = path_of(output).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise UsageError(f"{output} exists, and has no journal", OTHERWISE) from None
    except OSError as e:
        raise GentoolError(f"cannot read {path_of(output)}: {e.strerror}", "check it") from None
    records = [record for line in lines if (record := _record(line))]
    old = records[0].get("job") if records else None
    if not isinstance(old, dict):
        raise UsageError(f"the journal of {output} is damaged", OTHERWISE)
    if difference := _difference(old, job):
        raise UsageError(
            f"{output} is the output of another run: {difference}",
            OTHERWISE,
        )
    states, waiting = [State()], {}
    for record in records[1:]:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if "rows" in record:
                states.append(State(**record))
            else:
                row_line = record["line"].encode()
                row = Waiting(bytes.fromhex(record["input"]), row_line, failed(row_line))
                waiting[int(record["row"])] = row
    known = [state for state in states if state.size <= size][-1]
    now = _state_now(output, known)
    waiting = {number: row for number, row in waiting.items() if number >= now.rows}
    return Resumed(old, known, now, waiting)


def _record(line: bytes) -> dict[str, Any]:
    """The record in a line; empty if the line is damaged or not whole."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        record = None
    return record if isinstance(record, dict) else {}


def _difference(old: Job, new: Job) -> str:
    """The first thing in which two jobs differ, in words; empty if there is none."""
    for key in {**old, **new}:
        there, here = old.get(key), new.get(key)
        if key == "seed" and here is None:
            continue
        if isinstance(there, dict) and isinstance(here, dict):
            if difference := _difference(there, here):
                return difference
        elif there != here:
            return f"its {key} is {json.dumps(there, ensure_ascii=False)}, not " + json.dumps(
                here, ensure_ascii=False
            )
    return ""


def _state_now(output: Path, known: State) -> State:
    """The state of an output, whose first bytes are those of a known state. A last line that is
    torn is not counted, nor is a summary. Raises UsageError for anything that is no row."""
    rows, size, failures, _ = known
    with output.open("rb") as file:
        file.seek(max(0, size - 1))
        changed = bool(size) and file.read(1) != b"\n"
        for line in file:
            starts = [start % rows for start in ROWS] + [SUMMARY]
            begun = [s for s in starts if line.startswith(s) or s.startswith(line)]
            changed = changed or not begun
            if changed or not line.endswith(b"\n") or begun == [SUMMARY]:
                break
            rows, size, failures = rows + 1, size + len(line), failures + failed(line)
    if changed:
        raise UsageError(f"{output} was changed since the run wrote it", OTHERWISE)
    return State(rows, size, failures, known.inputs)


class Journal:
    """The journal of a run that goes on: append-only, but that it begins anew once it is long."""

    def __init__(self, output: Path, job: Job) -> None:
        self._output, self._path, self._job = output, path_of(output), job
        self._size = 0

    def begin(self, state: State, waiting: Mapping[int, Waiting]) -> None:
        """Writes the file anew."""
        data = _line({"job": self._job}) + _line(state._asdict())
        data += b"".join(_waiting_line(number, row) for number, row in waiting.items())
        part = self._path.with_name(f"{self._path.name}.part")
        with self._writing():
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        self._size = len(data)

    def add_state(self, state: State, waiting: Mapping[int, Waiting]) -> None:
        """Records the state of the output, which is written."""
        self._append(_line(state._asdict()))
        if self._size > MAX_BYTES + 2 * sum(len(row.line) for row in waiting.values()):
            with self._writing(), self._output.open("rb") as file:
                os.fsync(file.fileno())
            self.begin(state, waiting)

    def add_waiting(self, number: int, row: Waiting) -> None:
        """Records a row that is done before others."""
        self._append(_waiting_line(number, row))

    def _append(self, data: bytes) -> None:
        with self._writing(), self._path.open("ab", buffering=0) as file:
            file.write(data)
        self._size += len(data)

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            yield
        except OSError as e:
            raise GentoolError(
                f"cannot write {self._path}: {e.strerror}",
                "free some space; the same command goes on",
            ) from e


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record).encode() + b"\n"


def _waiting_line(number: int, row: Waiting) -> bytes:
    return _line({"row": number, "input": row.input.hex(), "line": row.line.decode()})
