"""Accuracy against the fair score; the axis of the fair score is upside down, as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _figures
from . import _text_data as data
from . import _text_heads as heads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOKS = {
    heads.UTILITY: ("o", _figures.BLUE),
    heads.FAIRNESS: ("s", _figures.PURPLE),
    heads.JOINT: ("^", _figures.ORANGE),
    "self": ("v", _figures.GREEN),
}
REMOVED = "5 % of the training rows removed: above and to the right of the star both are better"


def fixed_encoder(rows: list[dict[str, Any]]) -> Figure:
    """The heads, a panel a task: means over seeds, and random removal's spread."""
    numbered = {method: str(k) for k, method in enumerate(heads.METHODS, 1)}
    lettered = dict(zip((*heads.BASELINES[1:], *heads.SELF, heads.NEIGHBOURS), "abcdefg", strict=True))
    figure, (axes,) = _figures.panels(1, len(data.TASKS), (11.0, 5.6))
    for (task, title), ax in zip(data.TASKS.items(), axes, strict=True):
        _panel(ax, [row for row in rows if row["task"] == task], title, numbered, lettered)
    _legend(figure, axes)
    key = [f"{mark} {name}" for name, mark in (numbered | lettered).items()]
    figure.suptitle(
        f"{REMOVED}\n{', '.join(key[: len(numbered)])}\n{', '.join(key[len(numbered) :])}",
        fontsize=9,
    )
    return figure


def whole_encoder(rows: list[dict[str, Any]]) -> Figure:
    """The whole encoder fine-tuned: the curators named beside their points, and the spread of what changes nothing."""
    figure, (axes,) = _figures.panels(1, len(data.TASKS), (11.0, 5.0))
    for (task, title), ax in zip(data.TASKS.items(), axes, strict=True):
        own = [row for row in rows if row["task"] == task]
        names = {row["method"]: row["method"] for row in own}
        _panel(ax, own, f"{title}, whole encoder", names, names, barred=(heads.RANDOM, heads.RESTART), words=True)
        ax.margins(0.25)
    _legend(figure, axes)
    figure.suptitle(REMOVED, fontsize=9)
    return figure


def _panel(
    ax: Any,
    rows: list[dict[str, Any]],
    title: str,
    joint: Mapping[str, str],
    other: Mapping[str, str],
    barred: Sequence[str] = (heads.RANDOM,),
    words: bool = False,
) -> None:
    """Points of the curators around the star of no curation; ``joint`` and ``other`` are what is written at them.

    Baselines that are ``barred`` have their spread over seeds. ``words`` take room, and stand to the left of curators
    and to the right of baselines, but for points beside one another, of which they stand on either side.
    """
    without = next(row for row in rows if row["method"] == heads.NONE)
    points = np.array([[row["accuracy"]["mean"], row["fair"]["mean"]] for row in rows if row is not without])
    for row in rows:
        x, y = row["accuracy"]["mean"], row["fair"]["mean"]
        if row["objective"] in LOOKS:
            marker, colour = LOOKS[row["objective"]]
            label = {"self": "by self-influence"}.get(row["objective"], f"by {row['objective']}")
            ax.plot(x, y, marker, color=colour, ms=6, mec=_figures.BLACK, mew=0.5, label=label)
        elif row["method"] in heads.BASELINES[1:]:
            has_bars = row["method"] in barred
            spread = {"xerr": row["accuracy"]["std"], "yerr": row["fair"]["std"]} if has_bars else {}
            ax.errorbar(
                x, y, fmt="D", color=_figures.GREY, ms=5, mfc="white", elinewidth=0.6, label="baselines", **spread
            )
        if row is not without:
            name = (joint if row["objective"] == heads.JOINT else other).get(row["method"], "")
            left = words and _names_left(points, (x, y), row["objective"] in LOOKS)
            offset, side = ((-6, -4), "right") if left else ((4, 4), "left")
            ax.annotate(name, (x, y), xytext=offset, ha=side, textcoords="offset points", fontsize=8)
    at = without["accuracy"]["mean"], without["fair"]["mean"]
    ax.plot(*at, "*", color=_figures.BLACK, ms=14, label=heads.NONE)
    ax.axvline(at[0], color=_figures.GREY, lw=0.8, ls=":")
    ax.axhline(at[1], color=_figures.GREY, lw=0.8, ls=":")
    ax.invert_yaxis()
    n_seeds = len(without["accuracy"]["seeds"])
    ax.set_title(f"{title} (mean of {n_seeds} seeds)" if n_seeds > 1 else f"{title} (one seed)")
    ax.set_xlabel("accuracy, test half")
    ax.set_ylabel("fair score, test half's twins (fairer upwards)")
    ax.margins(0.12)
    ax.grid()


def _names_left(points: np.ndarray, at: tuple[float, float], otherwise: bool) -> bool:
    """Whether a point's name goes to its left: away from a neighbour at about its height, if it has one."""
    extent = np.ptp(points, axis=0)
    apart = (points - at) / np.where(extent > 0, extent, 1)
    (beside,) = np.nonzero((np.abs(apart[:, 1]) < 0.12) & (np.abs(apart[:, 0]) < 0.3) & (apart[:, 0] != 0))
    if len(beside) == 0:
        return otherwise
    nearest = beside[np.abs(apart[beside, 0]).argmin()]
    return bool(apart[nearest, 0] > 0)


def _legend(figure: Figure, axes: Any) -> None:
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
