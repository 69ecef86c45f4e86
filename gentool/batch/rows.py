"""The rows of a data file: .jsonl, .csv or .tsv, as text by column. A row that cannot be used says
why; a file that cannot be read is an error."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Literal, NamedTuple

from gentool.errors import UsageError

EMPTY_LINE = "it is empty"
Quoting = Literal[0, 3]  # csv.QUOTE_MINIMAL and csv.QUOTE_NONE


class Row(NamedTuple):
    """`number` counts from 0 and leaves out the header; a row with a problem has no fields."""

    number: int
    fields: Mapping[str, str]
    problem: str = ""


class Data(NamedTuple):
    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read(path: str) -> Data:
    """All of a file, in UTF-8."""
    suffix = PurePath(path).suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"{path} is no data file: it ends in '{suffix}'",
            f"name it {', '.join(FORMATS)}, as what is in it",
        )
    data = FORMATS[suffix](path, _text(path))
    if not data.rows:
        raise UsageError(f"{path} has no rows", "give at least one")
    return data


def _text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise UsageError(
            f"cannot read {path}: {e.strerror}", "check the path and its permissions"
        ) from None
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as e:
        raise UsageError(
            f"{path} is not UTF-8: byte 0x{data[e.start]:02x} at offset {e.start}",
            "convert it, for example with iconv -f GB18030 -t UTF-8",
        ) from None


def _csv(path: str, text: str) -> Data:
    return _table(path, _cells(path, text, ",", csv.QUOTE_MINIMAL))


def _tsv(path: str, text: str) -> Data:
    """Quotes are characters like any other."""
    return _table(path, _cells(path, text, "\t", csv.QUOTE_NONE))


def _cells(path: str, text: str, delimiter: str, quoting: Quoting) -> list[list[str]]:
    """The lines of a table, without the empty ones at its end."""
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
    """Columns are the keys of all rows, in the order they first stand in."""
    lines = text.rstrip(" \t\r\n").split("\n")
    parsed = [_parsed(line) for line in lines] if lines != [""] else []
    columns: dict[str, None] = {}
    rows = []
    for number, found in enumerate(parsed):
        if isinstance(found, str):
            rows.append(Row(number, {}, found))
        else:
            columns.update(dict.fromkeys(found))
            fields = {key: value for key, value in found.items() if value is not None}
            rows.append(Row(number, fields))
    return Data(path, tuple(columns), tuple(rows))


def _parsed(line: str) -> dict[str, str | None] | str:
    """What a line of JSON has under each key, or what is wrong with the line."""
    if not line.strip():
        return EMPTY_LINE
    try:
        record = json.loads(line, parse_constant=_not_json)
        if not isinstance(record, dict):
            return "it is not a JSON object"
        return {_written(key): None if x is None else _written(x) for key, x in record.items()}
    except UnicodeEncodeError:
        return "it has half a surrogate pair, which is no text"
    except (ValueError, RecursionError) as e:
        return f"it is not JSON: {e}"


def _written(value: object) -> str:
    """A text itself, anything else as JSON writes it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text.encode()  # an escape in JSON can be of what is no text
    return text


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


FORMATS: dict[str, Callable[[str, str], Data]] = {".jsonl": _jsonl, ".csv": _csv, ".tsv": _tsv}
