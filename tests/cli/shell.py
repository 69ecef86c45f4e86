"""Runs gentool as a user does: a process of its own, in a pipe or on a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pytest import CaptureFixture, MonkeyPatch

from gentool import cli

COMMAND = [sys.executable, "-m", "gentool"]
OURS = ("GENTOOL_", "NO_COLOR")  # what the user may have set
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith((*OURS, "TF_"))}
CLEAN |= {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}


class Done(NamedTuple):
    code: int
    out: str
    err: str


def gentool(
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Done:
    """A finished run in a pipe."""
    done = subprocess.run(
        [*COMMAND, *arguments], input=stdin, env=CLEAN | (env or {}), cwd=cwd, capture_output=True
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def within(
    capfd: CaptureFixture[str],
    *arguments: str,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Done:
    """The same in this process, which has TensorFlow already."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    capfd.readouterr()
    with MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(OURS)]:
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["gentool", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = cli.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Done(code, *capfd.readouterr())


@contextmanager
def started(*arguments: str, **streams: int) -> Iterator[subprocess.Popen[bytes]]:
    """A running process, not outlived by whatever goes wrong in the test."""
    process = subprocess.Popen([*COMMAND, *arguments], env=CLEAN, **streams)
    with process:
        try:
            yield process
        finally:
            process.kill()


class Screen:
    """What a terminal would get. Reading ends when all writers are gone."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        modes = termios.tcgetattr(self.slave)
        modes[1] &= ~termios.OPOST  # newlines as they were written
        termios.tcsetattr(self.slave, termios.TCSANOW, modes)

    def read(self, least: int = 0) -> str:
        """Text until the end, or until there are `least` bytes."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
        data = b""
        while not least or len(data) < least:
            try:
                part = os.read(self.master, 4096)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            data += part
        return data.decode(errors="ignore" if least else "strict")

    def until(self, text: str) -> str:
        """Text until there is this in it."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1
        data = b""
        while text.encode() not in data:
            data += os.read(self.master, 4096)
        return data.decode(errors="ignore")


def seen(text: str) -> list[str]:
    """The lines that stand on a terminal after `text`: moves, erasures and overwriting are done."""
    lines, at = [""], [0, 0]
    for move, how, character in re.findall(r"\x1b\[([?\d;]*)([A-Za-z])|([\s\S])", text):
        if how == "A":
            at[0] = max(0, at[0] - int(move or 1))
        elif how == "K":
            lines[at[0]] = lines[at[0]][: 0 if move == "2" else at[1]]
        elif character == "\n":
            at = [at[0] + 1, 0]
            lines += [""] * (at[0] >= len(lines))
        elif character == "\r":
            at[1] = 0
        elif character:
            line = lines[at[0]].ljust(at[1])
            lines[at[0]] = line[: at[1]] + character + line[at[1] + 1 :]
            at[1] += 1
    return [line.rstrip() for line in lines if line.strip()]
