"""IP against the influence function on blobs with flipped labels, for utility, fairness and robustness.

Section 4 (Figure 1 A to C, convex case) and appendix A.1 (Figure 5) of "Revisit, Extend, and Enhance Hessian-Free
Influence Functions": 150 training rows in two blobs, 10 of them with a flipped label, 100 clean test rows, on which the
objectives are taken; a logistic regression of scikit-learn's defaults. Beside the paper's comparison of ``ip`` with
``exact``, both are held to the truth: refits without each row (``leave_one_out``).

The paper says that IP matches the influence function nearly perfectly here. How well it does depends on the Hessian,
which IP takes for the identity, so that two more cases are run: blobs that overlap, and the same blobs with one
feature in a unit five times as large, which changes nothing about the problem but its scale.

The sensitive group, which the paper does not describe for these data, is drawn: a row of the positive class is in it
with probability 0.8, another with 0.2. Demographic parity is the gap of the mean predicted probability, and robustness
the loss on test rows moved over the boundary, 1.3 times their distance. Polarity is the share of rows on whose sign
two methods agree; "of the larger half" counts only the half of the rows with the larger exact scores, for the sign of
a score near zero means little. "Flipped found" is the share of the flipped rows among as many lowest scores. Flipped
labels blur a model, which narrows its gap and its errors under attack: for fairness and robustness they do no harm.

Pearson's correlation is carried by the gap between flipped and other rows, and Spearman's by the order of rows that
matter little: read both, and the figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression

from skinfluence import influence_scores
from skinfluence.datasets import make_noisy_blobs
from skinfluence.objectives import AdversarialRobustness, DemographicParity, Utility

from .. import _runner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_TRAIN, N_TEST, N_FLIPPED = 150, 100, 10
#: Spread of the blobs, whose centres are 4√2 apart, and the factor on the second feature.
CASES = {"separable": (1.0, 1.0), "overlapping": (2.5, 1.0), "separable, feature × 5": (1.0, 5.0)}
OBJECTIVES = {
    "utility": Utility(),
    "fairness": DemographicParity(),
    "robustness": AdversarialRobustness(gamma=1.3),
}
TRUTH = "leave_one_out"
METHODS = ("ip", "exact", TRUTH)
PAIRS = (("ip", "exact"), ("ip", TRUTH), ("exact", TRUTH))
VALUES = ("pearson", "spearman", "polarity", "polarity_larger", "slope", "found", "found_other")


@dataclass(frozen=True)
class Blobs:
    """Training rows, some with flipped labels, and clean test rows with groups."""

    X: np.ndarray
    y: np.ndarray
    flipped: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    groups_test: np.ndarray


def draw_blobs(seed: int, spread: float, scale: float) -> Blobs:
    """Two seeded blobs, with labels flipped in the training part."""
    X, y, flipped, groups = make_noisy_blobs(
        N_TRAIN, n_clean=N_TEST, flip_share=N_FLIPPED / N_TRAIN, noise=spread, return_groups=True, random_state=seed
    )
    X = X * [1.0, scale]
    train, test = slice(N_TRAIN), slice(N_TRAIN, None)
    return Blobs(X[train], y[train], flipped[train], X[test], y[test], groups[test])


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All cases and seeds, one core a seed."""
    seeds = range(2) if quick else range(20)
    done = _runner.over_cores(one_seed, [(case, seed) for case in CASES for seed in seeds])
    return {
        "about": _runner.about(
            __doc__, f"{len(seeds)} seeds, of rows, groups and flips; ± is the standard deviation over seeds."
        ),
        "seeds": list(seeds),
        "rows": _runner.aggregate((row for rows, _ in done for row in rows), ("case", "objective", "a", "b"), VALUES),
        "points": [point for _, points in done[:: len(seeds)] for point in points],
    }


def score(blobs: Blobs) -> dict[str, dict[str, np.ndarray]]:
    """Objective -> method -> scores of the training rows."""
    model = LogisticRegression(solver="newton-cholesky", tol=1e-8).fit(blobs.X, blobs.y)
    rows = model, blobs.X, blobs.y, blobs.X_test, blobs.y_test
    return {
        name: {
            method: influence_scores(
                *rows,
                method=method,
                objective=objective,
                sensitive_features_val=blobs.groups_test if objective.uses_groups else None,
            )
            for method in METHODS
        }
        for name, objective in OBJECTIVES.items()
    }


def one_seed(case: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How well the methods agree, by objective; and the scored training rows, which the figure shows."""
    blobs = draw_blobs(seed, *CASES[case])
    scores = score(blobs)
    return agreement(case, blobs, scores), points(case, blobs, scores)


def agreement(case: str, blobs: Blobs, by_objective: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """One row for each objective and pair of methods."""
    rows = []
    for objective, scores in by_objective.items():
        larger = np.abs(scores["exact"]) >= np.median(np.abs(scores["exact"]))
        for a, b in PAIRS:
            agree = np.sign(scores[a]) == np.sign(scores[b])
            rows.append(
                {
                    "case": case,
                    "objective": objective,
                    "a": a,
                    "b": b,
                    "pearson": pearsonr(scores[a], scores[b]).statistic,
                    "spearman": spearmanr(scores[a], scores[b]).statistic,
                    "polarity": agree.mean(),
                    "polarity_larger": agree[larger].mean(),
                    "slope": np.polyfit(scores[a], scores[b], 1)[0],
                    "found": _found(scores[a], blobs.flipped),
                    "found_other": _found(scores[b], blobs.flipped),
                }
            )
    return rows


def points(case: str, blobs: Blobs, by_objective: dict[str, dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """One row for each training row."""
    return [
        {
            "case": case,
            "flipped": bool(blobs.flipped[i]),
            "x": [round(float(x), 3) for x in blobs.X[i]],
            "y": int(blobs.y[i]),
        }
        | {name: [float(f"{scores[method][i]:.4g}") for method in METHODS] for name, scores in by_objective.items()}
        for i in range(N_TRAIN)
    ]


def _found(scores: np.ndarray, flipped: np.ndarray) -> float:
    lowest = np.argsort(scores, kind="stable")[: flipped.sum()]
    return float(flipped[lowest].mean())


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made = {}
    for a, b in PAIRS:
        made[f"{a} against {b}"] = [
            {
                "case": row["case"],
                "objective": row["objective"],
                "Pearson": _runner.figure(row["pearson"]),
                "Spearman": _runner.figure(row["spearman"]),
                "polarity": _runner.figure(row["polarity"]),
                "polarity, of the larger half": _runner.figure(row["polarity_larger"]),
                f"slope of {b} on {a}": _runner.figure(row["slope"]),
                f"flipped found by {a}": _runner.figure(row["found"]),
                f"flipped found by {b}": _runner.figure(row["found_other"]),
            }
            for row in result["rows"]
            if (row["a"], row["b"]) == (a, b)
        ]
    return made


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """IP against the influence function, by objective (columns) and case (rows), for seed 0."""
    from .. import _figures

    names = list(OBJECTIVES)
    figure, axes = _figures.panels(len(CASES), 1 + len(names), (13.0, 3.2 * len(CASES)))
    for case, line in zip(CASES, axes, strict=True):
        own = [point for point in result["points"] if point["case"] == case]
        flipped, y, X = (np.array([point[key] for point in own]) for key in ("flipped", "y", "x"))
        _rows(line[0], X, y, flipped, _figures)
        line[0].set_title(f"{case}: rows")
        for name, ax in zip(names, line[1:], strict=True):
            ip, exact, _ = np.array([point[name] for point in own]).T
            ax.axhline(0, color=_figures.GREY, lw=0.8)
            ax.axvline(0, color=_figures.GREY, lw=0.8)
            _scatter(ax, 1000 * exact, 1000 * ip, flipped, _figures)
            ax.set_title(f"{name}: r {pearsonr(ip, exact).statistic:.3f}, ρ {spearmanr(ip, exact).statistic:.3f}")
            ax.set_xlabel("influence function (exact) × 1000")
            ax.set_ylabel("IP × 1000")
            ax.grid()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle("Scores of 150 training rows, 10 with a flipped label (seed 0)")
    return {"synthetic": figure}


def _rows(ax: Any, X: np.ndarray, y: np.ndarray, flipped: np.ndarray, style: Any) -> None:
    for label, marker, colour in ((0, "o", style.BLUE), (1, "^", style.GREEN)):
        own = (y == label) & ~flipped
        ax.scatter(*X[own].T, marker=marker, s=18, facecolor="none", edgecolor=colour, label=f"labelled {label}")
        own = (y == label) & flipped
        ax.scatter(*X[own].T, marker=marker, s=18, facecolor="none", edgecolor=colour)
    ax.scatter(*X[flipped].T, marker="x", s=36, color=style.BLACK, label="label flipped")
    ax.set_xlabel("feature 1")
    ax.set_ylabel("feature 2")


def _scatter(ax: Any, x: np.ndarray, y: np.ndarray, flipped: np.ndarray, style: Any) -> None:
    ax.scatter(x[~flipped], y[~flipped], s=16, marker="o", facecolor="none", edgecolor=style.BLUE)
    ax.scatter(x[flipped], y[flipped], s=36, marker="x", color=style.BLACK)
