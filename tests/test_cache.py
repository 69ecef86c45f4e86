"""The cache of compiled programs: used by the next process, and only as an earlier one left it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from gentool import cache

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def filled(count=2):
    """The folder with `count` programs that were recorded."""
    path, problem = cache.programs()
    assert path and not problem
    for number in range(count):
        (path / f"{number}.pb").write_bytes(bytes([number]) * 100)
    cache.record(path)
    return path


def names(path):
    return sorted(file.name for file in path.glob("*.pb"))


def age(path, *names):
    for name in names:
        os.utime(path / name, (1, 1), follow_symlinks=False)


def test_what_a_run_beside_this_one_compiled_is_removed_without_a_word(home):
    """It is not over, and so has recorded nothing; it will compile that again."""
    path = filled()
    (path / "9.pb").write_bytes(b"code")
    assert cache.programs() == (path, "") and names(path) == ["0.pb", "1.pb"]


def test_what_was_recorded_stays(home):
    path = filled()
    assert path.stat().st_mode & 0o777 == 0o700
    assert version("tensorflow") in path.name
    assert cache.programs() == (path, "") and names(path) == ["0.pb", "1.pb"]
    (path / "2.pb").write_bytes(b"of another process of ours")
    cache.record(path)
    assert cache.programs() == (path, "") and len(names(path)) == 3


@pytest.mark.parametrize("what", ["corrupt", "foreign", "no record", "broken record", "a list"])
def test_what_was_not_recorded_is_removed_with_one_warning(home, what):
    path = filled()
    if what == "corrupt":
        (path / "0.pb").write_bytes(b"\0" * 99 + b"\1")
    elif what == "foreign":
        (path / "9.pb").write_bytes(b"code")
        (path / "8.pb").symlink_to(path / "0.pb")
        age(path, "9.pb", "8.pb")
    elif what == "no record":
        (path / cache.RECORD).unlink()
        age(path, "0.pb", "1.pb")
    else:
        age(path, "0.pb", "1.pb")
        (path / cache.RECORD).write_bytes(b"[1" if what == "broken record" else b"[1]")
    found, problem = cache.programs()
    assert found == path and str(path) in problem and "not as recorded" in problem
    left = {"corrupt": ["1.pb"], "foreign": ["0.pb", "1.pb"]}.get(what, [])
    assert names(path) == left
    assert cache.programs() == (path, "")  # it is said once


@pytest.mark.parametrize("what", ["open", "a file", "a link", "parent open"])
def test_a_folder_that_is_not_ours_alone_is_not_used(home, what):
    path = filled()
    if what == "open":
        path.chmod(0o750)
    elif what == "parent open":
        path.parent.chmod(0o777)
    else:
        moved = path.rename(home / "elsewhere")
        path.write_bytes(b"") if what == "a file" else path.symlink_to(moved)
    found, problem = cache.programs()
    assert found is None and "compiled anew" in problem


def test_the_oldest_go_when_there_are_too_many(home, monkeypatch):
    path = filled(5)
    for number in range(5):
        os.utime(path / f"{number}.pb", (number, number))
    monkeypatch.setattr(cache, "MOST_BYTES", 250)
    cache.programs()
    assert names(path) == ["3.pb", "4.pb"]


PROGRAM = """
import gentool
model = gentool.load("tiny-zh")
print(model.logits(model.tokenizer.encode("今天天气不错")).tobytes().hex())
"""


def test_a_second_process_compiles_nothing(tmp_path):
    """And computes the same bits."""
    env = {k: v for k, v in os.environ.items() if k != "TF_XLA_FLAGS"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    printed, states = [], []
    for _ in range(2):
        done = subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
        printed.append(done.stdout)
        (folder,) = (tmp_path / "gentool").glob("xla-*")
        states.append({file: file.stat().st_mtime_ns for file in folder.glob("*.pb")})
        assert (folder / cache.RECORD).exists()
    assert printed[0] == printed[1]
    assert states[0] == states[1] and states[0]


def test_a_corrupt_program_costs_one_warning(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TF_XLA_FLAGS"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gentool", "complete", "今天", "--temp", "0"]
    command += ["--max-tokens", "3"]
    runs = []
    for _ in range(2):
        runs.append(subprocess.run(command, env=env, check=True, capture_output=True, timeout=120))
        for file in tmp_path.glob("gentool/xla-*/*.pb"):
            file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    assert runs[0].stdout == runs[1].stdout and not runs[0].stderr
    assert runs[1].stderr.decode().count("\n") == 1 and b"not as recorded" in runs[1].stderr
