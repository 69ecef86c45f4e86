"""Graphs and their weights, packed for the processor, in the user's cache folder. A second start
maps the files that the first one wrote.

XNNPACK checks the structure of a file of weights, not its contents, and LiteRT trusts a graph. So
both are only ever written here, in a folder for this user alone, under a name that says all they
are made from; they are written atomically (a folder that is renamed) and recognised by size, mtime
and inode. A failure here costs time, never a run: the graph is then made for this process alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from gentool import cache
from gentool.runtimes import memory
from gentool.runtimes.litert.graph import GraphWriter, Progress
from gentool.runtimes.litert.program import Program
from gentool.runtimes.litert.threads import Threads

MAX_BYTES = 8 << 30  # of all graphs; beyond it, the one used the longest ago is removed
SPARE_BYTES = 64 << 20  # left free on the disk
STALE_SECONDS = 3600.0  # age at which an unfinished .part folder counts as abandoned
HASH_BYTES = 1 << 22  # read at a time
GRAPH, WEIGHTS, RECORD = "graph.tflite", "weights.xnnpack", "record.json"


class CachedGraph(NamedTuple):
    """A graph in the cache folder: of which model, its bytes on the disk, when it was last used."""

    path: Path
    title: str
    nbytes: int
    used: float


def open_program(
    writer: Callable[[], GraphWriter],
    threads: Threads,
    name: Callable[[], str] | None,
    title: str,
    progress: Progress,
) -> Program:
    """The program of a graph that `writer` writes, if it must be. `name` is a hash of all its
    inputs; None: the graph is not kept."""
    if name is not None:
        with contextlib.suppress(OSError):
            folder = store_folder()
            if folder is not None:
                path = folder / name()
                with _locked(path):
                    program = _open(path, threads)
                    return program or _build(path, writer(), threads, title, progress)
    return _temporary(writer(), threads, progress)


def store_folder() -> Path | None:
    """The folder of graphs, if only this user can read it."""
    parent = cache.folder()
    if parent is None:
        return None
    path = parent / "litert"
    return None if cache.make_private(path, stat.S_IRWXG | stat.S_IRWXO) else path


def cached_graphs() -> list[CachedGraph]:
    """What is kept, the last used first."""
    folder = store_folder()
    found = []
    for path in folder.iterdir() if folder else ():
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(cache.regular_file(path / RECORD))
            used = (path / RECORD).stat().st_mtime
            found.append(CachedGraph(path, record["title"], _disk_bytes(path), used))
    return sorted(found, key=lambda item: -item.used)


def remove(path: Path) -> None:
    """Removes the graph at a path; processes that have it open can go on."""
    shutil.rmtree(path, ignore_errors=True)
    _lock_path(path).unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Whether the files of a graph are as they were written; reads all of them."""
    try:
        record = json.loads(cache.regular_file(path / RECORD))
        return _file_stats(path) == record["files"] and all(
            sha256(path / name) == record["sha256"][name] for name in (GRAPH, WEIGHTS)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _open(path: Path, threads: Threads) -> Program | None:
    """The program of the graph at a path, or None if its files are missing or changed."""
    try:
        record = json.loads(cache.regular_file(path / RECORD))
        whole = record["files"] == _file_stats(path)
        with open(path / GRAPH, "rb") as file:
            whole &= hashlib.sha256(file.read(record["head"])).hexdigest() == record["head sha256"]
    except FileNotFoundError:
        whole = False
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        shutil.rmtree(path, ignore_errors=True)
        return None
    try:
        program = Program(str(path / GRAPH), threads, str(path / WEIGHTS))
    except RuntimeError:
        program = None
    # the graph is without weights: had XNNPACK packed any anew, they would be zeros
    if program is None or _file_stats(path) != record["files"]:
        shutil.rmtree(path, ignore_errors=True)
        return None
    with contextlib.suppress(OSError):
        os.utime(path / RECORD)
    return program


def _build(
    path: Path, graph: GraphWriter, threads: Threads, title: str, progress: Progress
) -> Program:
    """Writes a graph and opens it, which packs its weights; keeps both, the graph without its
    weights. Meanwhile they take twice the disk space."""
    needed = graph.nbytes
    free = shutil.disk_usage(path.parent).free
    if needed > MAX_BYTES or free < 2 * needed + SPARE_BYTES or path.exists():
        return _temporary(graph, threads, progress)
    _make_room(path.parent, needed)
    part = Path(tempfile.mkdtemp(prefix=f"{path.name}.part-", dir=path.parent))
    try:
        full, weights = part / "full.tflite", part / WEIGHTS
        with open(full, "wb") as file:
            graph.write(file, progress, threads.total)
        program = Program(str(full), threads, str(weights))
        with contextlib.suppress(OSError):
            with open(full, "rb") as whole, open(part / GRAPH, "wb") as file:
                head = graph.write_stub(whole, file)
            full.unlink()
            _finish(part, title, head)
            part.rename(path)
        return program
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _finish(part: Path, title: str, head: int) -> None:
    """Writes the record of a new graph, and flushes its files to the disk."""
    with open(part / GRAPH, "rb") as file:
        head_sha256 = hashlib.sha256(file.read(head)).hexdigest()
    for name in (GRAPH, WEIGHTS):
        os.chmod(part / name, stat.S_IRUSR)  # XNNPACK would write a file anew that it cannot use
    record = {
        "title": title,
        "head": head,
        "head sha256": head_sha256,
        "sha256": {name: sha256(part / name) for name in (GRAPH, WEIGHTS)},
        "files": _file_stats(part),
    }
    (part / RECORD).write_text(json.dumps(record), "utf-8")
    for name in (GRAPH, WEIGHTS, RECORD):
        _sync(part / name)


def _temporary(graph: GraphWriter, threads: Threads, progress: Progress) -> Program:
    """A program for this process alone: from a temporary file, or from memory. Its packed weights
    are in memory, which no file backs. NotEnoughMemory if that is more than what is free."""
    memory.check(graph.nbytes, memory.free_bytes())
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(prefix="gentool-") as folder:
        path = Path(folder) / GRAPH
        if shutil.disk_usage(folder).free > graph.nbytes + SPARE_BYTES:
            with open(path, "wb") as file:
                graph.write(file, progress, threads.total)
            return Program(str(path), threads)
    memory.check(2 * graph.nbytes, memory.free_bytes())
    whole = io.BytesIO()
    graph.write(whole, progress, threads.total)
    return Program(whole.getvalue(), threads)


def _make_room(folder: Path, needed: int) -> None:
    """Removes what killed processes left, then the graphs used the longest ago until `needed` bytes
    fit."""
    for path in (*folder.glob("*.part-*"), *folder.glob("*.json.*"), *folder.glob("*.lock")):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > STALE_SECONDS and not _has_graph(path):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
    items = cached_graphs()
    total = needed + sum(item.nbytes for item in items)
    while items and total > MAX_BYTES:
        oldest = items.pop()
        remove(oldest.path)
        total -= oldest.nbytes


def _has_graph(path: Path) -> bool:
    """Whether this is the lock of a graph that is kept."""
    return path.suffix == ".lock" and path.with_suffix("").is_dir()


def _file_stats(path: Path) -> dict[str, list[int]]:
    """The inode, size and mtime of each file."""
    found = {}
    for name in (GRAPH, WEIGHTS):
        state = (path / name).lstat()
        if not stat.S_ISREG(state.st_mode) or (
            hasattr(os, "getuid") and state.st_uid != os.getuid()
        ):
            raise FileNotFoundError(path / name)
        found[name] = [state.st_ino, state.st_size, state.st_mtime_ns]
    return found


def _disk_bytes(path: Path) -> int:
    """The space that files take; a graph without its weights takes little."""
    states = [file.stat() for file in path.iterdir()]
    return sum(min(s.st_size, getattr(s, "st_blocks", s.st_size) * 512) for s in states)


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: a second one waits, then opens the graph that the first one built."""
    try:
        import fcntl
    except ImportError:  # not on this system: both build, one result is kept
        yield
        return
    # a pipe in its place is an error at once
    lock = os.open(_lock_path(path), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o600)
    with open(lock, "wb") as file:
        os.utime(lock)  # it is not abandoned
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(HASH_BYTES):
            digest.update(part)
    return digest.hexdigest()
