"""`gentool train`: trains a model on a corpus by a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gentool.cli.console import Console
from gentool.cli.flags import POSITIVE
from gentool.cli.options import Command, argument, flag, group
from gentool.errors import GentoolError, UsageError

EXAMPLES = """
gentool train configs/train/tiny-zh.yaml --data CORPUS --out RUN --hours 2
gentool complete -m RUN/model "今天天气不错"
"""


@dataclass(frozen=True)
class RunFlags:
    """What is trained on, where and how long."""

    data: str = flag(
        "--data", "DIR", "the corpus: a folder of .txt or .txt.zst files", required=True
    )
    out: str = flag("--out", "RUN", "the folder of the run, made if it is missing", required=True)
    hours: float | None = flag("--hours", "H", "end the run after H hours of steps", "", POSITIVE)


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    recipe: str = argument("recipe", "RECIPE.yaml")
    run: RunFlags = group("Training", RunFlags)


def train(console: Console, flags: Flags) -> None:
    """Trains a model from scratch by a recipe, and prints the folder of the finished model.

    The same command continues a run that was interrupted or killed. Until the first step is done
    the recipe may be changed.
    """
    from gentool.training import recipe

    chosen = recipe.load(Path(flags.recipe))
    if not Path(flags.run.data).is_dir():
        raise UsageError(
            f"--data {flags.run.data} is not a folder", "give the folder of the corpus"
        )

    from gentool.training import corpus

    for name in chosen.data.sources:
        corpus.locate(Path(flags.run.data), name)

    from gentool.runtimes.xla import device

    device.setup()
    from gentool.training import pretrain, trainer
    from gentool.training.run_folder import CHECKPOINT

    run = Path(flags.run.out)
    try:
        with console.progress() as show:
            for event in pretrain.train(chosen, Path(flags.run.data), run, flags.run.hours):
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
        if console.signals.received:  # the save failed, and nothing else would report that
            console.error(failure.message, failure.hint)
        raise
    console.write(f"{run / 'model'}\n")


command = Command(train, Flags, EXAMPLES)
