"""Hard metrics of predictions: what the smooth objectives stand for.

The objectives of `skinfluence.objectives` are smooth, because they are differentiated; what is reported in the end
counts predicted classes. Names, conventions and values are fairlearn's where it has them. Every function takes arrays
and knows no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_consistent_length

from ._groups import encode_groups

__all__ = [
    "demographic_parity_difference",
    "encode_groups",
    "equal_opportunity_difference",
    "equalized_odds_difference",
    "fair_score",
    "group_mean_difference",
    "robust_accuracy",
]


def group_mean_difference(values: Any, *, sensitive_features: Any, sample_weight: Any = None) -> float:
    """Largest minus smallest group mean of ``values``.

    Of a regressor's predictions it is the gap of the mean prediction between groups.

    Parameters
    ----------
    values : array-like of shape (n_samples,)
    sensitive_features : array-like of shape (n_samples,)
        The group of each row: at least two groups, of any labels.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    difference : float
        Zero or more; lower is fairer.

    Raises
    ------
    ValueError
        If the groups have missing values, are fewer than two or not as many as rows, or a group has no weight.

    Examples
    --------
    >>> from skinfluence.metrics import group_mean_difference
    >>> group_mean_difference([1.0, 3.0, 2.5, 2.5], sensitive_features=["a", "a", "b", "b"])
    0.5
    """
    values = np.asarray(column_or_1d(values), dtype=np.float64)
    return _gap(values, np.ones(len(values), dtype=bool), sensitive_features, sample_weight, "rows")


def demographic_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None, positive_label: Any = None
) -> float:
    """Largest minus smallest share of rows predicted positive, over groups.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        The true classes, which play no part but to say which class is positive.
    y_pred : array-like of shape (n_samples,)
        The predicted classes.
    sensitive_features : array-like of shape (n_samples,)
        The group of each row: at least two groups, of any labels.
    sample_weight : array-like of shape (n_samples,), default=None
    positive_label : object, default=None
        The positive class; None is the greater of two classes. More than two classes need it.

    Returns
    -------
    difference : float
        In [0, 1]; lower is fairer.

    Raises
    ------
    ValueError
        If lengths do not match, the positive class is unclear, the groups have missing values or are fewer than two,
        or a group has no weight.

    Notes
    -----
    Source: Agarwal et al., "A Reductions Approach to Fair Classification", ICML 2018; as
    `fairlearn.metrics.demographic_parity_difference`.

    Examples
    --------
    >>> from skinfluence.metrics import demographic_parity_difference
    >>> demographic_parity_difference([0, 1, 0, 1], [1, 1, 0, 1], sensitive_features=["a", "a", "b", "b"])
    0.5
    """
    _, selected = _against_positive(y_true, y_pred, positive_label)
    return _gap(selected.astype(float), np.ones(len(selected), dtype=bool), sensitive_features, sample_weight, "rows")


def equal_opportunity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None, positive_label: Any = None
) -> float:
    """Largest minus smallest true positive rate, over groups.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        The true and the predicted classes.
    sensitive_features : array-like of shape (n_samples,)
        The group of each row: at least two groups, of any labels.
    sample_weight : array-like of shape (n_samples,), default=None
    positive_label : object, default=None
        The positive class; None is the greater of two classes. More than two classes need it.

    Returns
    -------
    difference : float
        In [0, 1]; lower is fairer.

    Raises
    ------
    ValueError
        As `demographic_parity_difference`, and if a group has no row of the positive class.

    Notes
    -----
    Source: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016; as
    `fairlearn.metrics.equal_opportunity_difference`.

    Examples
    --------
    >>> from skinfluence.metrics import equal_opportunity_difference
    >>> equal_opportunity_difference([1, 1, 1, 0], [1, 0, 1, 1], sensitive_features=["a", "a", "b", "b"])
    0.5
    """
    positive, selected = _against_positive(y_true, y_pred, positive_label)
    return _gap(selected.astype(float), positive, sensitive_features, sample_weight, "positive rows")


def equalized_odds_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None, positive_label: Any = None
) -> float:
    """The greater of the gaps, over groups, of the true and of the false positive rate.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        The true and the predicted classes.
    sensitive_features : array-like of shape (n_samples,)
        The group of each row: at least two groups, of any labels.
    sample_weight : array-like of shape (n_samples,), default=None
    positive_label : object, default=None
        The positive class; None is the greater of two classes. More than two classes need it; all others are negative.

    Returns
    -------
    difference : float
        In [0, 1]; lower is fairer.

    Raises
    ------
    ValueError
        As `demographic_parity_difference`, and if a group lacks positive or negative rows.

    Notes
    -----
    Source: Hardt, Price and Srebro, "Equality of Opportunity in Supervised Learning", NeurIPS 2016; as
    `fairlearn.metrics.equalized_odds_difference` with its default ``agg="worst_case"``.

    Examples
    --------
    >>> from skinfluence.metrics import equalized_odds_difference
    >>> groups = ["a", "a", "a", "b", "b", "b"]
    >>> equalized_odds_difference([1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0], sensitive_features=groups)
    0.5
    """
    positive, selected = _against_positive(y_true, y_pred, positive_label)
    scores = selected.astype(float)
    return max(
        _gap(scores, positive, sensitive_features, sample_weight, "positive rows"),
        _gap(scores, ~positive, sensitive_features, sample_weight, "negative rows"),
    )


def fair_score(y_pred: Any, y_pred_twin: Any, *, sample_weight: Any = None) -> float:
    """Share of rows whose predicted class differs from that of their perturbed twin.

    Parameters
    ----------
    y_pred, y_pred_twin : array-like of shape (n_samples,)
        The classes predicted for the rows and for their twins, in the same order.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    score : float
        In [0, 1]; lower is fairer.

    Raises
    ------
    ValueError
        If the lengths do not match.

    Notes
    -----
    Source: Qian et al., "Perturbation Augmentation for Fairer NLP", EMNLP 2022.

    Examples
    --------
    >>> from skinfluence.metrics import fair_score
    >>> fair_score([0, 1, 1, 0], [0, 1, 0, 0])
    0.25
    """
    y_pred, y_pred_twin = column_or_1d(y_pred), column_or_1d(y_pred_twin)
    check_consistent_length(y_pred, y_pred_twin)
    return _mean(y_pred != y_pred_twin, sample_weight)


def robust_accuracy(y_true: Any, y_pred_moved: Any, *, sample_weight: Any = None) -> float:
    """Share of attacked rows that are predicted right.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        The classes of the rows, which the attack leaves alone.
    y_pred_moved : array-like of shape (n_samples,)
        The classes predicted for the rows that `skinfluence.objectives.adversarial_rows` moved.
    sample_weight : array-like of shape (n_samples,), default=None

    Returns
    -------
    accuracy : float
        In [0, 1]; higher is better.

    Raises
    ------
    ValueError
        If the lengths do not match.

    Notes
    -----
    The attack is the attacker's, made against the model that they saw: for that model itself and a step beyond the
    boundary it is one minus the plain accuracy (of two classes), for a model refitted on curated rows it is not.

    Examples
    --------
    >>> from skinfluence.metrics import robust_accuracy
    >>> robust_accuracy(["cat", "dog", "dog"], ["cat", "cat", "dog"], sample_weight=[2, 1, 1])
    0.75
    """
    y_true, y_pred_moved = column_or_1d(y_true), column_or_1d(y_pred_moved)
    check_consistent_length(y_true, y_pred_moved)
    return _mean(y_true == y_pred_moved, sample_weight)


def _against_positive(y_true: Any, y_pred: Any, positive_label: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are, and which are predicted, positive."""
    y_true, y_pred = column_or_1d(y_true), column_or_1d(y_pred)
    check_consistent_length(y_true, y_pred)
    if positive_label is None:
        labels = sorted(set(y_true.tolist()) | set(y_pred.tolist()))
        if set(labels) <= {0, 1} or set(labels) <= {-1, 1}:
            positive_label = 1
        elif len(labels) == 2:
            positive_label = labels[1]
        else:
            raise ValueError(
                f"positive_label=None takes the greater of two classes, got the classes {labels}. Say which is "
                "positive: positive_label=..."
            )
    return np.asarray(y_true == positive_label), np.asarray(y_pred == positive_label)


def _gap(values: np.ndarray, chosen: np.ndarray, sensitive_features: Any, sample_weight: Any, of: str) -> float:
    """Greatest minus least group mean of ``values`` over the ``chosen`` rows, which errors call ``of``."""
    codes, labels = encode_groups(sensitive_features, len(values))
    weight = _check_sample_weight(sample_weight, values, dtype=np.float64, ensure_non_negative=True) * chosen
    mass = np.bincount(codes, weight, minlength=len(labels))
    if (mass == 0).any():
        raise ValueError(
            f"Each group needs {of} of positive weight; {[labels[g] for g in np.flatnonzero(mass == 0)]} have none. "
            "Merge or leave out these groups."
        )
    return float(np.ptp(np.bincount(codes, weight * values, minlength=len(labels)) / mass))


def _mean(values: np.ndarray, sample_weight: Any) -> float:
    return float(np.average(values, weights=_check_sample_weight(sample_weight, values, dtype=np.float64)))
