"""Opens a model: checks its files against each other and loads the weights into a runtime."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from gentool import checkpoints, models, tokenizers
from gentool.checkpoints import TensorSource
from gentool.config.model import ModelConfig
from gentool.errors import GentoolError, ModelError, UsageError
from gentool.generation.session import Model
from gentool.models import adapter, peft, weights
from gentool.models.weights import Weight
from gentool.runtimes import Runtime, devices
from gentool.runtimes import xla as xla_runtime
from gentool.runtimes.memory import NotEnoughMemory
from gentool.tokenizers import Tokenizer

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
INTEGERS = ("int8", "int4")
LITERT_PRECISIONS = ("fp32", *INTEGERS)
PRECISIONS = ("auto", *DTYPES, *INTEGERS)
BITS = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int4": 4}  # of a weight
MAX_FP32_BYTES = 1 << 30  # of a 16-bit file that is opened in fp32


class ModelFiles(NamedTuple):
    """The open files of a model. The weights are planned but not read. `config` has the numbers of
    the model as it is with its adapters."""

    config: ModelConfig
    tokenizer: Tokenizer | None
    family: ModuleType
    source: TensorSource
    plan: Mapping[str, Weight]


def open_files(config: ModelConfig) -> ModelFiles:
    """Opens a model's files, and checks that they belong to the same model."""
    tokenizer = tokenizers.load(config.tokenizer, config.folder) if config.tokenizer else None
    if config.tokenizer and tokenizer:
        unused_rows = config.arch.n_vocab - tokenizer.n_vocab
        # some rows without a piece are usual; with many it may be the other vocabulary of GPT2_ML
        if unused_rows < 0 or (config.tokenizer.kind == "wordpiece" and unused_rows > 1000):
            raise ModelError(
                f"{config.folder / config.tokenizer.model} has {tokenizer.n_vocab} pieces,"
                f" {config.name} has {config.arch.n_vocab}",
                "they belong to different models: name its own with --set tokenizer.model=FILE",
            )
    source = checkpoints.open_checkpoint(config.folder / config.checkpoint, config.format)
    family = models.load_family(config.family)
    arch = config.arch
    try:
        plan = weights.plan(source, family, arch)
        weights.check_head(source, plan)
    except ModelError as e:
        raise ModelError(f"{source.files[0]}: {e.message}", e.hint) from None
    if config.adapter:
        adapters = [peft.read_adapter(config.folder / a, family, arch) for a in config.adapter]
        source, plan, arch = adapter.adapted(source, plan, family, arch, adapters)
        config = config.model_copy(update={"arch": arch})
    return ModelFiles(config, tokenizer, family, source, plan)


def auto_precision(plan: Mapping[str, Weight]) -> str:
    """The precision `auto` for planned weights: fp32, which keeps the file's values exactly, if
    that takes at most MAX_FP32_BYTES or the file is in fp32; else the file's 16 bits, which need no
    copy; int8 or int4 where the file is quantised."""
    stored = {weight.dtype.name for weight in plan.values()}
    if integers := stored & set(INTEGERS):
        return min(integers)  # int4 folders have int8 products, too
    size = 4 * sum(math.prod(weight.shape) for weight in plan.values())
    precisions = [name for name, dtype in DTYPES.items() if stored == {dtype}]
    return precisions[0] if precisions and size > MAX_FP32_BYTES else "fp32"


def open_model(
    config: ModelConfig,
    precision: str | None = None,
    xla: bool | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Opens what a YAML describes. `precision` is how weights are stored, auto is `auto_precision`;
    products of 16-bit weights are summed in float32. On a CPU fp32, int8 and int4 run on LiteRT,
    with `threads` (None: a core each); 16 bits, GPUs, and any model where `xla` is True or False
    run on TensorFlow: see `gentool.runtimes.xla.backend`. `progress` gets the bytes of weights that
    LiteRT has prepared and of all, where it must: the first time that a model is opened.

    Raises:
        GentoolError: the weights need more memory than is free; those of a mapped file need none.
    """
    precision = precision or config.precision
    if precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}", f"it can be {', '.join(PRECISIONS)}")
    config, tokenizer, family, source, plan = open_files(config)
    best = auto_precision(plan)
    precision = best if precision == "auto" else precision
    if best in INTEGERS and precision != best:
        raise UsageError(
            f"precision is {precision}, the weights of {config.name} are {best}",
            "leave it out, or open the weights that they were made of",
        )
    runtime: Runtime
    try:
        if runs_on_litert(precision, xla):
            from gentool.runtimes import litert

            report = progress or (lambda done, total: None)
            runtime = litert.load()(family, config.arch, plan, source, precision, threads, report)
        else:
            open_runtime = xla_runtime.load()
            runtime = open_runtime(family, config.arch, source, plan, DTYPES[precision], xla)
    except NotEnoughMemory as e:
        smaller = [p for p in INTEGERS if BITS[p] < BITS[precision]]
        ways = smaller if runs_on_litert("fp32", xla) else []
        raise _too_large(config.name, plan, precision, ways, e) from None
    return Model(config, tokenizer, runtime, precision, plan)


def _too_large(
    name: str,
    plan: Mapping[str, Weight],
    precision: str,
    smaller: Sequence[str],
    short: NotEnoughMemory,
) -> GentoolError:
    """The error of a model that does not fit into memory; `smaller` precisions may."""
    count = sum(math.prod(weight.shape) for weight in plan.values())
    ways = [f"--precision {p} (about {count * BITS[p] / 8e9:.1f} GB)" for p in smaller]
    return GentoolError(
        f"{name} in {precision} needs {short.needed / 1e9:.1f} GB of memory,"
        f" {short.free / 1e9:.1f} GB are free",
        f"give {', '.join([*ways, 'a smaller model'])}, or close other programs",
    )


def runs_on_litert(precision: str, xla: bool | None) -> bool:
    """The rule of runtimes; UsageError where a precision has none."""
    reason = ""
    if xla is not None:
        reason = f"--{'xla' if xla else 'no-xla'} runs on TensorFlow"
    elif devices.has_gpu():
        reason = "a GPU runs on TensorFlow"
    elif not devices.has_litert():
        reason = "ai-edge-litert is not installed: this platform may have no wheel of it"
    if reason and precision in INTEGERS:
        raise UsageError(
            f"precision is {precision}, and {reason}", "give --precision fp32, fp16 or bf16"
        )
    return not reason and precision in LITERT_PRECISIONS
