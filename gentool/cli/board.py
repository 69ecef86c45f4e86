"""Tables with bars, such as votes and accuracies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.neutral import neutral

if TYPE_CHECKING:
    from rich.table import Table

BAR = 24  # characters
MAX_FIRST = 40  # characters of the first column of a table
MIN_FIRST = 8  # of that; on a narrow terminal the last numbers make room for it
GAP = 2  # between columns


class Board(NamedTuple):
    """A table of cells with a bar at the end of each row, and a line below it."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[float, ...]  # 0 to 1
    footer: str


def table_of(board: Board, terminal: bool, width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = [[cell.replace("\n", "\\n") for cell in cells] for cells in board.rows]
    rows = [[neutral(cell) if terminal else cell for cell in cells] for cells in rows]
    lines = [list(board.columns), *rows]
    while len(lines[0]) > 2 and _width_left(lines, width) < MIN_FIRST:
        lines = [line[:-1] for line in lines]
    first, bar = _widths(lines, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    table.add_column(lines[0][0], no_wrap=True, overflow="ellipsis", max_width=first)
    for name in lines[0][1:]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for cells, share in zip(lines[1:], board.bars, strict=True):
        drawn = Text("█" * round(share * bar), style="cyan")
        table.add_row(*(Text(cell) for cell in cells), drawn)
    return table


def _widths(lines: Sequence[Sequence[str]], width: int) -> tuple[int, int]:
    """How wide the first column and a full bar are. Numbers are never cut, and bars are all of one
    scale: they take what the first column leaves, or a third, unless that is next to nothing."""
    from rich.cells import cell_len

    first = min(MAX_FIRST, max(cell_len(line[0]) for line in lines))
    left = max(1, _width_left(lines, width))
    bar = min(BAR, max(left - first, left // 3))
    return (left - bar, bar) if bar > GAP else (left, 0)


def _width_left(lines: Sequence[Sequence[str]], width: int) -> int:
    """What the numbers leave of a line."""
    from rich.cells import cell_len

    _, *numbers = (max(map(cell_len, column)) for column in zip(*lines, strict=True))
    return width - GAP - sum(number + GAP for number in numbers)


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text: the first column left, the others right."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for first, *others in lines:
        padded = [first + " " * (widths[0] - cell_len(first))]
        for cell, width in zip(others, widths[1:], strict=True):
            padded.append(" " * (width - cell_len(cell)) + cell)
        texts.append((" " * GAP).join(padded).rstrip())
    return texts
