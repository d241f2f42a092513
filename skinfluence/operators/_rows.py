"""Rows with their targets and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.utils import assert_all_finite
from sklearn.utils.validation import _check_sample_weight

from ..models._balance import count_codes
from ..models._blocks import blocks_of, is_stream, n_rows, row_slices
from ..models._host import on_host

RowFunction = Callable[[Any, np.ndarray, np.ndarray | None], np.ndarray]
"""``(X, y, weight) -> (n, ...)`` of a block of rows. What is sent to a cluster must be picklable."""


@dataclass(frozen=True)
class ClassWeights:
    """Row weights ``(n,)`` by class, times users' own: looked up where they are asked for, since rows may be many."""

    by_class: np.ndarray
    codes: np.ndarray
    user_weight: np.ndarray | None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, key: Any) -> np.ndarray:
        found = self.by_class[self.codes[key]]
        return found if self.user_weight is None else found * self.user_weight[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype, copy=False)

    def sum(self) -> float:
        return float(self.by_class @ count_codes(self.codes, self.user_weight, len(self.by_class)))

    def any(self) -> bool:
        return self.sum() != 0


Weights = np.ndarray | ClassWeights


@dataclass(frozen=True)
class Rows:
    """Rows as the model takes them: ``X``, encoded targets, and weights ``(n,)`` or None.

    ``weight`` is what counts in the training objective, ``class_weight`` included; ``user_weight`` is the
    ``sample_weight`` given.
    """

    X: Any
    y: np.ndarray
    weight: Weights | None = None
    user_weight: np.ndarray | None = None
    name: str = "X"

    def __len__(self) -> int:
        return n_rows(self.X)

    def take(self, indices: np.ndarray) -> Rows:
        """Some of the rows, copied."""
        weight, user_weight = (None if part is None else part[indices] for part in (self.weight, self.user_weight))
        return Rows(self.X[indices], self.y[indices], weight, user_weight, name=self.name)

    def blocks(self, n_columns_of_work: int) -> Iterator[tuple[slice, Any, np.ndarray, np.ndarray | None]]:
        """Slices of the rows with their X, targets and weights."""
        for at, X in blocks_of(self.X, row_slices(self.X, n_columns_of_work, self.X.dtype.itemsize)):
            yield at, X, self.y[at], None if self.weight is None else self.weight[at]

    @property
    def are_elsewhere(self) -> bool:
        """Whether X is held by a cluster: what is asked of all rows is then computed there."""
        return is_stream(self.X) and self.X.cluster is not None

    def each(
        self, function: RowFunction, n_columns_of_work: int, shape: tuple[int, ...] = (), scale: float = 1.0
    ) -> np.ndarray:
        """``scale * function(X, y, weight)`` of all rows ``(n, *shape)`` in float64, block by block.

        The rows of a Dask collection are worked on where they are, if there is a cluster: what comes from there is what
        the function returns.
        """
        work = _ByBlocks(function, n_columns_of_work, shape, scale)
        if not self.are_elsewhere:
            return work(self)
        out = np.empty((len(self), *shape))
        for at, values in self.on_pieces(work):
            out[at] = values
        return out

    def total(self, function: Callable[..., np.ndarray], given: Iterable[Sequence[Any]] | None = None) -> np.ndarray:
        """``function(rows)`` of all rows: an array of sums over rows, which are added up piece by piece where the rows
        are elsewhere.

        ``given`` are further arguments for each piece; rows that are here take none.
        """
        if not self.are_elsewhere:
            return function(self)
        parts = (part for _, part in self.on_pieces(function, given))
        total = np.array(next(parts))
        for part in parts:
            total += part
        return total

    def on_pieces(
        self, function: Callable[..., Any], given: Iterable[Sequence[Any]] | None = None
    ) -> Iterator[tuple[slice, Any]]:
        """``function(rows, *given)`` of each piece of rows that are elsewhere, in order, with its slice.

        The function is sent there, and must be picklable; of X nothing comes here but what the function returns of it.
        """
        pieces = [slice(a, b) for a, b in pairwise(self.X.edges)]
        extra: Iterable[Sequence[Any]] = [()] * len(pieces) if given is None else given
        arguments = (
            (self.y[at], None if self.weight is None else self.weight[at], *more)
            for at, more in zip(pieces, extra, strict=True)
        )
        yield from zip(pieces, self.X.on_cluster(_OfRows(function, self.name), arguments), strict=True)


@dataclass(frozen=True)
class _ByBlocks:
    """`Rows.each` of rows that are here."""

    function: RowFunction
    n_columns_of_work: int
    shape: tuple[int, ...]
    scale: float

    def __call__(self, rows: Rows) -> np.ndarray:
        out = np.empty((len(rows), *self.shape))
        for at, X, y, weight in rows.blocks(self.n_columns_of_work):
            values = self.function(X, y, weight)
            if self.scale == 1.0:
                out[at] = values
            else:  # in the pass that stores them
                np.multiply(values, self.scale, out=out[at])
        return out


@dataclass(frozen=True)
class _OfRows:
    """A function of `Rows`, given a converted piece with its targets and weights."""

    function: Callable[..., Any]
    name: str

    def __call__(self, X: Any, y: np.ndarray, weight: np.ndarray | None, *given: Any) -> Any:
        return self.function(Rows(X, y, weight, name=self.name), *given)


def check_weights(sample_weight: Any, X: Any) -> np.ndarray | None:
    """Row weights as float64 ``(n,)``, or None; negative, non-finite and all-zero weights raise."""
    if sample_weight is None:
        return None
    weight = _check_sample_weight(on_host(sample_weight), X, dtype=np.float64, ensure_non_negative=True)
    if not weight.any():
        raise ValueError("sample_weight must have at least one positive entry, got zeros alone.")
    return weight


def unwarned_floats() -> np.errstate:
    """A context, or decorator, for scoring: what overflows on the way is found in the scores, and raised there."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def are_finite(values: np.ndarray) -> bool:
    """Whether all numbers of an array are finite."""
    # The sum of squares is had in less time than a look at each; it alone may overflow.
    if values.flags.forc:
        flat = values.ravel(order="K")
        if np.isfinite(np.vdot(flat, flat)):
            return True
    return bool(np.isfinite(values).all())


def require_finite(F: np.ndarray, X: Any, name: str = "X") -> None:
    """Raise if raw outputs are not finite, and say whether X is the cause.

    A NaN or an infinity in a row of X always makes that row's outputs non-finite, so that looking at the (small)
    outputs spares a pass over X.
    """
    if are_finite(F):
        return
    if sp.issparse(X) or isinstance(X, np.ndarray) or is_stream(X):
        for _, part in blocks_of(X, row_slices(X)):  # X may be larger than memory
            assert_all_finite(part.data if sp.issparse(part) else part, input_name=name)
    raise ValueError(
        f"The model's raw outputs are not finite: its parameters are not, or the values of {name} are too large, or "
        "(for a net) not finite themselves."
    )
