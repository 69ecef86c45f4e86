"""`gentool train`: trains a model on a corpus by a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from gentool.cli import flags as tables
from gentool.cli import options, signals
from gentool.cli.console import Console
from gentool.errors import GentoolError, UsageError

EXAMPLES = """
gentool train configs/train/tiny-zh.yaml --data CORPUS --out RUN --hours 2
gentool complete -m RUN/model "今天天气不错"
"""


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    recipe: str
    data: str
    out: str
    hours: float | None


def train(console: Console, flags: Flags) -> None:
    """Trains a model from scratch by a recipe, and prints the folder of the finished model.

    The same command continues a run that was interrupted or killed. Until the first step is done
    the recipe may be changed.
    """
    from gentool.training import recipe

    chosen = recipe.load(Path(flags.recipe))
    if not Path(flags.data).is_dir():
        raise UsageError(f"--data {flags.data} is not a folder", "give the folder of the corpus")

    from gentool.training import corpus

    for name in chosen.data.sources:
        corpus.locate(Path(flags.data), name)

    from gentool.runtimes.xla import device

    device.setup()
    from gentool.training import trainer
    from gentool.training.run_folder import CHECKPOINT

    run = Path(flags.out)
    try:
        with console.progress() as show:
            for event in trainer.train(chosen, Path(flags.data), run, flags.hours):
                if isinstance(event, trainer.Note):
                    console.note(event.text)
                    continue
                text = f"loss {event.loss:.3f}, {event.tokens_per_second:,.0f} tokens/s"
                show(event.step, event.steps, event.seconds_left, text)
                if event.held_out is not None:
                    console.detail(f"step {event.step}: held-out loss {event.held_out:.3f}")
    except (KeyboardInterrupt, SystemExit):
        done = (
            f"stopped, {run} is saved" if (run / CHECKPOINT).exists() else "stopped, no step done"
        )
        console.error(done, "the same command continues it")
        raise
    except GentoolError as failure:
        if signals.came:  # the save failed, and nothing else would report that
            console.error(failure.message, failure.hint)
        raise
    console.write(f"{run / 'model'}\n")


TRAINING = [
    options.option(
        "--data", "DIR", "the corpus: a folder of .txt or .txt.zst files", required=True
    ),
    options.option("--out", "RUN", "the folder of the run, made if it is missing", required=True),
    options.option("--hours", "H", "end the run after H hours of steps", "", tables.POSITIVE),
]

command = options.Command(
    train,
    Flags,
    EXAMPLES,
    arguments=[click.Argument(["recipe"], metavar="RECIPE.yaml")],
    groups={"Training": TRAINING, "General": tables.GENERAL},
)
