"""The figures of tests/bench/README.md, from real processes: time from the command to its first
character on a terminal, tokens a second, peak memory, size. `make bench` runs it; medians of
several runs."""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

GENTOOL = [sys.executable, "-m", "gentool"]
PROMPT = "今天天气不错"


def first_character(command: list[str]) -> float:
    """Seconds from starting `command` on a pseudo-terminal to the first byte it shows."""
    master, slave = pty.openpty()
    start = time.monotonic()
    with subprocess.Popen(command, stdout=slave, stderr=subprocess.DEVNULL) as process:
        os.close(slave)
        os.read(master, 1)
        duration = time.monotonic() - start
        try:
            while os.read(master, 65536):
                pass
        except OSError:  # the terminal's other end is closed
            pass
        process.wait()
    os.close(master)
    return duration


def seconds(command: list[str]) -> float:
    start = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - start


def speed(*options: str) -> float:
    """Tokens a second of the generation itself, as -v prints it, compilation included."""
    command = [*GENTOOL, "complete", PROMPT, "-v", "--seed", "1", *options]
    stderr = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    match = re.search(r"([\d.]+) tokens/s", stderr)
    assert match, stderr
    return float(match[1])


def steady(xla: bool) -> float:
    """Tokens a second of one sample once everything is compiled."""
    program = f"""
import gentool, time
model = gentool.load("tiny-zh", xla={xla})
run = lambda: model.complete({PROMPT!r}, max_tokens=256, min_tokens=256, seed=1, eos=None)
run()
start = time.monotonic()
run()
print(256 / (time.monotonic() - start))
"""
    return float(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-r", "--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat

    def median(measure, *arguments) -> float:
        return round(statistics.median(measure(*arguments) for _ in range(repeat)), 2)

    complete = [*GENTOOL, "complete", PROMPT, "--seed", "1"]
    model = Path(__file__).parents[2] / "gentool/data/tiny-zh"
    figures = {
        "help_s": median(seconds, [*GENTOOL, "complete", "--help"]),
        "import_tensorflow_s": median(seconds, [sys.executable, "-c", "import tensorflow"]),
        "first_character_s": median(first_character, complete),
        "whole_command_64_tokens_s": median(seconds, complete),
        "tokens_per_s_one_sample": median(steady, True),
        "tokens_per_s_one_sample_no_xla": median(steady, False),
        "tokens_per_s_300_samples_with_compilation": median(speed, "-n", "300"),
        "peak_memory_MB": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
        "model_MB": sum(f.stat().st_size for f in model.iterdir()) / 1e6,
        "cores": os.cpu_count(),
        "runs": repeat,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
