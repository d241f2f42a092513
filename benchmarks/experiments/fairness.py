"""Accuracy and demographic parity on Adult, over the share of rows removed.

Which rows a logistic regression is trained on decides how far the rates apart are at which it predicts a high income
for men and for women. Rows are removed by their influence on utility, on the (soft) demographic parity gap, or on both
(`Joint`, mean of ranks), and the model is trained again. The 30,162 training rows are the published ones; the published
test part is halved by seed into validation rows, whose labels and groups the curators see, and test rows, on which
accuracy and the hard gap are taken. The training rows' groups are a feature like any other, and the curators are not
told that they are groups. Removal is in one round: influence is a first-order estimate at the model trained on all
rows. When many rows go it overshoots, so that the gap opens again with the groups' places changed; and the more rows
are chosen by a few thousand validation rows, the more they fit those alone.

Beside them stand ways to choose rows that look at no validation rows and know of no gap: at random; by the out-of-fold
loss of each training row, the largest first, at the same shares; and cleanlab, at the share that it names itself. At
other shares cleanlab would be the loss once more, for so it ranks the rows of two classes.

The peer is fairlearn's ExponentiatedGradient with a demographic parity constraint on the same logistic regression. It
is told the groups of the training rows, sees no validation rows, trains dozens of models where curation trains two, and
predicts at random between several. Curation gives one deterministic model of the same kind. "Fits" counts the models,
those of the folds as well.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from skinfluence import InfluenceSelector
from skinfluence.metrics import demographic_parity_difference
from skinfluence.objectives import DemographicParity, Joint

from .. import _data, _peers, _runner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
#: Of the distance of a group's rate from the overall one, which is how fairlearn bounds the gap.
BOUNDS = (0.08, 0.05, 0.03, 0.015, 0.002)
OBJECTIVES = {"utility": "utility", "parity": DemographicParity(), "joint": Joint(["utility", DemographicParity()])}
METHODS = ("ip", "exact")
NONE, RANDOM, PEER = "no curation", "random", "fairlearn ExponentiatedGradient"
LOSS, CLEANLAB = "per-row loss, out of fold", "cleanlab find_label_issues"
BASELINES = (NONE, RANDOM, LOSS, CLEANLAB)
#: In the place of a level, where a curator has but its own.
OWN = "own"
VALUES = ("removed", "accuracy", "balanced_accuracy", "gap", "majority", "fits", "seconds")


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All seeds, curators and the peer, one core a curator."""
    seeds = range(2) if quick else range(5)
    rates, bounds = ((0.05, 0.2), (0.05,)) if quick else (RATES, BOUNDS)
    _data.load_splits("adult", data_home=data_home)  # fail before any work when the table is missing
    missing = [name for name in ("fairlearn", "cleanlab") if not find_spec(name)]
    skipped = f"Not installed, and left out: {', '.join(missing)}." if missing else None
    # The peer's tasks are the long ones: first.
    tasks = [(PEER, "", seed, (bound,), data_home) for bound in bounds[::-1] for seed in seeds]
    tasks = [] if "fairlearn" in missing else tasks
    tasks += [(method, name, seed, rates, data_home) for method in METHODS for name in OBJECTIVES for seed in seeds]
    tasks += [(method, "", seed, rates, data_home) for method in (RANDOM, LOSS) for seed in seeds]
    tasks += [] if "cleanlab" in missing else [(CLEANLAB, "", seed, (OWN,), data_home) for seed in seeds]
    rows = [row for rows in _runner.over_cores(frontier, tasks) for row in rows]
    order = [*BASELINES, *(_label(method, name) for name in OBJECTIVES for method in METHODS), PEER]
    rows.sort(key=lambda row: (order.index(row["curator"]), row["seed"]))
    return {
        "about": _runner.about(__doc__, f"{len(seeds)} seeds; ± is the standard deviation over seeds. {skipped or ''}"),
        "seeds": list(seeds),
        "skipped": skipped,
        "rows": _runner.aggregate(rows, ("curator", "level"), VALUES),
    }


def frontier(
    method: str, objective: str, seed: int, levels: tuple[Any, ...], data_home: str | os.PathLike[str] | None
) -> list[dict[str, Any]]:
    """One row for each level: a removal rate, or the peer's bound on the gap. With "random", no curation as well."""
    splits = _data.load_splits("adult", seed=seed, data_home=data_home)
    scaler = StandardScaler().fit(splits.X_train)
    X, X_val, X_test = map(scaler.transform, (splits.X_train, splits.X_val, splits.X_test))
    y, y_test = splits.y_train, splits.y_test

    def row(
        curator: str, level: Any, predicted: np.ndarray, fits: int, seconds: float, kept: int = len(y)
    ) -> dict[str, Any]:
        return {
            "curator": curator,
            "level": level,
            "seed": seed,
            "removed": 1 - kept / len(y),
            "accuracy": np.mean(predicted == y_test),
            "balanced_accuracy": balanced_accuracy_score(y_test, predicted),
            "gap": demographic_parity_difference(y_test, predicted, sensitive_features=splits.groups_test),
            "majority": np.bincount(y_test).max() / len(y_test),
            "fits": fits,
            "seconds": seconds,
        }

    if method == PEER:
        rows = []
        for bound in levels:
            began = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about deprecations in what it depends on
                peer = _peer(bound).fit(X, y, sensitive_features=splits.groups_train)
                seconds = time.perf_counter() - began
                predicted = peer.predict(X_test, random_state=seed)
            rows.append(row(PEER, bound, predicted, peer.n_oracle_calls_, seconds))
        return rows

    rows = []
    if method == RANDOM:
        began = time.perf_counter()
        predicted = _classifier().fit(X, y).predict(X_test)
        rows.append(row(NONE, 0.0, predicted, 1, time.perf_counter() - began))
    began = time.perf_counter()
    keep, fits = _choice(method, objective, X, y, (X_val, splits.y_val, splits.groups_val), seed)
    scored = time.perf_counter() - began
    for level in levels:
        began = time.perf_counter()
        kept = keep(level)
        predicted = _classifier().fit(X[kept], y[kept]).predict(X_test)
        seconds = scored + time.perf_counter() - began
        rows.append(row(_label(method, objective), level, predicted, fits + 1, seconds, len(kept)))
    return rows


def _choice(
    method: str, objective: str, X: np.ndarray, y: np.ndarray, held_out: tuple[np.ndarray, ...], seed: int
) -> tuple[Callable[[Any], np.ndarray], int]:
    """Which rows are kept at a level, and how many models were trained to say so."""
    fits = {RANDOM: 0, LOSS: _peers.FOLDS, CLEANLAB: _peers.FOLDS}.get(method, 1)
    if method == RANDOM:
        scores = np.random.default_rng(seed).random(len(y))
    elif method in (LOSS, CLEANLAB):
        probabilities = _peers.out_of_fold(X, y, _classifier(), seed)
        if method == CLEANLAB:
            kept = np.flatnonzero(_peers.cleanlab_issues(y, probabilities).keep)
            return lambda level: kept, fits
        scores = -_peers.log_loss_of_rows(y, probabilities)
    else:
        model = FrozenEstimator(_classifier().fit(X, y))
        curator = InfluenceSelector(model, method=method, objective=OBJECTIVES[objective])
        X_val, y_val, groups = held_out
        groups = None if objective == "utility" else groups
        scores = curator.fit(X, y, X_val=X_val, y_val=y_val, sensitive_features_val=groups).scores_
    order = np.argsort(scores, kind="stable")
    # What a selector with this removal_rate keeps.
    return lambda level: np.sort(order[int(level * len(y)) :]), fits


def _classifier() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def _peer(bound: float) -> Any:
    from fairlearn.reductions import DemographicParity as Constraint
    from fairlearn.reductions import ExponentiatedGradient

    return ExponentiatedGradient(_classifier(), Constraint(difference_bound=bound))


def _label(method: str, objective: str) -> str:
    return f"{objective}, {method}" if objective else method


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    without = next(row for row in result["rows"] if row["curator"] == NONE)
    made: dict[str, list[dict[str, Any]]] = {"The frontier, in numbers": []}
    for row in result["rows"]:
        gains = 100 * (np.array(row["accuracy"]["seeds"]) - without["accuracy"]["seeds"])
        spread = np.std(gains, ddof=1) if len(gains) > 1 else np.nan
        made["The frontier, in numbers"].append(
            {
                "curator": row["curator"],
                "removed, or bound": _level(row),
                "accuracy": _runner.figure(row["accuracy"], 4),
                "gain, points": None if row is without else f"{gains.mean():+.2f} ± {spread:.2f}",
                "balanced accuracy": _runner.figure(row["balanced_accuracy"], 4),
                "majority rate": f"{row['majority']['mean']:.4f}",
                "parity gap": _runner.figure(row["gap"]),
                "fits": f"{row['fits']['mean']:.0f}",
                "seconds": f"{row['seconds']['mean']:.1f}",
            }
        )
    return made


def _level(row: dict[str, Any]) -> str | None:
    """The removal rate, the peer's bound, or the share that a curator chose itself."""
    if row["curator"] == NONE:
        return None
    return f"{row['removed']['mean'] if row['level'] == OWN else row['level']:.1%}"


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """Accuracy over the gap, one panel a method, the peer in both."""
    from .. import _figures

    styles = {
        "utility": {"color": _figures.BLUE, "marker": "o", "ls": "-"},
        "parity": {"color": _figures.PURPLE, "marker": "s", "ls": "--"},
        "joint": {"color": _figures.ORANGE, "marker": "^", "ls": "-"},
    }
    figure, (axes,) = _figures.panels(1, len(METHODS), (10.5, 4.8), sharex=True, sharey=True)
    (without,) = (row for row in result["rows"] if row["curator"] == NONE)
    for method, ax in zip(METHODS, axes, strict=True):
        for name, style in styles.items():
            _line(ax, without, _of(result, _label(method, name)), name, style, rates=True)
        _line(ax, without, _of(result, RANDOM), RANDOM, {"color": _figures.GREY, "marker": ".", "ls": ":"})
        _line(ax, without, _of(result, LOSS), LOSS, {"color": _figures.GREEN, "marker": "v", "ls": ":"})
        for row in _of(result, CLEANLAB):
            _line(ax, None, [row], CLEANLAB, {"color": _figures.BLACK, "marker": "X", "ls": ""})
        peer = sorted(_of(result, PEER), key=lambda row: row["gap"]["mean"])
        if peer:
            _line(ax, None, peer, PEER, {"color": _figures.BLACK, "marker": "D", "ls": "-.", "mfc": "white"})
        ax.plot(without["gap"]["mean"], without["accuracy"]["mean"], "*", color=_figures.BLACK, ms=13, label=NONE)
        ax.axhline(without["majority"]["mean"], color=_figures.GREY, ls=":", lw=1)
        ax.annotate("majority rate", (0.99, without["majority"]["mean"]), xycoords=("axes fraction", "data"),
                    ha="right", va="bottom", color=_figures.GREY)  # fmt: skip
        ax.set_title(f"scores by {method}")
        ax.set_xlabel("demographic parity gap of predictions, test rows (lower is fairer)")
        ax.grid()
    axes[0].set_ylabel("accuracy, test rows")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle("Adult: rows removed by their influence on utility, parity, or both (labels: share removed, %)")
    return {"fairness": figure}


def _line(ax: Any, start: dict | None, rows: list[dict], label: str, style: dict, rates: bool = False) -> None:
    line = rows if start is None else [start, *rows]
    x, y = ([row[value]["mean"] for row in line] for value in ("gap", "accuracy"))
    spread = [[row[value]["std"] or 0 for row in line] for value in ("gap", "accuracy")]
    ax.errorbar(x, y, xerr=spread[0], yerr=spread[1], ms=5, lw=1.3, elinewidth=0.5, label=label, **style)
    for row in rows if rates else ():
        if round(100 * row["level"]) in (10, 20, 30):
            at = row["gap"]["mean"], row["accuracy"]["mean"]
            ax.annotate(f"{100 * row['level']:.0f}", at, xytext=(5, 4), textcoords="offset points", fontsize=7.5)


def _of(result: dict[str, Any], curator: str) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if row["curator"] == curator]
