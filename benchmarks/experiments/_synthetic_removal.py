"""What the removal of rows does to a model of the blobs: flipped rows found, and refits judged on other rows."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from skinfluence.metrics import group_mean_difference
from skinfluence.objectives import adversarial_rows

from .. import _peers, _runner
from .._peers import Curation

if TYPE_CHECKING:
    from .synthetic import Blobs, Clean

GAMMA = 1.3
NONE, RANDOM = "no curation", "random removal"
LOSS, CLEANLAB = "per-row loss, out of fold", "cleanlab find_label_issues"
BASELINES = (NONE, RANDOM, LOSS, CLEANLAB)
#: Objective -> what it is called in the tables.
MEASURES = {"utility": "log-loss", "fairness": "parity gap", "robustness": "log-loss under attack"}
VALUES = ("auroc", "ap", "found", "removed", "accuracy", "value", "value_scored")


def classifier() -> LogisticRegression:
    """The study's model, trained until nothing moves, since single rows are left out of it."""
    return LogisticRegression(solver="newton-cholesky", tol=1e-8)


def by_baselines(blobs: Blobs, seed: int) -> dict[str, Curation]:
    """Who needs no objective: as many rows as were flipped, and what cleanlab says, where it is installed."""
    X, y = blobs.X, blobs.y
    found = {NONE: _peers.no_curation(X, y, classifier(), seed)}
    drawn = np.random.default_rng(seed).random(len(y))
    found[RANDOM] = Curation(_lowest(-drawn, blobs).keep, None)
    probabilities = _peers.out_of_fold(X, y, classifier(), seed)
    found[LOSS] = _lowest(-_peers.log_loss_of_rows(y, probabilities), blobs)
    if find_spec("cleanlab"):
        found[CLEANLAB] = _peers.cleanlab_issues(y, probabilities)
    return found


def _lowest(scores: np.ndarray, blobs: Blobs) -> Curation:
    return _peers.remove_most_suspect(-scores, blobs.y, blobs.flipped.mean())


def removals(
    case: str, blobs: Blobs, by_objective: dict[str, dict[str, np.ndarray]], seed: int
) -> list[dict[str, Any]]:
    """One row for each objective and curator; `by_objective` has the scores of the methods."""
    model = classifier().fit(blobs.X, blobs.y)
    judged, scored_on = measures(model, blobs.judged), measures(model, blobs.test)
    baselines = by_baselines(blobs, seed)
    rows = []
    for objective, scores in by_objective.items():
        curations = baselines | {method: _lowest(own, blobs) for method, own in scores.items()}
        for curator, curation in curations.items():
            fitted = classifier().fit(blobs.X[curation.keep], blobs.y[curation.keep])
            rows.append(
                {
                    "case": case,
                    "objective": objective,
                    "curator": curator,
                    **detection(blobs.flipped, curation),
                    "accuracy": fitted.score(blobs.judged.X, blobs.judged.y),
                    "value": judged[objective](fitted),
                    "value_scored": scored_on[objective](fitted),
                }
            )
    return rows


def detection(flipped: np.ndarray, curation: Curation) -> dict[str, Any]:
    """How well the suspicion tells flipped rows, which of them were removed, and how many rows were."""
    suspicion = curation.suspicion
    return {
        "auroc": None if suspicion is None else roc_auc_score(flipped, suspicion),
        "ap": None if suspicion is None else average_precision_score(flipped, suspicion),
        "found": (flipped & ~curation.keep).sum() / flipped.sum(),
        "removed": (~curation.keep).sum(),
    }


def measures(model: LogisticRegression, rows: Clean) -> dict[str, Callable[[LogisticRegression], float]]:
    """Objective -> its value on `rows`; under attack they are where `model`, trained on all rows, had them moved."""
    moved = adversarial_rows(model, rows.X, GAMMA)
    return {
        "utility": lambda fitted: log_loss(rows.y, fitted.predict_proba(rows.X)),
        "fairness": lambda fitted: group_mean_difference(
            fitted.predict_proba(rows.X)[:, 1], sensitive_features=rows.groups
        ),
        "robustness": lambda fitted: log_loss(rows.y, fitted.predict_proba(moved)),
    }


def tables(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A table an objective."""
    made: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        measure = MEASURES[row["objective"]]
        (without,) = (
            other
            for other in rows
            if (other["case"], other["objective"], other["curator"]) == (row["case"], row["objective"], NONE)
        )
        itself = row is without
        made.setdefault(f"Rows removed for {row['objective']}", []).append(
            {
                "case": row["case"],
                "removed by": row["curator"],
                "AUROC": _runner.figure(row["auroc"]),
                "AP": _runner.figure(row["ap"]),
                "rows removed": f"{row['removed']['mean']:.1f}",
                "flipped rows removed": _runner.figure(row["found"], 2),
                "accuracy": _runner.figure(row["accuracy"], 4),
                "gain, points": None if itself else _change(row, without, "accuracy", 100, 2),
                measure: _runner.figure(row["value"]),
                f"{measure}, change": None if itself else _change(row, without, "value", 1, 4),
                "change on the rows scored on": None if itself else _change(row, without, "value_scored", 1, 4),
            }
        )
    return made


def _change(row: dict[str, Any], without: dict[str, Any], value: str, times: float, digits: int) -> str:
    """Mean and spread, over seeds, of the difference from no curation."""
    return _runner.with_spread(times * (np.array(row[value]["seeds"]) - without[value]["seeds"]), digits)
