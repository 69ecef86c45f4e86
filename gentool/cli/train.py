"""`gentool train`: trains a model on a corpus by a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gentool.cli.console import Console
from gentool.cli.flags import POSITIVE
from gentool.cli.options import Command, argument, flag, group
from gentool.cli.training import follow
from gentool.errors import UsageError

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
    from gentool.training import pretrain

    run = Path(flags.run.out)
    follow(console, pretrain.train(chosen, Path(flags.run.data), run, flags.run.hours), run)
    console.write(f"{run / 'model'}\n")


command = Command(train, Flags, EXAMPLES)
