"""Validation rows in one object, so that nothing on their way can cut them."""

from __future__ import annotations

from typing import Any

__all__ = ["HeldOut"]


class HeldOut:
    """Validation rows that travel as one object through ``fit`` parameters.

    ``GridSearchCV`` and its kin slice every fit parameter that has as many rows as ``X``; validation rows that happen
    to be as many are then cut, silently. A `HeldOut` has no length and no shape, so it arrives whole. Give it as
    ``X_val``, and leave ``y_val`` out. `skinfluence.Pipeline` carries its ``X`` through the steps before the curator.

    Parameters
    ----------
    X : {array-like, sparse matrix, dataframe} of shape (n_val, n_features)
        The features of the validation rows, in the form in which the pipeline gets its training rows.
    y : array-like of shape (n_val,) or (n_val, n_outputs)
        Their targets; they are trusted.
    sample_weight : array-like of shape (n_val,), default=None
        Their weights. As in training, the ``class_weight`` of the estimator multiplies them.
    sensitive_features : array-like of shape (n_val,) or dataframe, default=None
        Their groups, for the fairness objectives.

    See Also
    --------
    skinfluence.InfluenceSelector : Takes it as ``fit(..., X_val=HeldOut(X, y))``.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence import HeldOut
    >>> HeldOut(np.zeros((20, 3)), np.zeros(20))
    HeldOut(X=<ndarray of shape (20, 3)>, y=<ndarray of shape (20,)>)
    """

    # No __len__, __iter__, __array__ or shape here: by these scikit-learn tells what to slice.

    def __init__(self, X: Any, y: Any, *, sample_weight: Any = None, sensitive_features: Any = None) -> None:
        self.X = X
        self.y = y
        self.sample_weight = sample_weight
        self.sensitive_features = sensitive_features

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={_outline(value)}" for name, value in vars(self).items() if value is not None)
        return f"HeldOut({given})"


def _outline(values: Any) -> str:
    """Say what a table is without printing its rows."""
    kind = type(values).__name__
    if hasattr(values, "shape"):
        return f"<{kind} of shape {tuple(values.shape)}>"
    return f"<{kind} of {len(values)} rows>" if hasattr(values, "__len__") else f"<{kind}>"
