"""Linear models: raw outputs ``X @ coef.T + intercept``, differentiated by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._blocks import memory_budget
from ._layers import Layer, LayerRows
from ._linear_rows import LinearRows, gram
from ._protocol import Cotangents, TangentCotangents
from ._sparse import squares_times

# Measured with OpenBLAS: up to so many outputs are had fastest one by one, in float32 only of rows that are not narrow.
_FEW_OUTPUTS = {np.dtype(np.float64): 7, np.dtype(np.float32): 3}
_NARROW = 32

# What is read twice is read in parts that a core's own cache holds, with room for what is computed of them.
_CORE_CACHE_BYTES = 3 << 18

# Measured: so many outputs at once, over all directions, and so many bytes of them were near the best for every table.
_PUSHED_OUTPUTS = 128
_PUSHED_BYTES = 1 << 22


class LinearModel:
    """``F = X @ coef.T + intercept``; parameters are ``coef`` output by output, each followed by its intercept where
    there is one.

    Outputs are stored class-major, ``(K, n)``, because rows of ``n`` numbers vectorise and ``n`` rows of ``K`` numbers
    do not; the ``(n, K)`` arrays returned are transposed views of that. Everything is computed in the dtype of ``X``.
    """

    def __init__(self, params: np.ndarray, *, n_features: int, n_outputs: int, fit_intercept: bool) -> None:
        width = n_features + fit_intercept
        params = np.array(params, dtype=np.float64).reshape(-1)
        if params.shape != (n_outputs * width,):
            raise ValueError(
                f"params must have {n_outputs * width} entries ({n_outputs} outputs x {n_features} features"
                f"{' + intercept' if fit_intercept else ''}), got {params.shape[0]}."
            )
        params.flags.writeable = False
        self._params = params
        self.n_features = n_features
        self.n_outputs = n_outputs
        self.fit_intercept = fit_intercept

    @classmethod
    def from_coef(cls, coef: np.ndarray, intercept: np.ndarray | None) -> LinearModel:
        """From ``coef (K, d)`` and ``intercept (K,)`` or None."""
        K, d = coef.shape
        table = np.empty((K, d + (intercept is not None)))
        table[:, :d] = coef
        if intercept is not None:
            table[:, d] = intercept
        return cls(table, n_features=d, n_outputs=K, fit_intercept=intercept is not None)

    @property
    def params(self) -> np.ndarray:
        return self._params

    @property
    def linear(self) -> bool:
        return True

    @property
    def engine(self) -> str:
        return "analytic"

    @property
    def width(self) -> int:
        """Parameters of one output."""
        return self.n_features + self.fit_intercept

    @property
    def blocks(self) -> dict[str, slice]:
        return {"linear": slice(0, self._params.shape[0])}

    def at(self, params: np.ndarray) -> LinearModel:
        return LinearModel(
            params, n_features=self.n_features, n_outputs=self.n_outputs, fit_intercept=self.fit_intercept
        )

    def table(self, params: np.ndarray) -> np.ndarray:
        """A parameter vector as ``(K, d [+ 1])``."""
        return params.reshape(-1, self.width)

    def outputs(self, X: Any) -> np.ndarray:
        return self.jvp(X, self._params)

    def jvp(self, X: Any, v: np.ndarray) -> np.ndarray:
        # The outputs are linear in the parameters: the derivative along v is the model at v.
        return self._outputs_at(X, self.table(v))

    def jvps(self, X: Any, directions: np.ndarray) -> list[np.ndarray]:
        return self.outputs_and_jvps(X, [], directions)[1]

    def vjp(self, X: Any, cotangents: np.ndarray) -> np.ndarray:
        cotangents = np.asarray(cotangents, dtype=X.dtype)
        table = np.empty((cotangents.shape[1], self.width))
        if sp.issparse(X):
            table[:, : self.n_features] = (X.T @ cotangents).T
        else:
            table[:, : self.n_features] = cotangents.T @ X
        if self.fit_intercept:
            table[:, -1] = cotangents.sum(axis=0, dtype=np.float64)
        return table.ravel()

    def outputs_and_jvps(
        self, X: Any, params: Sequence[np.ndarray], directions: Sequence[np.ndarray] | np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        # All parameter vectors and all directions are stacked into one product, so that X is read once.
        stacked = self._outputs_at(X, np.concatenate([self.table(v) for v in (*params, *directions)]))
        K, M = self.n_outputs, len(params)
        parts = [stacked[:, k * K : (k + 1) * K] for k in range(M + len(directions))]
        return parts[:M], parts[M:]

    def pull_back(self, X: Any, params: Sequence[np.ndarray], cotangents: Cotangents) -> list[np.ndarray]:
        Fs, _ = self.outputs_and_jvps(X, params, [])
        Ds = [cotangents(F, slice(0, X.shape[0]), m) for m, F in enumerate(Fs)]
        # The derivative of a linear model does not depend on its parameters.
        stacked = self.vjp(X, _side_by_side(Ds))
        return list(stacked.reshape(len(Ds), -1))

    def push_and_pull(
        self, X: Any, v: np.ndarray, cotangents: TangentCotangents, F: np.ndarray | None = None
    ) -> np.ndarray:
        if F is None:
            (F,), (T,) = self.outputs_and_jvps(X, [self._params], [v])
        else:
            T = self.jvp(X, v)
        return self.vjp(X, cotangents(F, T, slice(0, X.shape[0])))

    def push_and_pull_each(
        self, X: Any, vs: np.ndarray, cotangents: TangentCotangents, F: np.ndarray | None = None
    ) -> np.ndarray:
        if len(vs) == 1:
            return self.push_and_pull(X, vs[0], cotangents, F)[None]
        rows, out = slice(0, X.shape[0]), np.empty(vs.shape)
        if F is None:
            F = self.outputs(X)
        budget = min(_PUSHED_BYTES, memory_budget() // 4)
        together = min(_PUSHED_OUTPUTS // self.n_outputs, budget // max(F.nbytes, 8 * vs.shape[1], 1))
        if together < 2 or sp.issparse(X):  # sparse rows are multiplied with one vector after the other anyway
            for j, v in enumerate(vs):
                out[j] = self.push_and_pull(X, v, cotangents, F)
            return out
        for start in range(0, len(vs), together):
            some = slice(start, start + together)
            Ds = [cotangents(F, T, rows) for T in self.jvps(X, vs[some])]
            out[some] = self.vjp(X, _side_by_side(Ds)).reshape(len(Ds), -1)
        return out

    def squared_row_norms(self, X: Any, cotangents: Cotangents, free: np.ndarray) -> np.ndarray:
        mask = self.table(free)
        if mask.all():
            F, per_row = self._outputs_and_squares(X)
            if self.fit_intercept:
                per_row += 1
            D = cotangents(F, slice(0, X.shape[0]), 0)
            per_row *= _squared_rows(D)
            return per_row
        D = cotangents(self.outputs(X), slice(0, X.shape[0]), 0)
        return np.einsum("ik,ik,ik->i", self._squares_times(X, mask.astype(X.dtype)), D, D)

    @property
    def widest_layer(self) -> int:
        """Numbers a row takes where its gradient is handled layer by layer."""
        return self.width

    def layers(self, X: Any, cotangents: Cotangents, free: np.ndarray) -> Iterator[tuple[slice, list[LayerRows]]]:
        """The rows' gradients as those of one layer; see `skinfluence.models._layers`."""
        rows = slice(0, X.shape[0])
        D = cotangents(self.outputs(X), rows, 0)
        norms = self.squared_row_norms(X, lambda F, at, member: D, free)
        layer = Layer("linear", ((slice(0, self._params.shape[0]), (self.n_outputs, self.width)),))
        yield rows, [LinearRows(layer, X, D, self.fit_intercept, norms, self.table(free))]

    def input_gradient(self, X: Any, cotangents: np.ndarray) -> np.ndarray:
        coef = self.table(self._params)[:, : self.n_features].astype(X.dtype)
        return np.asarray(cotangents, dtype=X.dtype) @ coef

    def second_order(self, X: Any, cotangents: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Zeros: the outputs are linear in the parameters."""
        return np.zeros(self._params.shape[0])

    def reduced(self, X: Any, most_bytes: int) -> None:
        """None: it takes as little work as there is."""

    def gram(self, X: Any, weights: np.ndarray) -> np.ndarray:
        """``sum_i weights[i] x_i x_i^T`` with the intercept's column of ones, ``(d [+ 1], d [+ 1])`` in float64."""
        return gram(X, weights, self.fit_intercept)

    def _outputs_at(self, X: Any, table: np.ndarray) -> np.ndarray:
        F = np.empty((len(table), X.shape[0]), dtype=X.dtype)
        _multiply(self._coef(table, X), X, F)
        if self.fit_intercept:
            F += table[:, -1:].astype(X.dtype)
        return F.T

    def _outputs_and_squares(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Raw outputs, and the squared norm of each row of X."""
        if sp.issparse(X):
            return self.outputs(X), _squared_rows(X)
        table = self.table(self._params)
        coef = self._coef(table, X)
        F, squares = np.empty((len(table), X.shape[0]), dtype=X.dtype), np.empty(X.shape[0], dtype=X.dtype)
        one_by_one, product = _is_fastest_one_by_one(coef, X), _product(X)
        outputs = list(zip(coef, F, strict=True)) if one_by_one else []
        for at in _cached_parts(X):
            part = X[at]
            _dot_rows(part, part, out=squares[at])  # first: the slower of the two hides the time that reading takes
            for row, own in outputs:
                product(part, row, own[at])
            if not one_by_one:
                _multiply(coef, part, F[:, at])
        if self.fit_intercept:
            F += table[:, -1:].astype(X.dtype)
        return F.T, squares

    def _squares_times(self, X: Any, table: np.ndarray) -> np.ndarray:
        """The outputs ``(n, K)`` of parameters in ``table`` for squared features."""
        if not sp.issparse(X):
            return self._outputs_at(X * X, table)
        F = squares_times(X, table[:, : self.n_features])
        return F + table[:, -1].astype(X.dtype) if self.fit_intercept else F

    def _coef(self, table: np.ndarray, X: Any) -> np.ndarray:
        return np.ascontiguousarray(table[:, : self.n_features], dtype=X.dtype)


def _side_by_side(Ds: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays ``(n, K)`` as one ``(n, len(Ds) K)``, class-major as they are."""
    return Ds[0] if len(Ds) == 1 else np.concatenate([D.T for D in Ds]).T


def _multiply(coef: np.ndarray, X: Any, out: np.ndarray) -> None:
    """Write ``coef @ X.T`` into ``out (K, n)``."""
    if sp.issparse(X):
        for k, row in enumerate(coef):
            out[k] = X @ row
    elif _is_fastest_one_by_one(coef, X):
        outputs, product = list(zip(coef, out, strict=True)), _product(X)
        for at in _cached_parts(X):
            part = X[at]
            for row, own in outputs:
                product(part, row, own[at])
    elif X.dtype == np.float64:
        np.matmul(coef, X.T, out=out)
    else:  # measured in float32: faster than that, the copy included
        out[:] = (X @ coef.T).T


def _product(X: np.ndarray) -> Callable[..., Any]:
    """``(part, vector, out)``: of the two the one that takes less to call copies rows that do not lie together."""
    return np.ndarray.dot if X.flags.c_contiguous else np.matmul


def _is_fastest_one_by_one(coef: np.ndarray, X: np.ndarray) -> bool:
    few = len(coef) <= _FEW_OUTPUTS.get(X.dtype, 0)
    return few and (X.dtype == np.float64 or X.shape[1] >= _NARROW)


def _cached_parts(X: np.ndarray) -> Iterator[slice]:
    """Slices of the rows, each of which a core's own cache holds; one of all where rows do not lie together."""
    fitting = _CORE_CACHE_BYTES // max(X.shape[1] * X.itemsize, 1) if X.flags.c_contiguous else X.shape[0]
    step = max(fitting, 1)
    for start in range(0, X.shape[0], step):
        yield slice(start, start + step)


def _squared_rows(X: Any) -> np.ndarray:
    if sp.issparse(X):
        return squares_times(X, np.ones((1, X.shape[1])))[:, 0]
    if X.shape[1] == 1:
        return np.square(X[:, 0])
    return _dot_rows(X, X)


# vecdot came with NumPy 2, and is a little faster on C-ordered rows.
_dot_rows = getattr(np, "vecdot", partial(np.einsum, "ij,ij->i"))
