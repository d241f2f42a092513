"""How the displays look: told apart with any colour vision, and without colour at all."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's colours (jfly.uni-koeln.de/color), ordered so that neighbours differ in lightness too. Markers, line
# styles and hatches say the same without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), "-.", (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (2, 2)))
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "||||", "----")
GREY = "#666666"
CHANCE = "at random"


def pyplot(caller: str) -> Any:
    """``matplotlib.pyplot``, or an error that says how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            f"{caller}.plot draws with matplotlib, which is not installed. Install it with: "
            "pip install 'skinfluence[plot]'"
        ) from error
    return plt


def new_axes(caller: str, ax: Any, size: tuple[float, float] | None = None) -> tuple[Any, Any]:
    """The axes to draw on, made if there are none, and their figure."""
    plt = pyplot(caller)
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return ax, ax.figure


def tidy(ax: Any, grid: str | None = None) -> None:
    """Leave only the lines that carry something."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid is not None:
        ax.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)


def percent(axis: Any) -> None:
    """Show shares as percentages."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def line_look(name: str, place: int) -> dict[str, Any]:
    """Colour, marker and line of the curve in a place; chance is grey whatever its place."""
    if name == CHANCE:
        return {"color": GREY, "marker": "s", "linestyle": "--", "markerfacecolor": "white"}
    place %= len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": LINES[place]}


def score_name(scoring: Any, regression: bool) -> str:
    """What a scorer's values are called on an axis."""
    if scoring is None:
        return "R²" if regression else "accuracy"
    name = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", type(scoring).__name__)
    if name == "r2":
        return "R²"
    return str(name).replace("_", " ").replace("neg ", "negative ").strip()
