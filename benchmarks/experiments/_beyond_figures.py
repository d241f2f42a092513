"""The pictures of `beyond`."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import _figures as style
from ._beyond_curators import NONE


def trees(gains: dict[str, dict[float, np.ndarray]]) -> Figure:
    """A panel a share of flipped labels: each method's gain on every table, and their mean."""
    shares = list(dict.fromkeys(share for by in gains.values() for share in by))
    methods = list(gains)[::-1]
    figure, axes = style.panels(1, len(shares), (4.2 * len(shares) + 1.5, 0.34 * len(methods) + 1.6), sharey=True)
    for share, ax in zip(shares, axes[0], strict=True):
        ax.axvline(0, color=style.GREY, lw=0.8)
        for at, method in enumerate(methods):
            if share not in gains[method]:
                continue
            by_table = gains[method][share].mean(axis=1)
            ax.scatter(by_table, [at] * len(by_table), s=26, facecolor="none", edgecolor=style.BLUE, label="one table")
            ax.scatter(by_table.mean(), at, s=60, marker="|", lw=2, color=style.BLACK, label="mean over tables")
        ax.set_title(f"{share:.0%} of the labels flipped")
        ax.set_xlabel("points of accuracy over no curation")
        ax.grid(axis="y")
    axes[0][0].set_yticks(range(len(methods)), methods)
    handles, labels = axes[0][0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=2)
    figure.suptitle("Boosted trees, their training rows curated through another model")
    return figure


def regression(rows: list[dict[str, Any]]) -> Figure:
    """A panel a case: R² by method, a marker a table; what is below -1 is at the left edge."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))[::-1]
    tables = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = style.panels(1, len(cases), (3.4 * len(cases) + 1.5, 0.36 * len(methods) + 1.6), sharey=True)
    looks = dict(zip(tables, (("o", style.BLUE), ("s", style.ORANGE), ("^", style.GREEN)), strict=False))
    for case, ax in zip(cases, axes[0], strict=True):
        for data in tables:
            marker, colour = looks[data]
            own = {row["method"]: row["r2"]["mean"] for row in rows if (row["data"], row["case"]) == (data, case)}
            found = [max(own[method], -1.0) for method in methods]
            ax.scatter(found, range(len(methods)), s=30, marker=marker, facecolor="none", edgecolor=colour, label=data)
            ax.axvline(max(own[NONE], -1.0), color=colour, lw=0.7, ls=":")
        ax.set_title(f"targets: {case}")
        ax.set_xlabel("R² on clean targets (below −1: at −1)")
        ax.grid(axis="y")
    axes[0][0].set_yticks(range(len(methods)), methods)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle("Regression with spoilt targets (dotted: ridge without curation)")
    return figure


def backdoor(rows: list[dict[str, Any]]) -> Figure:
    """A panel a table: the attack's success by method, and the accuracy on clean rows."""
    tables = list(dict.fromkeys(row["data"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))[::-1]
    figure, axes = style.panels(1, len(tables), (5.0 * len(tables) + 1.5, 0.34 * len(methods) + 1.6), sharey=True)
    for data, ax in zip(tables, axes[0], strict=True):
        own = {row["method"]: row for row in rows if row["data"] == data}
        for value, marker, colour, label in (
            ("attack", "x", style.BLACK, "attack succeeds"),
            ("accuracy", "o", style.BLUE, "accuracy, clean rows"),
        ):
            found = [own[method][value] for method in methods]
            means, spreads = ([one[key] or 0.0 for one in found] for key in ("mean", "std"))
            ax.errorbar(
                means,
                range(len(methods)),
                xerr=spreads,
                fmt=marker,
                ms=6,
                mfc="none",
                color=colour,
                lw=0.8,
                label=label,
            )
        ax.set_title(data)
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("share of rows (± over seeds)")
        ax.grid(axis="y")
    axes[0][0].set_yticks(range(len(methods)), methods)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    figure.suptitle("A backdoor in a tenth of the training rows")
    return figure
