"""Plots the loss of a run."""

from __future__ import annotations

import logging
from pathlib import Path

from gentool.errors import GentoolError, UsageError
from gentool.training.run_folder import logged

SMOOTHED_STEPS = 20  # the darker line is a mean over about so many


def check(path: str) -> None:
    """Raises UsageError where the plot could not be written."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib, which is missing", "pip install 'gentool[plot]'"
        ) from None
    if Path(path).suffix not in ("", ".svg", ".png"):
        raise UsageError(f"--plot is {path}", "its name ends in .svg or .png")
    if not Path(path).absolute().parent.is_dir():
        raise UsageError(f"--plot is {path}, whose folder does not exist", "name another file")


def save(run: Path, path: str) -> None:
    """Writes the losses in a run's log, by step, as .svg unless the name ends in .png. Writes
    nothing where no step is done."""
    from matplotlib.figure import Figure

    steps = [row for row in logged(run) if isinstance(row.get("loss"), float)]
    if not steps:
        return
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    numbers = [row["step"] for row in steps]
    losses = [row["loss"] for row in steps]
    smooth = losses[0]
    smoothed: list[float] = []
    for loss in losses:
        smooth += (loss - smooth) / min(SMOOTHED_STEPS, len(smoothed) + 1)
        smoothed.append(smooth)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(numbers, losses, color="#bbccdd", linewidth=1, label="loss of a step")
    axes.plot(numbers, smoothed, color="#4477aa", label="its mean")
    if held := [row for row in steps if isinstance(row.get("held_out"), float)]:
        points = [row["step"] for row in held], [row["held_out"] for row in held]
        axes.plot(*points, "o-", color="#cc6633", markersize=3, label="held-out loss")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.legend(frameon=False)
    try:
        figure.savefig(path, dpi=150, format=Path(path).suffix[1:] or "svg")
    except OSError as e:
        raise GentoolError(f"cannot write {path}: {e.strerror}", "check --plot") from None
