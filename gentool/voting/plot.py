"""Plots a vote as bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gentool.errors import GentoolError, UsageError
from gentool.voting.tally import Tally

MAX_BARS = 20
BOXES = "Last Resort High-Efficiency"  # matplotlib's font that has a box for every character
PREFERRED = (  # fonts with Chinese characters of Linux, macOS and Windows, before any others
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


def save(tally: Tally, title: str, path: Path) -> Path:
    """Writes the shares of the answers with their bounds to a .png or .svg. Where the fonts of this
    machine lack a character, a .png would show boxes: an .svg of the same name is written instead,
    whose text is drawn by the reader's fonts. Returns the path of what was written."""
    import logging
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # names missing fonts
    answers = tally.answers[:MAX_BARS][::-1]
    fonts, missing = _fonts({*title, *(c for answer in answers for c in answer.text)})
    path = path.with_suffix(".svg") if missing else path
    settings: dict[Any, Any] = {
        "font.family": fonts,
        "svg.fonttype": "none",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing characters
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
        try:
            figure.savefig(path, dpi=150)
        except OSError as e:
            raise GentoolError(f"cannot write {path}: {e.strerror}", "check --plot") from e
    return path


def _fonts(characters: set[str]) -> tuple[list[str], set[str]]:
    """The fonts to draw these characters with, the preferred ones first, whether they are here or
    only where an .svg is read; and the characters that no font of this machine has."""
    from matplotlib.font_manager import fontManager

    missing = {c for c in characters if not c.isspace()}
    files = {font.name: font.fname for font in fontManager.ttflist if font.name != BOXES}
    fonts = list(PREFERRED)
    for name in [*filter(files.__contains__, PREFERRED), *files]:
        has = _characters(files[name]) & missing if missing else set()
        missing -= has
        fonts += [name] if has and name not in fonts else []
    return fonts, missing


def _characters(font_file: str) -> set[str]:
    """The characters of a font; none of one that matplotlib cannot draw with."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(font_file)
        return set(map(chr, font.get_charmap())) if font.scalable else set()
    except (OSError, RuntimeError, ValueError):
        return set()
