"""What the parts of `beyond` share: curators of a classifier's training rows, and how what they did is judged."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from skinfluence import InfluenceRelabeler, InfluenceReweighter, InfluenceSelector

from .. import _peers

NONE, RANDOM, LOSS, CLEANLAB = "no curation", "random removal", "per-row loss", "cleanlab"


@dataclass(frozen=True)
class Outcome:
    """The rows that a curator keeps, how suspect each row is, and labels or weights if it changes them."""

    keep: np.ndarray
    suspicion: np.ndarray | None = None
    y: np.ndarray | None = None
    weight: np.ndarray | None = None

    def at_rate(self, rate: float) -> Outcome:
        """The same opinion of the rows, with the most suspect share of them removed."""
        assert self.suspicion is not None
        return Outcome(_peers.remove_most_suspect(self.suspicion, self.keep, rate).keep, self.suspicion)


def baselines(X: Any, y: np.ndarray, model: Any, seed: int, rate: float) -> dict[str, Outcome]:
    """No curation, random removal, the out-of-fold loss and cleanlab, where it is installed, of this model."""
    probabilities = _peers.out_of_fold(X, y, model, seed)
    loss = _peers.remove_most_suspect(_peers.log_loss_of_rows(y, probabilities), y, rate)
    draw = np.random.default_rng(seed).random(len(y))
    found = {
        NONE: Outcome(np.ones(len(y), dtype=bool)),
        RANDOM: Outcome(_peers.remove_most_suspect(draw, y, rate).keep),
        LOSS: Outcome(loss.keep, loss.suspicion),
    }
    with suppress(ModuleNotFoundError):  # a peer that is not installed has no line, as in the other benchmarks
        issues = _peers.cleanlab_issues(y, probabilities)
        found[CLEANLAB] = Outcome(issues.keep, issues.suspicion)
    return found


def removed(
    X: Any, y: np.ndarray, model: Any, seed: int, *, val: dict[str, Any] | None = None, **params: Any
) -> Outcome:
    """Rows removed by an `InfluenceSelector`."""
    selector = InfluenceSelector(model, random_state=seed, **params).fit(X, y, **(val or {}))
    return Outcome(selector.get_support(), -selector.scores_)


def reweighted(X: Any, y: np.ndarray, model: Any, seed: int, **params: Any) -> Outcome:
    """Rows weighted by an `InfluenceReweighter`."""
    curator = InfluenceReweighter(model, random_state=seed, **params).fit(X, y)
    return Outcome(curator.get_support(), -curator.scores_, weight=curator.sample_weight_)


def relabelled(X: Any, y: np.ndarray, model: Any, seed: int, **params: Any) -> Outcome:
    """Labels changed by an `InfluenceRelabeler`."""
    curator = InfluenceRelabeler(model, random_state=seed, **params).fit(X, y)
    return Outcome(curator.get_support(), -curator.scores_, y=np.asarray(curator.y_))


def retrained(model: Any, X: np.ndarray, y: np.ndarray, outcome: Outcome) -> Any:
    """The model, fitted on what the curator has left."""
    y = y if outcome.y is None else outcome.y
    weight = None if outcome.weight is None else outcome.weight[outcome.keep]
    return clone(model).fit(X[outcome.keep], y[outcome.keep], sample_weight=weight)


def judged(model: Any, X_test: np.ndarray, y_test: np.ndarray) -> dict[str, float]:
    """Accuracy and balanced accuracy on the test rows, and the rate of their larger class."""
    predicted = model.predict(X_test)
    return {
        "accuracy": float(np.mean(predicted == y_test)),
        "balanced_accuracy": float(balanced_accuracy_score(y_test, predicted)),
        "majority": float(np.bincount(y_test).max() / len(y_test)),
    }


def detected(outcome: Outcome, wrong: np.ndarray | None) -> dict[str, float | None]:
    """How many rows were removed, and how well suspicion ranks those known to be wrong."""
    known = wrong is not None and wrong.any() and outcome.suspicion is not None
    return {
        "removed": float(1 - outcome.keep.mean()),
        "auroc": float(roc_auc_score(wrong, outcome.suspicion)) if known else None,
    }


def quietly(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call without warnings: of separable data, and of nets whose few epochs have not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)
