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

What the scores are good for, the paper does not ask here. As many rows as were flipped are removed, the lowest scores
first, and the model is trained again; it is judged on 1,000 further clean rows, on which nothing was scored. Both
classes have as many of them: accuracy is balanced accuracy, and the majority rate one half. Beside the methods stand no
curation, rows drawn at random, the out-of-fold loss of a row, and cleanlab, which removes as many rows as it names and
ranks rows as that loss does. None of them has seen the clean test rows, which the methods have. Under attack rows are
moved against the model that was trained on all rows. "Change on the rows scored on" is what the published protocol,
which judges on the same test rows, would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from skinfluence import influence_scores
from skinfluence.datasets import make_noisy_blobs
from skinfluence.objectives import AdversarialRobustness, DemographicParity, Utility

from .. import _runner
from . import _synthetic_removal as removal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

N_TRAIN, N_TEST, N_FLIPPED, N_JUDGED = 150, 100, 10, 1000
#: Spread of the blobs, whose centres are 4√2 apart, and the factor on the second feature.
CASES = {"separable": (1.0, 1.0), "overlapping": (2.5, 1.0), "separable, feature × 5": (1.0, 5.0)}
OBJECTIVES = {
    "utility": Utility(),
    "fairness": DemographicParity(),
    "robustness": AdversarialRobustness(gamma=removal.GAMMA),
}
TRUTH = "leave_one_out"
#: Held to each other, and those whose choice of rows is tried.
METHODS = ("ip", "exact", TRUTH)
SCORED = ("ip", "ip_ensemble", "exact", TRUTH)
PAIRS = (("ip", "exact"), ("ip", TRUTH), ("exact", TRUTH))
VALUES = ("pearson", "spearman", "polarity", "polarity_larger", "slope", "found", "found_other")


@dataclass(frozen=True)
class Clean:
    """Rows with true labels, and groups."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True)
class Blobs:
    """Training rows, some with flipped labels; test rows, to take the objectives on; and others, to judge on."""

    X: np.ndarray
    y: np.ndarray
    flipped: np.ndarray
    test: Clean
    judged: Clean


def draw_blobs(seed: int, spread: float, scale: float) -> Blobs:
    """Two seeded blobs, with labels flipped in the training part."""
    X, y, flipped, groups = make_noisy_blobs(
        N_TRAIN, n_clean=N_TEST, flip_share=N_FLIPPED / N_TRAIN, noise=spread, return_groups=True, random_state=seed
    )
    X = X * [1.0, scale]
    train, test = slice(N_TRAIN), slice(N_TRAIN, None)
    others, y_others, _, of_others = make_noisy_blobs(
        N_JUDGED, flip_share=0.0, noise=spread, return_groups=True, random_state=10_000 + seed
    )
    judged = Clean(others * [1.0, scale], y_others, of_others)
    return Blobs(X[train], y[train], flipped[train], Clean(X[test], y[test], groups[test]), judged)


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All cases and seeds, one core a seed."""
    seeds = range(2) if quick else range(20)
    done = _runner.over_cores(one_seed, [(case, seed) for case in CASES for seed in seeds])
    return {
        "about": _runner.about(
            __doc__, f"{len(seeds)} seeds, of rows, groups and flips; ± is the standard deviation over seeds."
        ),
        "seeds": list(seeds),
        "rows": _runner.aggregate(
            (row for rows, _, _ in done for row in rows), ("case", "objective", "a", "b"), VALUES
        ),
        "removals": _runner.aggregate(
            (row for _, rows, _ in done for row in rows), ("case", "objective", "curator"), removal.VALUES
        ),
        "points": [point for _, _, points in done[:: len(seeds)] for point in points],
    }


def score(blobs: Blobs, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Objective -> method -> scores of the training rows."""
    model = removal.classifier().fit(blobs.X, blobs.y)
    rows = model, blobs.X, blobs.y, blobs.test.X, blobs.test.y
    return {
        name: {
            method: influence_scores(
                *rows,
                method=method,
                objective=objective,
                sensitive_features_val=blobs.test.groups if objective.uses_groups else None,
                random_state=seed,
            )
            for method in SCORED
        }
        for name, objective in OBJECTIVES.items()
    }


def one_seed(case: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """How well the methods agree, what removal does, and the scored training rows, which the figure shows."""
    blobs = draw_blobs(seed, *CASES[case])
    scores = score(blobs, seed)
    return agreement(case, blobs, scores), removal.removals(case, blobs, scores, seed), points(case, blobs, scores)


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


def alike(row: dict[str, Any]) -> dict[str, str | None]:
    """How alike two scorings are, as columns of a table."""
    return {
        "Pearson": _runner.figure(row["pearson"]),
        "Spearman": _runner.figure(row["spearman"]),
        "polarity": _runner.figure(row["polarity"]),
        "polarity, of the larger half": _runner.figure(row["polarity_larger"]),
    }


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made = {}
    for a, b in PAIRS:
        made[f"{a} against {b}"] = [
            {
                "case": row["case"],
                "objective": row["objective"],
                **alike(row),
                f"slope of {b} on {a}": _runner.figure(row["slope"]),
                f"flipped found by {a}": _runner.figure(row["found"]),
                f"flipped found by {b}": _runner.figure(row["found_other"]),
            }
            for row in result["rows"]
            if (row["a"], row["b"]) == (a, b)
        ]
    return made | removal.tables(result["removals"])


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
