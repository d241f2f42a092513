"""How the figures of the benchmarks look: legible in black and white, and with any colour vision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.figure import Figure

# Okabe and Ito's colours, of different lightness; markers, lines and hatching say the same without colour.
BLACK, GREY, BLUE, SKY = "#000000", "#777777", "#0072B2", "#56B4E9"
ORANGE, GREEN, PURPLE = "#E69F00", "#009E73", "#CC79A7"
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def style() -> AbstractContextManager[None]:
    """The context in which figures are drawn."""
    return plt.rc_context(_STYLE)


def panels(n_rows: int, n_columns: int, size: tuple[float, float], **kwargs: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure of `size` inches with a grid of axes, laid out to fit what is put on it."""
    drawn, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained", **kwargs)
    return drawn, axes.tolist()


def box(ax: Axes, at: float, values: list[float], *, filled: bool) -> None:
    """A horizontal box at height `at`: quartiles and median, whiskers of Tukey's length, and the points beyond."""
    (found,) = boxplot_stats(values)
    line = {"color": BLACK, "lw": 0.9}
    ax.hlines(at, found["whislo"], found["q1"], **line)
    ax.hlines(at, found["q3"], found["whishi"], **line)
    ax.vlines([found["whislo"], found["whishi"]], at - 0.15, at + 0.15, **line)
    face = SKY if filled else "white"
    ax.barh(at, found["q3"] - found["q1"], 0.6, found["q1"], facecolor=face, edgecolor=BLACK, lw=0.8, zorder=2)
    ax.vlines(found["med"], at - 0.3, at + 0.3, color=BLACK, lw=1.6, zorder=2.5)
    ax.plot(found["fliers"], [at] * len(found["fliers"]), ".", color=BLACK, ms=4)


def save(figure: Figure, path: Path) -> None:
    """Store a figure as PNG, and forget it."""
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
