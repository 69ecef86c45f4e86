"""What this machine does with a model, in numbers: cold start, load, compilation, prefill,
decoding, votes, memory; beside them what the machine could do. Everything is measured `repeat`
times after a turn that warms up and does not count.

Measurements are generators: they yield what they do before each turn and return their results, so
that the caller can show them while they run.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from gentool import __version__
from gentool.config.model import ModelConfig
from gentool.config.sampling import SamplingParams
from gentool.errors import GentoolError
from gentool.generation import opening
from gentool.generation.request import Request
from gentool.generation.session import Model
from gentool.runtimes.xla import device
from gentool.voting.tally import Ballot

if TYPE_CHECKING:  # TensorFlow comes in when a model is opened
    from gentool.decoding.engine import Engine
    from gentool.models.transformer import Params

T = TypeVar("T")
Turns = Generator[str, None, T]  # yields what the next turn does, returns what was found

PROMPT = "今天天气不错"
SUMS = "3+5=8\n6+1=7\n4+4=8\n9+2=11\n7+5=12\n2+6="
ANSWER_TOKENS = 8
SAMPLES = 300
DECODE_PROMPT = 16  # tokens
SEED = 1
GIB = 1 << 30
SIDE = 2048  # of the matrices whose product is the machine's rate
ALIGNED = 64  # bytes, which TensorFlow wants
GATHERED = {"position", "top_query"}  # tables of which a step reads a row a token

# Turns of a run, beside one for each batch, and how many short ones each takes about as long as.
WEIGHTS = {
    "cold start": 12,
    "load": 1,
    "prefill": 1,
    "vote": 1,
    "steps of 300 rows and of one": 1,
    "compilation": 4,
    "reading memory": 1,
    "products of float32": 1,
    "products of bfloat16": 1,
}


class Plan(NamedTuple):
    """What is measured: a prefill of so many tokens, so many tokens of each row of each batch."""

    prompt_tokens: int = 512
    generate: int = 64
    batch: tuple[int, ...] = (1, 8, 64)
    repeat: int = 5
    cold_start: bool = True

    @property
    def weight(self) -> int:
        """Of all turns together."""
        cold = 0 if self.cold_start else WEIGHTS["cold start"]
        return (self.repeat + 1) * (sum(WEIGHTS.values()) - cold + len(self.batch))


class Result(NamedTuple):
    """A quantity, once for each time it was measured; none if it was skipped, for a reason."""

    name: str
    unit: str
    values: tuple[float, ...]
    batch: int | None = None
    skipped: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


class Size(NamedTuple):
    """Parameters of a model, and bytes of them; `read` bytes are those a decode step reads: tables
    of which it gathers a row are left out. `inner` and `outer` parameters are those of products in
    the layers and in the head, each of which is a multiplication and an addition a row."""

    parameters: int
    bytes: int
    read: int
    inner: int
    outer: int


class Report(NamedTuple):
    machine: Mapping[str, object]
    model: Mapping[str, object]
    settings: Mapping[str, object]
    results: tuple[Result, ...]
    notes: tuple[str, ...]


def run(
    config: ModelConfig, precision: str | None, xla: bool | None, options: Sequence[str], plan: Plan
) -> Turns[Report]:
    """Measures a model. `options` are those that have a fresh process open the same one."""
    load = os.getloadavg()[0]
    found: list[Result] = []
    if plan.cold_start:
        found += yield from cold_start(config, options, plan.repeat)
    compile_anew()
    device.setup()
    found.append(peak("memory_tensorflow"))
    model, loads = yield from opened(config, precision, xla, plan.repeat)
    found += loads
    engine = model.engine
    size = sized(engine.params)
    context = config.arch.n_ctx
    start = min(DECODE_PROMPT, max(1, context // 2))
    cut = plan._replace(
        prompt_tokens=min(plan.prompt_tokens, context), generate=min(plan.generate, context - start)
    )
    ids = some_ids(config.arch.n_vocab, max(cut.prompt_tokens, start))
    law = drawing(config.sampling)
    found += yield from prefill(engine, ids[: cut.prompt_tokens], size, plan.repeat)
    for n in plan.batch:
        found += yield from decode(engine, ids[:start], law, n, cut.generate, size, plan.repeat)
    found += yield from vote(model, law, plan.repeat)
    found.append(peak("memory_peak"))  # before graphs are made again and again
    found += yield from graphs(engine, ids[: cut.prompt_tokens], cut.generate, plan.repeat)
    machine = yield from rates(plan.repeat)
    found += shares(found, machine, model.precision)
    settings = cut._asdict() | {"decode_prompt_tokens": start, "law": dataclasses.asdict(law)}
    return Report(
        this_machine() | {"load_average": round(load, 2)},
        about(model, size),
        settings,
        (*found, *machine),
        (*cuts(plan, cut, context), *cautions(load, size)),
    )


def repeated(title: str, repeat: int, once: Callable[[], T]) -> Turns[list[T]]:
    """What `once` gives, `repeat` times after a time that does not count."""
    found = []
    for _ in range(repeat + 1):
        yield title
        found.append(once())
    return found[1:]


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def result(name: str, unit: str, values: Sequence[float], batch: int | None = None) -> Result:
    return Result(name, unit, tuple(float(value) for value in values), batch)


def skipped(name: str, unit: str, reason: str) -> list[Result]:
    return [Result(name, unit, (), skipped=reason)]


# Processes


def cold_start(config: ModelConfig, options: Sequence[str], repeat: int) -> Turns[list[Result]]:
    """Seconds from starting `gentool complete` to its first character; and from starting Python to
    the end of `import tensorflow`, which brings Keras where gentool does not; in turns, so that
    both meet the same machine. How long either process takes to end is not counted."""
    if config.tokenizer is None:
        return skipped("cold_start", "s", f"{config.name} has no tokenizer")
    complete = ["-m", "gentool", "complete", PROMPT, "--max-tokens", "1", "--seed", str(SEED)]
    imports = ["-c", "import tensorflow; print(flush=True)"]

    def pair() -> tuple[float, float]:
        return first_character([*complete, *options]), first_character(imports)

    try:
        pairs = yield from repeated("cold start", repeat, pair)
    except GentoolError as e:
        return skipped("cold_start", "s", e.message)
    return [
        result("cold_start", "s", [ours for ours, _ in pairs]),
        result("import_tensorflow", "s", [theirs for _, theirs in pairs]),
        result("cold_start_ratio", "x", [ours / theirs for ours, theirs in pairs]),
    ]


def first_character(arguments: Sequence[str]) -> float:
    """Seconds from starting Python to the first byte it prints."""
    # what GENTOOL_ variables say is among the arguments
    env = {key: value for key, value in os.environ.items() if not key.startswith("GENTOOL_")}
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=env,
        ) as process:
            try:
                assert process.stdout
                first = process.stdout.read(1)
                took = time.perf_counter() - began
                process.stdout.read()
            except BaseException:
                process.kill()
                raise
        if process.returncode or not first:
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines() or ["no message"]
            errors = [line for line in lines if line.startswith("error: ")]
            why = errors[0].removeprefix("error: ") if errors else lines[-1]
            raise GentoolError(f"a fresh process failed: {why}", "run gentool complete to see more")
    return took


def compile_anew() -> None:
    """Has TensorFlow, which is not imported yet, neither use nor keep compiled programs: those of
    an earlier run would make compiling look free. A cold start does use them, as everybody's."""
    said = os.environ.get("TF_XLA_FLAGS", "")
    if device.CACHE_FLAG not in said and (not said or said.startswith("--")):
        os.environ["TF_XLA_FLAGS"] = f"{said} {device.CACHE_FLAG}=".strip()


def opened(
    config: ModelConfig, precision: str | None, xla: bool | None, repeat: int
) -> Turns[tuple[Model, list[Result]]]:
    """The model, and seconds to open it where TensorFlow is imported and the files are in the
    page cache; the model before is forgotten first."""
    took: list[float] = []
    results: list[Result] = []
    for _ in range(repeat + 1):
        yield "load"
        model = None
        gc.collect()
        began = time.perf_counter()
        model = opening.open_model(config, precision, xla)
        took.append(time.perf_counter() - began)
        results = results or [peak("memory_load")]
    assert model is not None
    return model, [result("load", "s", took[1:]), *results]


# The engine


def sized(params: Params) -> Size:
    """Counts the weights of a model."""
    top, layers = params
    gathered = GATHERED | ({"embedding"} if "head" in top else set())
    named = [*top.items(), *(item for layer in layers for item in layer.items())]
    weights = [weight for _, weight in named]
    read = [weight for name, weight in named if name not in gathered]
    products = sum(count(weight) for weight in read if len(weight.shape) > 1)
    outer = count(top["head"] if "head" in top else top["embedding"])
    return Size(
        sum(map(count, weights)),
        sum(count(weight) * weight.dtype.size for weight in weights),
        sum(count(weight) * weight.dtype.size for weight in read),
        products - outer,
        outer,
    )


def count(weight: Any) -> int:
    return math.prod(weight.shape)


def some_ids(n_vocab: int, length: int) -> list[int]:
    """Random token ids, the same every time."""
    ids: list[int] = np.random.default_rng(0).integers(n_vocab, size=length).tolist()
    return ids


def drawing(law: SamplingParams) -> SamplingParams:
    """The model's own law, unless that draws nothing."""
    return dataclasses.replace(law, temperature=law.temperature or 1.0)


def prefill(engine: Engine, ids: list[int], size: Size, repeat: int) -> Turns[list[Result]]:
    """A prompt of these ids to the logits after its last one; the head runs on that one alone."""
    took = yield from repeated("prefill", repeat, lambda: seconds(lambda: engine.prefill(ids)))
    work = 2 * (size.inner * len(ids) + size.outer)
    return [
        result("prefill_time", "s", took),
        result("prefill_speed", "tokens/s", [len(ids) / s for s in took]),
        result("prefill_rate", "GFLOP/s", [work / s / 1e9 for s in took]),
    ]


def decode(
    engine: Engine,
    ids: list[int],
    law: SamplingParams,
    n: int,
    generate: int,
    size: Size,
    repeat: int,
) -> Turns[list[Result]]:
    """`generate` tokens for each of n samples after one prompt, as independent rows that no token
    ends. A step is a token of every row: the engine's work, filters and draws. The first tokens are
    drawn from the logits of the prompt, so there is a step less than tokens."""
    if generate < 2:
        return skipped("decode_step", "ms", "the context has no room for two tokens")
    from gentool.decoding import loop

    how = loop.How(law, SEED)
    limits = loop.Limits(0, (generate,), generate, frozenset())
    rows = [loop.Row(0, 0, sample) for sample in range(n)]
    prefix, logits = engine.prefill(ids)
    prompt = loop.Prompt(np.array(ids), prefix, logits[0])

    def step() -> float:
        steps = loop.decode(engine, [prompt], rows, how, limits, set())
        next(steps)
        return seconds(lambda: collections.deque(steps, maxlen=0)) / (generate - 1)

    title = "decoding 1 row" if n == 1 else f"decoding {n} rows"
    took = yield from repeated(title, repeat, step)
    work = 2 * n * (size.inner + size.outer)
    return [
        result("decode_step", "ms", [1000 * s for s in took], n),
        result("decode_speed", "tokens/s", [n / s for s in took], n),
        result("decode_bandwidth", "GB/s", [size.read / s / 1e9 for s in took], n),
        result("decode_rate", "GFLOP/s", [work / s / 1e9 for s in took], n),
    ]


def graphs(engine: Engine, ids: list[int], room: int, repeat: int) -> Turns[list[Result]]:
    """For a prefill of these ids and for a step of one row: seconds to trace (Python builds the
    graph of one shape), and to compile: what the first execution of that graph takes beyond a
    warm one, which is XLA's work, or without XLA that of TensorFlow's own optimiser."""
    import tensorflow as tf

    from gentool.decoding.engine import Engine

    prefix, _ = engine.prefill(ids)
    token = np.array([ids[:1]])

    def extend(it: Engine) -> Any:
        return it.extend([prefix], None, [0], [0], token, room)[0]

    block = extend(engine).blocks[0]
    copies = tuple((tf.Variable(k), tf.Variable(v)) for k, v in prefix.cells)
    of_prefill = inputs(prefix.cells[0][0].shape[1], copies, None, None)
    of_step = inputs(1, block.cells, block.prefix, block.exists)

    def once() -> tuple[float, ...]:
        fresh = Engine(engine.family, engine.arch, engine.params, engine.rules)
        calls = (of_prefill, lambda: fresh.prefill(ids)), (of_step, lambda: extend(fresh))
        return tuple(s for shape, call in calls for s in made(fresh, shape, call))

    found = yield from repeated("compilation", repeat, once)
    names = "prefill_trace prefill_compile step_trace step_compile".split()
    return [
        result(name, "s", took) for name, took in zip(names, zip(*found, strict=True), strict=True)
    ]


def made(fresh: Engine, shape: Sequence[Any], call: Callable[[], object]) -> tuple[float, float]:
    """Seconds to trace and to compile the step that `call` runs, whose inputs have this shape."""
    traced = seconds(lambda: fresh.step.get_concrete_function(*shape))
    first, *warm = (seconds(call) for _ in range(4))
    return traced, first - min(warm)


def inputs(t: int, cells: Any, prefix: Any, exists: Any) -> tuple[Any, ...]:
    """Inputs of `Engine.step` for t tokens of one row, whose cells are [G, M, E] a layer."""
    import tensorflow as tf

    slots = cells[0][0].shape[1]
    ints = functools.partial(tf.zeros, dtype=tf.int32)
    ids, positions, slot, wanted, held = map(ints, ([1, t], [1, t], [], [1], [1, slots]))
    seen = tf.zeros([1, t, slots], tf.bool)
    return ids, positions, slot, wanted, held, seen, cells, prefix, exists


def vote(model: Model, law: SamplingParams, repeat: int) -> Turns[list[Result]]:
    """A vote of few-shot sums by a tree of samples, none of which it may leave out; and the same
    samples as independent rows. Both compute the prompt each time."""
    try:
        model.check(SUMS)
    except GentoolError as e:  # no tokenizer, or no room
        return skipped("vote", "s", e.message)
    law = dataclasses.replace(
        law, max_tokens=ANSWER_TOKENS, min_tokens=0, stop=("\n",), include_stop=False
    )
    request = Request(prompts=(SUMS,), rows=(0,), n=SAMPLES, sampling=law, seed=SEED)
    ballots = [Ballot(SAMPLES, curtail=False)]

    def pair() -> tuple[float, float]:
        return (
            seconds(lambda: collections.deque(model.votes(request, ballots), maxlen=0)),
            seconds(lambda: collections.deque(model.stream(request), maxlen=0)),
        )

    pairs = yield from repeated("vote", repeat, pair)
    ratio = statistics.median(rows / tree for tree, rows in pairs)
    most = yield from ceiling(model.engine, model.tokenizer.encode(SUMS), repeat)
    return [
        result("vote", "s", [tree for tree, _ in pairs]),
        result("vote_speed", "samples/s", [SAMPLES / tree for tree, _ in pairs]),
        result("rows", "s", [rows for _, rows in pairs]),
        result("rows_speed", "samples/s", [SAMPLES / rows for _, rows in pairs]),
        result("vote_ratio", "x", [rows / tree for tree, rows in pairs]),
        result("vote_ceiling", "x", most),
        result("vote_ratio_share", "%", [100 * ratio / times for times in most]),
    ]


def ceiling(engine: Engine, ids: list[int], repeat: int) -> Turns[list[float]]:
    """How many times longer a step of all samples takes than one of one row: what a tree could gain
    at most, whose every level were one node."""
    prefix, _ = engine.prefill(ids)

    def stepping(n: int) -> Callable[[], object]:
        tokens, rows, owner = np.zeros((n, 1), int), np.arange(n), np.zeros(n, int)
        tail, _ = engine.extend([prefix], None, owner, rows, tokens, room=ANSWER_TOKENS)

        def step() -> None:
            tail.rewind(np.ones(n, int))
            engine.extend([prefix], tail, owner, rows, tokens)

        return step

    many, one = stepping(SAMPLES), stepping(1)
    return (
        yield from repeated(
            "steps of 300 rows and of one", repeat, lambda: seconds(many) / seconds(one)
        )
    )


# The machine


def rates(repeat: int) -> Turns[list[Result]]:
    """What the machine reads and multiplies at most."""
    import tensorflow as tf

    read = yield from reading(repeat)
    fp32 = yield from multiplying("matrix_fp32", tf.float32, repeat)
    bf16 = yield from multiplying("matrix_bf16", tf.bfloat16, repeat)
    return [*read, *fp32, *bf16]


def reading(repeat: int) -> Turns[list[Result]]:
    """Reading 1 GiB, or a quarter of the memory that is left, with all cores in several ways, the
    best of which counts."""
    import tensorflow as tf

    size = min(GIB, max(memory().get("MemAvailable", GIB) // 4, 1 << 24)) // ALIGNED * ALIGNED
    # pages that were never written are no memory; products of these numbers are not subnormal
    space = np.full(size + ALIGNED, 0x3F, np.uint8)
    start = -space.ctypes.data % ALIGNED
    array = space[start : start + size].view(np.float32)
    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    parts = np.array_split(array, cores())
    graph = tf.function(tf.reduce_sum, autograph=False)
    compiled = tf.function(tf.reduce_sum, jit_compile=True, autograph=False)
    with ThreadPoolExecutor(len(parts)) as pool:
        ways = (
            lambda: list(pool.map(np.max, parts)),
            lambda: list(pool.map(lambda part: np.dot(part, part), parts)),
            lambda: graph(tensor).numpy(),
            lambda: compiled(tensor).numpy(),
        )
        best = yield from repeated("reading memory", repeat, lambda: min(map(seconds, ways)))
    return [result("read_bandwidth", "GB/s", [size / s / 1e9 for s in best])]


def multiplying(name: str, dtype: Any, repeat: int) -> Turns[list[Result]]:
    """Products of two matrices, in the graph or by XLA, whichever is quicker."""
    import tensorflow as tf

    x = tf.cast(tf.random.stateless_normal([SIDE, SIDE], [0, SEED]), dtype)

    def way(xla: bool) -> Callable[[], object]:
        multiply = tf.function(tf.matmul, jit_compile=xla, autograph=False)
        return lambda: multiply(x, x)[0, 0].numpy()

    ways = [way(False), way(True)]

    def best() -> float:
        return min(seconds(call) for call in ways)

    took = yield from repeated(f"products of {dtype.name}", repeat, best)
    return [result(name, "GFLOP/s", [2 * SIDE**3 / s / 1e9 for s in took])]


def shares(found: Sequence[Result], machine: Sequence[Result], precision: str) -> list[Result]:
    """What was reached, of what the machine does at most: per cent of its median. Products of bf16
    weights are held against those of bf16, all others against fp32."""
    most = {it.name: it.median for it in machine if it.values}
    matrix = "matrix_bf16" if precision == "bf16" else "matrix_fp32"
    of = {
        "prefill_rate": matrix,
        "decode_rate": matrix,
        "decode_bandwidth": "read_bandwidth",
    }
    return [
        result(f"{it.name}_share", "%", [100 * v / most[of[it.name]] for v in it.values], it.batch)
        for it in found
        if it.values and of.get(it.name) in most
    ]


def peak(name: str) -> Result:
    """The most memory this process ever held, files it has mapped included."""
    try:
        kb = int(fields("/proc/self/status")["VmHWM"].split()[0])
    except (OSError, KeyError):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        kb = most // 1024 if sys.platform == "darwin" else most
    return result(name, "MB", [kb * 1024 / 1e6])


def memory() -> dict[str, int]:
    """Bytes of memory by kind, as Linux says; nothing elsewhere."""
    try:
        said = fields("/proc/meminfo")
    except OSError:
        return {}
    return {key: int(value.split()[0]) * 1024 for key, value in said.items()}


def fields(path: str) -> dict[str, str]:
    """A file of lines `key: value`; the first of each key."""
    lines = Path(path).read_text("utf-8", "replace").splitlines()
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # of Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cache() -> int:
    """Bytes of the last-level cache, as Linux says; 0 elsewhere."""
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(size.read_text().strip().removesuffix("K")) << 10 for size in sizes), default=0)


def this_machine() -> dict[str, object]:
    import tensorflow as tf

    try:
        cpu = fields("/proc/cpuinfo")["model name"]
    except (OSError, KeyError):
        cpu = platform.processor() or platform.machine()
    return {
        "cpu": cpu,
        "cores": cores(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "memory_bytes": memory().get("MemTotal"),
        "cache_bytes": cache(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "gentool": __version__,
    }


def about(model: Model, size: Size) -> dict[str, object]:
    from gentool.runtimes.xla import backend as paths

    return {
        "name": model.config.name,
        "family": model.config.family,
        "precision": model.precision,
        "paths": paths.describe(model.engine.rules),
        "context": model.config.arch.n_ctx,
        "parameters": size.parameters,
        "bytes": size.bytes,
        "bytes_read_per_step": size.read,
        "parameters_in_products": size.inner + size.outer,
    }


def cuts(asked: Plan, done: Plan, context: int) -> list[str]:
    """What did not fit the context."""
    pairs = (
        ("prefill", asked.prompt_tokens, done.prompt_tokens),
        ("decoding", asked.generate, done.generate),
    )
    return [
        f"{what} is of {now} tokens, not {before}: the context is {context}"
        for what, before, now in pairs
        if now < before
    ]


def cautions(load: float, size: Size) -> list[str]:
    """Why the numbers may be other than they look."""
    found = []
    if load > 0.5 * cores():
        found.append(f"the machine was busy: {load:.1f} processes were running on {cores()} cores")
    if size.read < cache():
        found.append(
            f"the weights ({size.read / 1e6:.1f} MB a step) may stay in the cache"
            f" ({cache() / 1e6:.0f} MB), which is read faster than memory"
        )
    return found
