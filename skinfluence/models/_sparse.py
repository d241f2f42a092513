"""Sparse matrices, squared piece by piece: a copy of all their entries would be larger than all else that is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._blocks import filled, take

# A piece, its squares and its indices stay in a core's own cache; one of columns is worth the numbers, as many as there
# are rows, that it adds to.
_ENTRIES = 1 << 16
_ENTRIES_PER_ROW = 2


def squares_times(X: Any, table: np.ndarray) -> np.ndarray:
    """``(X * X) @ table.T`` of a CSR or CSC matrix ``(n, d)`` and ``table (K, d)``: class-major, ``(n, K)``."""
    table = np.ascontiguousarray(table, dtype=X.dtype)
    out = np.zeros((len(table), X.shape[0]), dtype=X.dtype)
    for rows, columns, piece in _pieces(X):
        for own, weights in zip(out, table, strict=True):
            own[rows] += piece @ weights[columns]
    return out.T


def _pieces(X: Any) -> Iterator[tuple[slice, slice, Any]]:
    """The squared entries of runs of rows (CSR) or of columns (CSC), with these and with all of the others."""
    by_rows = X.format == "csr"
    n = X.shape[0 if by_rows else 1]
    entries = _ENTRIES if by_rows else max(_ENTRIES, _ENTRIES_PER_ROW * X.shape[0])
    step = max(int(entries * n / max(X.nnz, 1)), 1)
    for start in range(0, n, step):
        at, every = slice(start, min(start + step, n)), slice(None)
        part = take(X, at) if by_rows else _columns(X, at)
        yield (at, every, _squared(part)) if by_rows else (every, at, _squared(part))


def _columns(X: Any, columns: slice) -> Any:
    """Columns of a CSC matrix, which are rows of its transpose."""
    return take(X.T, columns).T


def _squared(X: Any) -> Any:
    """The entries squared, beside the same indices."""
    empty = (sp.csr_array if X.format == "csr" else sp.csc_array)(X.shape, dtype=X.dtype)
    return filled(empty, X.data * X.data, X.indices, X.indptr)
