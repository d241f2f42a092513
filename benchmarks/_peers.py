"""What curation is compared with: none, random removal, the per-row loss, and two other packages.

Every curator is a function ``(X, y, model, seed) -> Curation``. `model` is an unfitted classifier; labels are the
integers from 0. The packages get the settings that did best here: see ``README.md`` beside this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict

#: Share of rows removed by every method that does not choose its own.
REMOVAL_RATE = 0.05
#: Of the probabilities from models that never saw a row.
FOLDS = 5


class Unsupported(ValueError):
    """The method does not handle this kind of table."""


@dataclass(frozen=True)
class Curation:
    """What a method says of the rows: which to keep, and how suspect each one is (None: it has no opinion)."""

    keep: np.ndarray
    suspicion: np.ndarray | None


Curator = Callable[..., Curation]


def remove_most_suspect(suspicion: np.ndarray, y: np.ndarray, rate: float = REMOVAL_RATE) -> Curation:
    """Keep all but the most suspect share `rate` of the rows."""
    keep = np.ones(len(y), dtype=bool)
    keep[np.argsort(-suspicion, kind="stable")[: int(rate * len(y))]] = False
    return Curation(keep, suspicion)


def no_curation(X, y, model, seed) -> Curation:
    return Curation(np.ones(len(y), dtype=bool), None)


def random_removal(X, y, model, seed) -> Curation:
    draw = np.random.default_rng(seed).random(len(y))
    return Curation(remove_most_suspect(draw, y).keep, None)


def row_loss(X, y, model, seed) -> Curation:
    """The rows with the highest log-loss under a model that never saw them."""
    return remove_most_suspect(log_loss_of_rows(y, out_of_fold(X, y, model, seed)), y)


def log_loss_of_rows(y, probabilities) -> np.ndarray:
    return -np.log(probabilities[np.arange(len(y)), y] + 1e-300)


def cleanlab(X, y, model, seed) -> Curation:
    """cleanlab's `find_label_issues` on out-of-fold probabilities; ranked by its label quality score."""
    return cleanlab_issues(y, out_of_fold(X, y, model, seed))


def cleanlab_issues(y, probabilities) -> Curation:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    issues = find_label_issues(y, probabilities, n_jobs=1)
    return Curation(~issues, -get_label_quality_scores(y, probabilities))


def pyinfluence_self(X, y, model, seed) -> Curation:
    """pyinfluence's own way to wrong labels: the largest absolute self-influence."""
    import pyinfluence

    _binary_only(y)
    attributor = pyinfluence.InfluenceFunctions().fit(clone(model).fit(X, y), X, y)
    return remove_most_suspect(np.abs(pyinfluence.self_influence(attributor)), y)


def pyinfluence_cross_fitted(X, y, model, seed) -> Curation:
    """pyinfluence by an expert's hand: cross-fitted, with the functional written to be robust to wrong labels.

    The package has no such mode; the folds and the functional are ours. Under its own loss the cross-fitted scores rank
    wrong labels no better than chance.
    """
    import pyinfluence

    _binary_only(y)
    scores = np.zeros(len(y))
    for rows, held_out in _folds(seed).split(X, y):
        fitted = clone(model).fit(X[rows], y[rows])
        functional = _mean_absolute_error(pyinfluence, y[held_out])
        attributor = pyinfluence.FunctionalInfluence(functional).fit(fitted, X[rows], y[rows])
        scores[rows] += attributor.explain(X[held_out], y[held_out])
    return remove_most_suspect(-scores, y)


def _mean_absolute_error(pyinfluence, y):
    """Mean of ``1 - p(given label)`` as a pyinfluence functional of ``p(class 1)``."""
    slope = np.where(y == 1, -1.0, 1.0) / len(y)
    return pyinfluence.Functional(
        fn=lambda scores, labels: float(slope @ scores + np.mean(y == 1)),
        grad=lambda scores, labels: slope,
        of="scores",
    )


def _folds(seed):
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed)


def out_of_fold(X, y, model, seed):
    return cross_val_predict(clone(model), X, y, cv=_folds(seed), method="predict_proba")


def _binary_only(y):
    if y.max() > 1:
        raise Unsupported("pyinfluence's influence functions handle two classes only.")


#: Label in the tables -> curator.
BASELINES: dict[str, Curator] = {
    "no curation": no_curation,
    "random removal, 5 %": random_removal,
    "per-row loss, 5 %": row_loss,
    "cleanlab find_label_issues": cleanlab,
    "pyinfluence self-influence, 5 %": pyinfluence_self,
    "pyinfluence, cross-fitted by hand, 5 %": pyinfluence_cross_fitted,
}
