"""Seconds from the start of `gentool complete 今天天气不错` to its first character, and from its
last to its end: warm, and with an empty cache folder and no compiled Python files. Medians.

    python tests/bench/start.py [--rounds 5] [--imports]

--imports lists instead what takes longest to import, by `python -X importtime`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COMMAND = [sys.executable, "-m", "gentool", "complete", "今天天气不错", "--max-tokens", "16"]


def start(environment: dict[str, str]) -> tuple[float, float]:
    """First character, and from the last to the end."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, "--stream"], stdout=subprocess.PIPE, env=os.environ | environment
    )
    assert process.stdout
    times = []
    while os.read(process.stdout.fileno(), 1 << 16):
        times.append(time.perf_counter())
    process.wait()
    return times[0] - began, time.perf_counter() - times[-1]


def cold() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        caches = {"XDG_CACHE_HOME": folder, "PYTHONPYCACHEPREFIX": str(Path(folder) / "pyc")}
        return start(caches)


def imports() -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:]], capture_output=True, text=True
    )
    lines = [line.split("|") for line in result.stderr.splitlines() if "import time:" in line]
    rows = [(int(own.split(":")[1]), name.strip()) for own, _, name in lines if "self" not in own]
    packages: dict[str, int] = {}
    for microseconds, name in rows:
        package = name.split(".")[0]
        packages[package] = packages.get(package, 0) + microseconds
    for package, total in sorted(packages.items(), key=lambda item: -item[1])[:15]:
        print(f"{total / 1000:7.1f} ms  {package}")
    print(f"{sum(packages.values()) / 1000:7.1f} ms  in all")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--imports", action="store_true")
    arguments = parser.parse_args()
    if arguments.imports:
        imports()
        return
    start({})
    for name, measure in (("warm", lambda: start({})), ("cold", cold)):
        first, end = np.median([measure() for _ in range(arguments.rounds)], axis=0)
        print(f"{name}: first character {first:.2f} s, last to end {end:.3f} s")


if __name__ == "__main__":
    main()
