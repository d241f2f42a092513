"""Blocks of rows, small enough for the cache and the memory budget: views, but for the rows of CSC matrices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn import get_config

# Measured on dense tables: what is computed of a block is read again and again, and should stay in the core's own
# cache; X is read once or twice, in long runs, so that the calls on a block cost little beside it. Blocks of 16 MiB
# were as quick alone, but what is made of them comes, with the scores, to more than glibc's malloc keeps between calls:
# given back to the system and faulted in again page by page it costs a quarter of a call.
_X_BYTES = 12 << 20
_WORK_BYTES = 1 << 21
MAX_ROWS = 1 << 16

# The rows of a CSC matrix lie in every column: a block of them is looked up and copied, which takes longer than a
# product. So it is cut only where what is computed of its rows is large: into blocks of so many bytes of X, and of so
# many entries a column that finding them, by a bisection of every column, is the smaller part.
_CSC_WORK_BYTES = 1 << 23
_CSC_X_BYTES = 1 << 21
_CSC_COLUMN_ENTRIES = 16


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
    of_x, of_work = _row_bytes(X), n_columns_of_work * itemsize
    if _is_csc(X):
        step = _csc_step(X, of_x, of_work)
    else:
        n_blocks = max(round(n * of_x / _X_BYTES), 1)  # of equal length: a short last one costs as many calls
        fitting = (-(-n // n_blocks), _WORK_BYTES / max(of_work, 1), memory_budget() / max(of_x + of_work, 1))
        step = max(int(min(*fitting, MAX_ROWS)), 1)
    for first, last in pairwise(X.edges if is_stream(X) else (0, n)):
        for start in range(first, last, step):
            yield slice(start, min(start + step, last))


def _csc_step(X: Any, of_x: float, of_work: int) -> int:
    """All rows of a CSC matrix, if what is computed of them is small; else as many as a block of it has."""
    n, n_columns = X.shape
    if n * of_work <= min(_CSC_WORK_BYTES, memory_budget()):
        return max(n, 1)
    per_row = max(X.nnz / n, 1e-9)  # entries
    worth_finding = _CSC_COLUMN_ENTRIES * n_columns / per_row
    fitting = min(_CSC_X_BYTES / max(of_x, 1), _CSC_WORK_BYTES / max(of_work, 1), MAX_ROWS)
    return max(int(min(max(fitting, worth_finding), memory_budget() / max(of_x + of_work, 1), n)), 1)


def is_stream(X: Any) -> bool:
    """Whether it is a `RowStream` rather than an array or a matrix."""
    return hasattr(X, "edges") and hasattr(X, "row_bytes")


def _row_bytes(X: Any) -> float:
    if is_stream(X):
        return float(X.row_bytes)
    if sp.issparse(X):
        return float((X.data.nbytes + X.indices.nbytes) / max(X.shape[0], 1))
    return float(X.shape[1] * X.dtype.itemsize)


def blocks_of(X: Any, slices: Iterable[slice]) -> Iterator[tuple[slice, Any]]:
    """Consecutive slices with their rows, as `take` gives them; of a CSC matrix each edge is looked up once."""
    if not _is_sorted_csc(X):
        yield from ((at, take(X, at)) for at in slices)
        return
    edge, places = 0, X.indptr[:-1]
    for at in slices:
        first = places if at.start == edge else _places(X, at.start)
        edge, places = at.stop, _places(X, at.stop)
        yield at, _between(X, at, first, places)


def take(X: Any, rows: slice) -> Any:
    """The rows of ``X`` in a slice: a view of an array or a CSR matrix, a copy of a CSC matrix's.

    Those of a stream are read.
    """
    if is_stream(X):
        return X[rows]
    if rows.start == 0 and rows.stop == X.shape[0]:
        return X
    if _is_sorted_csc(X):
        return _between(X, rows, _places(X, rows.start), _places(X, rows.stop))
    if not sp.issparse(X) or X.format != "csr":
        return X[rows]
    first, last = X.indptr[rows.start], X.indptr[rows.stop]
    view = sp.csr_array((rows.stop - rows.start, X.shape[1]), dtype=X.dtype)
    return filled(view, X.data[first:last], X.indices[first:last], X.indptr[rows.start : rows.stop + 1] - first)


def _is_csc(X: Any) -> bool:
    return sp.issparse(X) and X.format == "csc"


def _is_sorted_csc(X: Any) -> bool:
    return _is_csc(X) and bool(X.has_sorted_indices)


def _places(X: Any, row: int) -> np.ndarray:
    """Where in each column of a sorted CSC matrix the entries of a row, and of those after it, begin."""
    if row <= 0:
        return np.asarray(X.indptr[:-1])
    if row >= X.shape[0]:
        return np.asarray(X.indptr[1:])
    low, high = X.indptr[:-1].copy(), X.indptr[1:].copy()
    while (searched := low < high).any():
        middle = low + (high - low) // 2
        before = X.indices[np.minimum(middle, len(X.indices) - 1)] < row
        np.copyto(low, middle + 1, where=searched & before)
        np.copyto(high, middle, where=searched & ~before)
    return low


def _between(X: Any, rows: slice, first: np.ndarray, last: np.ndarray) -> Any:
    """The rows of a CSC matrix whose entries lie, in each column, from the first place to the last."""
    if rows.start == 0 and rows.stop == X.shape[0]:
        return X
    counts = last - first
    indptr = np.zeros_like(X.indptr)
    np.cumsum(counts, out=indptr[1:])
    at = np.arange(indptr[-1])
    at += np.repeat(first - indptr[:-1], counts)
    indices = X.indices[at]
    indices -= indices.dtype.type(rows.start)
    block = sp.csc_array((rows.stop - rows.start, X.shape[1]), dtype=X.dtype)
    return filled(block, X.data[at], indices, indptr)


def filled(matrix: Any, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> Any:
    """An empty CSR or CSC array with these entries, which are not copied."""
    # Set one by one: SciPy's constructor copies arrays that are a small part of another.
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    return matrix
