"""Reads a file or a pipe line by line, in windows: memory does not depend on how much there is."""

from __future__ import annotations

import io
import select
from typing import BinaryIO, NamedTuple

WINDOW = 128  # lines that are read, and sorted, together
MAX_LINE_BYTES = 1 << 20  # of a line; no context holds more text
WINDOW_BYTES = 1 << 22  # of the lines of a window, but the last
READ_BYTES = 1 << 16
WAIT_SECONDS = 0.1  # for more of a pipe, before signals are looked at
BOM = b"\xef\xbb\xbf"


class Line(NamedTuple):
    """A line without its end, and its number from 0. A line with a problem has its beginning."""

    number: int
    data: bytes
    problem: str = ""


class LineReader:
    """The lines of a binary file. The carriage return of a CRLF is dropped, and so is a byte order
    mark before the first line, if the file may be `marked` by one."""

    def __init__(self, file: BinaryIO, marked: bool = True) -> None:
        self._file, self._buffer, self._marked = file, bytearray(), marked
        self._number, self._scanned = 0, 0  # the next line; bytes of the buffer without a newline
        self._too_long = self._ended = False
        try:
            self._descriptor: int | None = file.fileno()
        except (io.UnsupportedOperation, AttributeError):  # not a file of the system
            self._descriptor = None

    def window(self, count: int, wait: bool) -> list[Line] | None:
        """The next lines, `count` at most; only those that are there already, if any is. With
        `wait`, waits for them for WAIT_SECONDS. None at the end."""
        lines: list[Line] = []
        size = 0
        while len(lines) < count and size < WINDOW_BYTES:
            line = self._next()
            if line is None:
                if self._ended:
                    break
                if not self._ready(WAIT_SECONDS if wait and not lines else 0.0):
                    return lines
                self._fill()
            else:
                lines.append(line)
                size += len(line.data)
        return lines if lines or not self._ended else None

    def _ready(self, seconds: float) -> bool:
        """Whether reading gives something, or the end, at once."""
        if self._descriptor is None:
            return True
        try:
            return bool(select.select([self._descriptor], [], [], seconds)[0])
        except OSError:  # Windows can wait for sockets only
            return True

    def _fill(self) -> None:
        read = getattr(self._file, "read1", self._file.read)
        part = read(READ_BYTES)
        self._buffer += part
        self._ended = not part

    def _next(self) -> Line | None:
        """The next line of the buffer, if it is whole or the last."""
        end = self._buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(self._buffer)
            if self._scanned > MAX_LINE_BYTES + len(BOM):
                self._too_long = True
                del self._buffer[MAX_LINE_BYTES:]
                self._scanned = len(self._buffer)
            if not self._ended or not self._buffer:
                return None
            end = len(self._buffer)
        data = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        if self._number == 0 and self._marked and data.startswith(BOM):
            data = data.removeprefix(BOM)
            if not data and self._ended:
                return None  # there is nothing else
        line = Line(self._number, data.removesuffix(b"\r"))
        if self._too_long or len(data) > MAX_LINE_BYTES:
            problem = f"it is longer than {MAX_LINE_BYTES >> 20} MiB"
            line = Line(self._number, data[:MAX_LINE_BYTES], problem)
        self._number, self._too_long = self._number + 1, False
        return line


def count_lines(file: BinaryIO) -> int:
    """The number of lines from here to the end of a file."""
    count, last = 0, b"\n"
    while part := file.read(1 << 20):
        count, last = count + part.count(b"\n"), part[-1:]
    return count + (last != b"\n")
