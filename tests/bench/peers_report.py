"""The tables of peers.py: medians of rounds, ratios to gentool at equal bits, and how far they can
be trusted."""

from __future__ import annotations

import itertools
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers_weights import GGUF_QUANTIZED, config, parameters

FIRST = "gentool"
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}
# of the largest logit of the fp32 weights
TOLERANCE = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.1, "int8": 0.15, "int4": 0.6}
IDLE = 0.05  # of the machine that others may take

Key = tuple[str, str]  # peer, precision
Round = dict[str, Any]  # results by name


class Column(NamedTuple):
    """A column: its title, its format, what it is divided by, and whether more is better."""

    title: str
    form: str
    unit: float = 1.0
    more: bool = False


STEPS = {  # in a process that has opened the model
    "decode_64": Column("step at 64, ms", ".2f"),
    "decode_500": Column("step at 500, ms", ".2f"),
    "prefill": Column("512 read, tokens/s", ".0f", more=True),
    "samples": Column("300 × 8, s", ".2f"),
    "votes": Column("8 prompts, 300 × 8 each, s", ".1f"),
    "anonymous": Column("anonymous, MB", ".0f", 1e6),
    "mapped": Column("mapped, MB", ".0f", 1e6),
    "anonymous_samples": Column("anonymous at 300 rows, MB", ".0f", 1e6),
}
COMMANDS = {  # of the whole program, from the start of its process
    "first_character": Column("start to first character, s", ".2f"),
    "command": Column("start to end of 32 tokens, s", ".2f"),
    "exit": Column("last character to end, s", ".2f"),
}
COLUMNS = STEPS | COMMANDS


def median(rounds: Sequence[Round] | None, name: str) -> float | None:
    values = [results[name] for results in rounds or () if name in results]
    return statistics.median(values) if values else None


def title(key: Key) -> str:
    """llama.cpp Q8_0 for what it calls so."""
    peer, precision = key
    return (
        f"{peer} {GGUF_QUANTIZED.get(precision, precision) if peer == 'llama.cpp' else precision}"
    )


def cell(rounds: dict[Key, list[Round]], key: Key, name: str) -> str:
    """A median, and in brackets how many times better gentool is."""
    column = COLUMNS[name]
    value, first = median(rounds[key], name), median(rounds.get((FIRST, key[1])), name)
    if value is None:
        return ""
    text = format(value / column.unit, column.form)
    if key[0] == FIRST or not first or not value:
        return text
    return f"{text} ({first / value if column.more else value / first:.2f}×)"


def agreement(precision: str, error: float | None) -> str:
    if error is None:
        return ""
    return f"{error:.0e}" if error <= TOLERANCE[precision] else f"**wrong**: {error:.0e}"


def table(rounds: dict[Key, list[Round]]) -> list[str]:
    """Markdown: a row a peer and precision, those of equal bits together."""
    known = {name for results in itertools.chain(*rounds.values()) for name in results}
    names = [name for name in COLUMNS if name in known]
    head = ["", *(COLUMNS[name].title for name in names), "logits off by"]
    lines = [head, ["---"] * len(head)]
    order = sorted(rounds, key=lambda key: (-BITS[key[1]], key[1], key[0] != FIRST, key[0]))
    for key in order:
        if not any("version" in results for results in rounds[key]):
            continue
        others = median(rounds[key], "others") or 0.0
        disturbed = f" (others took {others:.0%})" if others > IDLE else ""
        cells = [cell(rounds, key, name) for name in names]
        error = median(rounds[key], "off")
        lines.append([title(key) + disturbed, *cells, agreement(key[1], error)])
    return [f"| {' | '.join(line)} |" for line in lines]


def spread(rounds: dict[Key, list[Round]]) -> str:
    """How far the rounds differ, and how busy the machine was."""
    off = []
    for results, name in itertools.product(rounds.values(), STEPS):
        middle = median(results, name)
        if middle and "anonymous" not in name and name != "mapped":
            values = [r[name] for r in results if name in r]
            off.append(max(abs(value / middle - 1) for value in values))
    if not off:
        return "Nothing was measured."
    others = [r["others"] for r in itertools.chain(*rounds.values()) if "version" in r]
    text = (
        f"A round is off the median by up to {max(off):.0%}, for half the figures by at most"
        f" {statistics.median(off):.0%}. Other programs took {statistics.median(others):.0%} of"
        f" the machine, at most {max(others):.0%}."
    )
    return text + (" **The machine was not idle.**" if max(others) > IDLE else "")


def compare_logits(folder: Path, shape: str, rounds: dict[Key, list[Round]]) -> None:
    """Adds to every round how far its logits are `off` those of the most exact weights that were
    measured, gentool's first, relative to the largest."""
    order = sorted(rounds, key=lambda key: (-BITS[key[1]], key[0] != FIRST))
    paths = {key: folder / f"{shape}-{key[1]}-{key[0]}.npy" for key in order}
    reference = next((np.load(paths[key]) for key in order if paths[key].is_file()), None)
    for key, path in paths.items():
        if reference is not None and path.is_file():
            error = float(np.abs(np.load(path) - reference).max() / np.abs(reference).max())
            for results in rounds[key]:
                results["off"] = error


def machine() -> str:
    """The processor with what it has for 16 and 8 bits, its memory, and how busy it is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    about = {key.strip(): value.strip() for key, value in fields.items()}
    flags = about.get("flags", "").split()
    special = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    return (
        f"{about.get('model name', 'unknown processor')}"
        f" ({', '.join(flag for flag in special if flag in flags)}),"
        f" 2 of {os.cpu_count()} cores, {total / 2**30:.0f} GiB;"
        f" load average {os.getloadavg()[0]:.1f} at the start"
    )


def report(shape: str, rounds: dict[Key, list[Round]], missing: Sequence[str]) -> None:
    """Prints the table of a shape."""
    count = parameters(shape)
    size = f"{count / 1e9:.2f} G" if count > 1e9 else f"{count / 1e6:.1f} M"
    print(f"\n### {shape}, {config(shape)['model_type']}, {size} parameters\n")
    print("\n".join(table(rounds)))
    print(f"\n{spread(rounds)}")
    if missing:
        print("\nNot measured:\n")
        print("\n".join(f"- {line}" for line in dict.fromkeys(missing)))
    sys.stdout.flush()
