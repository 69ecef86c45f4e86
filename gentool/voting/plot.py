"""Plots a vote as bars."""

from __future__ import annotations

from typing import Any

from gentool.errors import GentoolError, UsageError
from gentool.voting.tally import Tally

MAX_BARS = 20
FONTS = (  # with Chinese characters, of Linux, macOS and Windows
    "Noto Sans CJK SC",
    "Source Han Sans SC",
    "Noto Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Heiti SC",
    "Microsoft YaHei",
    "SimHei",
    "Arial Unicode MS",
    "DejaVu Sans",
)


def check() -> None:
    """Raises UsageError if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "--plot needs matplotlib, which is missing", "pip install 'gentool[plot]'"
        ) from None


def save(tally: Tally, title: str, path: str) -> bool:
    """Writes the shares of the answers with their bounds to a .png or .svg. Returns whether the
    fonts of this machine have all characters; text in an .svg is drawn by the reader's fonts."""
    import logging
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # names missing fonts
    answers = tally.answers[:MAX_BARS][::-1]
    settings: dict[Any, Any] = {
        "font.family": list(FONTS),
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(7, 1.2 + 0.35 * max(1, len(answers))), layout="constrained")
        axes = figure.add_subplot()
        for place, answer in enumerate(answers):
            axes.barh(place, answer.share, color="#4477aa" if answer is tally.winner else "#bbbbbb")
            if answer.low is not None and answer.high is not None:
                axes.plot([answer.low, answer.high], [place, place], color="black", linewidth=1)
        axes.set_yticks(range(len(answers)), [answer.text for answer in answers])
        axes.set_xlim(0, 1)
        exact = "probability (after temperature and filters)"
        axes.set_xlabel(exact if tally.way == "exact" else "share of the samples")
        axes.set_title(title, fontsize=9, loc="left", wrap=True)
        with warnings.catch_warnings(record=True) as missing:
            warnings.simplefilter("always")
            try:
                figure.savefig(path, dpi=150)
            except OSError as e:
                raise GentoolError(f"cannot write {path}: {e.strerror}", "check --plot") from e
    return path.endswith(".svg") or not missing
