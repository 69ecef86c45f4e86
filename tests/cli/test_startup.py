"""What costs nothing stays cheap: help, version and every usage error import nothing heavy."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time

import pytest
from cli.shell import CLEAN, COMMAND, gentool

from gentool.cli import COMMANDS

HELP = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
HEAVY = {"tensorflow", "numpy", "pydantic", "yaml", "rich", "sentencepiece", "platformdirs"}
MISTAKES = [
    ["complete", "今天", "--set", "arch.n_hed=1"],
    ["complete", "今天", "--set", "arch.n_head=many"],
    ["complete", "今天", "--set", "checkpoint=gone.safetensors"],
    ["complete", "今天", "--set", "arch.n_kv_head=3"],
    ["complete", "今天", "--min-tokens", "65"],
    ["complete", "今天", "-m", "nobody"],
    ["complete", ""],
    ["train", "gone.yaml", "--data", ".", "--out", "run"],
]


def imported(arguments: list[str]) -> tuple[int, set[str]]:
    """Exit code of a run and the top-level modules it had imported at its end."""
    program = (
        "import sys; from gentool.cli import main; code = main();"
        "print(int(code), *{name.partition('.')[0] for name in sys.modules})"
    )
    run = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(run, env=CLEAN, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    code, *modules = done.stdout.decode().splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code, modules = imported(arguments)
    assert code == 0
    assert not modules & HEAVY


def test_importing_the_package_imports_nothing() -> None:
    program = "import sys; old = set(sys.modules); import gentool; print(*set(sys.modules) - old)"
    run = [sys.executable, "-S", "-c", program]
    done = subprocess.run(run, env=CLEAN, capture_output=True, check=True, text=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} <= {
        "gentool",
        *sys.stdlib_module_names,
    }


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_found_before_tensorflow_is_imported(arguments: list[str]) -> None:
    code, modules = imported(arguments)
    assert code in (2, 3)
    assert not modules & {"tensorflow", "numpy"}


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_takes_less_than_200_ms(arguments: list[str]) -> None:
    """At its best of seven, the rest of which nobody waits for."""
    times = [math.inf]
    while len(times) <= 7 and min(times) >= 0.2:
        began = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], env=CLEAN, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    busy = os.getloadavg()[0] > 0.75 * (os.cpu_count() or 1)
    assert min(times) < (0.6 if busy else 0.2)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_each_option_one_line_with_examples_first(command: str) -> None:
    from gentool.cli import program

    done = gentool(command, "--help")
    assert done.out.index("Examples:") < done.out.index("--help")
    for option in program.get_command(None, command).params:
        if option.param_type_name == "option":
            name = option.opts[0].replace("--", "--[no-]" if option.secondary_opts else "--", 1)
            lines = [line for line in done.out.splitlines() if f" {name}" in line]
            assert any(option.help in line for line in lines), name
    assert "--max-new-tokens" not in done.out


def test_a_reader_that_leaves_is_no_error() -> None:
    line = f"{sys.executable} -m gentool complete --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], env=CLEAN, capture_output=True)
    assert done.stderr == b""
    assert done.returncode in (0, 141)
