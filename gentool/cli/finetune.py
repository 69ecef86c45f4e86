"""`gentool finetune`: adapts a model to the user's texts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gentool.cli.console import Console
from gentool.cli.flags import DEFAULT_MODEL, NON_NEGATIVE, POSITIVE, SEED_NUMBER, SET, TEXT
from gentool.cli.options import Command, argument, flag, group, repeated, switch
from gentool.cli.training import follow
from gentool.cli.values import number, one_of
from gentool.errors import UsageError

EXAMPLES = """
gentool finetune --data poems.txt -o poet
gentool complete -m poet "床前"
gentool finetune -m llama-3.2-1b --data poems.txt -o adapter --lora-rank 16
gentool finetune recipe.yaml --data corpus/ -o poet --optimizer adafactor --recompute
"""

FRACTION = number(float, 0, 0.999)
PERCENT = number(int, 0, 90)
RANK, ROWS, STEPS = number(int, 1, 2**16), number(int, 1, 2**20), number(int, 1, 10**9)


@dataclass(frozen=True)
class DataFlags:
    """What is learnt, and where the result goes."""

    model: str | None = flag(
        "-m --model", "MODEL", "a name, a folder or a YAML file", DEFAULT_MODEL
    )
    set: tuple[tuple[str, str], ...] = repeated(*SET)
    data: tuple[str, ...] = repeated(
        "--data", "FILE", "a .txt, .txt.zst or .jsonl file, or a folder of them", TEXT
    )
    output: str = flag("-o --output", "DST", "the folder of the result", required=True)
    documents: str | None = flag(
        "--documents",
        "WHAT",
        "what separates documents: blank-lines, lines or files",
        "blank-lines",
        one_of("blank-lines", "lines", "files"),
    )
    held_out: int | None = flag(
        "--held-out", "PERCENT", "of the documents, to evaluate with", "5", PERCENT
    )
    chat_template: str | None = flag(
        "--chat-template", "FILE|NAME", "of conversations: a template's file or name", "the model's"
    )
    length: int | None = flag("--length", "N", "tokens of a row", "256", number(int, 2, 2**24))


@dataclass(frozen=True)
class OptimizerFlags:
    """How it is learnt."""

    lora_rank: int | None = flag(
        "--lora-rank", "N", "train LoRA factors of this rank only", "all weights", RANK
    )
    lora_alpha: float | None = flag("--lora-alpha", "X", "LoRA's alpha", "twice the rank", POSITIVE)
    optimizer: str | None = flag(
        "--optimizer", "NAME", "adamw or adafactor", "adamw", one_of("adamw", "adafactor")
    )
    learning_rate: float | None = flag(
        "--learning-rate", "X", "the full rate", "1e-4; 1e-3 for LoRA, AdaFactor", POSITIVE
    )
    epochs: float | None = flag("--epochs", "X", "how often each text is learnt", "3", POSITIVE)
    batch: int | None = flag("--batch", "N", "rows of a batch", "8", ROWS)
    accumulate: int | None = flag("--accumulate", "N", "batches of a step", "1", ROWS)
    warmup: float | None = flag("--warmup", "X", "of the run, with a rising rate", "0.05", FRACTION)
    weight_decay: float | None = flag("--weight-decay", "X", "of matrices", "0.01", NON_NEGATIVE)
    clip: float | None = flag("--clip", "X", "largest norm of a gradient", "1", POSITIVE)
    dropout: float | None = flag("--dropout", "X", "of what a layer adds", "0", FRACTION)
    precision: str | None = flag(
        "--precision",
        "NAME",
        "of products and activations: bf16, fp16 or fp32",
        "bf16",
        one_of("bf16", "fp16", "fp32"),
    )
    recompute: bool | None = switch(
        "--recompute", "compute layers again for their gradients: slower, less memory"
    )


@dataclass(frozen=True)
class RunFlags:
    """What is seen of the run."""

    evaluate_every: int | None = flag(
        "--evaluate-every",
        "N",
        "steps between evaluations; the best weights are kept",
        "10 times a run",
        STEPS,
    )
    seed: int | None = flag("--seed", "N", "the same seed gives the same weights", "1", SEED_NUMBER)
    plot: str | None = flag("--plot", "FILE", "plot the loss as .svg or .png")


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    recipe: str | None = argument("recipe", "[RECIPE.yaml]", required=False)
    data: DataFlags = group("Data", DataFlags)
    optimizer: OptimizerFlags = group("Training", OptimizerFlags)
    run: RunFlags = group("Run", RunFlags)


# A flag -> its key in a recipe.
KEYS = {
    "model": "model",
    "data": "data",
    "documents": "documents",
    "chat_template": "chat_template",
    "held_out": "held_out",
    "length": "length",
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "optimizer": "optimizer.method",
    "evaluate_every": "evaluate_every",
    "seed": "seed",
}
IN_OPTIMIZER = (
    "learning_rate",
    "epochs",
    "batch",
    "accumulate",
    "warmup",
    "weight_decay",
    "clip",
    "dropout",
    "precision",
    "recompute",
)


def given_keys(flags: Flags) -> dict[str, Any]:
    """What the flags say, by its dotted key in a recipe."""
    keys = KEYS | {name: f"optimizer.{name}" for name in IN_OPTIMIZER}
    values = {**vars(flags.data), **vars(flags.optimizer), **vars(flags.run)}
    values["data"] = list(flags.data.data)
    return {key: values[name] for name, key in keys.items() if values[name] not in (None, [])}


def finetune(console: Console, flags: Flags) -> None:
    """Adapts a model to texts, and prints the folder of the result.

    DST is a model folder; with --lora-rank, an adapter that PEFT reads, too. Documents are
    separated by blank lines, a row of JSONL is one under the key text; the end of each is learnt.
    Of messages under the key messages, the answers of the assistant are learnt.
    The same command continues a run that was interrupted or killed, and ends with the same weights.
    DST keeps its log, training/log.jsonl. RECIPE.yaml may give all settings; flags override them.
    """
    from gentool.training import recipe

    if flags.recipe and Path(flags.recipe).suffix not in (".yaml", ".yml"):
        raise UsageError(
            f"the recipe {flags.recipe} is not a YAML file",
            "repeat --data before each file of texts",
        )
    path = Path(flags.recipe) if flags.recipe else None
    given = given_keys(flags)
    chosen = recipe.finetune(path, given, DEFAULT_MODEL)

    from gentool.config import lookup
    from gentool.training import loss_plot, texts

    texts.find(chosen.data)
    if flags.run.plot:
        loss_plot.check(flags.run.plot)
    overrides: dict[str, object] = dict(flags.data.set)
    if template := chosen.chat_template:
        is_file = lookup.is_template_file(template)
        overrides["chat_template"] = os.path.abspath(template) if is_file else template
    config = lookup.load(chosen.model, overrides)
    target = Path(flags.data.output)

    from gentool.generation import opening
    from gentool.runtimes.xla import device

    files = opening.open_files(config)
    device.setup()
    from gentool.training import finetune

    finetune.check_target(target)
    finetune.check_model(chosen, files)
    finetune.check_memory(chosen, files)
    run = target / finetune.RUN
    try:
        follow(console, finetune.finetune(chosen, files, target), run)
    finally:
        if flags.run.plot:
            loss_plot.save(run, flags.run.plot)
    if chosen.lora:
        console.after(f'gentool complete -m {chosen.model} --adapter {target} "…"')
    console.write(f"{target}\n")


command = Command(finetune, Flags, EXAMPLES)
