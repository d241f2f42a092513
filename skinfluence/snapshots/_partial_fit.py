"""Histories of scikit-learn's stochastic gradient descent, recorded while it runs."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_scalar

from ..models import as_model, can_model
from ._checkpoints import History

_SCHEDULES = ("constant", "optimal", "invscaling", "adaptive")


def record_partial_fit(
    estimator: Any, X: Any, y: Any, *, n_epochs: int = 10, every: int = 1, sample_weight: Any = None
) -> History:
    """Train an estimator by ``partial_fit``, and keep its parameters on the way.

    The estimator itself is trained, one pass over the rows an epoch, from where it stands: afresh if it was never
    fitted. A checkpoint is kept after every ``every`` epochs, and after the last. Its weight is the sum over the epochs
    since the one before it of the learning rate, averaged over the epoch's updates: what a row's gradients were
    multiplied with in all.

    Parameters
    ----------
    estimator : SGDClassifier, SGDRegressor or Perceptron
        Trained in place; ``average`` must be off.
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        The training rows.
    y : array-like of shape (n_samples,)
        Their targets.
    n_epochs : int, default=10
        Passes over the rows.
    every : int, default=1
        Epochs between two checkpoints.
    sample_weight : array-like of shape (n_samples,), default=None
        As in ``partial_fit``.

    Returns
    -------
    history : History
        For `skinfluence.methods.TracIn` and `Checkpoints`.

    Raises
    ------
    TypeError
        If the estimator is not one that learns by scikit-learn's stochastic gradient descent.
    ValueError
        If its learning rate is not one number for all rows (passive-aggressive schedules), if it averages its
        parameters, or a number is out of range.

    Notes
    -----
    scikit-learn's schedules at update t = 1, 2, ...: "constant" and "adaptive" ``eta0`` (partial_fit never lowers it),
    "invscaling" ``eta0 / t^power_t``, "optimal" ``1 / (alpha (t0 + t - 1))`` with Bottou's ``t0 = alpha^(-3/4)``.
    On sparse X scikit-learn moves the intercept more slowly than the rest, which one learning rate does not tell.

    Source: the user guide of scikit-learn, "Stochastic Gradient Descent"; Bottou, "Stochastic Gradient Descent Tricks",
    2012.

    Examples
    --------
    >>> from sklearn.datasets import make_classification
    >>> from sklearn.linear_model import SGDClassifier
    >>> from skinfluence import influence_scores
    >>> from skinfluence.methods import TracIn
    >>> from skinfluence.snapshots import record_partial_fit
    >>> X, y = make_classification(random_state=0)
    >>> estimator = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, random_state=0)
    >>> history = record_partial_fit(estimator, X, y, n_epochs=6, every=2)
    >>> history, [round(weight, 6) for weight in history.weights]
    (History(3 checkpoints), [0.02, 0.02, 0.02])
    >>> influence_scores(estimator, X, y, method=TracIn(history)).shape
    (100,)
    """
    check_scalar(n_epochs, "n_epochs", Integral, min_val=1)
    check_scalar(every, "every", Integral, min_val=1)
    _check_estimator(estimator)
    extra: dict[str, Any] = {} if sample_weight is None else {"sample_weight": sample_weight}
    if is_classifier(estimator) and not hasattr(estimator, "classes_"):
        extra["classes"] = np.unique(y)
    n_updates = len(y)
    params: list[np.ndarray] = []
    weights: list[float] = []
    since = 0.0
    for epoch in range(1, n_epochs + 1):
        first = float(getattr(estimator, "t_", 1.0))
        estimator.partial_fit(X, y, **extra)
        extra.pop("classes", None)
        since += float(_learning_rates(estimator, first + np.arange(n_updates)).mean())
        if epoch % every == 0 or epoch == n_epochs:
            params.append(as_model(estimator).model.params.copy())
            weights.append(since)
            since = 0.0
    return History(tuple(params), tuple(weights))


def _check_estimator(estimator: Any) -> None:
    names = ("partial_fit", "learning_rate", "eta0")
    if not can_model(estimator) or not all(hasattr(estimator, name) for name in names):
        raise TypeError(
            "record_partial_fit needs an SGDClassifier, SGDRegressor or Perceptron, got "
            f"{type(estimator).__name__}. Of any other model, keep the parameters yourself while it is trained, and "
            "give Checkpoints the list."
        )
    if estimator.learning_rate not in _SCHEDULES:
        raise ValueError(
            f"learning_rate must be one of {list(_SCHEDULES)}, got {estimator.learning_rate!r}, whose rate is "
            "another for each row."
        )
    if getattr(estimator, "average", False):
        raise ValueError(
            f"average={estimator.average!r} keeps the mean of the parameters, and TracIn follows the parameters "
            "themselves: set average=False."
        )


def _learning_rates(estimator: Any, t: np.ndarray) -> np.ndarray:
    """The learning rates of the updates numbered ``t``, from 1."""
    if estimator.learning_rate == "optimal":
        return 1.0 / (estimator.alpha * (estimator.alpha**-0.75 + t - 1.0))
    if estimator.learning_rate == "invscaling":
        return estimator.eta0 / t**estimator.power_t
    return np.full_like(t, estimator.eta0)
