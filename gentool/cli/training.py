"""What `train` and `finetune` show of a run, and what they say when it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gentool.cli.console import Console
from gentool.errors import GentoolError

if TYPE_CHECKING:
    from gentool.training.trainer import Note, Progress


def follow(console: Console, events: Iterator[Note | Progress], run: Path) -> None:
    """Shows the steps of a run in folder `run` as they are done, until it ends or is stopped."""
    from gentool.training.run_folder import CHECKPOINT
    from gentool.training.trainer import Note

    try:
        with console.progress() as show:
            for event in events:
                if isinstance(event, Note):
                    console.note(event.text)
                    continue
                loss = "overflow" if event.loss is None else f"loss {event.loss:.3f}"
                text = f"{loss}, {event.tokens_per_second:,.0f} tokens/s"
                show(event.step, event.steps, event.seconds_left, text)
                if event.held_out is not None:
                    console.detail(f"step {event.step}: held-out loss {event.held_out:.3f}")
    except (KeyboardInterrupt, SystemExit):
        saved = (run / CHECKPOINT).exists()
        console.error(
            f"stopped, {run} is saved" if saved else "stopped, no step done",
            "the same command continues it",
        )
        raise
    except GentoolError as failure:
        if console.signals.received:  # the save failed, and nothing else would report that
            console.error(failure.message, failure.hint)
        raise
