"""`gentool train`: a recipe and a corpus in, a model folder out."""

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
    out: str = flag("--out", "RUN", "the folder of the run, made if need be", required=True)
    hours: float | None = flag(
        "--hours", "H", "end the run after H hours of learning", "", POSITIVE
    )


@dataclass(frozen=True)
class Flags:
    """What was given; None is nothing."""

    recipe: str = argument("recipe", "RECIPE.yaml")
    run: RunFlags = group("Training", RunFlags)


def train(console: Console, flags: Flags) -> None:
    """Trains a model from nothing, as a recipe says, and prints the folder it is in.

    The same command continues a run that was interrupted or killed.
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
    from gentool.training import trainer

    run = Path(flags.run.out)
    try:
        with console.progress() as show:
            for event in trainer.train(chosen, Path(flags.run.data), run, flags.run.hours):
                if isinstance(event, trainer.Note):
                    console.note(event.text)
                    continue
                text = f"loss {event.loss:.3f}, {event.tokens_per_second:,.0f} tokens/s"
                show(event.step, event.steps, event.seconds_left, text)
                if event.held_out is not None:
                    console.detail(f"step {event.step}: held-out loss {event.held_out:.3f}")
    except (KeyboardInterrupt, SystemExit):
        console.error(f"stopped, {run} is saved", "the same command continues it")
        raise
    except GentoolError as failure:
        if console.signals.received:  # it could not be saved, of which nobody else would tell
            console.error(failure.message, failure.hint)
        raise
    console.write(f"{run / 'model'}\n")


command = Command(train, Flags, EXAMPLES)
