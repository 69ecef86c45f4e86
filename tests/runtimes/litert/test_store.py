"""Graphs in the user's cache folder: known again, and never wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import litert_models
import numpy as np
import pytest

from gentool import models
from gentool.checkpoints import open_checkpoint
from gentool.models import weights
from gentool.runtimes.litert import store
from gentool.runtimes.litert.runtime import open_runtime

IDS = np.arange(1, 12)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of graphs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/gentool/litert"


def save(path: Path, seed: int = 0) -> Path:
    from safetensors.numpy import save_file

    family = models.load_family("llama")
    save_file(litert_models.random_weights(family, litert_models.arch_of("llama"), seed), path)
    return path


def logits(path: Path, precision: str = "int8") -> tuple[np.ndarray, bool]:
    """A model's logits, and whether its graph was written."""
    family, arch = models.load_family("llama"), litert_models.arch_of("llama")
    source = open_checkpoint(path)
    plan = weights.plan(source, family, arch)
    written: list[int] = []
    runtime = open_runtime(
        family, arch, plan, source, precision, 1, lambda done, total: written.append(done)
    )
    return runtime.prefill(IDS, 0, None, True, False)[1], bool(written)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
def test_a_second_start_maps_what_the_first_made(
    tmp_path: Path, folder: Path, precision: str
) -> None:
    path = save(tmp_path / "a.safetensors")
    first, written = logits(path, precision)
    assert written
    (entry,) = entries(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    states = {file.name: file.stat().st_mtime_ns for file in entry.iterdir()}
    second, written = logits(path, precision)
    assert not written
    np.testing.assert_array_equal(second, first)
    states.pop(store.RECORD)  # says when it was used
    assert states == {name: (entry / name).stat().st_mtime_ns for name in states}
    assert store.is_intact(entry)


def test_disk_space_is_that_of_the_weights(tmp_path: Path, folder: Path) -> None:
    logits(save(tmp_path / "a.safetensors"), "fp32")
    (kept,) = store.cached_graphs()
    packed = (kept.path / store.WEIGHTS).stat().st_size
    assert kept.nbytes < 1.5 * packed
    assert kept.title == f"{tmp_path / 'a.safetensors'}, fp32"


def test_another_model_has_another_graph(tmp_path: Path, folder: Path) -> None:
    a, b = save(tmp_path / "a.safetensors"), save(tmp_path / "b.safetensors", seed=1)
    of_a, of_b = logits(a)[0], logits(b)[0]
    assert np.abs(of_a - of_b).max() > 1
    assert len(entries(folder)) == 2
    of_both = logits(a), logits(b)
    np.testing.assert_array_equal(of_both[0][0], of_a)
    np.testing.assert_array_equal(of_both[1][0], of_b)
    assert not of_both[0][1] and not of_both[1][1]


def test_a_file_that_was_written_over_is_another_model(tmp_path: Path) -> None:
    path = save(tmp_path / "a.safetensors")
    before, state = logits(path)[0], path.stat()
    with open(save(tmp_path / "b.safetensors", seed=1), "rb") as other, open(path, "r+b") as file:
        file.write(other.read())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after, written = logits(path)
    assert written and np.abs(after - before).max() > 1


def damage_cut(entry: Path, other: Path) -> None:
    os.chmod(entry / store.WEIGHTS, 0o600)
    os.truncate(entry / store.WEIGHTS, 1000)


def damage_graph(entry: Path, other: Path) -> None:
    """A changed byte, the file's time as it was."""
    path = entry / store.GRAPH
    state = path.stat()
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(300)
        file.write(b"\xff")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def damage_swapped(entry: Path, other: Path) -> None:
    """The packed weights of another model of the same shapes."""
    (entry / store.WEIGHTS).unlink()
    (entry / store.WEIGHTS).write_bytes((other / store.WEIGHTS).read_bytes())


def damage_missing(entry: Path, other: Path) -> None:
    (entry / store.WEIGHTS).unlink()


def damage_link(entry: Path, other: Path) -> None:
    (entry / store.WEIGHTS).unlink()
    (entry / store.WEIGHTS).symlink_to(other / store.WEIGHTS)


def damage_record(entry: Path, other: Path) -> None:
    (entry / store.RECORD).write_text("[" * 100_000, "utf-8")


def damage_half_written(entry: Path, other: Path) -> None:
    (entry / store.RECORD).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        damage_cut,
        damage_graph,
        damage_swapped,
        damage_missing,
        damage_link,
        damage_record,
        damage_half_written,
    ],
)
def test_what_is_not_as_it_was_left_is_made_anew(tmp_path: Path, folder: Path, damage) -> None:
    a, b = save(tmp_path / "a.safetensors"), save(tmp_path / "b.safetensors", seed=1)
    wanted, _ = logits(a)
    (entry,) = entries(folder)
    logits(b)
    (other,) = set(entries(folder)) - {entry}
    damage(entry, other)
    again, written = logits(a)
    assert written
    np.testing.assert_array_equal(again, wanted)
    assert not logits(a)[1] and store.is_intact(entry)


def test_contents_are_verified_on_demand(tmp_path: Path, folder: Path) -> None:
    """A byte of the weights, the time as it was: nothing sees that but a check of all of it."""
    logits(save(tmp_path / "a.safetensors"))
    (entry,) = entries(folder)
    path = entry / store.WEIGHTS
    state = path.stat()
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(state.st_size // 2)
        byte = file.read(1)
        file.seek(state.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert not store.is_intact(entry)


def test_a_folder_that_cannot_be_used(tmp_path: Path, folder: Path) -> None:
    """It is a file, or open to others: a graph is made for this run."""
    path = save(tmp_path / "a.safetensors")
    wanted, _ = logits(path)
    folder.chmod(0o755)
    for _ in range(2):
        again, written = logits(path)
        assert written
        np.testing.assert_array_equal(again, wanted)
    folder.chmod(0o700)
    store.remove(entries(folder)[0])
    (folder / "sha256.json").unlink()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_text("", "utf-8")
    np.testing.assert_array_equal(logits(path)[0], wanted)


def test_the_oldest_goes(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [save(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]
    logits(paths[0])
    (first,) = store.cached_graphs()
    monkeypatch.setattr(store, "MAX_BYTES", int(2.5 * first.nbytes))
    logits(paths[1])
    os.utime(first.path / store.RECORD, (1, 1))
    logits(paths[0])  # used again
    (second,) = (item for item in store.cached_graphs() if item.path != first.path)
    os.utime(second.path / store.RECORD, (2, 2))
    logits(paths[2])
    titles = [item.title.split("/")[-1] for item in store.cached_graphs()]
    assert titles == ["2.safetensors, int8", "0.safetensors, int8"]
    monkeypatch.setattr(store, "MAX_BYTES", first.nbytes // 2)
    more = save(tmp_path / "more.safetensors", 4)
    assert logits(more)[1] and logits(more)[1]  # larger than the limit: made each time
    assert len(store.cached_graphs()) == 2


def test_what_a_run_has_given_up_is_removed(tmp_path: Path, folder: Path) -> None:
    logits(save(tmp_path / "a.safetensors"))
    (entry,) = entries(folder)
    for age in ("old", "new"):
        (folder / f"x.part-{age}").mkdir()
        for name in (f"{age}.lock", f"sha256.json.{age}"):
            (folder / name).touch()
    for path in (*folder.glob("*old*"), folder / f"{entry.name}.lock"):
        os.utime(path, (1, 1))
    logits(save(tmp_path / "b.safetensors", 1))
    assert not list(folder.glob("*old*")) and len(list(folder.glob("*new*"))) == 3
    assert (folder / f"{entry.name}.lock").exists()  # its graph is kept


@pytest.mark.parametrize("name", ["{}/record.json", "{}/weights.xnnpack", "{}.lock", "sha256.json"])
def test_pipes_are_not_waited_for(tmp_path: Path, folder: Path, name: str) -> None:
    path = save(tmp_path / "a.safetensors")
    expected, _ = logits(path)
    (entry,) = entries(folder)
    pipe = folder / name.format(entry.name)
    pipe.unlink()
    os.mkfifo(pipe)
    assert (logits(path)[0] == expected).all()
    assert len(store.cached_graphs()) == 1


RUN = """
import sys
import numpy as np

if len(sys.argv) > 2:  # a disk on which no file may be that large
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
import test_store
from pathlib import Path

found, written = test_store.logits(Path(sys.argv[1]))
print(int(written), repr(found.astype(float).sum()))
"""


def start(path: Path, *limit: str) -> "subprocess.Popen[str]":
    paths = [str(Path(__file__).parent), *sys.path]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(path), *limit],
        env=os.environ | {"PYTHONPATH": ":".join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_builders_at_once(tmp_path: Path, folder: Path) -> None:
    path = save(tmp_path / "a.safetensors")
    runs = [start(path) for _ in range(3)]
    said = []
    for run in runs:
        out, error = run.communicate(timeout=100)
        assert (run.returncode, error) == (0, "")
        said.append(out.split())
    assert sorted(written for written, _ in said) == ["0", "0", "1"]
    assert len({value for _, value in said}) == 1
    (entry,) = entries(folder)
    assert store.is_intact(entry)


@pytest.mark.parametrize("limit", ["0", "20000", "100000"])
def test_a_full_disk(tmp_path: Path, folder: Path, limit: str) -> None:
    """The graph cannot be written, or its packed weights cannot."""
    path = save(tmp_path / "a.safetensors")
    wanted, _ = logits(path)
    store.remove(entries(folder)[0])
    run = start(path, limit)
    out, error = run.communicate(timeout=100)
    assert (run.returncode, error) == (0, "")
    assert out.split() == ["1", repr(wanted.astype(float).sum())]
    np.testing.assert_array_equal(logits(path)[0], wanted)
    np.testing.assert_array_equal(logits(path)[0], wanted)


def test_the_record_is_what_the_page_says(tmp_path: Path, folder: Path) -> None:
    logits(save(tmp_path / "a.safetensors"))
    record = json.loads((entries(folder)[0] / store.RECORD).read_bytes())
    assert set(record) == {"title", "head", "head sha256", "sha256", "files"}
