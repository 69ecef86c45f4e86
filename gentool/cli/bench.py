"""`gentool bench`: how fast a model runs on this machine, and what the machine could do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gentool.cli.console import Console
from gentool.cli.flags import DEFAULT_MODEL, OUTPUT_FILE, ModelFlags
from gentool.cli.options import Command, flag, group, switch
from gentool.cli.values import Value, number
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.benchmark.measure import Measurement, Plan, Report, Result

EXAMPLES = """
gentool bench
gentool bench -m CPM/ --precision bf16 -b 1,32 -r 3 --json -o cpm.json
gentool bench --no-cold-start --jsonl | jq 'select(.name == "decode_step")'
"""

# JSON name of a quantity -> its title, in the order of the table.
QUANTITIES = {
    "cold_start": "cold start: gentool complete to its first character",
    "import_tensorflow": "  a process that only imports TensorFlow",
    "cold_start_ratio": "  ratio of the two",
    "load": "load, libraries already imported",
    "prefill_trace": "prefill: trace",
    "prefill_compile": "prefill: compile",
    "step_trace": "step of 1 row: trace",
    "step_compile": "step of 1 row: compile",
    "prefill_time": "prefill of {prompt_tokens} tokens",
    "prefill_speed": "  speed",
    "prefill_rate": "  matrix products",
    "prefill_rate_share": "  share of the machine's rate",
    "decode_step": "decoding: a step",
    "vote": "vote of 300 samples, as a tree",
    "vote_speed": "  speed",
    "rows": "  as independent rows",
    "rows_speed": "  speed",
    "vote_ratio": "  speed-up by the tree",
    "vote_ceiling": "  step of 300 rows over step of 1 row",
    "vote_ratio_share": "  speed-up as a share of that",
    "memory_tensorflow": "peak memory: TensorFlow imported",
    "memory_load": "peak memory: model loaded",
    "memory_peak": "peak memory: after generating",
    "read_bandwidth": "machine: memory bandwidth",
    "matrix_fp32": "machine: matrix products in fp32",
    "matrix_bf16": "machine: matrix products in bf16",
}

# The columns of the decoding table after tokens/s: (JSON name, heading).
DECODING = (
    ("decode_step", "ms a step"),
    ("decode_bandwidth", "GB/s"),
    ("decode_bandwidth_share", "% of machine"),
    ("decode_rate", "GFLOP/s"),
    ("decode_rate_share", "% of machine"),
)

ROW_COUNT = number(int, 1, 4096)


def batches(text: str) -> tuple[int, ...]:
    """Row counts parted by commas, each once. Raises ValueError that says what to give instead."""
    try:
        return tuple(dict.fromkeys(map(ROW_COUNT.read, text.split(","))))
    except ValueError as expected:
        raise ValueError(f"{expected}, or several separated by commas, as in 1,8,64") from None


TOKENS = number(int, 1, 1 << 20)
AT_LEAST_TWO = number(int, 2, 1 << 20)
TIMES = number(int, 1, 1000)


@dataclass(frozen=True)
class PlanFlags:
    """What is measured; the fields are those of `gentool.benchmark.measure.Plan`."""

    prompt_tokens: int | None = flag(
        "-p --prompt-tokens", "P", "prompt length of the prefill", "512", TOKENS
    )
    generate: int | None = flag(
        "-g --generate", "G", "tokens to decode in every row", "64", AT_LEAST_TWO
    )
    batch: tuple[int, ...] | None = flag(
        "-b --batch", "B,B,…", "numbers of rows to decode together", "1,8,64", Value(batches)
    )
    repeat: int | None = flag("-r --repeat", "R", "measure everything R times", "5", TIMES)
    cold_start: bool | None = switch(
        "--cold-start/--no-cold-start", "measure fresh processes too", "on"
    )


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    json: bool | None = switch("--json", "print one JSON object")
    jsonl: bool | None = switch("--jsonl", "print one JSON object a quantity")
    output: str | None = flag(*OUTPUT_FILE)


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    model: ModelFlags = group("Model", ModelFlags, without=["batch_invariant"])
    plan: PlanFlags = group("Measured", PlanFlags)
    output: OutputFlags = group("Output", OutputFlags)


def bench(console: Console, flags: Flags) -> None:
    """Measures how fast a model runs on this machine, and what the machine could do.

    Everything is measured R times after a warm-up run: median, lowest, highest. Trace: Python
    builds the graph of one shape. Compile: what the first execution takes longer than a warm one,
    without the programs kept between runs; a cold start uses those. Decoding draws from the model's
    own sampling distribution, and no token ends a row. A step computes one token of every row. GB/s
    counts the weights that a step reads, GFLOP/s two operations for each parameter in a matrix
    product and row; neither counts attention. Shares are of reading 1 GiB on all cores and of
    2048 x 2048 matrix products, in bf16 for bf16 weights, in fp32 for fp32 and fp16 weights.

    The vote is on five sums, with at most 8 tokens an answer, and is compared with the same samples
    drawn as independent rows. Prefill and decoding are cut to the context; the notes say what was
    cut, the table what was skipped.
    """
    output = flags.output
    if output.json and output.jsonl:
        raise UsageError("both --json and --jsonl are given", "drop one")
    config = flags.model.config()
    if output.output not in (None, "-"):
        console.redirect(output.output)

    from gentool.benchmark import report as benchmark

    plan, options = plan_of(flags.plan), model_options(flags.model)
    how = flags.model.precision, flags.model.xla, flags.model.threads
    measurement = benchmark.run(config, *how, options, plan)
    report = with_progress(console, measurement, plan.cost)
    console.overwrite()
    if output.json:
        console.write(json_line(report_fields(report)))
    elif output.jsonl:
        console.write("".join(map(json_line, result_lines(report))))
    else:
        console.write(text(report))


def plan_of(flags: PlanFlags) -> Plan:
    """The plan with the values of the flags that were given."""
    from gentool.benchmark.measure import Plan

    return Plan(**{name: value for name, value in vars(flags).items() if value is not None})


def model_options(flags: ModelFlags) -> list[str]:
    """The options with which another process opens the same model."""
    arguments = ["--model", flags.model or DEFAULT_MODEL]
    for key, value in flags.set:
        arguments += ["--set", f"{key}={value}"]
    for adapter in flags.adapter:
        arguments += ["--adapter", adapter]
    if flags.precision:
        arguments += ["--precision", flags.precision]
    if flags.threads:
        arguments += ["--threads", str(flags.threads)]
    compiled = {None: [], True: ["--xla"], False: ["--no-xla"]}[flags.xla]
    return [*arguments, *compiled]


def with_progress(console: Console, measurement: Measurement[Report], cost: int) -> Report:
    """Runs a measurement of so much cost, and shows what it measures."""
    from gentool.benchmark.measure import COSTS

    start, done = time.monotonic(), 0
    with console.progress() as show:
        while True:
            try:
                title = next(measurement)
            except StopIteration as end:
                report: Report = end.value
                return report
            seconds_left = (time.monotonic() - start) / max(1, done) * (cost - done)
            show(done, cost, seconds_left, title)
            done += COSTS.get(title, 1)


def result_fields(result: Result) -> dict[str, object]:
    """The JSON fields of a quantity."""
    fields: dict[str, object] = {"name": result.name, "unit": result.unit}
    if result.batch is not None:
        fields["batch"] = result.batch
    if not result.values:
        return fields | {"skipped": result.skipped}
    return fields | {
        "median": result.median,
        "low": min(result.values),
        "high": max(result.values),
        "repeat": len(result.values),
        "values": result.values,
    }


def report_fields(report: Report) -> dict[str, object]:
    """The JSON fields of --json."""
    return report._asdict() | {"results": [result_fields(result) for result in report.results]}


def result_lines(report: Report) -> Iterator[dict[str, object]]:
    """The JSON fields of each line of --jsonl: those of a quantity, and of which model it is."""
    model = {"model": report.model["name"]}
    model |= {key: report.model[key] for key in ("precision", "runtime") if key in report.model}
    return (model | result_fields(result) for result in report.results)


def json_line(fields: object) -> str:
    """One line of JSON."""
    return json.dumps(fields, ensure_ascii=False) + "\n"


def text(report: Report) -> str:
    """The report for a reader: machine, model, quantities, decoding by batch size, notes."""
    repeat = report.settings["repeat"]
    times = "everything once" if repeat == 1 else f"everything {repeat} times"
    blocks = [
        [machine_line(report.machine), model_line(report.model)],
        aligned([[times, "median", "lowest", "highest", ""], *quantity_rows(report)]),
        aligned(decoding_rows(report)),
        [*report.notes],
    ]
    return "\n".join("".join(f"{line}\n" for line in block) for block in blocks if block)


def machine_line(machine: Mapping[str, Any]) -> str:
    """Processor, memory and versions."""
    memory = f", {machine['memory_bytes'] / 1e9:.1f} GB" if machine["memory_bytes"] else ""
    gpus = f", {machine['gpus']} GPU" if machine.get("gpus") else ""
    programs = {"Python": "python", "TensorFlow": "tensorflow", "gentool": "gentool"}
    versions = [f"{name} {machine[key]}" for name, key in programs.items() if key in machine]
    return f"{machine['cpu']}, {machine['cores']} cores{memory}{gpus}; {', '.join(versions)}"


def model_line(model: Mapping[str, Any]) -> str:
    """Size, precision, and the runtime with how it computes."""
    runtime = f", {model['runtime']}" if "runtime" in model else ""
    return (
        f"{model['name']}: {model['parameters'] / 1e6:.1f} M parameters in"
        f" {model['bytes'] / 1e6:.1f} MB, {model['precision']}{runtime}"
    )


def quantity_rows(report: Report) -> Iterator[list[str]]:
    """A row a quantity that does not depend on the batch size."""
    results = {result.name: result for result in report.results if result.batch is None}
    for name, title in QUANTITIES.items():
        if name not in results:
            continue
        title, result = title.format_map(dict(report.settings)), results[name]
        if result.values:
            spread = min(result.values), max(result.values)
            yield [title, *map(digits, (result.median, *spread)), result.unit]
        else:
            yield [title, f"skipped: {result.skipped}"]


def decoding_rows(report: Report) -> list[list[str]]:
    """A heading, and a row a batch size; lowest and highest are of tokens/s. A column that no
    batch has is left out."""
    results = {(it.name, it.batch): it for it in report.results if it.values}
    sizes = list(dict.fromkeys(batch for _, batch in results if batch is not None))
    if not sizes:
        return []
    columns = [(name, title) for name, title in DECODING if (name, sizes[0]) in results]
    rows = [["decoding", "tokens/s", "lowest", "highest", *(title for _, title in columns)]]
    for batch in sizes:
        speed = results["decode_speed", batch]
        numbers = [speed.median, min(speed.values), max(speed.values)]
        numbers += [results[name, batch].median for name, _ in columns]
        rows.append([f"{batch} row{'s' if batch > 1 else ''}", *map(digits, numbers)])
    return rows


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, numbers to the right. A row with fewer cells than the widest sets only the
    width of the first column."""
    columns = max(map(len, rows), default=0)
    complete = [row for row in rows if len(row) == columns]
    widths = [max(map(len, column)) for column in zip(*complete, strict=True)]
    first = max((len(row[0]) for row in rows), default=0)
    return [_line(row, [first, *widths[1:]], len(row) == columns) for row in rows]


def _line(cells: Sequence[str], widths: Sequence[int], numbers: bool) -> str:
    rest: Iterable[str] = cells[1:]
    if numbers:
        rest = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
    return "  ".join([f"{cells[0]:{widths[0]}}", *rest]).rstrip()


def digits(x: float) -> str:
    """Three digits, or all digits before the point."""
    if x >= 100:
        return f"{x:.0f}"
    return f"{x:.1f}" if x >= 10 else f"{x:.3f}" if x < 1 else f"{x:.2f}"


command = Command(bench, Flags, EXAMPLES)
