"""Half-moons and a small net: is IP a surrogate of the influence function for fairness and robustness too?

Section 4 and appendix A.1 (Figure 5) of "Revisit, Extend, and Enhance Hessian-Free Influence Functions" say that IP is
a good surrogate of the influence function for fairness and robustness too. Here that is asked of a net: the rows, the
flipped labels, the net 2–32–32–1, its training (100 epochs) and the methods are those of `moons`, which asks of utility
alone which scores tell the flipped rows.

The sensitive group, which the paper does not describe, is drawn: a row whose first coordinate is above 0.5 is in it
with probability 0.8, another with 0.2. About three rows of five in it are of the positive class, and two of five of the
others. Fairness is the gap of the mean predicted probability between the groups, and robustness the loss on rows moved
over the boundary: 1.3 times their distance from it, as the net's slope at the row has it. For a net that is an
estimate: some rows do not cross, and where the slope is small others are thrown far. All three are taken on 100 clean
test rows; nobody asks for the groups of the training rows.

The methods are held to the exact influence function, "exact, GN": the Gauss-Newton matrix, with the damping that "auto"
chooses. It is no truth, but one reading of the influence function among others: "exact, GN, λ = 0.1" is the same with
another damping, "exact, Hessian" has the true Hessian and its own automatic damping, and "H⁻¹, undamped" is the formula
as it is written, in double precision. How much these differ from it is what IP's difference is to be seen beside.
Polarity is the share of rows on whose sign a method and "exact, GN" agree; "of the larger half" counts only the half of
the rows with the larger exact scores. Whoever guesses signs gets a half.

AUROC and AP (average precision) take low scores for the flipped rows, AP of a random ranking being about 0.1. A wrong
label need not harm every objective: to find the flipped rows is not what scores for fairness or robustness are for.

What they are for is asked by removal: the lowest 5 % of the rows go, and the net is trained again from the same start;
it is judged on 1,000 further clean rows, on which nothing was scored, and whose majority rate is one half. Under attack
rows are moved against the net that was trained on all rows; the log-loss is then carried by rows that are surely wrong,
so that the share predicted wrong stands beside it. Beside the methods stand no curation, rows drawn at random,
the trained net's own loss on each row, and cleanlab, which removes the rows that it names and ranks by out-of-fold
probabilities of three folds; none of them has seen the clean test rows, which the methods have. "Change on the rows
scored on" is the change on those test rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import pearsonr, spearmanr

from skinfluence.datasets import make_noisy_moons
from skinfluence.objectives import AdversarialRobustness, DemographicParity, Utility, adversarial_rows

from .. import _peers, _runner
from .._peers import Curation
from . import _synthetic_removal as removal
from . import synthetic
from ._moons_scores import (
    CLEANLAB,
    LOSS,
    UNDAMPED,
    Moons,
    Target,
    by_cleanlab,
    by_method,
    draw_moons,
    fit_net,
    losses,
    mean_loss,
    undamped_for,
)
from ._synthetic_removal import GAMMA, NONE, RANDOM
from .synthetic import Clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPOCHS, N_JUDGED, RATE = 100, 1000, 0.05
#: Noise of the moons.
CASES = {"noise 0.1": 0.1, "noise 0.2": 0.2}
OBJECTIVES = {
    "utility": Utility(),
    "fairness": DemographicParity(),
    "robustness": AdversarialRobustness(gamma=GAMMA),
}
REFERENCE = "exact, GN"
#: Of the package, in the order of the tables; what they are stands in `_moons_scores`.
PACKAGE = (
    "ip", "ip_ensemble", "tracin", REFERENCE, "exact, GN, λ = 0.1", "exact, Hessian", "cg, GN", "lissa, GN",
    "arnoldi, GN", "ekfac", "datainf",
)  # fmt: skip
METHODS = (*PACKAGE, UNDAMPED)
BASELINES = (NONE, RANDOM, LOSS, CLEANLAB)
AGREEMENT = ("pearson", "spearman", "polarity", "polarity_larger")
REMOVAL = (*removal.VALUES, "moved_wrong")

ByObjective = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Task:
    """The moons and their net; the test rows with groups, to take the objectives on; and others, to judge on."""

    moons: Moons
    net: Any
    test: Clean
    judged: Clean


def draw(case: str, seed: int) -> Task:
    """Seeded rows, groups and net."""
    noise = CASES[case]
    moons = draw_moons(seed, noise)
    X, y, _ = make_noisy_moons(N_JUDGED, flip_share=0.0, noise=noise, random_state=10_000 + seed)
    rng = np.random.default_rng(20_000 + seed)
    test = Clean(moons.X_test, moons.y_test, groups_of(moons.X_test, rng))
    judged = Clean(X.astype(np.float32), y.astype(np.float32), groups_of(X, rng))
    return Task(moons, fit_net(moons, EPOCHS, seed), test, judged)


def groups_of(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A group for each row, 0 or 1, which depends on its first coordinate."""
    return (rng.random(len(X)) < np.where(X[:, 0] > 0.5, 0.8, 0.2)).astype(int)


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All cases and seeds, or one of each, one core a seed; `data_home` is not used."""
    cases, seeds = (list(CASES)[:1], range(1)) if quick else (list(CASES), range(10))
    done = _runner.over_cores(one_seed, [(case, seed) for case in cases for seed in seeds])
    return {
        "about": _runner.about(
            __doc__,
            f"{len(seeds)} seed(s), of rows, groups, flips and the net; ± is the standard deviation over seeds.",
        ),
        "seeds": list(seeds),
        "absent": [] if find_spec("cleanlab") else [CLEANLAB],
        "rows": _runner.aggregate(
            (row for rows, _, _ in done for row in rows), ("case", "objective", "method"), AGREEMENT
        ),
        "removals": _runner.aggregate(
            (row for _, rows, _ in done for row in rows), ("case", "objective", "curator"), REMOVAL
        ),
        "points": [point for _, _, points in done[:: len(seeds)] for point in points],
    }


def one_seed(case: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """How well the methods agree with the reference, what removal does, and the scored training rows."""
    task = draw(case, seed)
    scores = score(task, seed)
    return agreement(case, scores), removals(case, task, scores, seed), points(case, task.moons, scores)


def score(task: Task, seed: int) -> ByObjective:
    """Objective -> method -> scores of the training rows."""
    found: ByObjective = {}
    with warnings.catch_warnings():
        # Indefinite Hessians and unsolved systems are warned of; here they are the subject.
        warnings.simplefilter("ignore")
        formula = undamped_for(task.net, task.moons, targets(task))
        for (name, objective), by_formula in zip(OBJECTIVES.items(), formula, strict=True):
            groups = task.test.groups if objective.uses_groups else None
            of = partial(by_method, objective=objective, sensitive_features_val=groups)
            found[name] = {label: of(label, task.net, task.moons, seed).scores for label in PACKAGE}
            found[name][UNDAMPED] = by_formula
    return found


def targets(task: Task) -> list[Target]:
    """The objectives as functions in torch, for what is not made by the package; in the order of `OBJECTIVES`."""
    import torch

    inside = torch.from_numpy(task.test.groups == 1)

    def gap(F: Any) -> Any:
        p = torch.sigmoid(F)
        return (p[inside].mean() - p[~inside].mean()).abs()

    X, y = task.test.X, task.test.y
    return [mean_loss(X, y), Target(X, gap), mean_loss(adversarial_rows(task.net, X, GAMMA), y)]


def agreement(case: str, by_objective: ByObjective) -> list[dict[str, Any]]:
    """One row for each objective and method but the reference."""
    rows = []
    for objective, scores in by_objective.items():
        exact = scores[REFERENCE]
        larger = np.abs(exact) >= np.median(np.abs(exact))
        for method in METHODS:
            if method == REFERENCE:
                continue
            agree = np.sign(scores[method]) == np.sign(exact)
            rows.append(
                {
                    "case": case,
                    "objective": objective,
                    "method": method,
                    "pearson": pearsonr(scores[method], exact).statistic,
                    "spearman": spearmanr(scores[method], exact).statistic,
                    "polarity": agree.mean(),
                    "polarity_larger": agree[larger].mean(),
                }
            )
    return rows


def baselines(task: Task, seed: int) -> dict[str, Curation]:
    """Who needs no objective."""
    moons = task.moons
    drawn = np.random.default_rng(seed).random(len(moons.y))
    found = {
        NONE: Curation(np.ones(len(moons.y), dtype=bool), None),
        RANDOM: _lowest(drawn, moons),
        LOSS: _lowest(-losses(task.net, moons), moons),
    }
    if find_spec("cleanlab"):
        judged = by_cleanlab(task.net, moons, seed)
        found[CLEANLAB] = Curation(~judged.harmful, -judged.scores)
    return found


def _lowest(scores: np.ndarray, moons: Moons) -> Curation:
    return _peers.remove_most_suspect(-scores, moons.y, RATE)


def removals(case: str, task: Task, by_objective: ByObjective, seed: int) -> list[dict[str, Any]]:
    """One row for each objective and curator."""
    moons, judged = task.moons, task.judged
    # All are made of the net that was trained on all rows, against which rows are moved.
    values, values_scored = removal.measures(task.net, judged), removal.measures(task.net, task.test)
    moved = adversarial_rows(task.net, judged.X, GAMMA)

    def trained_on(keep: np.ndarray) -> Any:
        return fit_net(replace(moons, X=moons.X[keep], y=moons.y[keep]), EPOCHS, seed)

    others = {who: (curation, trained_on(curation.keep)) for who, curation in baselines(task, seed).items()}
    rows = []
    for objective, scores in by_objective.items():
        lowest = {method: _lowest(own, moons) for method, own in scores.items()}
        own = {method: (curation, trained_on(curation.keep)) for method, curation in lowest.items()}
        for curator, (curation, net) in (others | own).items():
            rows.append(
                {
                    "case": case,
                    "objective": objective,
                    "curator": curator,
                    **removal.detection(moons.flipped, curation),
                    "accuracy": (net.predict(judged.X) == judged.y).mean(),
                    "value": values[objective](net),
                    "value_scored": values_scored[objective](net),
                    "moved_wrong": (net.predict(moved) != judged.y).mean(),
                }
            )
    return rows


def points(case: str, moons: Moons, by_objective: ByObjective) -> list[dict[str, Any]]:
    """One row for each training row, with the scores of IP and of the reference."""
    return [
        {
            "case": case,
            "flipped": bool(moons.flipped[i]),
            "x": [round(float(x), 3) for x in moons.X[i]],
            "y": int(moons.y[i]),
        }
        | {
            name: [float(f"{scores[method][i]:.4g}") for method in ("ip", REFERENCE)]
            for name, scores in by_objective.items()
        }
        for i in range(len(moons.y))
    ]


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made: dict[str, list[dict[str, Any]]] = {}
    for row in result["rows"]:
        made.setdefault(f"Agreement for {row['objective']} (with {REFERENCE})", []).append(
            {"case": row["case"], "method": row["method"], **synthetic.alike(row)}
        )
    removed = removal.tables(result["removals"])
    attacked = [row for row in result["removals"] if row["objective"] == "robustness"]
    for row, line in zip(attacked, removed["Rows removed for robustness"], strict=True):
        line["moved rows predicted wrong"] = _runner.figure(row["moved_wrong"])
    return made | removed


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """IP against the influence function, by objective (columns) and case (rows), for seed 0."""
    from .. import _figures

    names, cases = list(OBJECTIVES), list(dict.fromkeys(point["case"] for point in result["points"]))
    figure, axes = _figures.panels(len(cases), 1 + len(names), (13.0, 3.2 * len(cases)))
    for case, line in zip(cases, axes, strict=True):
        own = [point for point in result["points"] if point["case"] == case]
        flipped, y, X = (np.array([point[key] for point in own]) for key in ("flipped", "y", "x"))
        synthetic._rows(line[0], X, y, flipped, _figures)
        line[0].set_title(f"{case}: rows")
        for name, ax in zip(names, line[1:], strict=True):
            ip, exact = np.array([point[name] for point in own]).T
            ax.axhline(0, color=_figures.GREY, lw=0.8)
            ax.axvline(0, color=_figures.GREY, lw=0.8)
            synthetic._scatter(ax, 1000 * exact, 1000 * ip, flipped, _figures)
            ax.set_title(f"{name}: r {pearsonr(ip, exact).statistic:.3f}, ρ {spearmanr(ip, exact).statistic:.3f}")
            ax.set_xlabel(f"influence function ({REFERENCE}) × 1000")
            ax.set_ylabel("IP × 1000")
            ax.grid()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle("Scores of 200 training rows, 20 with a flipped label, through a small net (seed 0)")
    return {"moons_objectives": figure}
