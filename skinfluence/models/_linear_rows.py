"""The gradients of a linear model's rows: one layer, whose inputs are X itself, dense or sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from ._blocks import row_slices, take
from ._layers import Layer


@dataclass(frozen=True)
class LinearRows:
    """Rows ``X (n, d)`` and the loss's derivatives in the outputs ``D (n, K)``: gradients ``D_i [x_i, 1]^T``.

    ``free (K, d [+ 1])`` marks the parameters that can move; the others have no gradient.
    """

    layer: Layer
    X: Any
    D: np.ndarray
    fit_intercept: bool
    norms: np.ndarray
    free: np.ndarray

    def like(self, matrix: np.ndarray) -> np.ndarray:
        return matrix.astype(self.X.dtype, copy=False)

    def squared_norms(self) -> np.ndarray:
        return self.norms

    def products(self, V: np.ndarray) -> np.ndarray:
        found = np.einsum("ik,ik->i", self.D, self.times_inputs(V.T), dtype=np.float64)
        return np.asarray(found)

    def total(self, weights: np.ndarray) -> np.ndarray:
        scaled = self.D * weights[:, None].astype(self.D.dtype)
        return self.pulled(scaled) * self.free

    def second_moments(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``sum_i w_i x_i x_i^T``, with the column of ones, and the same of D."""
        B = self.D * np.sqrt(weights).astype(self.D.dtype)[:, None]
        return gram(self.X, weights.astype(self.X.dtype), self.fit_intercept), (B.T @ B).astype(np.float64)

    def rotated_squares(self, Q_A: np.ndarray, Q_B: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``sum_i w_i (Q_B^T G_i Q_A)^2``, entry by entry."""
        # In an eigenbasis the rows of a sparse X are dense: only so many of them at a time as a block of work holds.
        X = self.X.tocsr() if sp.issparse(self.X) else self.X
        total = np.zeros((Q_B.shape[1], Q_A.shape[1]))
        for at in row_slices(X, 2 * len(Q_A), X.dtype.itemsize):
            A, B = self._times(take(X, at), Q_A), self.D[at] @ Q_B
            total += (B**2 * weights[at, None].astype(B.dtype)).T @ A**2
        return total

    def times_inputs(self, M: np.ndarray) -> np.ndarray:
        """``[X, 1] M``, ``(n, m)``."""
        return self._times(self.X, M)

    def _times(self, X: Any, M: np.ndarray) -> np.ndarray:
        d = X.shape[1]
        found = np.asarray(X @ M[:d])
        return found + M[d] if self.fit_intercept else found

    def pulled(self, C: np.ndarray) -> np.ndarray:
        """``C^T [X, 1]``, ``(K, d [+ 1])`` in float64."""
        table = np.asarray((self.X.T @ C).T, dtype=np.float64)
        return np.column_stack([table, C.sum(axis=0, dtype=np.float64)]) if self.fit_intercept else table


def gram(X: Any, weights: np.ndarray, fit_intercept: bool) -> np.ndarray:
    """``sum_i weights[i] x_i x_i^T`` with the intercept's column of ones, ``(d [+ 1], d [+ 1])`` in float64.

    A sparse X stays sparse.
    """
    d = X.shape[1]
    G = np.empty((d + fit_intercept, d + fit_intercept))
    if sp.issparse(X):
        scaled = X.multiply(weights[:, None]).tocsr()
        G[:d, :d] = (X.T @ scaled).toarray()
    elif (weights >= 0).all():
        B = X * np.sqrt(weights)[:, None]
        G[:d, :d] = B.T @ B  # one buffer on both sides: BLAS computes half of it
    else:
        G[:d, :d] = X.T @ (X * weights[:, None])
    if fit_intercept:
        G[:d, d] = G[d, :d] = X.T @ weights
        G[d, d] = weights.sum(dtype=np.float64)
    return G
