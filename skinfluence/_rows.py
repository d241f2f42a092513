"""Rows of anything that holds rows: arrays, sparse matrices, frames, series and lists."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse


def take_rows(values: Any, indices: np.ndarray) -> Any:
    """Take rows of an array, a sparse matrix, a frame, a series or a list."""
    if hasattr(values, "iloc"):
        return values.iloc[indices]
    if isinstance(values, Mapping):
        if hasattr(values, "shape"):  # skorch's SliceDict, which slices itself
            return values[indices]
        return {name: take_rows(part, indices) for name, part in values.items()}
    if is_dataset(values):
        return sys.modules["torch.utils.data"].Subset(values, indices)
    if isinstance(values, (list, tuple)):
        return [values[i] for i in indices]
    if sparse.issparse(values) and values.format not in ("csr", "csc"):
        values = values.tocsr()
    return values[indices] if hasattr(values, "shape") else np.asarray(values)[indices]


def count_rows(values: Any) -> int | None:
    """Count rows, as scikit-learn does to tell which fit parameters it slices; None for what has no rows."""
    if not hasattr(values, "__len__") and hasattr(values, "__array__"):
        values = np.asarray(values)
    shape = getattr(values, "shape", None)
    if shape is not None:
        return shape[0] if len(shape) else None
    return len(values) if hasattr(values, "__len__") and not isinstance(values, (str, bytes, dict)) else None


def n_rows(X: Any) -> int:
    """The rows of X itself, which may be a dict of arrays too; 0 for what has none, which is refused where it is used.

    `count_rows` leaves dicts out: as a fit parameter one is a setting, and not rows.
    """
    if isinstance(X, Mapping) and not hasattr(X, "shape"):
        return max((n_rows(part) for part in X.values()), default=0)
    return count_rows(X) or 0


def as_rows(values: Any) -> Any:
    """Arrays, frames, sparse matrices, and what nets take, as they are; anything else, but None, as an array."""
    if values is None or hasattr(values, "shape") or isinstance(values, Mapping) or is_dataset(values):
        return values
    return np.asarray(values)


def is_dataset(values: Any) -> bool:
    """Whether it is a torch Dataset, told without importing torch: where there is one, torch is there."""
    kinds = ((cls.__module__, cls.__name__) for cls in type(values).__mro__)
    return ("torch.utils.data.dataset", "Dataset") in kinds
