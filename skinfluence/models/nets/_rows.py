"""The rows of a net: an array, a tensor, a dict, tuple or list of them, a frame, or a torch Dataset, sliced alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch.utils.data import Dataset, default_collate


class NetRows:
    """Rows as blocks of a net's input.

    ``shape`` is ``(n, d)`` where they are one table, and ``(n, 1)`` for rows of any other form: the net cuts blocks of
    its own size (see `NetModel`), so that what stands above it need not. ``dtype`` is that of the outputs.
    """

    def __init__(self, data: Any, n: int, dtype: np.dtype) -> None:
        self.data = data
        table = not isinstance(data, (_Items, Mapping, tuple, list)) and data.ndim == 2
        self.shape = (n, int(data.shape[1]) if table else 1)
        self.dtype = dtype

    @classmethod
    def of(cls, X: Any, dtype: np.dtype, *, sparse: bool = False) -> NetRows:
        """``sparse`` says that a CSR matrix may be made dense, block by block."""
        if sparse and sp.issparse(X):
            return cls(X.tocsr(), X.shape[0], dtype)
        data = _Items(X) if isinstance(X, Dataset) else _unframed(X)
        lengths = {len(data)} if isinstance(data, _Items) else set(leaves_of(data, len))
        if not lengths:
            raise ValueError("X has no parts: found an empty dict, tuple or list.")
        if len(lengths) != 1:
            raise ValueError(f"The parts of X must have the same number of rows, got {sorted(lengths)}.")
        n = lengths.pop()
        if n == 0:
            raise ValueError("X has no rows: found array with 0 sample(s).")
        return cls(data, n, dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NetRows:
        index = rows if isinstance(rows, slice) else np.atleast_1d(np.asarray(rows))
        if isinstance(index, np.ndarray) and index.dtype == bool:
            index = np.flatnonzero(index)
        n = len(range(*index.indices(len(self)))) if isinstance(index, slice) else len(index)
        if isinstance(self.data, _Items):
            return NetRows(self.data.take(index), n, self.dtype)
        return NetRows(map_leaves(self.data, lambda part: part[index]), n, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        data = self.data.toarray() if sp.issparse(self.data) else self.data
        if isinstance(data, (_Items, Mapping, tuple, list)):
            raise TypeError(f"These rows of a net are no array, but {self.described()}.")
        data = data.cpu().numpy() if isinstance(data, torch.Tensor) else data
        return np.array(data, dtype=dtype, copy=copy)

    def described(self) -> str:
        """What they are, for messages."""
        if isinstance(self.data, _Items):
            return f"a torch Dataset ({type(self.data.dataset).__name__})"
        parts = leaves_of(self.data, lambda part: f"{str(part.dtype).removeprefix('torch.')} {tuple(part.shape[1:])}")
        return f"of {' and '.join(parts)} a row"

    @property
    def form(self) -> Any:
        """Dtypes and shapes of rows of real numbers, of which a net that takes one takes any; None for others: whole
        numbers, say, may be places in a table, which has an end.
        """
        if isinstance(self.data, _Items) or sp.issparse(self.data):
            return None
        real = all(leaves_of(self.data, lambda part: "float" in str(part.dtype)))
        return map_leaves(self.data, lambda part: (str(part.dtype), tuple(part.shape[1:]))) if real else None

    def batch(self, device: torch.device, cast: torch.dtype | None) -> Any:
        """All rows as tensors on the net's device; floating ones as ``cast`` unless that is None."""
        data = self.data.collated() if isinstance(self.data, _Items) else self.data

        def tensor(part: Any) -> torch.Tensor:
            part = part.toarray() if sp.issparse(part) else part
            if isinstance(part, np.ndarray):
                # torch takes neither other bytes than the machine's, nor negative strides nor, without a warning,
                # memory that cannot be written.
                part = torch.from_numpy(np.require(part, part.dtype.newbyteorder("="), requirements=["C", "W"]))
            part = part.clone() if part.is_inference() else part  # of which torch takes no gradients
            part = part.to(cast) if cast is not None and part.is_floating_point() else part
            return part.to(device)

        return map_leaves(data, tensor)


class _Items:
    """Rows of a torch Dataset, whose items are ``x`` or ``(x, y)``."""

    def __init__(self, dataset: Any, indices: np.ndarray | None = None) -> None:
        self.dataset = dataset
        self.indices = np.arange(len(dataset)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, index: Any) -> _Items:
        return _Items(self.dataset, self.indices[index])

    def collated(self) -> Any:
        items = [self.dataset[int(i)] for i in self.indices]
        return default_collate([item[0] for item in items] if _is_pair(items[0]) else items)


def spread(n: int, most: int) -> np.ndarray:
    """A few of n rows, from first to last."""
    return np.array(sorted({i * (n - 1) // max(most - 1, 1) for i in range(most)}))


def _is_pair(item: Any) -> bool:
    return isinstance(item, (tuple, list)) and len(item) == 2


def dataset_targets(X: Any) -> np.ndarray | None:
    """The targets that a Dataset pairs its rows with, or None."""
    if not isinstance(X, Dataset) or not _is_pair(X[0]):
        return None
    return np.asarray([np.asarray(X[i][1]) for i in range(len(X))])


def _unframed(X: Any) -> Any:
    if hasattr(X, "columns") and hasattr(X, "to_numpy"):
        # As skorch does: a net gets the columns of a frame by their names.
        return {name: X[name].to_numpy().reshape(-1, 1) for name in X.columns}
    if isinstance(X, Mapping):
        return {name: _unframed(part) for name, part in X.items()}
    if isinstance(X, tuple):
        return tuple(_unframed(part) for part in X)
    if isinstance(X, list) and X and not np.isscalar(X[0]) and hasattr(X[0], "shape") and np.ndim(X[0]) > 0:
        return [_unframed(part) for part in X]
    if isinstance(X, torch.Tensor):
        return X.detach()
    if sp.issparse(X):
        raise TypeError(
            "A net takes dense rows, got a sparse matrix. Densify it (X.toarray()) or select columns first."
        )
    array = np.asarray(X)
    if array.dtype.kind not in "fiub":
        raise TypeError(
            f"A net takes numbers, got an array of dtype {array.dtype}. Encode it first, or pass a dict of arrays or a "
            "torch Dataset."
        )
    if array.ndim == 0:
        raise TypeError(f"X must hold rows, got {type(X).__name__}.")
    return array


def map_leaves(data: Any, function: Callable[[Any], Any]) -> Any:
    """The same dict, tuple or list with the function of each part that is none of these."""
    if isinstance(data, Mapping):
        return {name: map_leaves(part, function) for name, part in data.items()}
    if isinstance(data, (tuple, list)):
        return type(data)(map_leaves(part, function) for part in data)
    return function(data)


def leaves_of(data: Any, function: Callable[[Any], Any]) -> list[Any]:
    """What the function says of each part."""
    if isinstance(data, Mapping):
        return [found for part in data.values() for found in leaves_of(part, function)]
    if isinstance(data, (tuple, list)):
        return [found for part in data for found in leaves_of(part, function)]
    return [function(data)]
