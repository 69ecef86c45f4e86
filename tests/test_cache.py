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
import sys
import gentool
from gentool import cli
model = gentool.load("tiny-zh", xla=True)
print(model.logits(model.tokenizer.encode("今天天气不错")).tobytes().hex(), flush=True)
sys.argv = ["gentool", "complete", "今天", "--xla", "--temp", "0", "--max-tokens", "3"]
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_a_corrupt_program_costs_one_warning(tmp_path):
    """And all compute the same bits."""
    env = {k: v for k, v in os.environ.items() if k != "TF_XLA_FLAGS"}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def process():
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, env=env, check=True, capture_output=True, timeout=120)
        (folder,) = (tmp_path / "gentool").glob("xla-*")
        assert (folder / cache.RECORD).exists()
        programs = {file: file.stat().st_mtime_ns for file in folder.glob("*.pb")}
        return done.stdout, done.stderr.decode(), programs

    first, second = process(), process()
    assert first == second
    printed, said, programs = second
    assert len(printed.splitlines()) == 2 and not said and programs
    for file in programs:
        file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    again, said, programs = process()
    assert again == printed
    assert said.count("\n") == 1 and "not as recorded" in said
    for number, file in enumerate(programs):  # damaged when they were recorded, as by a full disk
        data = file.read_bytes()
        file.write_bytes((data[:50], b"", bytes(len(data)))[number % 3])
    (file.parent / cache.RECORD).unlink()
    cache.record(file.parent)
    again, said, _ = process()
    assert again == printed
    assert said.count("\n") == 1 and "compiled anew" in said
    again, said, _ = process()
    assert again == printed and not said


def test_programs_of_a_run_that_was_cut_off_are_not_used_again(home):
    """One of them may have ended it: native code whose bytes were damaged before their sum was
    recorded."""
    path = filled()
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    for running in (str(os.getpid()), "x"):  # one that goes on, and no process
        (path / f"{cache.RUNNING}{running}").touch()
        assert cache.programs() == (path, "")
        assert names(path) == (["0.pb", "1.pb"] if running != "x" else [])
    path = filled()
    (path / f"{cache.RUNNING}{int(process.stdout)}").touch()
    assert cache.programs() == (path, "") and names(path) == []
    cache.record(path)
    assert not list(path.glob(f"{cache.RUNNING}*"))


@pytest.fixture(params=["full", "read-only"])
def small_disk(request, tmp_path):
    """A file system of 64 kB, or one that cannot be written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = "size=64k,mode=700" if request.param == "full" else "ro,mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs root, to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("what", ["complete", "jieba", "xla"])
def test_a_disk_without_space_costs_time_and_nothing_else(small_disk, monkeypatch, what):
    """LiteRT's graphs and sums of files, jieba's dictionary; XLA's programs are not kept there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(small_disk))
    if what == "xla":
        path, problem = cache.programs()
        assert path is None and "compiled anew" in problem
        return
    arguments = ["-m", "gentool", "complete", "今天", "--temp", "0", "--max-tokens", "2"]
    if what == "jieba":
        arguments = [
            "-c",
            "from gentool.tokenizers import cpm; print(*cpm.segmenter()('今天天气'))",
        ]
    expected = None
    for home in (small_disk.parent, small_disk, small_disk):
        env = os.environ | {"XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *arguments], env=env, capture_output=True)
        expected = expected or done
        assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, b"")


def test_pipes_in_the_cache_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.pb")
    os.mkfifo(tmp_path / cache.RECORD)
    assert cache._recorded(tmp_path) == {}
    assert cache._sum(tmp_path / "a.pb") == ""
    with pytest.raises(OSError):
        cache.regular_file(tmp_path)  # neither are folders read


def test_leftovers_of_killed_runs_go(tmp_path):
    for name in ("a.pb.tmp", f"{cache.RECORD}.77", "b.pb"):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    cache._remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.pb"]
