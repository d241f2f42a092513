"""The groups of rows, sensitive features, as codes."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode_groups(sensitive_features: Any, n: int, hint: str = "pass sensitive_features=...") -> tuple[Any, list[Any]]:
    """The group of each row as a code ``(n,)``, and the groups' labels in the order of their codes.

    Parameters
    ----------
    sensitive_features : array-like of shape (n,) or (n, 1), Series or frame of one column
        Labels of any kind that can be hashed.
    n : int
        How many rows there are.
    hint : str, default="pass sensitive_features=..."
        What to do if there are none.

    Returns
    -------
    codes : ndarray of int of shape (n,)
    labels : list

    Raises
    ------
    ValueError
        If it is None, has several columns, missing values, another length, or fewer than two groups.

    Examples
    --------
    >>> from skinfluence.metrics import encode_groups
    >>> codes, labels = encode_groups(["m", "f", "m"], 3)
    >>> codes, labels
    (array([1, 0, 1]), ['f', 'm'])
    """
    if sensitive_features is None:
        raise ValueError(f"The groups of the rows are needed, and there are none: {hint}")
    # A list becomes an array of objects, lest NumPy turn the NaN in ["a", nan] into the group "nan".
    plain = not (hasattr(sensitive_features, "__array__") or hasattr(sensitive_features, "shape"))
    values = np.asarray(sensitive_features, dtype=object if plain else None)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(
            f"sensitive_features must have one column, got an array of shape {values.shape}. Cross several into one, "
            "such as frame['sex'] + '-' + frame['race']."
        )
    if len(values) != n:
        raise ValueError(f"sensitive_features must have one entry for each of {n} rows, got {len(values)}.")
    codes, labels = _factorize(values)
    n_missing = int(np.isin(codes, [code for code, label in enumerate(labels) if _is_missing(label)]).sum())
    if n_missing:
        raise ValueError(
            f"sensitive_features must say the group of every row, and {n_missing} of {n} are missing. Drop these rows "
            "or give them a group of their own."
        )
    if len(labels) < 2:
        raise ValueError(
            f"A gap between groups needs at least two of them in sensitive_features, got {labels}. Pass rows of "
            "several groups."
        )
    return codes, labels


def _factorize(values: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    if values.dtype.kind in "biufUSM":
        unique, codes = np.unique(values, return_inverse=True)
        return codes.ravel(), unique.tolist() if values.dtype.kind != "M" else list(unique)
    seen: dict[Any, int] = {}
    codes = np.fromiter((seen.setdefault(value, len(seen)) for value in values.tolist()), dtype=np.intp)
    labels = list(seen)
    try:
        ordered = sorted(labels)
    except TypeError:  # labels of several kinds stay in the order in which they come
        return codes, labels
    place = {label: code for code, label in enumerate(ordered)}
    return np.array([place[label] for label in labels], dtype=np.intp)[codes], ordered


def _is_missing(label: Any) -> bool:
    # None, pandas' NA and NaT (and a NaT of NumPy) and NaN, which alone differs from itself. pandas is not imported.
    return label is None or type(label).__name__ in ("NAType", "NaTType") or bool(label != label)
