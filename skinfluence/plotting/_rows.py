"""`most_harmful`: the rows with the lowest scores, and what the model makes of them."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import Bunch, check_scalar
from sklearn.utils.validation import check_consistent_length

from .._rows import as_rows, take_rows
from ._sources import check_scores, find_curator

_COLUMNS = ("row", "score", "given", "predicted", "p_given")


def most_harmful(scores: Any, X: Any, y: Any, *, model: Any = None, n_rows: int = 10) -> Any:
    """The training rows with the lowest scores, with their labels and what the model says of them.

    Parameters
    ----------
    scores : array-like of shape (n_samples,) or fitted estimator
        Scores of the rows; or a fitted curator, or a fitted Pipeline, Curated estimator or search that holds one.
    X : {array-like, sparse matrix, dataframe} of shape (n_samples, n_features)
        The training rows, as the curator, or its home, was given them.
    y : array-like of shape (n_samples,)
        Their targets, as given.
    model : estimator, default=None
        A fitted model to ask. None: where ``scores`` is a Pipeline, a Curated estimator or a search, that one; where it
        is a curator, its ``estimator_`` if it has one. Both were fitted on the rows kept, so that they never saw those
        that were removed.
    n_rows : int, default=10
        How many rows.

    Returns
    -------
    table : dataframe or Bunch
        Of the type of ``X`` if that is a frame, with the columns of ``X`` behind these; otherwise a
        `sklearn.utils.Bunch` of these as arrays, with the rows as ``X``. Lowest score first.

        - ``row``: place among the training rows;
        - ``score``: influence; negative: the row hurts;
        - ``given``: the target as it is in ``y``;
        - ``predicted``: what the model predicts, if there is a model;
        - ``p_given``: the probability that it gives the given label, if it has ``predict_proba``.

    Raises
    ------
    TypeError
        If there are no scores.
    ValueError
        If lengths do not match, or ``X`` has a column of one of these names.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skinfluence import InfluenceSelector, make_pipeline
    >>> from skinfluence.plotting import most_harmful
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> y[7] = 2  # one wrong label
    >>> pipe = make_pipeline(InfluenceSelector(random_state=0), LogisticRegression(max_iter=1000)).fit(X, y)
    >>> most_harmful(pipe, X, y, n_rows=3)[["row", "given", "predicted"]]
        row  given  predicted
    7     7      2          0
    70   70      1          2
    77   77      1          2
    """
    check_scalar(n_rows, "n_rows", Integral, min_val=1)
    if hasattr(scores, "get_params"):
        curator = find_curator(scores)
        values = curator.scores_
        if model is None:
            model = getattr(scores, "estimator_", None) if scores is curator else scores
    else:
        values = check_scores(scores)
    X, y = as_rows(X), as_rows(y)
    check_consistent_length(values, X, y)
    rows = np.argsort(values, kind="stable")[:n_rows]
    chosen, given = take_rows(X, rows), np.asarray(take_rows(y, rows))
    columns = {"row": rows, "score": values[rows], "given": given}
    if model is not None:
        columns |= _said(model, chosen, given)
    if hasattr(X, "columns"):
        return _frame(chosen, columns)
    return Bunch(**columns, X=chosen)


def _said(model: Any, X: Any, given: np.ndarray) -> dict[str, np.ndarray]:
    """What the model says of the rows."""
    said = {"predicted": np.asarray(model.predict(X))}
    if hasattr(model, "predict_proba"):
        P, classes = model.predict_proba(X), np.asarray(model.classes_)
        places = np.searchsorted(classes, given)
        places = np.minimum(places, len(classes) - 1)
        said["p_given"] = np.where(classes[places] == given, P[np.arange(len(given)), places], 0.0)
    return said


def _frame(X: Any, columns: dict[str, np.ndarray]) -> Any:
    """The rows of a pandas or polars frame, with columns put before its own."""
    taken = sorted(set(columns) & set(map(str, X.columns)))
    if taken:
        raise ValueError(f"X has columns named {taken}, which the table needs for itself. Rename them.")
    if hasattr(X, "iloc"):
        frame = X.copy()
        for place, (name, values) in enumerate(columns.items()):
            frame.insert(place, name, values)
        return frame
    return type(X)(columns).hstack(X)
