"""`gentool fewshot --data`: a vote for each row of a file, and how many answers are right."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gentool.cli.console import Console
from gentool.cli.fewshot import report as boards
from gentool.cli.fewshot.single import Setting, UndecidedError, asked, more
from gentool.cli.inputs import RowsError, escaped
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.cli.fewshot import Flags
    from gentool.generation.request import Request
    from gentool.generation.session import Model
    from gentool.voting.accuracy import Accuracy
    from gentool.voting.tally import Ballot, Tally

Record = dict[str, Any]


class Row(NamedTuple):
    """A row's prompt and its label, if there are any, or what is wrong with it."""

    number: int
    prompt: str
    label: str | None
    problem: str = ""


class Table(NamedTuple):
    rows: list[Row]
    labelled: bool  # whether there is a column of labels


class Earlier(NamedTuple):
    """What an interrupted run has written: its records, how many bytes of them are whole, and the
    seed they were drawn with."""

    records: list[Record]
    size: int
    seed: int | None


NOTHING = Earlier([], 0, None)


def hold(console: Console, flags: Flags, setting: Setting, template: str, table: Table) -> None:
    """The votes of all rows: an answer a line, or a record, in the order of the rows."""
    from gentool.generation import opening

    ballot = setting.ballot
    ballots = [ballot, *compared(ballot)] if table.labelled else [ballot]
    run, earlier = named(template, flags, setting, ballots), NOTHING
    if flags.output not in (None, "-"):
        if flags.json:
            earlier = resumed(Path(flags.output), run, table.rows, flags.seed)
        console.redirect(flags.output)
    if flags.seed is None:
        flags = replace(flags, seed=secrets.randbits(32) if earlier.seed is None else earlier.seed)

    model = opening.open_model(setting.model, flags.precision, flags.xla)
    console.overwrite(keep=earlier.size)
    console.detail(f"{model.describe()}, seed {flags.seed}")
    records = list(earlier.records)
    if records:
        console.note(f"{len(records)} of {len(table.rows)} rows are in {flags.output}; going on")
    rows = [checked(model, row) for row in table.rows[len(records) :]]
    prompts = {row.number: row.prompt for row in rows if not row.problem}
    request = asked(flags, prompts, setting) if prompts else None
    for row, found in voted(console, model, request, ballots, rows):
        if row.problem:
            where = f"row {row.number} of {flags.data}"
            console.error(f"{where}: {row.problem}", "rows count from 0; the others go on")
        keys = {"row": row.number, "run": run, "run_seed": flags.seed}
        records.append(keys | record(row, found, ballot))
        text = escaped(records[-1].get("text") or "")
        console.write((json.dumps(records[-1], ensure_ascii=False) if flags.json else text) + "\n")
    summary = accuracies(records)
    if summary:
        console.board(boards.accuracies(summary))
    if summary and flags.json:
        parts = {way: asdict(part) for way, part in summary.items()}
        console.write(json.dumps({"accuracy": parts}, ensure_ascii=False) + "\n")
    judge(records, flags, setting)


def judge(records: Sequence[Record], flags: Flags, setting: Setting) -> None:
    """Raises what the exit code has to say of rows without an answer, or without a sure one."""
    failed = sum(one.get("error") is not None for one in records)
    labelled = any("right" in one for one in records)  # then no answer is a wrong one
    silent = 0 if labelled else sum(one.get("answer", "") is None for one in records)
    if failed or silent:
        raise RowsError(
            f"{failed + silent} of {len(records)} rows have no answer",
            "see above what is wrong with each" if failed else "raise --max-tokens, or see --json",
        )
    unsure = sum(not one.get("certified") for one in records)
    if flags.require_certificate and unsure:
        raise UndecidedError(
            f"{unsure} of {len(records)} answers are not certain", f"raise {more(setting.ballot)}"
        )


def read(template: str, flags: Flags) -> Table:
    """The rows of the data file."""
    from gentool.batch import rows as data
    from gentool.voting import examples

    table = data.read(flags.data or "")
    names = examples.placeholders(template)
    wanted = [*names, *([flags.label] if flags.label else [])]
    if missing := [name for name in wanted if name not in table.columns]:
        raise UsageError(
            f"{flags.data} has no column {missing[0]}", f"it has {', '.join(table.columns)}"
        )
    label = flags.label or "label"
    labelled = label in table.columns
    rows = []
    for number, fields, problem in table.rows:
        lacking = [name for name in (*names, *([label] if labelled else [])) if name not in fields]
        problem = problem or (f"it has no {lacking[0]}" if lacking else "")
        prompt = "" if problem else examples.fill(template, fields)
        rows.append(Row(number, prompt, None if problem else fields.get(label), problem))
    return Table(rows, labelled)


def compared(ballot: Ballot) -> list[Ballot]:
    """What a labelled vote is compared with: the greedy answer and the exact one."""
    greedy = replace(ballot, n=1, greedy=True, exact=False, confidence=None)
    exact = replace(ballot, exact=True, confidence=None)
    return [greedy] if ballot.exact else [greedy, exact]


def named(template: str, flags: Flags, setting: Setting, ballots: Sequence[Ballot]) -> str:
    """A name that only runs have whose records can stand in one file. The rows are no part of it:
    there may be more of them later."""
    names = ("precision", "stratified", "batch_invariant", "regex", "json_schema")
    model = setting.model.model_dump(mode="json", exclude={"folder", "sampling"})
    said = [template, setting.law.model_dump(), *map(asdict, ballots), model]
    said += [getattr(flags, name) for name in names]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def resumed(path: Path, run: str, rows: Sequence[Row], seed: int | None) -> Earlier:
    """What is in the file that an interrupted run wrote. Another run's is not overwritten."""
    if not path.is_file():
        return NOTHING
    found: list[Record] = []
    size = 0
    for line in path.read_bytes().splitlines(keepends=True):
        number = len(found)
        start = json.dumps({"row": number, "run": run})[:-1].encode()
        if found and line.startswith(b'{"accuracy": '):  # is made anew
            break
        if not line.endswith(b"\n") and line[: len(start)] == start[: len(line)]:
            break  # was being written
        one = json.loads(line) if line.startswith(start) and line.endswith(b"\n") else {}
        mine = bool(one) and number < len(rows) and one["prompt"] == rows[number].prompt
        if not mine or seed not in (None, one["run_seed"]):
            raise UsageError(
                f"{path} holds something else than the first rows of this run",
                "remove it, or give another --output",
            )
        found.append(one)
        size += len(line)
    return Earlier(found, size, found[0]["run_seed"] if found else None)


def checked(model: Model, row: Row) -> Row:
    if row.problem:
        return row
    try:
        model.check(row.prompt)
    except UsageError as e:
        return row._replace(problem=e.message)
    return row


def voted(
    console: Console,
    model: Model,
    request: Request | None,
    ballots: Sequence[Ballot],
    rows: Sequence[Row],
) -> Iterator[tuple[Row, dict[str, Tally]]]:
    """Each row with its tallies, in order."""
    done: dict[int, dict[str, Tally]] = defaultdict(dict)
    waiting, began = list(rows), time.monotonic()

    def ready() -> Iterator[tuple[Row, dict[str, Tally]]]:
        while waiting and (waiting[0].problem or len(done[waiting[0].number]) == len(ballots)):
            row = waiting.pop(0)
            yield row, done.pop(row.number, {})

    yield from ready()
    if request is None:
        return
    with console.progress("row") as show:
        for tally in model.votes(request, ballots):
            if tally.verdict == "running":
                continue
            done[request.rows[tally.prompt]][tally.way] = tally
            yield from ready()
            over = len(rows) - len(waiting)
            took = time.monotonic() - began
            if over:
                show(over, len(rows), took / over * len(waiting), f"{over / took:.1f} rows/s")


def record(row: Row, found: Mapping[str, Tally], ballot: Ballot) -> Record:
    """A row as JSON has it: the vote, and beside it the greedy and the exact answer."""
    from gentool.voting import answers

    if row.problem:
        return {"prompt": row.prompt, "error": row.problem}
    made: Record = {"prompt": row.prompt, **boards.record(found[ballot.way])}
    if row.label is None:
        return made
    label = answers.answer(row.label, ballot.rule._replace(regex=""))
    right = {
        way: bool(tally.winner and tally.winner.answer == label) for way, tally in found.items()
    }
    others = {way: boards.record(tally) for way, tally in found.items() if way != ballot.way}
    return made | {"label": label, "right": right} | others


def accuracies(records: Sequence[Record]) -> dict[str, Accuracy]:
    """The accuracy of each way of answering, over the rows that have a label."""
    from gentool.voting.accuracy import accuracy

    pairs: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for one in records:
        for way, right in one.get("right", {}).items():
            pairs[way].append((one["label"], one["label"] if right else None))
    return {way: accuracy(of_way) for way, of_way in pairs.items()}
