"""How much memory is free, and what is raised where something would take more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MEMINFO = Path("/proc/meminfo")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUP = Path("/sys/fs/cgroup")


class _Files(NamedTuple):
    """What a version of control groups calls its limit, its usage and, in memory.stat, the pages of
    files, which the kernel takes back when memory is short."""

    limit: str
    usage: str
    pages: tuple[str, str]


V2 = _Files("memory.max", "memory.current", ("inactive_file", "active_file"))
V1 = _Files(
    "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)


class NotEnoughMemory(MemoryError):
    """`needed` bytes are wanted at once, `free` are free."""

    def __init__(self, needed: int, free: int) -> None:
        super().__init__(
            f"{needed / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free"
        )
        self.needed, self.free = needed, free


def check(needed: int, free: int | None) -> None:
    """Raises NotEnoughMemory where more is needed than is free; None: nobody says what is free."""
    if free is not None and needed > free:
        raise NotEnoughMemory(needed, free)


def free_bytes() -> int | None:
    """Bytes that this process can still take: of the machine, and within the limits of its control
    groups. None where nobody says."""
    left = list(_left_in_cgroups())
    with contextlib.suppress(OSError, ValueError, KeyError):  # not Linux
        left.append(_sizes(MEMINFO)["MemAvailable:"] * 1024)
    return max(0, min(left)) if left else None


def _left_in_cgroups() -> Iterator[int]:
    """Bytes left in each control group with a limit that this process is in."""
    try:
        lines = OWN_CGROUPS.read_text("utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if controllers == "":
            root, files = CGROUP, V2
        elif "memory" in controllers.split(","):
            root, files = CGROUP / "memory", V1
        else:
            continue
        group = root / own.lstrip(
            "/"
        )  # within a container it may be the host's: then it is not there
        for folder in (group, *(p for p in group.parents if p.is_relative_to(root))):
            with contextlib.suppress(OSError, ValueError):  # no limit: a file that lacks, or "max"
                limit = int((folder / files.limit).read_text("ascii"))
                used = int((folder / files.usage).read_text("ascii"))
                pages = _sizes(folder / "memory.stat")
                yield limit - used + sum(pages.get(name, 0) for name in files.pages)


def _sizes(path: Path) -> dict[str, int]:
    """The lines `name number …` of a file."""
    lines = (line.split() for line in path.read_text("ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
