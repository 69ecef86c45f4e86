"""Reads the rows of .jsonl, .csv and .tsv files as text by column. A row that cannot be used has a
problem; a file that cannot be read is an error."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from gentool.errors import UsageError

EMPTY_LINE = "it is empty"
Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL and csv.QUOTE_NONE


class Row(NamedTuple):
    """The fields of a row by column. `number` counts from 0, without the header; a row with a
    problem has no fields."""

    number: int
    fields: Mapping[str, str]
    problem: str = ""


class Data(NamedTuple):
    """A data file: its path, its columns in order, and its rows."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read(path: str) -> Data:
    """Reads a file in UTF-8; its name ends in one of FORMATS."""
    suffix = PurePath(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"{path} is no data file: it ends in '{suffix}'",
            f"end its name in {', '.join(FORMATS)}, by its format",
        )
    data = FORMATS[suffix](path, _text(path))
    if not data.rows:
        raise UsageError(f"{path} has no rows", "give at least one")
    return data


def _text(path: str) -> str:
    """The text of a file, without a byte order mark and with \\n at the end of each line."""
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise UsageError(
            f"cannot read {path}: {e.strerror}", "check the path and its permissions"
        ) from None
    try:
        return data.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as e:
        raise UsageError(
            f"{path} is not UTF-8: byte 0x{data[e.start]:02x} at offset {e.start}",
            "convert it, for example with iconv -f GB18030 -t UTF-8",
        ) from None


def _csv(path: str, text: str) -> Data:
    """A table with commas, where quotes enclose a field."""
    return _table(path, _cells(path, text, ",", csv.QUOTE_MINIMAL))


def _tsv(path: str, text: str) -> Data:
    """A table with tabs, where quotes are characters like any other."""
    return _table(path, _cells(path, text, "\t", csv.QUOTE_NONE))


def _cells(path: str, text: str, delimiter: str, quoting: Quoting) -> list[list[str]]:
    """The cells of each line of a table, without the empty lines at its end."""
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    lines = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
    )
    try:
        cells = list(lines)
    except csv.Error as e:
        raise UsageError(
            f"{path}, line {lines.line_num}: {e}",
            'a quote inside a quoted field is written twice, as in "他说""好"""',
        ) from None
    finally:
        csv.field_size_limit(limit)
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _table(path: str, cells: list[list[str]]) -> Data:
    columns, *lines = cells or [[]]
    for i, name in enumerate(columns):
        if not name.strip():
            raise UsageError(
                f"column {i + 1} of {path} has no name", "the first line names the columns"
            )
        if name in columns[:i]:
            raise UsageError(f"{path} has two columns '{name}'", "rename one of them")
    rows = (_row(number, columns, line) for number, line in enumerate(lines))
    return Data(path, tuple(columns), tuple(rows))


def _row(number: int, columns: list[str], line: list[str]) -> Row:
    if len(line) == len(columns):
        return Row(number, dict(zip(columns, line, strict=True)))
    problem = f"it has {len(line)} cells, the header {len(columns)}" if line else EMPTY_LINE
    return Row(number, {}, problem)


def _jsonl(path: str, text: str) -> Data:
    """An object a line; the columns are the keys of all rows, in order of first appearance."""
    lines = text.rstrip(" \t\r\n").split("\n")
    parsed = [_fields(line) for line in lines] if lines != [""] else []
    columns: dict[str, None] = {}
    rows = []
    for number, record in enumerate(parsed):
        if isinstance(record, str):
            rows.append(Row(number, {}, record))
        else:
            columns.update(dict.fromkeys(record))
            fields = {key: value for key, value in record.items() if value is not None}
            rows.append(Row(number, fields))
    return Data(path, tuple(columns), tuple(rows))


def _fields(line: str) -> dict[str, str | None] | str:
    """The text under each key of a line, or the problem with the line."""
    if not line.strip():
        return EMPTY_LINE
    record = json_object(line)
    if isinstance(record, str):
        return f"it is {record}"
    try:
        return {_as_text(key): None if x is None else _as_text(x) for key, x in record.items()}
    except UnicodeEncodeError:
        return "it has half a surrogate pair, which is no text"
    except RecursionError:
        return "it is not JSON that can be written: too deep"


def json_object(line: str) -> dict[str, object] | str:
    """The JSON object in a line, or the problem with the line: "not JSON: …". Numbers that JSON
    could not write again, as NaN and 1e999, are problems."""
    try:
        value = json.loads(line, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as e:
        return f"not JSON: {e}"
    return value if isinstance(value, dict) else "not a JSON object"


def _as_text(value: object) -> str:
    """A text itself, any other value as JSON writes it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text.encode()  # raises for a lone surrogate, which an escape in JSON can be
    return text


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is too large a number")
    return value


FORMATS: dict[str, Callable[[str, str], Data]] = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}
