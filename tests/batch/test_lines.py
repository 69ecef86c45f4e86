"""Lines are those of the bytes, however they come, and a line has a limit."""

from __future__ import annotations

import io
import os

from hypothesis import given
from hypothesis import strategies as st

from gentool.batch import lines as module
from gentool.batch.lines import BOM, MAX_LINE_BYTES, Line, LineReader, count_lines


class Parts(io.RawIOBase):
    """A file that gives its bytes in these parts."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = [part for part in parts if part]

    def read1(self, size: int) -> bytes:
        return self._parts.pop(0) if self._parts else b""


def windows(reader: LineReader, count: int = 3) -> list[list[Line]]:
    windows = []
    while (window := reader.window(count, wait=True)) is not None:
        windows.append(window)
    return windows


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\r", b"bc\n", BOM, b"\xff"]), max_size=12))
def test_lines_are_those_of_the_bytes_in_any_parts(parts: list[bytes]) -> None:
    data = b"".join(parts)
    read = windows(LineReader(Parts(parts)))
    assert all(len(window) <= 3 for window in read)
    lines = [line for window in read for line in window]
    text = data.removeprefix(BOM)
    expected = text.removesuffix(b"\n").split(b"\n") if text else []
    assert [line.data for line in lines] == [line.removesuffix(b"\r") for line in expected]
    assert [line.number for line in lines] == list(range(len(lines)))
    assert not any(line.problem for line in lines)
    assert count_lines(io.BytesIO(data)) == len(data.splitlines()) or b"\r" in data


def test_a_byte_order_mark_of_an_argument_is_text() -> None:
    (window,) = windows(LineReader(io.BytesIO(BOM + b"a"), marked=False))
    assert window == [Line(0, BOM + b"a")]


def test_a_line_that_is_too_long_has_a_problem_and_takes_no_memory() -> None:
    part = b"x" * (1 << 16)
    reader = LineReader(Parts([b"a\n", *[part] * 400, b"\nb\n", b"y" * MAX_LINE_BYTES, b"\n"]))
    held = []
    lines: list[Line] = []
    while (window := reader.window(1, wait=True)) is not None:
        held.append(len(reader._buffer))
        lines += window
    assert max(held) <= MAX_LINE_BYTES + 2 * module.READ_BYTES
    assert [(line.number, len(line.data)) for line in lines] == [
        (0, 1),
        (1, MAX_LINE_BYTES),
        (2, 1),
        (3, MAX_LINE_BYTES),
    ]
    assert [bool(line.problem) for line in lines] == [False, True, False, False]


def test_a_pipe_gives_what_is_there() -> None:
    read, write = os.pipe()
    with open(read, "rb") as file:
        reader = LineReader(file)
        assert reader.window(5, wait=True) == []
        os.write(write, b"a\nb\nc")
        assert reader.window(5, wait=False) == [Line(0, b"a"), Line(1, b"b")]
        assert reader.window(5, wait=False) == []
        os.close(write)
        assert reader.window(5, wait=False) == [Line(2, b"c")]
        assert reader.window(5, wait=False) is None
