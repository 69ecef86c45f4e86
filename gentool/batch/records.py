"""The journal of a run over rows: its output of one JSON record a line, from which an interrupted
run is resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gentool.errors import UsageError

Record = dict[str, Any]
SUMMARY = b'{"accuracy": '  # how the line after the last record begins


class Journal(NamedTuple):
    """The whole records of an interrupted run, their size in bytes, and the run's seed."""

    records: list[Record]
    size: int
    seed: int | None


EMPTY = Journal([], 0, None)


def resume(path: Path, run: str, prompts: Sequence[str], seed: int | None) -> Journal:
    """Reads the journal that an interrupted run left in `path`. A last line that was not written to
    its end, and a summary, are left out: they are written anew. Raises UsageError if the file holds
    anything but records of the same run, prompts and seed, which must not be overwritten."""
    if not path.is_file():
        return EMPTY
    records: list[Record] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        start = json.dumps({"row": len(records), "run": run})[:-1].encode()
        if records and (line.startswith(SUMMARY) or SUMMARY.startswith(line)):
            break
        if not line.endswith(b"\n") and line[: len(start)] == start[: len(line)]:
            break
        record = _record(line) if line.startswith(start) and line.endswith(b"\n") else {}
        prompt = prompts[len(records)] if len(records) < len(prompts) else None
        same_run = record.get("prompt") == prompt and "run_seed" in record
        if prompt is None or not same_run or seed not in (None, record["run_seed"]):
            raise UsageError(
                f"{path} holds something else than the first rows of this run",
                "remove it, or give another --output",
            )
        records.append(record)
        size += len(line)
    return Journal(records, size, records[0]["run_seed"] if records else None)


def _record(line: bytes) -> Record:
    """The record in a line; empty if the line is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
