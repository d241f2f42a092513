"""Dask collections: their pieces, their targets, and the cluster that holds them. Dask is never imported here: where
there is a collection, it is there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np


def is_dask(values: Any) -> bool:
    """Whether it is a Dask collection, told by the name of its module."""
    return type(values).__module__.split(".")[0] in ("dask", "dask_expr") and hasattr(values, "compute")


def in_memory(values: Any) -> Any:
    """Targets or weights, computed if they are a Dask collection; anything else as it is."""
    return values.compute() if is_dask(values) else values


class DaskRows:
    """A Dask array or DataFrame, a piece for each block or partition of its rows.

    Raises
    ------
    TypeError
        If it is another kind of collection.
    ValueError
        If it is not two-dimensional, or does not know how many rows its blocks have.
    """

    def __init__(self, X: Any) -> None:
        if hasattr(X, "chunks"):
            lengths, n_columns = self._of_array(X)
            X = X.rechunk({1: -1}) if X.numblocks[1] > 1 else X
        elif hasattr(X, "to_delayed") and hasattr(X, "columns"):
            # The partitions of a DataFrame do not know their lengths: one pass finds them.
            lengths, n_columns = tuple(np.asarray(X.map_partitions(len).compute()).ravel()), len(X.columns)
        else:
            raise TypeError(f"X must be a Dask array or DataFrame, got a {type(X).__name__}.")
        self.collection = X  # what a cluster holds of it is forgotten when the collection is
        blocks = np.asarray(X.to_delayed(), dtype=object).ravel()
        filled = [k for k, length in enumerate(lengths) if length]
        self.blocks = [blocks[k] for k in filled]
        self.edges: Sequence[int] = [0, *np.cumsum([lengths[k] for k in filled], dtype=np.int64).tolist()]
        self.shape = (int(self.edges[-1]), int(n_columns))

    @staticmethod
    def _of_array(X: Any) -> tuple[Sequence[int], int]:
        if X.ndim != 2:
            raise ValueError(f"Expected 2D array, got a Dask array of {X.ndim} dimension(s).")
        if np.isnan(np.array(X.shape, dtype=float)).any():
            raise ValueError(
                "X is a Dask array that does not know its number of rows. Call X.compute_chunk_sizes() first."
            )
        return X.chunks[0], X.shape[1]

    def piece(self, k: int) -> Any:
        return self.blocks[k].compute()


def cluster_of(source: Any) -> Any:
    """The client of the cluster on which the pieces of a source are computed, or None.

    Inside a worker there is none: a task that waits for others there may wait for ever.
    """
    distributed = sys.modules.get("distributed")
    if not isinstance(source, DaskRows) or distributed is None:
        return None
    try:
        distributed.get_worker()
    except ValueError:
        pass
    else:
        return None
    try:
        return distributed.Client.current()
    except ValueError:
        return None


def map_on_cluster(
    client: Any, function: Callable[..., Any], blocks: Sequence[Any], arguments: Iterable[Sequence[Any]]
) -> Iterator[Any]:
    """``function(block, *arguments)`` for each of a source's blocks, where the block lives; results come in order.

    A block, or a result, that is lost with a worker is computed again by another.
    """
    delayed = sys.modules["dask"].delayed
    shared = delayed(_apply, pure=False)
    function = delayed(function, pure=False, traverse=False)  # sent to a worker once, not with every block
    futures = client.compute([shared(function, block, *given) for block, given in zip(blocks, arguments, strict=True)])
    try:
        while futures:
            result = futures[0].result()
            del futures[0]  # the cluster may forget it
            yield result
    finally:
        client.cancel(futures)


def _apply(function: Callable[..., Any], *given: Any) -> Any:
    return function(*given)
