"""Rows that need not be in memory: read, transformed and checked piece by piece.

A `RowStream` is what a model takes instead of an array: it has ``shape`` and ``dtype``, and its slices are blocks of
floats.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._blocks import memory_budget, take
from ._dask import DaskRows, cluster_of, map_on_cluster
from ._sources import Source


class RowStream:
    """Rows of a source as a model takes them: read, transformed and checked a piece at a time, on every pass anew.

    Where a cluster holds the pieces, functions can be sent to them (`on_cluster`), and rows that are picked by their
    indices are picked there.

    Parameters
    ----------
    source : Source
    convert : callable
        What makes a float array or CSR matrix of a piece. It must treat each row by itself, as the ``transform`` of
        scikit-learn's transformers does.

    Attributes
    ----------
    shape : (int, int)
    dtype : dtype
        That of the first piece; others may not differ.
    edges : list of int
        First row of each piece, and the number of rows.
    row_bytes : float
        Of memory that a converted row takes.
    """

    ndim = 2

    def __init__(self, source: Source, convert: Callable[[Any], Any]) -> None:
        self.source = source
        self.convert = convert
        self.edges = list(source.edges) if source.shape[0] else [0, 0]
        self._kept = threading.local()
        if not source.shape[0]:
            raise ValueError(f"Found array with 0 sample(s) (shape={source.shape}) while a minimum of 1 is required.")
        self.dtype: Any = None
        if self.cluster is None:
            self.dtype, n_columns, self.row_bytes = _described(self._piece(0))
        else:
            (found,) = self.on_cluster(_described, [()], pieces=[0])
            self.dtype, n_columns, self.row_bytes = found
        self.shape = (source.shape[0], n_columns)

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _kept=threading.local())

    @property
    def cluster(self) -> Any:
        """The client of the cluster that holds the pieces, or None."""
        return cluster_of(self.source)

    def on_cluster(
        self, function: Callable[..., Any], given: Iterable[Sequence[Any]], pieces: Sequence[int] | None = None
    ) -> Iterator[Any]:
        """``function(X, *given)`` of each piece (all, or those of the numbers in ``pieces``), converted and checked
        where it is; results come in order.
        """
        numbers = range(len(self.edges) - 1) if pieces is None else pieces
        work = _OfPiece(self.convert, self.checker(), function)
        arguments = ((k, *own) for k, own in zip(numbers, given, strict=True))
        assert isinstance(self.source, DaskRows)  # nothing else lies on a cluster
        return map_on_cluster(self.cluster, work, [self.source.blocks[k] for k in numbers], arguments)

    def __getitem__(self, key: Any) -> Any:
        """Rows in a slice, or at indices, which are read; only as many as ``working_memory`` holds."""
        if isinstance(key, slice):
            start, stop, step = key.indices(self.shape[0])
            if step == 1:
                return self._contiguous(start, max(start, stop))
            key = np.arange(start, stop, step)
        indices = np.asarray(key)
        if indices.ndim != 1 or indices.dtype.kind not in "iub":
            raise TypeError(f"Rows of a stream are taken by slices and one-dimensional indices, got {key!r}.")
        return self._gathered(np.flatnonzero(indices) if indices.dtype.kind == "b" else indices)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self._require_memory(self.shape[0])
        whole = self._contiguous(0, self.shape[0])
        if sp.issparse(whole):
            raise TypeError("The rows of X are sparse, and no array.")
        return np.asarray(whole, dtype=dtype)

    def _require_memory(self, n: int) -> None:
        """Raise rather than load without a word what was meant to stay where it is."""
        needed = n * self.row_bytes
        if needed > memory_budget():
            raise ValueError(
                f"This needs {n} rows of X in memory at once ({needed / 2**20:.0f} MiB), more than the working_memory "
                f"of scikit-learn ({memory_budget() / 2**20:.0f} MiB), and X is streamed. Methods that refit the model "
                "and those that draw batches of rows, need X in memory: load it, raise "
                "sklearn.set_config(working_memory=...), or choose a method that streams, such as 'ip', 'exact' or "
                "'cg'."
            )

    def _contiguous(self, start: int, stop: int) -> Any:
        if start == stop:
            return self._piece(0)[:0]
        parts = []
        for k in range(_piece_at(self.edges, start), _piece_at(self.edges, stop - 1) + 1):
            first, last = max(start, self.edges[k]), min(stop, self.edges[k + 1])
            parts.append(take(self._piece(k), slice(first - self.edges[k], last - self.edges[k])))
        return parts[0] if len(parts) == 1 else _stacked(parts)

    def _gathered(self, indices: np.ndarray) -> Any:
        n = self.shape[0]
        if len(indices) and (indices.min() < -n or indices.max() >= n):
            raise IndexError(f"Indices of rows must be below {n}, got {indices.min()} to {indices.max()}.")
        if not len(indices):
            return self._piece(0)[:0]
        self._require_memory(len(indices))
        indices = np.where(indices < 0, indices + n, indices)
        order = np.argsort(indices, kind="stable")
        cuts = np.searchsorted(indices[order], self.edges)
        picked = {
            k: indices[order[first:last]] - self.edges[k]
            for k, (first, last) in enumerate(pairwise(cuts.tolist()))
            if first < last
        }
        if self.cluster is None:
            parts = [_rows_at(self._piece(k), own) for k, own in picked.items()]
        else:
            parts = list(self.on_cluster(_rows_at, [(own,) for own in picked.values()], pieces=list(picked)))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return _stacked(parts)[rank]

    def _piece(self, k: int) -> Any:
        """A converted piece; a thread keeps the one that it read last, which serves all blocks of it."""
        if getattr(self._kept, "number", None) == k:
            return self._kept.rows
        self._kept.number = self._kept.rows = None  # two pieces need not be in memory at once
        rows = self.convert(self.source.piece(k))
        self.checker()(rows, k)
        self._kept.number, self._kept.rows = k, rows
        return rows

    def checker(self) -> PieceCheck:
        """What raises if a converted piece is not what the others are."""
        return PieceCheck(self.edges, self.dtype)


@dataclass(frozen=True)
class PieceCheck:
    """Holds converted pieces to their number of rows and to one dtype (None: not known yet)."""

    edges: Sequence[int]
    dtype: Any

    def __call__(self, rows: Any, k: int) -> None:
        first, last = self.edges[k], self.edges[k + 1]
        if rows.shape[0] != last - first:
            raise ValueError(
                f"Rows {first} to {last} of X came as {rows.shape[0]} rows: what reads or transforms them must treat "
                "each row by itself."
            )
        if self.dtype is not None and rows.dtype != self.dtype:
            raise ValueError(
                f"Rows {first} to {last} of X are of dtype {rows.dtype}, and those before of {self.dtype}. Give all "
                "of them the same."
            )


@dataclass(frozen=True)
class _OfPiece:
    """A function of a converted piece, in the worker that has it."""

    convert: Callable[[Any], Any]
    check: PieceCheck
    function: Callable[..., Any]

    def __call__(self, piece: Any, k: int, *given: Any) -> Any:
        X = self.convert(piece)
        self.check(X, k)
        return self.function(X, *given)


def _described(X: Any) -> tuple[Any, int, float]:
    """Dtype, columns, and bytes of a row."""
    stored = X.data.nbytes + X.indices.nbytes if sp.issparse(X) else X.nbytes
    return X.dtype, int(X.shape[1]), stored / X.shape[0]


def _rows_at(X: Any, indices: np.ndarray) -> Any:
    return X[indices]


def _piece_at(edges: Sequence[int], row: int) -> int:
    return int(np.searchsorted(edges, row, side="right")) - 1


def _stacked(parts: list[Any]) -> Any:
    return sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)
