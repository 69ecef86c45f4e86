"""The files of a training run: whose run it is, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gentool.errors import GentoolError, UsageError

RECIPE = "recipe.json"
CHECKPOINT = "checkpoint.safetensors"
VOCABULARY = "tokenizer.model"
TOKENS = "tokens"
LOG = "log.jsonl"
BEST = "best.safetensors"

# Parts of a recipe that the vocabulary and the tokens follow from.
PREPARED_FROM = ("seed", "pieces", "data")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failed write to `path` into an error for the user."""
    try:
        yield
    except (OSError, SafetensorError) as e:
        reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
        raise GentoolError(
            f"cannot write {path}: {reason}",
            "free some space or check the permissions; the same command continues the run",
        ) from None


def write(path: Path, content: Callable[[Path], object]) -> None:
    """Has `content` write a file beside `path`, then renames it, so that `path` is never partial.
    The file gets the permissions that the user's umask gives a new file."""
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        try:
            part.write_bytes(b"")
            mode = part.stat().st_mode
            content(part)
            part.chmod(mode)  # safetensors creates files with mode 0600
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def make_folder(path: Path) -> None:
    """Makes a folder and those above it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Makes the run folder, and keeps other processes from training in it meanwhile."""
    make_folder(run)
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    with writing(run):
        folder = os.open(run, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"another process trains in {run}", "wait for it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(folder)


def claim(run: Path, new: dict[str, Any], finished: bool = False) -> str:
    """Records the recipe in the run folder, or checks that the run was started with this recipe.
    Until something is trained the recipe may change: then what was prepared from the old one is
    removed. Gives a line that says so, or nothing."""
    path, text = run / RECIPE, json.dumps(new, ensure_ascii=False, indent=1)
    if not path.exists():
        write(path, lambda part: part.write_text(text, "utf-8"))
        return ""
    old = _recorded(path)
    if old == new:
        return ""
    if finished or (run / CHECKPOINT).exists():
        raise UsageError(
            f"{run} was started with another recipe: {_difference(old, new)}",
            "give another folder",
        )
    if _prepared_from(old) != _prepared_from(new):
        with writing(run / TOKENS):
            (run / VOCABULARY).unlink(missing_ok=True)
            for tokens in (run / TOKENS).glob("*.npy"):
                tokens.unlink()
    write(path, lambda part: part.write_text(text, "utf-8"))
    return f"the recipe has changed ({_difference(old, new)}); nothing was trained yet"


def _recorded(path: Path) -> dict[str, Any]:
    """The recipe of a run."""
    try:
        recipe = json.loads(path.read_text("utf-8"))
        if isinstance(recipe, dict):
            return recipe
        reason = "it is not a recipe"
    except OSError as e:
        reason = e.strerror or str(e)
    except ValueError:
        reason = "it is damaged"
    raise GentoolError(f"cannot read {path}: {reason}", "give another folder, or remove this one")


def _prepared_from(recipe: dict[str, Any]) -> list[Any]:
    arch = recipe.get("arch")
    n_vocab = arch.get("n_vocab") if isinstance(arch, dict) else None
    return [n_vocab, *(recipe.get(key) for key in PREPARED_FROM)]


def _difference(old: Any, new: Any, key: str = "") -> str:
    """The first key whose value differs, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            if old.get(name) != new.get(name):
                return _difference(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    return f"{key} was {json.dumps(old)}, is {json.dumps(new)}"


def log(run: Path, row: dict[str, Any]) -> None:
    """Adds a step to the log."""
    path = run / LOG
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def logged(run: Path) -> list[dict[str, Any]]:
    """The steps in a log, without a last line that a killed process left unfinished."""
    path = run / LOG
    steps: list[dict[str, Any]] = []
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
    except (OSError, UnicodeDecodeError):
        return steps
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            steps.append(row)
    return steps


def trim_log(run: Path, steps: int) -> None:
    """Drops from the log the steps after the checkpoint, which are done again."""
    kept = [json.dumps(row) + "\n" for row in logged(run) if row["step"] <= steps]
    write(run / LOG, lambda path: path.write_text("".join(kept), "utf-8"))
