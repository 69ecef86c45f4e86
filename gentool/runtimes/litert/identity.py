"""The name of a graph: a hash of all that it and its packed weights are made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

from gentool import cache, models
from gentool.checkpoints import TensorSource
from gentool.config.model import Arch
from gentool.models.weights import Weight
from gentool.runtimes.litert import store
from gentool.runtimes.litert.lower import Precision

SUMS = "sha256.json"  # of files of weights, by device and inode
MAX_SUMS = 256  # the last ones


def graph_name(
    family: ModuleType,
    arch: Arch,
    plan: Mapping[str, Weight],
    source: TensorSource,
    precision: Precision,
) -> str:
    """Of a checkpoint's graph: its weights, its numbers, this code, LiteRT, and the processor."""
    parts = {
        "files": [recorded_sha256(path) for path in source.files],
        "plan": [[name, *map(str, weight)] for name, weight in plan.items()],
        "family": family.__name__,
        "arch": arch.model_dump(),
        "precision": precision,
        "code": _code(),
        "litert": version("ai-edge-litert"),
        "processor": cache.processor(),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _code() -> str:
    """The hash of what writes graphs."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(models.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def recorded_sha256(path: Path) -> str:
    """The hash of a file, read once for each device, inode, size and time of change."""
    state = path.stat()
    key, known = f"{state.st_dev}:{state.st_ino}", [state.st_size, state.st_mtime_ns]
    folder = store.store_folder()
    sums = _sums(folder / SUMS) if folder else {}
    if key in sums and sums[key][:2] == known:
        return str(sums[key][2])
    found = store.sha256(path)
    if folder:
        last = list(sums.items())[1 - MAX_SUMS :]
        sums = dict(last) | {key: [*known, found]}
        part = folder / f"{SUMS}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk: read again next time
            part.write_text(json.dumps(sums, indent=0), "utf-8")
            part.replace(folder / SUMS)
    return found


def _sums(path: Path) -> dict[str, list[int | str]]:
    try:
        sums = json.loads(cache.regular_file(path))
        return {key: value for key, value in sums.items() if len(value) == 3}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
