"""Where rows come from that need not be in memory: arrays that give slices, tables of pyarrow, Dask's collections.

Optional libraries are told by the names of their types, and never imported.
"""

from __future__ import annotations

import importlib.util
import mmap
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from ._blocks import memory_budget, take
from ._dask import DaskRows, is_dask

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
