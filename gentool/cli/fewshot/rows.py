"""`gentool fewshot --data`: a vote for each row of a file, and how many answers are right."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gentool.batch import journal
from gentool.batch.journal import Record
from gentool.cli.console import Console
from gentool.cli.fewshot import report
from gentool.cli.fewshot.config import Output, UndecidedError, VoteConfig
from gentool.cli.inputs import RowsError, escaped
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.generation.request import Request
    from gentool.generation.session import Model
    from gentool.voting.accuracy import Accuracy
    from gentool.voting.tally import Ballot, Tally


class Row(NamedTuple):
    """A row's prompt and its label, if there are any, or what is wrong with it."""

    number: int
    prompt: str
    label: str | None
    problem: str = ""


class Table(NamedTuple):
    """The rows of a data file, and the template that makes their prompts."""

    path: str
    template: str
    rows: list[Row]
    labelled: bool  # whether there is a column of labels


def vote_on_rows(
    console: Console, config: VoteConfig, output: Output, table: Table, seed: int | None
) -> None:
    """The votes of all rows: an answer a line, or a record, in the order of the rows. `seed` is the
    one that was given: without one, an interrupted run goes on with its own."""
    ballot = config.ballot
    ballots = [ballot, *compared(ballot)] if output.compare else [ballot]
    run, done = run_name(table.template, config, ballots), journal.EMPTY
    if output.path:
        console.redirect(output.path)  # first: it locks what is read now
        if output.json:
            prompts = [row.prompt for row in table.rows]
            done = journal.resume(Path(output.path), run, prompts, seed)
    if seed is None and done.seed is not None:
        config = config._replace(request=replace(config.request, seed=done.seed))
    model = config.open_model(console)
    console.overwrite(keep=done.size)
    console.detail(f"{model.describe()}, seed {config.request.seed}")
    records = list(done.records)
    if records:
        console.note(f"{len(records)} of {len(table.rows)} rows are in {output.path}; going on")
    rows = [checked(model, row) for row in table.rows[len(records) :]]
    for row, tallies in votes(console, model, config.request, ballots, rows):
        if row.problem:
            where = f"row {row.number} of {table.path}"
            console.error(f"{where}: {row.problem}", "rows count from 0; the others go on")
        keys = {"row": row.number, "run": run, "run_seed": config.request.seed}
        records.append(keys | record(row, tallies, ballot))
        text = escaped(records[-1].get("text") or "")
        line = json.dumps(records[-1], ensure_ascii=False) if output.json else text
        console.write(line + "\n")
    print_accuracy(console, records, output)
    check_records(records, output, config.limit_flag)


def print_accuracy(console: Console, records: Sequence[Record], output: Output) -> None:
    """The accuracy of each way of answering, where rows have labels."""
    summary = accuracies(records)
    if not summary:
        return
    console.board(report.accuracies(summary))
    if output.json:
        ways = {way: asdict(part) for way, part in summary.items()}
        console.write(json.dumps({"accuracy": ways}, ensure_ascii=False) + "\n")


def check_records(records: Sequence[Record], output: Output, limit_flag: str) -> None:
    """Raises what the exit code has to say of rows without an answer, or without a sure one."""
    failed = sum(record.get("error") is not None for record in records)
    labelled = any("right" in record for record in records)  # then no answer is a wrong one
    silent = 0 if labelled else sum(record.get("answer", "") is None for record in records)
    if failed or silent:
        raise RowsError(
            f"{failed + silent} of {len(records)} rows have no answer",
            "see above what is wrong with each" if failed else "raise --max-tokens, or see --json",
        )
    unsure = sum(not record.get("certified") for record in records)
    if output.require_certificate and unsure:
        raise UndecidedError(
            f"{unsure} of {len(records)} answers are not certain", f"raise {limit_flag}"
        )


def read(template: str, path: str, label: str | None) -> Table:
    """The rows of a data file; their labels are in the column `label`, where it is there."""
    from gentool.batch import rows as data
    from gentool.voting import examples

    table = data.read(path)
    names = examples.placeholders(template)
    for name in [*names, *([label] if label else [])]:
        if name not in table.columns:
            raise UsageError(f"{path} has no column {name}", f"it has {', '.join(table.columns)}")
    label = label or "label"
    labelled = label in table.columns
    needed = (*names, *([label] if labelled else []))
    rows = []
    for number, fields, problem in table.rows:
        lacking = [name for name in needed if name not in fields]
        problem = problem or (f"it has no {lacking[0]}" if lacking else "")
        prompt = "" if problem else examples.fill(template, fields)
        rows.append(Row(number, prompt, None if problem else fields.get(label), problem))
    return Table(path, template, rows, labelled)


def compared(ballot: Ballot) -> list[Ballot]:
    """What a labelled vote is compared with: the greedy answer and the exact one."""
    greedy = replace(ballot, n=1, greedy=True, exact=False, confidence=None)
    exact = replace(ballot, exact=True, confidence=None)
    return [greedy] if ballot.exact else [greedy, exact]


def run_name(template: str, config: VoteConfig, ballots: Sequence[Ballot]) -> str:
    """A name that only runs have whose records can stand in one file. The rows are no part of it:
    there may be more of them later."""
    request = replace(config.request, prompts=(), rows=(), seed=0)
    model = config.model.model_dump(mode="json", exclude={"folder", "sampling"})
    parts = [template, asdict(request), *map(asdict, ballots), model, config.precision]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def checked(model: Model, row: Row) -> Row:
    if row.problem:
        return row
    try:
        model.check(row.prompt)
    except UsageError as e:
        return row._replace(problem=e.message)
    return row


def votes(
    console: Console, model: Model, request: Request, ballots: Sequence[Ballot], rows: Sequence[Row]
) -> Iterator[tuple[Row, dict[str, Tally]]]:
    """Each row with its tallies by the way of voting, in order; `request` says how, not on what."""
    done: dict[int, dict[str, Tally]] = defaultdict(dict)
    waiting, start = list(rows), time.monotonic()

    def ready() -> Iterator[tuple[Row, dict[str, Tally]]]:
        while waiting and (waiting[0].problem or len(done[waiting[0].number]) == len(ballots)):
            row = waiting.pop(0)
            yield row, done.pop(row.number, {})

    yield from ready()
    prompts = {row.number: row.prompt for row in waiting if not row.problem}
    if not prompts:
        return
    request = replace(request, prompts=tuple(prompts.values()), rows=tuple(prompts))
    with console.progress("row") as show:
        for tally in model.votes(request, ballots):
            if tally.verdict == "running":
                continue
            done[request.rows[tally.prompt]][tally.way] = tally
            yield from ready()
            over = len(rows) - len(waiting)
            seconds = time.monotonic() - start
            if over:
                left = seconds / over * len(waiting)
                show(over, len(rows), left, f"{over / seconds:.1f} rows/s")


def record(row: Row, tallies: Mapping[str, Tally], ballot: Ballot) -> Record:
    """A row as JSON has it: the vote, and beside it what it is compared with."""
    from gentool.voting import answers

    if row.problem:
        return {"prompt": row.prompt, "error": row.problem}
    fields: Record = {"prompt": row.prompt, **report.record(tallies[ballot.way])}
    if row.label is None:
        return fields
    label = answers.answer(row.label, ballot.rule._replace(regex=""))
    right = {
        way: bool(tally.winner and tally.winner.answer == label) for way, tally in tallies.items()
    }
    others = {way: report.record(tally) for way, tally in tallies.items() if way != ballot.way}
    return fields | {"label": label, "right": right} | others


def accuracies(records: Sequence[Record]) -> dict[str, Accuracy]:
    """The accuracy of each way of answering, over the rows that have a label."""
    from gentool.voting.accuracy import accuracy

    pairs: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
    for record in records:
        for way, right in record.get("right", {}).items():
            pairs[way].append((record["label"], record["label"] if right else None))
    return {way: accuracy(of_way) for way, of_way in pairs.items()}
