"""Blocks of rows: views, never copies, small enough to stay in cache and within the memory budget."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import scipy.sparse as sp
from sklearn import get_config

# Measured on dense tables: what is computed of a block is read again and again, and should stay in the core's own
# cache; X is read once or twice, in long runs, so that the calls on a block cost little beside it. Blocks of 16 MiB
# were as quick alone, but what is made of them comes, with the scores, to more than glibc's malloc keeps between calls:
# given back to the system and faulted in again page by page it costs a quarter of a call.
_X_BYTES = 12 << 20
_WORK_BYTES = 1 << 21
MAX_ROWS = 1 << 16


def n_rows(X: Any) -> int:
    return int(X.shape[0])


def memory_budget() -> int:
    """``sklearn.get_config()["working_memory"]`` in bytes."""
    return int(get_config()["working_memory"] * 2**20)


def row_slices(X: Any, n_columns_of_work: int = 0, itemsize: int = 8) -> Iterator[slice]:
    """Consecutive slices that cover the rows of ``X``; those of a stream lie in one of its pieces each.

    ``n_columns_of_work`` is how many numbers a row the caller keeps beside X while it works on a block; it counts
    against ``sklearn.get_config()["working_memory"]``.
    """
    n = n_rows(X)
    if sp.issparse(X) and X.format != "csr":
        step = max(n, 1)  # the rows of a CSC matrix cannot be sliced without searching all of it
    else:
        of_x, of_work = _row_bytes(X), n_columns_of_work * itemsize
        fitting = (_X_BYTES / max(of_x, 1), _WORK_BYTES / max(of_work, 1), memory_budget() / max(of_x + of_work, 1))
        step = max(int(min(*fitting, MAX_ROWS)), 1)
    for first, last in pairwise(X.edges if is_stream(X) else (0, n)):
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


def is_stream(X: Any) -> bool:
    """Whether it is a `RowStream` rather than an array or a matrix."""
    return hasattr(X, "edges") and hasattr(X, "row_bytes")


def _row_bytes(X: Any) -> float:
    if is_stream(X):
        return float(X.row_bytes)
    if sp.issparse(X):
        return float((X.data.nbytes + X.indices.nbytes) / max(X.shape[0], 1))
    return float(X.shape[1] * X.dtype.itemsize)


def take(X: Any, rows: slice) -> Any:
    """The rows of ``X`` in a slice, without copying them, as SciPy's own slicing of a CSR matrix does.

    Those of a stream are read.
    """
    if is_stream(X):
        return X[rows]
    if rows.start == 0 and rows.stop == X.shape[0]:
        return X
    if not sp.issparse(X) or X.format != "csr":
        return X[rows]
    first, last = X.indptr[rows.start], X.indptr[rows.stop]
    # Set one by one: SciPy's constructor copies arrays that are a small part of another.
    view = sp.csr_array((rows.stop - rows.start, X.shape[1]), dtype=X.dtype)
    view.data, view.indices = X.data[first:last], X.indices[first:last]
    view.indptr = X.indptr[rows.start : rows.stop + 1] - first
    return view
