"""However often a run is killed, and wherever, its output is in the end that of one run."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.batch import journal
from gentool.batch.journal import Journal, path_of, resume
from gentool.batch.output import Output
from gentool.errors import UsageError

JOB = {"command": "test", "seed": 7, "sampling": {"top_k": 3}}
INPUTS = [f"input {number}".encode() for number in range(12)]
LINES = [
    json.dumps(
        {"row": number, "x": "天" * number} | ({"error": "!"} if number % 5 == 3 else {})
    ).encode()
    + b"\n"
    for number in range(12)
]
WHOLE = b"".join(LINES)


class Killed(Exception):
    pass


def appending(path: Path) -> Callable[[str], None]:
    def write(text: str) -> None:
        with path.open("ab") as file:
            file.write(text.encode())

    return write


def attempt(path: Path, chance: random.Random, kill: bool) -> Output:
    """A run whose rows are done in any order, killed in some write, perhaps amid it."""
    size = path.stat().st_size if path.exists() else 0
    writes_left = chance.randrange(6) if kill else 10**6
    path.touch()
    resumed = resume(path, JOB)
    size = resumed.now.size if resumed else 0
    os.truncate(path, size)

    def write(text: str) -> None:
        nonlocal writes_left
        data = text.encode()
        with path.open("ab") as file:
            file.write(data if writes_left else data[: chance.randrange(len(data) + 1)])
        if not writes_left:
            raise Killed
        writes_left -= 1

    output = Output(write, Journal(path, JOB), resumed)
    output.begin()
    for first in range(0, 12, 4):
        block = range(first, first + 4)
        wanted = [number for number in block if output.accept(number, INPUTS[number])]
        chance.shuffle(wanted)
        for number in wanted:
            output.put(number, LINES[number], b"error" in LINES[number])
    output.end(12)
    return output


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_a_run_killed_anywhere_ends_as_one_run(tmp_path_factory, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("journal") / "out.jsonl"
    for _ in range(4):
        try:
            attempt(path, chance, kill=True)
        except Killed:
            pass
        if path_of(path).exists() and chance.random() < 0.5:  # a torn journal
            os.truncate(path_of(path), max(0, path_of(path).stat().st_size - chance.randrange(40)))
            records = path_of(path).read_bytes().splitlines()
            if not records or not records[0].endswith(b"}}"):
                path.unlink()  # the first line is renamed into its place, never torn
    output = attempt(path, chance, kill=False)
    assert path.read_bytes() == WHOLE
    assert (output.state.rows, output.state.failed) == (12, 2)
    assert attempt(path, chance, kill=False).state == output.state


def test_rows_that_wait_are_not_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    output = Output(appending(path), Journal(path, JOB), None)
    output.begin()
    assert all(output.accept(number, INPUTS[number]) for number in range(4))
    for number in (0, 2, 3):
        output.put(number, LINES[number], False)
    assert path.read_bytes() == LINES[0] and output.done == 3
    again = Output(appending(path), Journal(path, JOB), resume(path, JOB))
    again.begin()
    changed = b"another input"  # of a row that is not written yet
    wanted = [again.accept(n, changed if n == 3 else INPUTS[n]) for n in range(4)]
    assert wanted == [False, True, False, True]
    again.put(1, LINES[1], False)
    assert path.read_bytes() == b"".join(LINES[:3])


def test_a_long_journal_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MAX_BYTES", 1000)
    path = tmp_path / "out.jsonl"
    path.touch()
    output = Output(appending(path), Journal(path, JOB), None)
    output.begin()
    for number in range(2000):
        assert output.accept(number, b"x")
        output.put(number, b'{"row": %d, "x": 1}\n' % number, False)
    assert path_of(path).stat().st_size < 1500
    assert resume(path, JOB).known == output.state


@pytest.mark.parametrize(
    ("job", "difference"),
    [
        (JOB | {"seed": 8}, "its seed is 7, not 8"),
        (JOB | {"sampling": {"top_k": 4}}, "its top_k is 3, not 4"),
        (JOB | {"n": 2}, "its n is null, not 2"),
        (JOB | {"seed": None}, ""),
    ],
)
def test_another_job_is_told_what_differs(tmp_path: Path, job: dict, difference: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(LINES[0])
    Journal(path, JOB).begin(journal.State(), {})
    if difference:
        with pytest.raises(UsageError, match=difference):
            resume(path, job)
    else:
        assert resume(path, job).job["seed"] == 7


@pytest.mark.parametrize(
    "content", [b"notes", b"\n", LINES[1], LINES[0] + LINES[0], LINES[0] + b"{}", LINES[0][1:]]
)
def test_what_is_no_row_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="has no journal"):
        resume(path, JOB)
    Journal(path, JOB).begin(journal.State(), {})
    with pytest.raises(UsageError, match="was changed since"):
        resume(path, JOB)
    assert path.read_bytes() == content
