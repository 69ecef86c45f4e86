"""`gentool bench`: a model in, how fast it is here out, beside what the machine could do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gentool.cli.console import Console
from gentool.cli.flags import DEFAULT_MODEL, OUTPUT_FILE, ModelFlags
from gentool.cli.options import Command, Value, flag, group, number, switch
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.benchmark.model import Plan, Report, Result, Turns

EXAMPLES = """
gentool bench
gentool bench -m CPM/ --precision bf16 -b 1,32 -r 3 --json -o cpm.json
gentool bench --no-cold-start --jsonl | jq 'select(.name == "decode_step")'
"""

# What is measured, in words, in the order of the table; names of JSON.
QUANTITIES = {
    "cold_start": "cold start: gentool complete to its first character",
    "import_tensorflow": "  a process that imports TensorFlow alone",
    "cold_start_ratio": "  as many times that",
    "load": "load, where TensorFlow is imported",
    "prefill_trace": "prefill: trace",
    "prefill_compile": "prefill: compile",
    "step_trace": "step of 1 row: trace",
    "step_compile": "step of 1 row: compile",
    "prefill_time": "prefill of {prompt_tokens} tokens",
    "prefill_speed": "  speed",
    "prefill_rate": "  products",
    "prefill_rate_share": "  share of the machine's",
    "decode_step": "decoding: a step",
    "vote": "vote of 300 samples, as a tree",
    "vote_speed": "  speed",
    "rows": "  as independent rows",
    "rows_speed": "  speed",
    "vote_ratio": "  the tree is faster",
    "vote_ceiling": "  a step of 300 rows takes, of one row's",
    "vote_ratio_share": "  of which the tree gains",
    "memory_tensorflow": "peak memory: with TensorFlow",
    "memory_load": "  with the model",
    "memory_peak": "  after generating",
    "read_bandwidth": "machine: reading memory",
    "matrix_fp32": "machine: products of fp32",
    "matrix_bf16": "machine: products of bf16",
}

# The columns of decoding, a row a batch; (name of JSON, heading).
DECODING = (
    ("decode_step", "ms a step"),
    ("decode_bandwidth", "GB/s"),
    ("decode_bandwidth_share", "% of machine"),
    ("decode_rate", "GFLOP/s"),
    ("decode_rate_share", "% of machine"),
)

ONE = number(int, 1, 4096)


def batches(text: str) -> tuple[int, ...]:
    """Numbers of rows, each once."""
    try:
        return tuple(dict.fromkeys(map(ONE.read, text.split(","))))
    except ValueError as one:
        raise ValueError(f"{one}, or several parted by commas, as in 1,8,64") from None


TOKENS = number(int, 1, 1 << 20)
STEPS = number(int, 2, 1 << 20)
TIMES = number(int, 1, 1000)
ROWS = Value(batches)


@dataclass(frozen=True)
class PlanFlags:
    """What is measured; the fields are those of `gentool.benchmark.model.Plan`."""

    prompt_tokens: int | None = flag(
        "-p --prompt-tokens", "P", "tokens of a prefill", "512", TOKENS
    )
    generate: int | None = flag("-g --generate", "G", "tokens to decode for every row", "64", STEPS)
    batch: tuple[int, ...] | None = flag(
        "-b --batch", "B,B,…", "batch sizes to decode with", "1,8,64", ROWS
    )
    repeat: int | None = flag("-r --repeat", "R", "measure everything R times", "5", TIMES)
    cold_start: bool | None = switch(
        "--cold-start/--no-cold-start", "start fresh processes, too", "on"
    )


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    json: bool | None = switch("--json", "print one object")
    jsonl: bool | None = switch("--jsonl", "print one object a quantity")
    output: str | None = flag(*OUTPUT_FILE)


@dataclass(frozen=True)
class Flags:
    """What was given; None is nothing."""

    model: ModelFlags = group("Model", ModelFlags, without=["batch_invariant"])
    plan: PlanFlags = group("Measured", PlanFlags)
    output: OutputFlags = group("Output", OutputFlags)


def bench(console: Console, flags: Flags) -> None:
    """Measures how fast a model is here, and how near to what the machine can do.

    Everything is measured R times after a turn that warms up: median, lowest, highest. Trace is
    Python building the graph of one shape, compile what its first execution takes beyond a warm
    one, without the programs kept between runs; a cold start has those. Decoding draws as the
    model's own law says, no token ends a row, and a step is a token of every row. Its GB/s are the
    weights a step reads, its GFLOP/s two for each parameter in a product and row; attention counts
    for neither. Shares are of reading 1 GiB with all cores, and of 2048 x 2048 products of bf16 for
    bf16 weights, else of fp32.

    The vote is over five sums, 8 tokens at most, against the same samples drawn as independent
    rows. Prefill and decoding are cut to the context; what was cut, or skipped, is said.
    """
    output = flags.output
    if output.json and output.jsonl:
        raise UsageError("both --json and --jsonl are given", "drop one")
    config = flags.model.config()
    if output.output not in (None, "-"):
        console.redirect(output.output)

    from gentool.benchmark import model as benchmark

    plan = planned(flags.plan)
    turns = benchmark.run(
        config, flags.model.precision, flags.model.xla, same_model(flags.model), plan
    )
    report = watched(console, turns, plan.weight)
    console.overwrite()
    if output.json:
        console.write(dumped(whole(report)))
    elif output.jsonl:
        console.write("".join(map(dumped, lines(report))))
    else:
        console.write(text(report))


def planned(flags: PlanFlags) -> Plan:
    from gentool.benchmark import model as benchmark

    given = {name: value for name, value in vars(flags).items() if value is not None}
    return benchmark.Plan(**given)


def same_model(flags: ModelFlags) -> list[str]:
    """The options by which another process opens this model."""
    options = ["--model", flags.model or DEFAULT_MODEL]
    for key, value in flags.set:
        options += ["--set", f"{key}={value}"]
    if flags.precision:
        options += ["--precision", flags.precision]
    compiled = {None: [], True: ["--xla"], False: ["--no-xla"]}[flags.xla]
    return [*options, *compiled]


def watched(console: Console, turns: Turns[Report], weight: int) -> Report:
    """The report, after showing what is being measured."""
    from gentool.benchmark.model import WEIGHTS

    began, done = time.monotonic(), 0
    with console.progress() as show:
        while True:
            try:
                title = next(turns)
            except StopIteration as end:
                report: Report = end.value
                return report
            left = (time.monotonic() - began) / max(1, done) * (weight - done)
            show(done, weight, left, title)
            done += WEIGHTS.get(title, 1)


def record(found: Result) -> dict[str, object]:
    """A quantity as JSON has it."""
    made: dict[str, object] = {"name": found.name, "unit": found.unit}
    if found.batch is not None:
        made["batch"] = found.batch
    if not found.values:
        return made | {"skipped": found.skipped}
    return made | {
        "median": found.median,
        "low": min(found.values),
        "high": max(found.values),
        "repeat": len(found.values),
        "values": found.values,
    }


def whole(report: Report) -> dict[str, object]:
    return report._asdict() | {"results": [record(found) for found in report.results]}


def lines(report: Report) -> Iterator[dict[str, object]]:
    """Quantities that can be told apart among those of other runs."""
    keys = {"model": report.model["name"]} | {k: report.model[k] for k in ("precision", "paths")}
    return (keys | record(found) for found in report.results)


def dumped(record: object) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def text(report: Report) -> str:
    """The machine, the model, what was measured, decoding by batches, and what to know."""
    repeat = report.settings["repeat"]
    times = "everything once" if repeat == 1 else f"everything {repeat} times"
    blocks = [
        [machine(report.machine), model(report.model)],
        aligned([[times, "median", "lowest", "highest", ""], *quantities(report)]),
        aligned(decoding(report)),
        [*report.notes],
    ]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks if block)


def machine(found: Any) -> str:
    size = f", {found['memory_bytes'] / 1e9:.1f} GB" if found["memory_bytes"] else ""
    gpus = f", {found['gpus']} GPU" if found["gpus"] else ""
    versions = (f"{name} {found[name.lower()]}" for name in ("Python", "TensorFlow"))
    return (
        f"{found['cpu']}, {found['cores']} cores{size}{gpus}; {', '.join(versions)},"
        f" gentool {found['gentool']}"
    )


def model(found: Any) -> str:
    return (
        f"{found['name']}: {found['parameters'] / 1e6:.1f} M parameters in"
        f" {found['bytes'] / 1e6:.1f} MB, {found['precision']}, {found['paths']}"
    )


def quantities(report: Report) -> Iterator[list[str]]:
    found = {result.name: result for result in report.results if result.batch is None}
    for name, title in QUANTITIES.items():
        if name not in found:
            continue
        title, result = title.format_map(dict(report.settings)), found[name]
        if result.values:
            spread = min(result.values), max(result.values)
            yield [title, *map(digits, (result.median, *spread)), result.unit]
        else:
            yield [title, f"skipped: {result.skipped}"]


def decoding(report: Report) -> list[list[str]]:
    """A row a batch: the spread is that of tokens/s."""
    found = {(it.name, it.batch): it for it in report.results if it.values}
    sizes = dict.fromkeys(batch for _, batch in found if batch is not None)
    headings = ["decoding", "tokens/s", "lowest", "highest", *(title for _, title in DECODING)]
    rows = [headings]
    for batch in sizes:
        speed = found["decode_speed", batch]
        numbers = [speed.median, min(speed.values), max(speed.values)]
        numbers += [found[name, batch].median for name, _ in DECODING]
        rows.append([f"{batch} row{'s' if batch > 1 else ''}", *map(digits, numbers)])
    return rows if sizes else []


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, numbers to the right; a cell that ends its row too early takes no part."""
    full = max(map(len, rows), default=0)
    whole = [row for row in rows if len(row) == full]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    first = max((len(row[0]) for row in rows), default=0)
    return [_line(row, [first, *widths[1:]], len(row) == full) for row in rows]


def _line(cells: Sequence[str], widths: Sequence[int], numbers: bool) -> str:
    rest: Iterable[str] = cells[1:]
    if numbers:
        rest = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
    return "  ".join([f"{cells[0]:{widths[0]}}", *rest]).rstrip()


def digits(x: float) -> str:
    """Three digits, or all that stand before the point."""
    if x >= 100:
        return f"{x:.0f}"
    return f"{x:.1f}" if x >= 10 else f"{x:.3f}" if x < 1 else f"{x:.2f}"


command = Command(bench, Flags, EXAMPLES)
