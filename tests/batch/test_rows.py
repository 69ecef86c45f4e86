"""Data files: what is in them, what is wrong with a row, and what is wrong with a file."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.batch.rows import FORMATS, Data, Row, read
from gentool.errors import UsageError


@pytest.fixture
def written(tmp_path):
    def write(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def fields(data: Data) -> list[dict[str, str]]:
    return [dict(row.fields) for row in data.rows]


# What a file says, in every format

ROWS = [{"词": "狗", "label": "dog"}, {"词": "猫", "label": "cat"}]
SAME = {
    "a.csv": "词,label\n狗,dog\n猫,cat\n",
    "A.CSV": "\ufeff词,label\r\n狗,dog\r\n猫,cat\r\n\r\n\r\n",
    "b.csv": '词,label\n"狗","dog"\n"猫",cat',
    "a.tsv": "词\tlabel\n狗\tdog\n猫\tcat\n",
    "b.tsv": "\ufeff词\tlabel\r\n狗\tdog\r\n猫\tcat",
    "a.jsonl": '{"词":"狗","label":"dog"}\n{"词":"猫","label":"cat"}\n',
    "b.jsonl": '\ufeff{"词":"狗","label":"dog"}\r\n{"label":"cat","词":"\\u732b"}\r\n\n \n',
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_in_every_format(written, name):
    path = written(name, SAME[name])
    data = read(path)
    assert data.name == path
    assert data.columns == ("词", "label")
    assert fields(data) == ROWS
    assert [(row.number, row.problem) for row in data.rows] == [(0, ""), (1, "")]


def test_csv_has_quotes_and_newlines(written):
    data = read(written("a.csv", 'x,y\n"1,000","他说""好""\n再见"\n'))
    assert fields(data) == [{"x": "1,000", "y": '他说"好"\n再见'}]


def test_in_tsv_a_quote_is_a_quote(written):
    data = read(written("a.tsv", 'x\ty\n"狗\t他说"好"\n'))
    assert fields(data) == [{"x": '"狗', "y": '他说"好"'}]


def test_values_of_json_become_text(written):
    line = '{"i": 7, "f": 0.5, "t": true, "n": null, "s": "", "l": [1, "好"], "o": {"a": null}}'
    data = read(written("a.jsonl", line))
    assert data.columns == ("i", "f", "t", "n", "s", "l", "o")
    values = {"i": "7", "f": "0.5", "t": "true", "s": "", "l": '[1, "好"]', "o": '{"a": null}'}
    assert fields(data) == [values]


def test_columns_of_json_are_those_of_all_rows(written):
    data = read(written("a.jsonl", '{"b": 1, "a": 2}\n{"c": 3, "a": 4}\n'))
    assert data.columns == ("b", "a", "c")


# Rows with a problem: the others are not lost


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "x,y\n1,2\n1\n3,4\n", "it has 1 cells, the header 2"),
        ("a.csv", "x,y\n1,2\n1,2,3\n3,4\n", "it has 3 cells, the header 2"),
        ("a.csv", "x,y\n1,2\n\n3,4\n", "it is empty"),
        ("a.tsv", "x\ty\n1\t2\n1,2\n3\t4\n", "it has 1 cells, the header 2"),
        ("a.jsonl", '{"x":1}\n\n{"x":3}', "it is empty"),
        ("a.jsonl", '{"x":1}\n[1]\n{"x":3}', "it is not a JSON object"),
        ("a.jsonl", '{"x":1}\n{"x":\n{"x":3}', "it is not JSON"),
        ("a.jsonl", '{"x":1}\n{"x":NaN}\n{"x":3}', "it is not JSON: NaN"),
        ("a.jsonl", '{"x":1}\n{"x":[-1e999]}\n{"x":3}', "it is not JSON: -1e999 is too large"),
        ("a.jsonl", '{"x":1}\n{"x":"\\ud800"}\n{"x":3}', "half a surrogate"),
        ("a.jsonl", '{"x":1}\n{"\\ud800":"x"}\n{"x":3}', "half a surrogate"),
        ("a.jsonl", '{"x":1}\n{"x":' + "9" * 5000 + '}\n{"x":3}', "it is not JSON"),
        ("a.jsonl", '{"x":1}\n' + '{"x":' * 100_000 + '\n{"x":3}', "it is not JSON"),
        ("a.jsonl", '{"x":1}\n{"x":' + "[" * 99_999 + "]" * 99_999 + '}\n{"x":3}', "it is not"),
    ],
)
def test_a_row_says_what_is_wrong_with_it(written, name, content, problem):
    first, wrong, last = read(written(name, content)).rows
    assert problem in wrong.problem and not wrong.fields
    assert (first.number, wrong.number, last.number) == (0, 1, 2)
    assert (first.fields["x"], last.fields["x"]) == ("1", "3")


# Files that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "is no data file: it ends in '.txt'"),
        ("a", "x", "is no data file: it ends in ''"),
        ("a.csv", b"x\n\xc4\xe3\n", "is not UTF-8: byte 0xc4 at offset 2"),
        ("b.csv", b"\xef\xbb\xbfx\n\xff\n", "is not UTF-8: byte 0xff at offset 5"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "\n\n", "has no rows"),
        ("a.csv", "x,y\n", "has no rows"),
        ("a.tsv", "x\ty", "has no rows"),
        ("a.jsonl", "\n \n", "has no rows"),
        ("a.csv", "x,y,x\n1,2,3\n", "has two columns 'x'"),
        ("a.csv", "x,,y\n1,2,3\n", "column 2 of"),
        ("a.tsv", "x\t \n1\t2\n", "column 2 of"),
        ("a.csv", 'x\n"1" 2\n', "line 2: "),
        ("a.csv", 'x\n1\n"2\n', "line 3: "),
    ],
)
def test_a_file_that_cannot_be_used(written, name, content, message):
    path = written(name, content)
    with pytest.raises(UsageError) as e:
        read(path)
    assert message in e.value.message and path in e.value.message and e.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        read(str(tmp_path / "a.csv"))
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(UsageError, match="cannot read"):
        read(str(tmp_path / "b.csv"))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_long_field_is_read_and_the_limit_left_as_it_was(written, name):
    limit = csv.field_size_limit()
    long = "好" * (limit + 1)
    assert fields(read(written(name, f"x\n{long}\n"))) == [{"x": long}]
    assert csv.field_size_limit() == limit


# Laws

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.tuples(text, text), min_size=1))
def test_what_the_csv_module_writes_is_read_back(tmp_path_factory, pairs):
    made = io.StringIO(newline="")
    csv.writer(made).writerows([("输入", "label"), *pairs])
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(made.getvalue().encode())
    data = read(str(path))
    lines = [tuple(text.replace("\r\n", "\n") for text in pair) for pair in pairs]
    assert [(row.fields["输入"], row.fields["label"]) for row in data.rows] == lines


def test_a_file_of_windows_has_the_same_cells(written):
    text = 'x,y\n"1\n2",3\n4,"5\r"\n'
    rows = fields(read(written("a.csv", text)))
    assert rows == [{"x": "1\n2", "y": "3"}, {"x": "4", "y": "5\r"}]
    assert fields(read(written("b.csv", "\ufeff" + text.replace("\n", "\r\n")))) == rows


@given(st.lists(st.dictionaries(text, text), min_size=1))
def test_json_is_read_back(tmp_path_factory, records):
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    assert [dict(row.fields) for row in read(str(path)).rows] == records


@given(
    st.sampled_from([*FORMATS]), st.one_of(st.binary(), st.text('{}[]":,\t\r\nx1').map(str.encode))
)
def test_any_bytes_are_rows_or_an_error(tmp_path_factory, suffix, content):
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    try:
        data = read(str(path))
    except UsageError:
        return
    assert data.rows and all(isinstance(row, Row) for row in data.rows)
    for number, row in enumerate(data.rows):
        assert row.number == number and set(row.fields) <= set(data.columns)
        assert not (row.problem and row.fields)
