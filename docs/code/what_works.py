"""Which method works with which model, objective and action: tried, on a small table.

``python docs/code/what_works.py`` writes ``what_works.csv``.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Perceptron, Ridge
from sklearn.neural_network import MLPClassifier

from skinfluence import InfluenceRelabeler, InfluenceSelector, influence_scores
from skinfluence.methods import METHODS
from skinfluence.models import as_model
from skinfluence.objectives import AdversarialRobustness

FILE = Path(__file__).with_suffix(".csv")
FEW = {"data_shapley": {"n_permutations": 2}, "beta_shapley": {"n_permutations": 2}, "gex": {"n_steps": 5}}
CHECKPOINTS = ("tracin", "tda")

X, y = load_iris(return_X_y=True)
X, y = X[y > 0][::8] - X.mean(axis=0), y[y > 0][::8] - 1
GROUPS = np.arange(len(y)) % 2


def _method(name: str, fitted: Any) -> Any:
    """A method in its cheapest form, with the checkpoints that some need."""
    options = dict(FEW.get(name, {}))
    if name in CHECKPOINTS:
        options["checkpoints"] = [as_model(fitted).model.params]
    return METHODS[name]().set_params(**options)


def _fit(estimator: Any, targets: Any = y) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, targets)


def _scores(name: str, estimator: Any, targets: Any = y, **options: Any) -> None:
    fitted = _fit(estimator, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small nets are at no minimum, and say so
        found = influence_scores(fitted, X, targets, method=_method(name, fitted), random_state=0, **options)
        for _ in found if options.get("per_validation_row") else ():
            pass


def _relabel(name: str) -> None:
    frozen = FrozenEstimator(_fit(LogisticRegression()))
    InfluenceRelabeler(frozen, method=_method(name, frozen.estimator), cv=None, random_state=0).fit(X, y)


def _auto(name: str) -> None:
    frozen = FrozenEstimator(_fit(LogisticRegression()))
    method = _method(name, frozen.estimator)
    InfluenceSelector(frozen, method=method, removal_rate="auto", cv=None, random_state=0).fit(X, y)


def _mlp() -> MLPClassifier:
    return MLPClassifier(2, max_iter=10, random_state=0)


TRIED: dict[str, Callable[[str], None]] = {
    "smooth loss": lambda name: _scores(name, LogisticRegression()),
    "hinge loss": lambda name: _scores(name, Perceptron()),
    "regression": lambda name: _scores(name, Ridge(), X[:, 0] + y),
    "nets": lambda name: _scores(name, _mlp()),
    "fairness": lambda name: _scores(
        name, LogisticRegression(), objective="demographic_parity", sensitive_features=GROUPS
    ),
    "robustness": lambda name: _scores(name, LogisticRegression(), objective=AdversarialRobustness()),
    "by validation row": lambda name: _scores(name, LogisticRegression(), per_validation_row=True),
    "relabels": _relabel,
    "“auto”": _auto,
}


def table() -> list[list[str]]:
    """The table: a line for each method, "yes" where it works and a dash where it is refused."""
    lines = [["method", *TRIED]]
    for name in METHODS:
        cells = []
        for attempt in TRIED.values():
            try:
                attempt(name)
            except (TypeError, ValueError):
                cells.append("–")
            else:
                cells.append("yes")
        lines.append([f"``{name}``", *cells])
    return lines


if __name__ == "__main__":
    with FILE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table())
