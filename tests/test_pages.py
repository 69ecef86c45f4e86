"""Every transcript of the README is what the commands print. `make readme` writes them anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gentool.runtimes.xla import device

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(?<=```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)


def run(command: str, folder: Path, programs: Path) -> str:
    """What `command` prints to a pipe, stdout and stderr as they come; what XLA compiles for it is
    kept in `programs` for the next."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GENTOOL_")}
    env["TF_XLA_FLAGS"] = f"{device.CACHE_FLAG}={programs}"
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    output = done.stdout.decode()
    assert done.returncode == 0, output
    return output


def rerun(block: str, folder: Path, programs: Path) -> str:
    """A block with the output of each of its commands as it is now."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    return "".join(f"$ {command}\n{run(command, folder, programs)}" for command in commands)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("programs")


@pytest.mark.parametrize("block", BLOCK.findall(README.read_text("utf-8")))
def test_transcript(block: str, tmp_path: Path, programs: Path) -> None:
    assert rounded(rerun(block, tmp_path, programs)) == rounded(block)


def rounded(text: str) -> str:
    """Log-probabilities differ by rounding from one processor to another."""
    return re.sub(r"-?\d+\.\d{5,}", lambda number: f"{float(number[0]):.3f}", text)


def test_python_example() -> None:
    code = re.search(r"(?<=```python\n).*?(?=^```$)", README.read_text("utf-8"), re.S | re.M)
    assert code
    subprocess.run([sys.executable, "-c", code[0]], check=True, timeout=120)


def rewrite() -> None:
    """Puts today's output into the README."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as programs:
        paths = Path(folder), Path(programs)
        text = BLOCK.sub(lambda m: rerun(m[0], *paths), README.read_text("utf-8"))
    README.write_text(text, "utf-8")


if __name__ == "__main__":
    rewrite()
