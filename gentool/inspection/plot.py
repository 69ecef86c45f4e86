"""Draws what was found: a panel for each part that was inspected."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gentool.errors import GentoolError
from gentool.inspection.quantisation import ProductError
from gentool.inspection.sizes import Sizes
from gentool.inspection.untrained import Untrained

COLOR, MARKED = "#4477aa", "#cc3311"
BINS = 80
WIDTH, HEIGHT = 7.0, 2.6  # inches of a panel


def save(
    path: str,
    title: str,
    sizes: Sizes | None,
    untrained: Untrained | None,
    products: Sequence[ProductError],
) -> None:
    """Writes a .png, or an .svg to any other name."""
    import matplotlib
    from matplotlib.figure import Figure

    panels: list[Any] = []
    if sizes:
        panels.append(lambda axes: _parameters(axes, sizes))
    if untrained:
        panels.append(lambda axes: _scores(axes, untrained))
    if products:
        panels.append(lambda axes: _errors(axes, products))
    settings: dict[Any, Any] = {"svg.fonttype": "none", "text.parse_math": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, HEIGHT * max(1, len(panels))), layout="constrained")
        figure.suptitle(title, fontsize=10)
        for number, draw in enumerate(panels, 1):
            draw(figure.add_subplot(len(panels), 1, number))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a model's name in characters that no font here has
            try:
                figure.savefig(path, dpi=150, format="png" if path.endswith(".png") else "svg")
            except OSError as e:
                raise GentoolError(f"cannot write {path}: {e.strerror}", "check --plot") from e


def _parameters(axes: Any, sizes: Sizes) -> None:
    names = [name for name, count in sizes.parameters.items() if count][::-1]
    axes.barh(names, [sizes.parameters[name] / 1e6 for name in names], color=COLOR)
    axes.set_xlabel("million parameters")


def _scores(axes: Any, untrained: Untrained) -> None:
    axes.hist(untrained.scores, bins=BINS, color=COLOR, log=True)
    axes.axvline(untrained.limit, color=MARKED)
    axes.set_xlabel(f"embeddings: red is the limit, {len(untrained.low)} are beyond it")
    axes.set_ylabel("tokens")
    axes.yaxis.set_major_formatter("{x:g}")


def _errors(axes: Any, products: Sequence[ProductError]) -> None:
    at = np.arange(len(products))
    axes.plot(at, [product.int8 for product in products], ".", color=COLOR, label="int8")
    int4 = [np.nan if product.int4 is None else product.int4 for product in products]
    axes.plot(at, int4, ".", color=MARKED, label="int4")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("products, in the order of computation")
    axes.set_ylabel("relative error")
    axes.legend()
