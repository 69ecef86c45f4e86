"""The fuzzers run, and notice what they are there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# What a run may not do, as Python -> what is said of it.
FAULTS = {
    "import os; os.abort()": "is ended by SIGABRT",
    "import ctypes; ctypes.string_at(0)": "is ended by SIGSEGV",
    "while True: pass": "takes more than",
    "import time, signal; signal.pthread_sigmask(0, {15}); time.sleep(60)": "hangs, and SIGTERM",
    "import sys; sys.stderr.write('error: a\\n'); sys.exit(2)": "does not end in an error",
    "import sys; sys.stderr.write('x\\nerror: a\\nhint: b\\n'); sys.exit(3)": "prints 'x'",
    "import sys; sys.stderr.write('error: a\\nhint: please report it'); sys.exit(1)": "not its own",
    "raise SystemExit(9)": "exits with 9",
    "import warnings; warnings.warn('w')": "a traceback or a warning",
    "bytearray(8 << 30)": "exits with 98",
    "import sys; sys.stderr.write('error: a\\nhint: b\\n'); sys.exit(3)": "",
    "pass": "",
}
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import sandbox

def body():
    try:
        exec(sys.argv[2])
    except SystemExit as done:
        return done.code
    return 0

sandbox.GRACE = 0.2
print(sandbox.problem(sandbox.run(body, seconds=0.4), (0, 1, 2, 3)))
"""


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_noticed(code: str) -> None:
    run = [sys.executable, "-c", PROGRAM, str(HERE), code]
    said = subprocess.run(run, capture_output=True, text=True, check=True, timeout=60)
    assert FAULTS[code] in said.stdout if FAULTS[code] else said.stdout == "\n", said


def test_each_target_finds_nothing_in_a_few_cases() -> None:
    run = [sys.executable, str(HERE), "--cases", "8", "--seed", "1"]
    said = subprocess.run(run, capture_output=True, text=True, timeout=280)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.count("8 cases in ") == 4
