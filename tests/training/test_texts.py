"""A user's files as documents, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentool.errors import GentoolError, UsageError
from gentool.training import texts

TEXT = "\ufeff一\r\n二\n\n\n三\n"


@pytest.mark.parametrize(
    ("separation", "documents"),
    [
        ("blank-lines", ["一\n二", "三"]),
        ("lines", ["一", "二", "三"]),
        ("files", ["一\n二\n\n\n三"]),
    ],
)
def test_documents_of_a_text_file(
    tmp_path: Path, separation: texts.Separation, documents: list[str]
) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    assert texts.read(tmp_path / "a.txt", separation) == documents


def test_a_row_of_jsonl_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "一\\n\\n二", "id": 3}\n\n{"text": "三"}\n', "utf-8")
    assert texts.read(path, "blank-lines") == ["一\n\n二", "三"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "it is not JSON"),
        ("[1]", "it has no text"),
        ('{"text": " "}', "it has no text"),
        ('{"txt": "一"}', "it has no text"),
        ('{"text": "\\ud800"}', "it has half a surrogate pair"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path: Path, row: str, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "一"}\n' + row + "\n", "utf-8")
    with pytest.raises(GentoolError) as failure:
        texts.read(path, "lines")
    assert failure.value.message.startswith(f"{path}, line 2: {problem}")


def test_files_of_a_folder_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl", "c.txt.zst", "d.pdf"):
        (tmp_path / name).write_text("")
    found = texts.find([str(tmp_path), str(tmp_path / "b.txt")])
    assert [path.name for path in found] == ["a.jsonl", "b.txt", "c.txt.zst", "b.txt"]
    (tmp_path / "empty").mkdir()
    for name, message in {
        "gone.txt": "does not exist",
        "d.pdf": "is no text file",
        "empty": "has no .txt, .txt.zst, .jsonl in it",
    }.items():
        with pytest.raises(UsageError, match=message):
            texts.find([str(tmp_path / name)])


def test_some_documents_are_held_out_by_their_text() -> None:
    documents = [f"文档{i}" for i in range(200)]
    parts = texts.split(documents, 5)
    assert len(parts.held_out) == 10
    assert sorted(parts.train + parts.held_out) == sorted(documents)
    assert set(texts.split(documents[::-1], 5).held_out) == set(parts.held_out)
    assert [len(texts.split(documents[:n], 5).held_out) for n in (1, 9, 10, 29)] == [0, 0, 1, 1]
    assert not texts.split(documents, 0).held_out
