"""What gentool keeps between runs, in the user's cache folder: jieba's dictionary, and the programs
that XLA compiled. These are native code: they are used only from a folder that nobody else can
touch, and only if they are what an earlier run of ours has recorded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import shutil
import stat
import time
from importlib.metadata import version
from pathlib import Path

RECORD = "sha256.json"  # of the programs in a folder, by name
RUNNING = "running."  # begins the name of an empty file of each process that uses the programs
MOST_BYTES = 1 << 29  # of programs; beyond that the oldest go
MIN_FREE_BYTES = 1 << 26  # on the disk, for a program to be kept
UNUSED_SECONDS = 90 * 86400.0  # after which the programs of another version go
UNRECORDED_SECONDS = 3600.0  # a run records what it compiled when it is over


def folder() -> Path | None:
    """The folder, if only this user can write there."""
    from platformdirs import user_cache_path

    path = user_cache_path("gentool")
    return path if not make_private(path, stat.S_IWGRP | stat.S_IWOTH) else None


def programs() -> tuple[Path | None, str]:
    """The folder of the programs compiled for this TensorFlow and this processor, after what was
    not recorded is gone from it; and a warning, if there is a reason for one."""
    parent = folder()
    if parent is None:
        return None, "the cache folder is not this user's alone: programs are compiled anew"
    digest = hashlib.sha256(processor().encode()).hexdigest()[:12]
    path = parent / f"xla-{version('tensorflow')}-{digest}"
    if problem := make_private(path, stat.S_IRWXG | stat.S_IRWXO):
        return None, f"{path} {problem}: programs are compiled anew"
    if shutil.disk_usage(path).free < MIN_FREE_BYTES:
        return None, f"{path} has no space left: programs are compiled anew"
    if _file_size_limit() < MIN_FREE_BYTES:
        return None, "the limit of file sizes is low: programs are compiled anew"
    _remove_leftovers(path)
    if _was_cut_off(path):  # perhaps by one of them: a sum does not say that a program is right
        remove_programs(path)
    with contextlib.suppress(OSError):
        (path / f"{RUNNING}{os.getpid()}").touch()
    known, now = _recorded(path), time.time()
    wrong, size = 0, 0
    for file, state in sorted(_programs(path), key=lambda pair: -pair[1].st_mtime):
        size += state.st_size
        fits = known.get(file.name) == _sum(file)
        if not fits or size > MOST_BYTES:
            file.unlink(missing_ok=True)
        # another run may have compiled it a moment ago, and not be over
        young = file.name not in known and now - state.st_mtime < UNRECORDED_SECONDS
        wrong += not fits and not young
    what = "1 compiled program" if wrong == 1 else f"{wrong} compiled programs"
    return path, f"{what} in {path} were not as recorded, and are removed" if wrong else ""


def record(path: Path) -> None:
    """Adds the programs of this run, which is over, to those recorded in their folder."""
    try:
        (path / f"{RUNNING}{os.getpid()}").unlink(missing_ok=True)
        known = _recorded(path)
        new = {file.name: _sum(file) for file, _ in _programs(path) if file.name not in known}
        if new:
            part = path / f"{RECORD}.{os.getpid()}"
            part.write_text(json.dumps(known | new, indent=0), "utf-8")
            part.replace(path / RECORD)
    except (OSError, RecursionError):  # a full disk: the programs are compiled anew next time
        return


def remove_programs(path: Path) -> bool:
    """Removes all programs of a folder; whether there were any."""
    files = [file for file, _ in _programs(path)]
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
    return bool(files)


def _was_cut_off(path: Path) -> bool:
    """Whether a process that used the programs is gone without `record`; forgets it."""
    cut_off = False
    for file in path.glob(f"{RUNNING}*"):
        number = file.name.removeprefix(RUNNING)
        if not (number.isdecimal() and _is_running(int(number))):
            cut_off = True
            with contextlib.suppress(OSError):
                file.unlink()
    return cut_off


def _is_running(process: int) -> bool:
    if os.name != "posix":  # a signal would end it there
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def regular_file(path: Path) -> bytes:
    """The bytes of a file. OSError for what is none: reading a pipe would wait for a writer."""
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file", str(path))
        return file.read()


def make_private(path: Path, forbidden: int) -> str:
    """Makes a folder, or says why it is not this user's alone: it has `forbidden` bits of mode."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as e:
        return f"cannot be made ({e.strerror})"
    if not stat.S_ISDIR(status.st_mode):
        return "is no folder"
    if os.name == "posix" and (status.st_uid != os.getuid() or status.st_mode & forbidden):
        return "is open to others"
    return "" if os.access(path, os.W_OK) else "cannot be written"


def _programs(path: Path) -> list[tuple[Path, os.stat_result]]:
    """The files of a folder that may be programs; another run may be taking some away."""
    files = []
    for file in path.glob("*.pb"):
        with contextlib.suppress(FileNotFoundError):
            files.append((file, file.lstat()))
    return [(file, state) for file, state in files if not stat.S_ISDIR(state.st_mode)]


def _recorded(path: Path) -> dict[str, str]:
    try:
        record = json.loads(regular_file(path / RECORD))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _remove_leftovers(path: Path) -> None:
    """Removes what killed runs left half written, and programs of other versions that no run has
    used for a long time."""
    now = time.time()
    parts = [*path.glob("*.tmp"), *path.glob(f"{RECORD}.*"), *path.parent.glob("tmp*")]  # jieba's
    others = [old for old in path.parent.glob("xla-*") if old != path and not old.is_symlink()]
    with contextlib.suppress(OSError):
        for part in parts:
            if now - part.lstat().st_mtime > UNRECORDED_SECONDS:
                part.unlink()
        for old in others:
            if now - old.lstat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


def _file_size_limit() -> float:
    """The bytes a file may have in this process."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _sum(file: Path) -> str:
    """Of a file itself, not of what it may be a link to; nothing if it is gone."""
    try:
        if not stat.S_ISREG(file.lstat().st_mode):  # reading a pipe would wait for a writer
            return ""
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def processor() -> str:
    """What compiled code depends on: the processor and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
