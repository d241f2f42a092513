"""What a curator takes for X: checked as scikit-learn checks it, or left to the Pipeline or the net that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import _num_samples, validate_data

from ._fitting import is_frozen
from ._rows import as_rows, is_dataset
from .models import is_net
from .models._sources import require_indexable


def kind_of_table(estimator: Any) -> str:
    """Who validates X: "numbers" (as scikit-learn does), "any" (a Pipeline does) or "net"."""
    inner = estimator.estimator if is_frozen(estimator) else estimator
    if isinstance(inner, Pipeline):
        return "any"
    return "net" if is_net(inner) else "numbers"


def check_table(curator: Any, kind: str, X: Any, y: Any, *, reset: bool = True) -> Any:
    """X, checked: frames and arrays stay as they are, all else becomes an array or a CSR or CSC matrix.

    A Pipeline's steps may take what is no array of numbers: frames of mixed columns, missing values. Nets take arrays
    of any number of dimensions, tensors, dicts of arrays and torch Datasets.
    """
    require_indexable(X, type(curator).__name__)
    if kind == "net":
        X = _check_for_net(curator, X, reset)
    elif kind == "any":
        validate_data(curator, X, skip_check_array=True, reset=reset)
    elif reset:
        checked, _ = validate_data(curator, X, y, accept_sparse=("csr", "csc"), dtype="numeric", multi_output=True)
        X = X if isinstance(X, np.ndarray) or hasattr(X, "columns") else checked
    else:
        checked = validate_data(curator, X, reset=False, accept_sparse=True, dtype="numeric")
        X = X if hasattr(X, "shape") else checked
    n = n_samples(X)
    if reset and n < 2:
        raise ValueError(f"{type(curator).__name__} needs at least 2 samples, got n_samples = {n}.")
    return X


def _check_for_net(curator: Any, X: Any, reset: bool) -> Any:
    if isinstance(X, Mapping):
        lengths = {name: n_samples(part) for name, part in X.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"The parts of X must have the same number of rows, got {lengths}.")
        return X
    if is_dataset(X):
        return X
    X = as_rows(X)
    plain = isinstance(X, np.ndarray) or sp.issparse(X)
    if plain:
        # As it is, without a cast: a net's precision is its own.
        validate_data(curator, X, reset=reset, accept_sparse=True, allow_nd=True, dtype=None)
    elif hasattr(X, "columns"):
        validate_data(curator, X, skip_check_array=True, reset=reset)
    return X


def targets_of(X: Any, y: Any) -> Any:
    """``y``; where it is None, the targets that a torch Dataset pairs its rows with, if X is one."""
    if y is not None or not is_dataset(X):
        return y
    from .models.nets._rows import dataset_targets  # where there is a Dataset there is torch

    return dataset_targets(X)


def n_samples(X: Any) -> int:
    """Rows of whatever a curator takes."""
    if isinstance(X, Mapping):
        return n_samples(next(iter(X.values()))) if X else 0
    return len(X) if is_dataset(X) else int(_num_samples(X))
