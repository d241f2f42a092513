"""What can be differentiated, and `as_model`, which finds it in a fitted estimator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from ._families import FAMILIES, family_of
from ._fitted import FittedModel, Penalty
from ._protocol import DifferentiableModel
from .linear import LinearModel

__all__ = ["DifferentiableModel", "FittedModel", "LinearModel", "Penalty", "as_model", "can_model"]


def as_model(estimator: Any) -> FittedModel:
    """The differentiable model, loss and penalty of a fitted estimator.

    Parameters
    ----------
    estimator : estimator
        A fitted linear estimator of scikit-learn, or a fitted Pipeline whose last step is one; the transformers before
        it are applied as they are.

    Returns
    -------
    FittedModel

    Raises
    ------
    TypeError
        If the estimator is of no supported family; the message names those that are.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence.models import as_model
    >>> X, y = load_iris(return_X_y=True)
    >>> fitted = as_model(LogisticRegression(max_iter=500).fit(X, y))
    >>> fitted.task, fitted.model.params.shape
    ('classification', (15,))
    """
    transformers, estimator = _split(estimator)
    family = family_of(estimator)
    if family is None:
        raise TypeError(
            f"Influence needs a model that it can differentiate; got {type(estimator).__name__}. Supported are "
            f"{', '.join(FAMILIES)}, and a Pipeline that ends in one of them."
        )
    check_is_fitted(estimator)
    fitted = family(estimator)
    return fitted if transformers is None else replace(fitted, transformers=transformers)


def can_model(estimator: Any) -> bool:
    """Whether `as_model` has a family for the estimator, fitted or not."""
    return family_of(_split(estimator)[1]) is not None


def _split(estimator: Any) -> tuple[Any, Any]:
    """Transformers (or None) and final estimator; a `FrozenEstimator` is what it holds."""
    if type(estimator).__name__ == "FrozenEstimator":
        return _split(estimator.estimator)
    if not isinstance(estimator, Pipeline):
        return None, estimator
    if len(estimator.steps) == 0:
        raise ValueError("The Pipeline has no steps.")
    if any(hasattr(step, "fit_curate") for _, step in estimator.steps):
        raise TypeError(
            "This Pipeline curates: its model was fitted on other rows than the Pipeline was given. Take the "
            "influence through "
            "its last step (pipe[-1]) and the rows that were kept (pipe.sample_indices_)."
        )
    head = estimator[:-1] if len(estimator.steps) > 1 else None
    inner, final = _split(estimator.steps[-1][1])
    if inner is None or head is None:
        return head or inner, final
    return Pipeline([("head", head), ("inner", inner)]), final
