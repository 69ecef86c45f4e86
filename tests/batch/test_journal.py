"""An interrupted run is resumed where its output ends, and no other output is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.batch.records import EMPTY, resume
from gentool.errors import UsageError

RUN = "0123456789abcdef"
PROMPTS = ["1+1=", "大=>\n长=>", "c"]
RECORDS = [
    {"row": row, "run": RUN, "run_seed": 7, "prompt": prompt, "answer": "2"}
    for row, prompt in enumerate(PROMPTS)
]
LINES = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in RECORDS]
SUMMARY = b'{"accuracy": {}}\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def test_without_a_file_nothing_is_resumed(path: Path) -> None:
    assert resume(path, RUN, PROMPTS, None) == EMPTY
    path.write_bytes(b"")
    assert resume(path, RUN, PROMPTS, None) == EMPTY


@pytest.mark.parametrize("seed", [None, 7])
def test_wherever_it_was_cut_the_whole_records_are_kept(path: Path, seed: int | None) -> None:
    content = b"".join(LINES) + SUMMARY
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        journal = resume(path, RUN, PROMPTS, seed)
        count = content[:size].count(b"\n")
        assert journal.records == RECORDS[:count]
        assert journal.size == sum(map(len, LINES[:count]))
        assert journal.seed == (7 if count else None)


def test_there_may_be_more_rows_later(path: Path) -> None:
    path.write_bytes(b"".join(LINES[:2]) + SUMMARY)
    assert resume(path, RUN, PROMPTS, None).records == RECORDS[:2]


def changed(number: int, **keys: object) -> bytes:
    return json.dumps(RECORDS[number] | keys).encode() + b"\n"


@pytest.mark.parametrize(
    "content",
    [
        b"notes",
        b"notes\n",
        b'{"row": 0, "run": "x',
        LINES[1],  # not the first
        LINES[0] + LINES[0],
        SUMMARY,
        changed(0, run="another"),
        changed(0, prompt="another"),
        changed(0, run_seed=8),
        LINES[0] + b"\n",
        LINES[0] + LINES[1] + LINES[2] + changed(2, row=3),  # more than there are rows
        b'{"row": 0, "run": "0123456789abcdef", "run_seed": 7}\n',  # without a prompt
        b'{"row": 0, "run": "0123456789abcdef", "prompt": "1+1="}\n',  # without a seed
        b'{"row": 0, "run": "0123456789abcdef", "run_seed\0\0\0\n',  # as two runs leave it
        b'{"row": 0, "run": "0123456789abcdef", "x": ' + b"[" * 100_000 + b"\n",
    ],
    ids=range(15),
)
def test_another_content_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match="something else than the first rows"):
        resume(path, RUN, PROMPTS, 7)
    assert path.read_bytes() == content


@given(
    st.lists(st.sampled_from([*LINES, SUMMARY, b"\n", b"{}", b"\xff", b'{"row": 0']), max_size=5)
)
def test_any_content_is_resumed_or_refused(tmp_path_factory, parts: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"".join(parts))
    try:
        journal = resume(path, RUN, PROMPTS, None)
    except UsageError:
        return
    assert b"".join(parts)[: journal.size] == b"".join(LINES[: len(journal.records)])
