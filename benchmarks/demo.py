"""Curation shown on data that scikit-learn ships, with a seeded share of the training labels flipped.

A grid search picks the removal rate in the stock Pipeline (where removed rows are re-drawn) and in skinfluence's (where
they are gone). The search sees noisy labels only: it picks by accuracy on held-out rows whose labels are as often wrong
as those it trains on. The accuracies shown are on clean test labels, which nothing was chosen by. All of it is repeated
over several splits, for one split of a small table says little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline as StockPipeline
from sklearn.preprocessing import StandardScaler

import skinfluence

from ._data import flip_labels
from ._runner import aggregate, figure, markdown_table, over_cores

FLIPPED = 0.2
RATES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
CURVE_RATES = np.linspace(0.0, 0.4, 9)
SEEDS = range(5)
SOURCES: dict[str, Callable] = {"breast cancer": load_breast_cancer, "digits": load_digits}
HOMES = {"stock Pipeline": StockPipeline, "skinfluence.Pipeline": skinfluence.Pipeline}
# Okabe and Ito's colours: told apart with any colour vision; hatching and markers tell them apart without colour.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#666666"


@dataclass(frozen=True)
class Split:
    """Training rows, some with flipped labels, and clean test rows."""

    X_train: np.ndarray
    y_train: np.ndarray
    flipped: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    seed: int


def make_split(load: Callable, seed: int) -> Split:
    """A seeded split; labels are flipped in its training part only."""
    X, y = load(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=seed)
    y_noisy, flipped = flip_labels(y_train, FLIPPED, seed)
    return Split(X_train, y_noisy, flipped, X_test, y_test, seed)


def classifier() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def search(home: type, split: Split, memory: str) -> GridSearchCV:
    """What a user would write; `memory` keeps the scores, so that all rates of a fold share them."""
    pipeline = home(
        [
            ("scale", StandardScaler()),
            ("curate", skinfluence.InfluenceSelector(random_state=split.seed, memory=memory)),
            ("clf", classifier()),
        ]
    )
    grid = GridSearchCV(pipeline, {"curate__removal_rate": list(RATES)}, cv=5)
    return grid.fit(split.X_train, split.y_train)


def searched(name: str, split: Split) -> list[dict[str, Any]]:
    """What the grid search did on one split, in each home."""
    rows = []
    for label, home in HOMES.items():
        with tempfile.TemporaryDirectory() as memory:
            began = time.perf_counter()
            found = search(home, split, memory)
            seconds = time.perf_counter() - began
        removed = ~found.best_estimator_.named_steps["curate"].get_support()
        rows.append(
            {
                "data": name,
                "home": label,
                "seed": split.seed,
                "without": accuracy(split, np.arange(len(split.y_train))),
                "with": found.score(split.X_test, split.y_test),
                "rate": found.best_params_["curate__removal_rate"],
                "found": removed[split.flipped].mean(),
                "right": split.flipped[removed].mean() if removed.any() else None,
                "seconds": seconds,
            }
        )
    return rows


def accuracy(split: Split, kept: np.ndarray) -> float:
    """Clean test accuracy of the classifier trained on the rows `kept`."""
    scaler = StandardScaler().fit(split.X_train)
    fitted = classifier().fit(scaler.transform(split.X_train)[kept], split.y_train[kept])
    return fitted.score(scaler.transform(split.X_test), split.y_test)


def table(rows: list[dict[str, Any]]) -> str:
    """The printed table: means and spreads over the splits."""
    values = ("without", "with", "rate", "found", "right", "seconds")
    return markdown_table(
        [
            {
                "data": row["data"],
                "home": row["home"],
                "accuracy without": figure(row["without"]),
                "accuracy with": figure(row["with"]),
                "rate chosen": figure(row["rate"], 2),
                "flipped rows found": figure(row["found"], 2),
                "of removed, flipped": figure(row["right"], 2),
                "seconds": f"{row['seconds']['mean']:.1f}",
            }
            for row in aggregate(rows, ("data", "home"), values)
        ]
    )


def curves(split: Split, scores: np.ndarray) -> tuple[list[float], list[float]]:
    """Clean test accuracy at each share removed: the lowest scores, and rows drawn at random."""
    by_score = np.argsort(scores, kind="stable")
    by_chance = np.random.default_rng(split.seed).permutation(len(scores))
    starts = [round(rate * len(scores)) for rate in CURVE_RATES]
    return [accuracy(split, by_score[start:]) for start in starts], [
        accuracy(split, by_chance[start:]) for start in starts
    ]


def influence(split: Split) -> np.ndarray:
    """Scores of the training rows by the default selector."""
    scaled = StandardScaler().fit_transform(split.X_train)
    return skinfluence.InfluenceSelector(random_state=split.seed).fit(scaled, split.y_train).scores_


@dataclass(frozen=True)
class Study:
    """All that one split gives to the table and to the picture."""

    rows: list[dict[str, Any]]
    scores: np.ndarray
    flipped: np.ndarray
    by_influence: list[float]
    by_chance: list[float]


def study(name: str, seed: int) -> Study:
    """Everything on one split of one data set."""
    split = make_split(SOURCES[name], seed)
    scores = influence(split)
    return Study(searched(name, split), scores, split.flipped, *curves(split, scores))


def draw(studies: dict[str, list[Study]], path: Path) -> None:
    """A row per data set; left, where flipped rows lie among the scores; right, what removing rows does."""
    plot, axes = plt.subplots(len(studies), 2, figsize=(11, 3.9 * len(studies)), layout="constrained", squeeze=False)
    for (name, members), (left, right) in zip(studies.items(), axes, strict=True):
        left.set_title(f"{name}: scores of one split", fontsize=11)
        right.set_title(f"{name}: after removing rows, {len(members)} splits", fontsize=11)
        _draw_scores(left, members[0].scores, members[0].flipped)
        _draw_curves(
            right, *(np.array([getattr(m, which) for m in members]) for which in ("by_influence", "by_chance"))
        )
        for panel in (left, right):
            panel.spines[["top", "right"]].set_visible(False)
    plot.suptitle(f"{FLIPPED:.0%} of the training labels flipped", fontsize=13)
    plot.savefig(path, dpi=150)
    plt.close(plot)


def _draw_scores(axes: Axes, scores: np.ndarray, flipped: np.ndarray) -> None:
    power = int(np.floor(np.log10(np.abs(scores).max())))
    scaled = scores / 10.0**power
    bins = np.histogram_bin_edges(scaled, bins=36)
    axes.hist(scaled[~flipped], bins, color=BLUE, alpha=0.85, label=f"label as it was ({(~flipped).sum()} rows)")
    axes.hist(
        scaled[flipped], bins, facecolor="none", edgecolor=ORANGE, hatch="////", linewidth=1.5,
        histtype="stepfilled", label=f"label flipped ({flipped.sum()} rows)",
    )  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=rf"influence score ($\times 10^{{{power}}}$): below 0 the row hurts", ylabel="training rows")
    axes.legend(frameon=False, loc="upper left")


def _draw_curves(axes: Axes, by_influence: np.ndarray, by_chance: np.ndarray) -> None:
    axes.axvline(FLIPPED, ymin=0.27, color=ORANGE, linewidth=1.2, linestyle=":", zorder=0, label="share flipped")
    for values, colour, style, label in (
        (by_influence, BLUE, {"marker": "o", "linestyle": "-"}, "lowest influence first"),
        (by_chance, GREY, {"marker": "s", "linestyle": "--", "markerfacecolor": "white"}, "at random"),
    ):
        mean, spread = values.mean(axis=0), values.std(axis=0, ddof=1)
        axes.plot(CURVE_RATES, mean, color=colour, label=f"{label}, mean ± std", **style)
        axes.fill_between(CURVE_RATES, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.3 * (high - low), high)  # room for the legend, below
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="share of training rows removed", ylabel="accuracy, clean test labels")
    axes.legend(loc="lower left", framealpha=1, edgecolor="none")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo.png"), help="where to draw; default: demo.png")
    given = parser.parse_args(arguments)

    done = over_cores(study, [(name, seed) for name in SOURCES for seed in SEEDS])
    studies = {name: done[i * len(SEEDS) : (i + 1) * len(SEEDS)] for i, name in enumerate(SOURCES)}
    print(
        f"{FLIPPED:.0%} of the training labels are flipped; accuracy is on clean test labels; mean ± standard "
        f"deviation over {len(SEEDS)} splits; seconds of one grid search on one core.\n"
    )
    print(table([row for one in done for row in one.rows]))
    print(
        "\nThe grid search picked the rate by accuracy on held-out rows with flipped labels, as it would in practice."
    )
    draw(studies, given.out)
    print(f"Drawn: {given.out}")


if __name__ == "__main__":
    main()
