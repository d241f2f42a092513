"""Fitting the estimators that scores are taken from: weights, seeds, tasks and defaults."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import has_fit_parameter

from ._seeds import seeded, torch_seed
from .models import can_model, ignored_label
from .models._fitted import Task, without_ignored
from .models._host import on_host
from .nets import DifferentiableNet

_MOST_CLASSES = 20
_MOST_CLASSES_SHARE = 0.1


def default_estimator(task: Task, X: Any) -> Any:
    """Logistic regression or ridge on scaled columns: gradients, and so inner products of them, depend on the columns'
    units.
    """
    scaler = StandardScaler(with_mean=not sp.issparse(X))
    return make_pipeline(scaler, LogisticRegression(max_iter=1000) if task == "classification" else Ridge())


def find_task(estimator: Any, y: Any, task: Task | None) -> Task:
    """Classification or regression: as told, else by the estimator's kind, else by the target's values."""
    kind: Task | None = None
    if estimator is not None:
        kind = "classification" if is_classifier(estimator) else "regression" if is_regressor(estimator) else None
    if task is not None and kind is not None and kind != task:
        raise TypeError(
            f"The curator's estimator is for {kind}, and what follows it for {task}: give the curator an estimator "
            f"for {task}, "
            "or None."
        )
    found = task or kind
    return found if found is not None else _task_of(y)


def _task_of(y: Any) -> Task:
    kind = type_of_target(y, input_name="y", raise_unknown=True)
    if kind in ("continuous", "continuous-multioutput"):
        return "regression"
    if kind not in ("binary", "multiclass"):
        raise ValueError(f"y must hold one label a row, or continuous targets; got a target of type {kind!r}.")
    values = np.asarray(on_host(y))
    n_values = len(np.unique(values)) if values.dtype.kind in "iuf" else 0
    # Whole numbers may be classes or counts; so many of them are no classes.
    if n_values > _MOST_CLASSES and n_values > _MOST_CLASSES_SHARE * len(values):
        raise ValueError(
            f"y holds {n_values} different whole numbers in {len(values)} rows: classes, or a regression target? Give "
            "the "
            "curator an estimator (Ridge() or LogisticRegression(), say), or use skinfluence.Pipeline or a Curated "
            "estimator, "
            "which know the task from their final model."
        )
    return "classification"


def check_labels(y: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Class labels, one-dimensional; the classes; and the code of each label."""
    check_classification_targets(y)
    flat = column_or_1d(y, warn=True)
    y = flat if len(getattr(y, "shape", ())) > 1 else y
    try:
        classes, codes = np.unique(flat, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"y must hold labels of one kind, without missing ones: {error}.") from error
    if len(classes) < 2:
        raise ValueError(
            f"y must hold at least two classes, got one: {classes.tolist()}. With one class there is nothing to "
            "separate."
        )
    return y, classes, codes.ravel()


def find_estimator(estimator: Any, following: Any) -> Any:
    """The estimator that a curator's parameter stands for, checked before anything is fitted; None is the default."""
    if estimator is None:
        return None
    if isinstance(estimator, str):
        if estimator != "final":
            raise ValueError(f"estimator must be an estimator, None or 'final', got {estimator!r}.")
        if following is None:
            raise ValueError(
                "estimator='final' stands for the step that follows the curator, which is known inside "
                "skinfluence.Pipeline, CuratedClassifier and CuratedRegressor alone. Here, give the estimator itself, "
                "or "
                "None."
            )
        estimator = following
    check_scorable(estimator)
    return estimator


def check_scorable(estimator: Any) -> None:
    """Raise, before anything is fitted, if influence cannot be taken through the estimator."""
    final = _last_step(estimator)[1]
    if isinstance(final.net if isinstance(final, DifferentiableNet) else final, tuple):
        raise TypeError(
            "A curator fits its estimator, and a bare (module, loss) cannot be fitted. Wrap the module in a skorch "
            "net, or train it and ask influence_scores."
        )
    if not can_model(estimator):
        kind = type(
            estimator.steps[-1][1] if isinstance(estimator, Pipeline) and estimator.steps else estimator
        ).__name__
        raise TypeError(
            f"Influence needs an estimator that it can differentiate, and {kind} is none. Give the curator a linear "
            "estimator of scikit-learn, an MLP, a skorch net "
            "(or a Pipeline that ends in one), or leave estimator=None for its default; the final model may be of any "
            "kind."
        )


def refuse_ignored(estimator: Any, classes: np.ndarray, codes: np.ndarray) -> None:
    """Raise if rows have the label that a net's criterion ignores: of no class, they are nothing to curate by."""
    label = None if estimator is None or classes.dtype.kind not in "iu" else ignored_label(estimator)
    if label is not None and len(without_ignored(classes, label)) < len(classes):
        n_ignored = int(np.count_nonzero(classes[codes] == label))
        raise ValueError(
            f"y holds {n_ignored} rows with the label {label}, which the criterion of the curator's net ignores "
            "(ignore_index): they are of no class, and no fit learns from them. Leave them out of X and y. "
            "influence_scores takes them, and scores them zero."
        )


def is_frozen(estimator: Any) -> bool:
    """Whether the estimator is a FrozenEstimator, which is scored as it is."""
    return type(estimator).__name__ == "FrozenEstimator"


def fit_estimator(estimator: Any, X: Any, y: Any, sample_weight: np.ndarray | None, seed: int) -> Any:
    """A fitted clone; ``random_state=None`` and torch are seeded, and weights reach the last step of a Pipeline."""
    if is_frozen(estimator):
        return estimator
    estimator = seeded(clone(estimator), seed)
    with torch_seed(seed, estimator):
        return _fit(estimator, X, y, sample_weight)


def _fit(estimator: Any, X: Any, y: Any, sample_weight: np.ndarray | None) -> Any:
    if sample_weight is None:
        return estimator.fit(X, y)
    path, final = _last_step(estimator)
    if not takes_weight(estimator):
        raise TypeError(
            f"sample_weight was given, but {type(final).__name__} takes none in fit. Leave it out, or choose another "
            "estimator."
        )
    # The weights are for this estimator as a whole, whatever its parts have requested.
    with config_context(enable_metadata_routing=False):
        return estimator.fit(X, y, **{f"{path}sample_weight": sample_weight})


def takes_weight(estimator: Any) -> bool:
    """Whether the estimator, or the last step of a Pipeline, is fitted with row weights."""
    final = _last_step(estimator)[1]
    return bool(has_fit_parameter(final.net if isinstance(final, DifferentiableNet) else final, "sample_weight"))


def _last_step(estimator: Any) -> tuple[str, Any]:
    path = ""
    while isinstance(estimator, Pipeline):
        name, estimator = estimator.steps[-1]
        path += f"{name}__"
    return path, estimator
