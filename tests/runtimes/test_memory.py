"""What is free, by the machine and by control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentool.runtimes import memory

FILES = {
    "0::/": ("", memory.V2),
    "4:memory:/": ("memory", memory.V1),
    "0::/a.slice/b.scope": ("a.slice", memory.V2),  # a limit of a group above one's own
    "3:cpu,memory:/docker/of-the-host": ("memory", memory.V1),  # seen from inside a container
}


@pytest.mark.parametrize("line", FILES)
def test_the_limit_of_a_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    place, files = FILES[line]
    folder = tmp_path / "groups" / place
    folder.mkdir(parents=True)
    (folder / files.limit).write_text("1000000\n")
    (folder / files.usage).write_text("900000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{files.pages[0]} 50000\n{files.pages[1]} 3000\n")
    (tmp_path / "own").write_text(f"9:name=systemd:/\n{line}\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "groups")
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    assert memory.free_bytes() == 153000
    (folder / files.limit).write_text("max\n")
    assert memory.free_bytes() != 153000


def test_more_than_is_free_is_refused() -> None:
    memory.check(5, 5)
    memory.check(5, None)
    with pytest.raises(memory.NotEnoughMemory) as error:
        memory.check(6, 5)
    assert (error.value.needed, error.value.free) == (6, 5)
