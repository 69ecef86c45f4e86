"""Errors a user can act on, and the exit codes of the program. Imports nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

NEAR = 0.65  # likeness, 0 to 1, of a slip of the fingers


class Exit(IntEnum):
    """Exit codes (DESIGN.md section 2); 141 and 143 are 128 + signal number, as a shell reports."""

    OK = 0
    RUNTIME = 1
    USAGE = 2
    MODEL = 3
    SOME_ROWS = 4
    UNDECIDED = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


class GentoolError(Exception):
    """What went wrong, naming the value, and what to do about it."""

    exit_code = Exit.RUNTIME

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type[GentoolError], tuple[str, str]]:
        """As it goes to another process."""
        return type(self), (self.message, self.hint)


class UsageError(GentoolError):
    """A flag, an argument, an environment variable or a YAML file of the user's own is wrong."""

    exit_code = Exit.USAGE


class ModelError(GentoolError):
    """A model folder is missing something or is corrupt."""

    exit_code = Exit.MODEL


def slip(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is a slip of. Dashes in front do not make names alike."""
    bare = name.lstrip("-")
    by_name = {other.lstrip("-"): other for other in sorted(known)}
    begun = [other for other in by_name if len(bare) >= 3 and other.startswith(bare)]
    close = begun or difflib.get_close_matches(bare, by_name, n=1, cutoff=NEAR)
    return by_name[close[0]] if close else None


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """A hint naming the known name that `name` is a slip of, or all of them where it is of none."""
    known = sorted(known)
    close = slip(name, known)
    return f"did you mean {close}?" if close else f"{what}: {', '.join(known)}"
