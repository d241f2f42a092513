"""Rows that need not be in memory: read, transformed and checked piece by piece.

A `Source` is where rows come from; a `RowStream` is what a model takes instead of an array: it has ``shape`` and
``dtype``, and its slices are blocks of floats. Optional libraries are told by the names of their types, and never
imported.
"""

from __future__ import annotations

import importlib.util
import mmap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from ._blocks import memory_budget, take
from ._dask import DaskRows, cluster_of, is_dask, map_on_cluster

_PIECE_BYTES = 1 << 25  # where rows lie in no pieces of their own: one call, one check, for so many bytes
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Source(Protocol):
    """Rows in pieces."""

    shape: tuple[int, int]
    edges: Sequence[int]
    """First row of each piece, and the number of rows."""

    def piece(self, k: int) -> Any:
        """All rows of one piece, in memory, as an array, a CSR matrix or a frame."""


def source_of(X: Any, *, transformed: bool = False) -> Source | None:
    """What ``X`` is streamed from, or None if it is taken as it is: as an array, a matrix or a frame in memory.

    A memory map is an array like any other, and is streamed where something would be made of it that is not: floats of
    another dtype, or (``transformed``) the outputs of transformers, if there are more than
    ``sklearn.get_config()["working_memory"]`` of them.

    Raises
    ------
    TypeError
        If ``X`` can be neither taken nor streamed.
    """
    if hasattr(X, "piece") and hasattr(X, "edges"):
        return X
    if is_dask(X):
        return DaskRows(X)
    root = type(X).__module__.split(".")[0]
    if root == "polars" and type(X).__name__ == "LazyFrame":
        raise TypeError(
            "A polars LazyFrame has no rows before it is collected. Pass X.collect(), or write it with "
            "X.sink_parquet(path) and pass skinfluence.streams.parquet_rows(path), which is read by row groups."
        )
    if root == "pyarrow" and hasattr(X, "to_pandas") and hasattr(X, "column_names"):
        return ArrowRows(X)
    if isinstance(X, np.ndarray) or sp.issparse(X):
        return SlicedRows(X) if _outgrows_memory(X, transformed) else None
    return SlicedRows(X) if _is_sliceable(X) else None


def is_unloaded(X: Any) -> bool:
    """Whether the rows of ``X`` are elsewhere than in memory or in a memory map: what is fitted on cannot be."""
    if isinstance(X, np.ndarray) or sp.issparse(X):
        return False
    return not isinstance(source_of(X), (ArrowRows, type(None)))


def require_indexable(X: Any, who: str) -> None:
    """Raise where ``X`` is streamed rather than indexed: rows that models are fitted on must be in memory.

    Raises
    ------
    TypeError
        If the rows are elsewhere, or in a table of pyarrow.
    """
    if isinstance(X, np.ndarray) or sp.issparse(X) or source_of(X) is None:
        return
    raise TypeError(
        f"{who} fits models on rows that it picks, and X is a {type(X).__module__.split('.')[0]} {type(X).__name__}, "
        "whose rows are read in order. Load it (as an array or a pandas DataFrame), or fit a model on a sample of the "
        "rows and score all of them with skinfluence.influence_scores."
    )


def _outgrows_memory(X: Any, transformed: bool) -> bool:
    values = X.data if sp.issparse(X) else X
    if X.ndim != 2 or (sp.issparse(X) and X.format != "csr") or not _is_mapped(values):
        return False
    if X.dtype not in _FLOATS:
        return X.dtype.kind in "fiub"
    return transformed and values.nbytes > memory_budget()


def _is_mapped(values: Any) -> bool:
    while isinstance(values, np.ndarray):
        values = values.base
    return isinstance(values, mmap.mmap)


def _is_sliceable(X: Any) -> bool:
    """Whether it is an array of numbers that is no NumPy array, such as zarr's and h5py's."""
    if not all(hasattr(X, name) for name in ("shape", "dtype", "__getitem__")) or hasattr(X, "__array_namespace__"):
        return False
    if isinstance(X, np.generic) or any(hasattr(X, name) for name in ("columns", "iloc", "__dataframe__")):
        return False
    try:
        kind = np.dtype(X.dtype).kind
    except TypeError:  # of a library of its own, such as torch's
        return False
    return kind in "fiub"


class SlicedRows:
    """Anything that gives rows by slices: memory maps, CSR matrices over them, zarr and HDF5 arrays."""

    def __init__(self, X: Any) -> None:
        if len(X.shape) != 2:
            raise ValueError(f"Expected 2D array, got a {type(X).__name__} of {len(X.shape)} dimension(s).")
        self.X = X
        self.shape = (int(X.shape[0]), int(X.shape[1]))
        if sp.issparse(X):
            row_bytes = 12 * X.nnz / max(self.shape[0], 1)
        else:
            row_bytes = self.shape[1] * max(np.dtype(X.dtype).itemsize, 8)
        step = max(int(min(_PIECE_BYTES, memory_budget() // 4) / max(row_bytes, 1.0)), 1)
        # A chunk is decompressed whole whatever part of it is asked for: pieces are of whole chunks.
        chunks = getattr(X, "chunks", None) or getattr(X, "chunkshape", None) or (1,)
        step = max(step // int(chunks[0]), 1) * int(chunks[0])
        self.edges: Sequence[int] = _edges(self.shape[0], step)

    def piece(self, k: int) -> Any:
        return take(self.X, slice(self.edges[k], self.edges[k + 1]))


class ArrowRows:
    """A pyarrow Table; its blocks are frames of pandas where that is installed, since transformers know these best."""

    def __init__(self, X: Any) -> None:
        self.X = X
        self.shape = (int(X.num_rows), int(X.num_columns))
        row_bytes = max(X.nbytes / max(self.shape[0], 1), 8.0 * self.shape[1], 1.0)
        self.edges: Sequence[int] = _edges(
            self.shape[0], max(int(min(_PIECE_BYTES, memory_budget() // 4) / row_bytes), 1)
        )

    def piece(self, k: int) -> Any:
        return as_frame(self.X.slice(self.edges[k], self.edges[k + 1] - self.edges[k]))


def as_frame(table: Any) -> Any:
    """A pyarrow Table as a pandas DataFrame, or as it is where there is no pandas."""
    return table.to_pandas() if importlib.util.find_spec("pandas") is not None else table


def _edges(n: int, step: int) -> list[int]:
    return [*range(0, n, step), n]


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
        return map_on_cluster(self.cluster, work, [self.source.blocks[k] for k in numbers], arguments)  # type: ignore[attr-defined]

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
