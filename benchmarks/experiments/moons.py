"""Half-moons with flipped labels and a small net: which scores tell the flipped rows from the others?

Section 4 (Figure 1 D to F, non-convex case) of "Revisit, Extend, and Enhance Hessian-Free Influence Functions": 200
training rows in two half-moons, 20 of them with a flipped label, ten of each class; 100 clean test rows, on which the
objective is taken; a net 2–32–32–1 with ReLU and a sigmoid. The paper says that IP separates the flipped rows here, and
that the influence function, whose Hessian it inverts inexactly, does not.

It leaves open how noisy the moons are, how long the net is trained and what the Hessian is damped with, and these
decide the matter; so there are four cases, Adam at a learning rate of 0.01 on all rows at once being common to them,
and several influence functions. "H⁻¹, undamped" is Eq. (1) as it is written: the dense Hessian of the training loss in
double precision, inverted as it is, negative eigenvalues too (those below 1e-9 are left out); it is made here, by
`torch.func`, and not by the package. The others are the package's, with the damping that "auto" chooses where none is
named; λ is a damping that was named. "Hessian" is the true one, "GN" the Gauss-Newton matrix, which has no negative
curvature and is what the remaining methods invert or approximate.

Checkpoints for "tracin" and "tda" are ten, evenly spaced over the run; TracIn's weights know the learning rate and not
how Adam scales. GEX makes 100 steps of 32 rows at a rate of 0.01, where its default would make 800 of 128, and
Self-LiSSA 50 steps at λ = 0.1 in the place of 1,000: at their defaults these two would take more time than all others
together. Methods that refit the net (leave one out, Data and Beta Shapley) are left out for their time. "knn_shapley"
does not look at the net. "cleanlab" has out-of-fold probabilities of the net, of three folds: with two classes its
label quality ranks the rows as the out-of-fold loss does, and in the place of a sign stand the rows that its
``find_label_issues`` names. "Per-row loss" is the loss of the trained net itself.

AUROC and AP (average precision) take low scores for the flipped rows. Polarity is the share of flipped rows whose score
is negative, and of the others whose score is not; the per-row loss and self-influence have no sign. "Seeds" counts
those in which a method gave scores: a Hessian that a named damping leaves indefinite is refused. Seconds are of one
core's time, and set-up weighs most in the small ones.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from .. import _runner
from ._moons_scores import (
    CLEANLAB,
    LOSS,
    N_TRAIN,
    SCORED,
    UNDAMPED,
    Judged,
    Moons,
    draw_moons,
    fit_net,
    losses,
    scorers,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Noise of the moons, and epochs of training.
CASES = {
    "noise 0.1, 100 epochs": (0.1, 100),
    "noise 0.1, 1,000 epochs": (0.1, 1000),
    "noise 0.2, 100 epochs": (0.2, 100),
    "noise 0.2, 1,000 epochs": (0.2, 1000),
}
#: The methods whose scores the figure shows.
SHOWN = (
    LOSS, CLEANLAB, "ip", "ip_ensemble", "ip_ensemble, 100 members", "tracin", "gex", UNDAMPED, "exact, Hessian",
    "exact, GN", "exact, GN, λ = 0.1", "lissa, GN", "ekfac", "datainf", "self_tracin",
)  # fmt: skip
VALUES = ("auroc", "ap", "flipped_negative", "others_positive", "accuracy", "loss", "seconds")


def run(*, quick: bool = False, data_home: str | None = None) -> dict[str, Any]:
    """All cases and seeds, or one of each, one core a seed; `data_home` is not used."""
    cases, seeds = (list(CASES)[:1], range(1)) if quick else (list(CASES), range(20))
    done = _runner.over_cores(one_seed, [(case, seed) for case in cases for seed in seeds])
    rows = _runner.aggregate((row for rows, _ in done for row in rows), ("case", "method"), VALUES)
    scored = {row["method"] for row in rows}
    absent = [label for label in (CLEANLAB, *SCORED) if label not in scored]
    for label in absent:
        print(f"{label} is not installed: left out.")
    return {
        "about": _runner.about(__doc__, f"{len(seeds)} seed(s), of rows, flips and the net; ± is over seeds."),
        "seeds": list(seeds),
        "absent": absent,
        "rows": rows,
        "refused": [refusal for rows, _ in done for refusal in rows if "refused" in refusal],
        "points": [point for _, points in done[:: len(seeds)] for point in points],
    }


def one_seed(case: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How well each method tells the flipped rows; and the scored training rows, which the figure shows."""
    noise, epochs = CASES[case]
    moons = draw_moons(seed, noise)
    net = fit_net(moons, epochs, seed)
    of_net = {
        "accuracy": float((net.predict(moons.X_test) == moons.y_test).mean()),
        "loss": float(losses(net, moons).mean()),
    }
    rows, scores = [], {}
    for label, score in scorers(net, moons, seed).items():
        row = {"case": case, "method": label, "seed": seed} | of_net
        began = time.process_time()
        try:
            with warnings.catch_warnings():
                # Indefinite Hessians and unsolved systems are warned of; here they are the subject.
                warnings.simplefilter("ignore")
                judged = score()
        except (ValueError, RuntimeError) as error:
            rows.append(row | {"refused": str(error)})
            continue
        scores[label] = judged.scores
        rows.append(row | {"seconds": time.process_time() - began} | detection(judged, moons.flipped))
    return rows, points(case, moons, {label: scores[label] for label in SHOWN if label in scores})


def detection(judged: Judged, flipped: np.ndarray) -> dict[str, Any]:
    """AUROC and average precision of low scores, and polarity."""
    harmful = judged.harmful
    return {
        "auroc": roc_auc_score(flipped, -judged.scores),
        "ap": average_precision_score(flipped, -judged.scores),
        "flipped_negative": None if harmful is None else harmful[flipped].mean(),
        "others_positive": None if harmful is None else 1 - harmful[~flipped].mean(),
    }


def points(case: str, moons: Moons, scores: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One row for each training row; scores in the order of its ``methods``."""
    return [
        {
            "case": case,
            "flipped": bool(moons.flipped[i]),
            "x": [round(float(x), 3) for x in moons.X[i]],
            "y": int(moons.y[i]),
            "scores": {label: float(f"{found[i]:.4g}") for label, found in scores.items()},
        }
        for i in range(N_TRAIN)
    ]


def tables(result: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of a stored result."""
    made = {}
    for case in dict.fromkeys(row["case"] for row in result["rows"]):
        own = [row for row in result["rows"] if row["case"] == case]
        net = f"test accuracy {_runner.figure(own[0]['accuracy'])}, training loss {_runner.figure(own[0]['loss'])}"
        made[f"{case} ({net})"] = [
            {
                "method": row["method"],
                "AUROC": _runner.figure(row["auroc"]),
                "AP": _runner.figure(row["ap"]),
                "flipped with a negative score": _runner.figure(row["flipped_negative"]),
                "others with a positive score": _runner.figure(row["others_positive"]),
                "seeds": len(row["auroc"]["seeds"]) if row["auroc"] else 0,
                "seconds": f"{row['seconds']['mean']:.2f}" if row.get("seconds") else None,
            }
            for row in own
        ]
    return made


def figures(result: dict[str, Any]) -> dict[str, Figure]:
    """The rows, and the score of each by every method, for seed 0: one figure a length of training."""
    from .. import _figures

    drawn = {point["case"] for point in result["points"]}
    return {
        f"moons_{epochs}": _figure(case, [point for point in result["points"] if point["case"] == case], _figures)
        for case, (noise, epochs) in CASES.items()
        if noise == 0.1 and case in drawn
    }


def _figure(case: str, own: list[dict[str, Any]], style: Any) -> Figure:
    flipped, y, X = (np.array([point[key] for point in own]) for key in ("flipped", "y", "x"))
    labels = list(own[0]["scores"])
    n_rows = -(-(1 + len(labels)) // 4)
    figure, axes = style.panels(n_rows, 4, (13.0, 2.7 * n_rows))
    flat = [ax for line in axes for ax in line]
    _rows(flat[0], X, y, flipped, style)
    order = np.argsort(flipped, kind="stable")
    for label, ax in zip(labels, flat[1:], strict=False):
        scores = np.array([point["scores"][label] for point in own])
        ax.axhline(0, color=style.GREY, lw=0.8)
        at, marked = np.arange(len(scores)), flipped[order]
        # In units of each method's own, linear up to one and logarithmic beyond, so that a few large scores hide none.
        shown = (scores / np.quantile(np.abs(scores), 0.75))[order]
        ax.scatter(at[~marked], shown[~marked], s=12, marker="o", facecolor="none", edgecolor=style.BLUE)
        ax.scatter(at[marked], shown[marked], s=24, marker="x", color=style.BLACK)
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_ylim(-200, 200)
        ax.set_yticks([-100, -10, -1, 0, 1, 10, 100], ["−100", "−10", "−1", "0", "1", "10", "100"])
        ax.minorticks_off()
        ax.set_title(f"{label} ({roc_auc_score(flipped, -scores):.3f})")
        ax.set_xlabel("training row, flipped last")
        ax.set_ylabel("score / upper quartile of |score|")
    for ax in flat[1 + len(labels) :]:
        ax.set_visible(False)
    handles, names = flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    figure.suptitle(f"Half-moons, 200 training rows, 20 with a flipped label: {case}, seed 0 (AUROC in brackets)")
    return figure


def _rows(ax: Any, X: np.ndarray, y: np.ndarray, flipped: np.ndarray, style: Any) -> None:
    for label, marker, colour in ((0, "o", style.BLUE), (1, "^", style.GREEN)):
        own = y == label
        ax.scatter(*X[own].T, marker=marker, s=16, facecolor="none", edgecolor=colour, label=f"labelled {label}")
    ax.scatter(*X[flipped].T, marker="x", s=30, color=style.BLACK, label="label flipped")
    ax.set_title("rows")
    ax.set_xlabel("feature 1")
    ax.set_ylabel("feature 2")
