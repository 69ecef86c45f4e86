"""`gentool batch`: a file of prompts in, a line of JSON for each out, resumable."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gentool.cli.console import Console
from gentool.cli.flags import (
    FORCE,
    OUTPUT_FILE,
    UP_TO_64,
    ChatFlags,
    DrawFlags,
    GrammarFlags,
    ModelFlags,
    sampling_params,
)
from gentool.cli.inputs import RowsError, Stream, line_count, stream
from gentool.cli.options import Command, argument, flag, group, sampling_group, switch
from gentool.cli.signals import STOP_SECONDS
from gentool.cli.values import Value, number
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.batch.answers import Origin
    from gentool.batch.lines import Line, LineReader
    from gentool.batch.output import Output
    from gentool.batch.tasks import Settings
    from gentool.config.model import ModelConfig
    from gentool.generation.session import Model

EXAMPLES = r"""
gentool batch prompts.jsonl -o answers.jsonl
gentool batch prompts.txt -o answers.jsonl --temperature 0 --max-tokens 40 --stop '\n'
zcat prompts.jsonl.gz | gentool batch - --seed 1 | gzip > answers.jsonl.gz
"""


@dataclass(frozen=True)
class RowFlags:
    """How the input is read."""

    lines: bool | None = switch(
        "--lines", "every line is a prompt, not JSON; so it is in a .txt file"
    )


def ray_address(text: str) -> str:
    """An address of a Ray cluster, which a file behind --ray is not."""
    if text not in ("local", "auto") and ":" not in text:
        raise ValueError("give local, auto or HOST:PORT; a file goes before --ray")
    return text


@dataclass(frozen=True)
class RayFlags:
    """Where rows are computed."""

    ray: str | None = flag(
        "--ray",
        "[ADDRESS]",
        "on a Ray cluster: auto, HOST:PORT, or local, one for this run",
        "off; local without an ADDRESS",
        Value(ray_address),
        without="local",
    )
    num_workers: int | None = flag(
        "--num-workers", "N", "processes with the model", "one a node", number(int, 1, 4096)
    )
    gpus_per_worker: float | None = flag(
        "--gpus-per-worker", "X", "GPUs of each, or a part of one", "0", number(float, 0, 64)
    )

    def check(self) -> None:
        given = {"--num-workers": self.num_workers, "--gpus-per-worker": self.gpus_per_worker}
        for name, value in given.items():
            if value is not None and self.ray is None:
                raise UsageError(f"{name} is {value}, without --ray", "add --ray")


@dataclass(frozen=True)
class OutputFlags:
    """What is written, and where."""

    output: str | None = flag(*OUTPUT_FILE)
    force: bool | None = switch(*FORCE)
    logprobs: int | None = flag(
        "--logprobs", "K", "each token and the K most probable", "off", UP_TO_64
    )


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    file: str = argument("file", "IN.jsonl|-")
    rows: RowFlags = group("Rows", RowFlags)
    chat: ChatFlags = group("Rows", ChatFlags, without=("system",))
    output: OutputFlags = group("Output", OutputFlags)
    model: ModelFlags = group("Model", ModelFlags)
    cluster: RayFlags = group("Ray", RayFlags)
    draw: DrawFlags = group("Sampling", DrawFlags)
    sampling: Mapping[str, Any] = sampling_group("Sampling", "distribution", "logits")
    grammar: GrammarFlags = group("Sampling", GrammarFlags)
    length: Mapping[str, Any] = sampling_group("Length", "length")


def batch(console: Console, flags: Flags) -> None:
    """Answers many prompts with one open model: a line of JSON for each, in their order.

    A row is {"prompt": …} or {"messages": […]}. It may have an "id", and parameters of its own
    under the names of the flags: temperature, max_tokens, stop, n, seed, regex, json_schema,
    choice and so on; other fields are kept. Lines of OpenAI's batch files (custom_id, url, body)
    are answered as OpenAI does. A row that fails has an "error", and the exit code is 4.

    With -o FILE a run that was interrupted or killed goes on where it stopped: give the same
    command again. FILE.journal says how far it came, and what may go on.
    """
    flags.cluster.check()
    flags.grammar.check()
    config = flags.model.config()
    if flags.chat.chat_template is not None:
        from gentool.generation.chat import with_template

        config = with_template(config, flags.chat.chat_template)
    path = None if flags.output.output in (None, "-") else Path(flags.output.output or "")
    with stream(console, None, flags.file, "row", "batch") as source:
        if path:
            check_paths(flags.file, path)
            console.redirect(str(path))
        run(console, flags, config, source, path)


def run(
    console: Console, flags: Flags, config: ModelConfig, source: Stream, path: Path | None
) -> None:
    """The rows of an open file."""
    from gentool.batch import journal
    from gentool.batch.identity import model_sum
    from gentool.batch.lines import LineReader
    from gentool.batch.output import Output

    with console.loading(config.name):
        checksum = model_sum(config)
    job = job_of(flags, config, checksum)
    kept = path if path and path.is_file() else None
    resumed = journal.resume(kept, job) if kept and not flags.output.force else None
    if job["seed"] is None:
        job["seed"] = resumed.job["seed"] if resumed else secrets.randbits(32)
    settings = settings_of(flags, config, job["seed"])
    model = None if flags.cluster.ray else flags.model.open(console, config)
    console.overwrite(keep=resumed.now.size if resumed else 0)
    if model:
        console.detail(f"{model.describe()}, seed {settings.request.seed}")
    output = Output(console.write, journal.Journal(kept, job) if kept else None, resumed)
    output.begin()
    rows = Rows(console, LineReader(source.file), output, line_count(source), settings.form)
    if resumed and output.state.rows:
        console.note(f"{rows.written} rows are in {path}; going on")
    if model:
        work(console, rows, model, settings, origin_of(model, checksum))
    else:
        work_on_ray(console, rows, flags, config, checksum, settings)
    if output.state.failed:
        raise RowsError(
            f"{output.state.failed} of {output.state.rows} rows failed",
            'see "error" in each of them',
        )


class Rows:
    """The rows of the input that are to be computed."""

    def __init__(
        self, console: Console, reader: LineReader, output: Output, total: int, form: str
    ) -> None:
        self._console, self._reader, self._form = console, reader, form
        self.output, self.total = output, total
        self.read = 0  # lines

    @property
    def written(self) -> str:
        """How many rows are written, of how many if that is known."""
        rows = self.output.state.rows
        return f"{rows} of {self.total}" if self.total else str(rows)

    def window(self, count: int, wait: bool) -> list[Line] | None:
        """The next lines that are not done; see `LineReader.window`."""
        lines = self._reader.window(count, wait)
        if lines is None:
            self.output.end(self.read)
            return None
        if not self.read and self._form == "json":  # a slip of the fingers is in all rows
            self._note_slips(lines)
        self.read += len(lines)
        return [line for line in lines if self.output.accept(line.number, line.data)]

    def _note_slips(self, lines: list[Line]) -> None:
        from gentool.batch.tasks import slips

        for name, meant in slips(lines).items():
            self._console.note(f'"{name}" of a row is no parameter, did you mean {meant}?')


def work(console: Console, rows: Rows, model: Model, settings: Settings, origin: Origin) -> None:
    """Computes the rows in this process, and writes them."""
    from gentool.batch import answers, local, tasks
    from gentool.batch.lines import WINDOW

    work = local.Work(
        model,
        lambda line: tasks.task(line, settings),
        lambda wait: rows.window(WINDOW, wait),
    )
    stopped, speed = 0.0, Speed(rows)
    with console.signals.deferred(), console.progress("row") as show:
        for outcomes in work.run():
            for outcome in outcomes:
                line = answers.line(outcome, origin)
                rows.output.put(outcome.task.number, line, bool(outcome.problem))
                speed.count(sum(len(sample.ids) for sample in outcome.samples))
            show(*speed.progress())
            if console.signals.received and not stopped:
                stopped = time.monotonic()
                work.drain()
            if stopped and time.monotonic() - stopped > STOP_SECONDS:
                break
    if stopped:
        raise stop(console, rows)


def work_on_ray(
    console: Console,
    rows: Rows,
    flags: Flags,
    config: ModelConfig,
    checksum: str,
    settings: Settings,
) -> None:
    """Computes the rows on a Ray cluster, block by block, and writes them."""
    from gentool.batch import journal, ray
    from gentool.batch.lines import WINDOW

    model, cluster = flags.model, flags.cluster
    opening = ray.Opening(config, checksum, model.precision, model.xla, model.threads)
    workers = ray.Workers(cluster.ray or "", cluster.num_workers, cluster.gpus_per_worker or 0.0)
    stopped, ended, speed = 0.0, False, Speed(rows)
    with ray.Pool(workers, opening, settings) as pool, console.progress("row") as show:
        console.signals.listen()  # Ray has handlers of its own
        with console.signals.deferred():
            while pool.computing or not ended:
                while pool.wants and not ended:
                    read = rows.read
                    block = rows.window(WINDOW, wait=not pool.computing)
                    ended = block is None
                    if block:
                        pool.submit(block)
                    elif rows.read == read:  # else they are done: the next ones, without a wait
                        break
                for lines, answers in pool.results():
                    for line, answer in zip(lines, answers, strict=True):
                        rows.output.put(line.number, answer, journal.failed(answer))
                        speed.count(0)
                show(*speed.progress())
                if console.signals.received and not stopped:
                    stopped, ended = time.monotonic(), True
                if stopped and time.monotonic() - stopped > STOP_SECONDS:
                    break
        console.detail(f"{pool.ready} of {pool.count} workers opened the model")
    if stopped:
        raise stop(console, rows)


class Speed:
    """How fast rows are done, those of an earlier run left out."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self._start = rows, time.monotonic()
        self._done, self._tokens, self._earlier = 0, 0, rows.output.done

    def count(self, tokens: int) -> None:
        """Counts a row that is done."""
        self._done, self._tokens = self._done + 1, self._tokens + tokens

    def progress(self) -> tuple[int, int, float, str]:
        """What `Console.progress` shows: rows done, all rows, seconds left, and the speed."""
        seconds, done = time.monotonic() - self._start, self._earlier + self._done
        left = math.nan
        if self._rows.total and self._done:
            left = seconds / self._done * max(0, self._rows.total - done)
        speed = f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens else ""
        return done, self._rows.total, left, speed


def stop(console: Console, rows: Rows) -> SystemExit:
    """What ends a run that was interrupted."""
    goes_on = "; the same command goes on" if rows.output.resumable else ""
    console.note(f"{rows.written} rows written{goes_on}")
    return SystemExit(console.signals.received[0])


def check_paths(source: str, target: Path) -> None:
    """Raises UsageError where the output would overwrite the input."""
    if source != "-" and target.exists() and Path(source).samefile(target):
        raise UsageError(f"{target} is the input, too", "give another --output")


def job_of(flags: Flags, config: ModelConfig, checksum: str) -> dict[str, Any]:
    """What runs have in common whose rows can stand in one file."""
    job = {
        "command": "batch",
        "model": config.name,
        "model_sha256": checksum,
        "precision": flags.model.precision or config.precision,
        "xla": flags.model.xla,
        "batch_invariant": bool(flags.model.batch_invariant),
        "form": form_of(flags),
        "n": flags.draw.n or 1,
        "seed": flags.draw.seed,
        "sampling": asdict(sampling_params(config, {**flags.sampling, **flags.length})),
        "regex": flags.grammar.regex,
        "json_schema": flags.grammar.json_schema,
        "logprobs": flags.output.logprobs,
    }
    return json.loads(json.dumps(job))  # as it comes back from a journal


def settings_of(flags: Flags, config: ModelConfig, seed: int) -> Settings:
    """What holds for all rows."""
    from gentool.batch.tasks import Settings
    from gentool.generation.request import Request

    request = Request(
        prompts=(),
        rows=(),
        n=flags.draw.n or 1,
        sampling=sampling_params(config, {**flags.sampling, **flags.length}),
        seed=seed,
        batch_invariant=bool(flags.model.batch_invariant),
        logprobs=flags.output.logprobs,
        regex=flags.grammar.regex,
        json_schema=flags.grammar.json_schema,
    )
    return Settings(request, form_of(flags))


def form_of(flags: Flags) -> Literal["text", "json"]:
    """How a line is read."""
    return "text" if flags.rows.lines or flags.file.endswith(".txt") else "json"


def origin_of(model: Model, checksum: str) -> Origin:
    """What answers say of where they come from."""
    from gentool.batch.answers import Origin
    from gentool.batch.identity import processor

    return Origin(model.config.name, checksum, model.precision, processor())


command = Command(batch, Flags, EXAMPLES)
