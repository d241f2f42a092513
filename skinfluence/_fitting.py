"""Fitting the estimators that scores are taken from: weights, seeds, tasks and defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import has_fit_parameter

from .models import can_model
from .models._fitted import Task


def default_estimator(task: Task, X: Any) -> Any:
    """Logistic regression or ridge on scaled columns: gradients, and so inner products of them, depend on the columns'
    units.
    """
    scaler = StandardScaler(with_mean=not sp.issparse(X))
    return make_pipeline(scaler, LogisticRegression(max_iter=1000) if task == "classification" else Ridge())


def find_task(estimator: Any, y: Any, task: Task | None) -> Task:
    """Classification or regression: as told, else by the estimator's kind, else by the target's values."""
    if task is not None:
        return task
    if estimator is not None and not isinstance(estimator, str):
        if is_classifier(estimator):
            return "classification"
        if is_regressor(estimator):
            return "regression"
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind in ("binary", "multiclass"):
        return "classification"
    if kind in ("continuous", "continuous-multioutput"):
        return "regression"
    raise ValueError(f"y must hold one label a row, or continuous targets; got a target of type {kind!r}.")


def check_scorable(estimator: Any) -> None:
    """Raise, before anything is fitted, if influence cannot be taken through the estimator."""
    if not can_model(estimator):
        kind = type(
            estimator.steps[-1][1] if isinstance(estimator, Pipeline) and estimator.steps else estimator
        ).__name__
        raise TypeError(
            f"Influence needs an estimator that it can differentiate, and {kind} is none. Give the curator a linear "
            "estimator of scikit-learn "
            "(or a Pipeline that ends in one), or leave estimator=None for its default; the final model may be of any "
            "kind."
        )


def is_frozen(estimator: Any) -> bool:
    """Whether the estimator is a FrozenEstimator, which is scored as it is."""
    return type(estimator).__name__ == "FrozenEstimator"


def fit_estimator(estimator: Any, X: Any, y: Any, sample_weight: np.ndarray | None, seed: int) -> Any:
    """A fitted clone; parameters ``random_state=None`` are seeded, and weights reach the last step of a Pipeline."""
    if is_frozen(estimator):
        return estimator
    estimator = seeded(clone(estimator), seed)
    if sample_weight is None:
        return estimator.fit(X, y)
    path, final = _last_step(estimator)
    if not has_fit_parameter(final, "sample_weight"):
        raise TypeError(
            f"sample_weight was given, but {type(final).__name__} takes none in fit. Leave it out, or choose another "
            "estimator."
        )
    # The weights are for this estimator as a whole, whatever its parts have requested.
    with config_context(enable_metadata_routing=False):
        return estimator.fit(X, y, **{f"{path}sample_weight": sample_weight})


def _last_step(estimator: Any) -> tuple[str, Any]:
    path = ""
    while isinstance(estimator, Pipeline):
        name, estimator = estimator.steps[-1]
        path += f"{name}__"
    return path, estimator


def seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """The estimator with every ``random_state=None`` in it replaced by a number drawn from ``seed``."""
    params = estimator.get_params(deep=True)
    names = sorted(name for name, value in params.items() if name.split("__")[-1] == "random_state" and value is None)
    draws = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=len(names))
    return estimator.set_params(**dict(zip(names, draws.tolist(), strict=True))) if names else estimator
