"""The gradients of a linear model's rows: one layer, whose inputs are X itself, dense or sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

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
        root = np.sqrt(weights).astype(self.D.dtype)[:, None]
        A, B = self.dense_inputs() * root, self.D * root
        return (A.T @ A).astype(np.float64), (B.T @ B).astype(np.float64)

    def rotated_squares(self, Q_A: np.ndarray, Q_B: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``sum_i w_i (Q_B^T G_i Q_A)^2``, entry by entry."""
        A, B = self.times_inputs(Q_A), self.D @ Q_B
        return np.asarray((B**2 * weights[:, None].astype(B.dtype)).T @ A**2, dtype=np.float64)

    def times_inputs(self, M: np.ndarray) -> np.ndarray:
        """``[X, 1] M``, ``(n, m)``."""
        d = self.X.shape[1]
        found = np.asarray(self.X @ M[:d])
        return found + M[d] if self.fit_intercept else found

    def pulled(self, C: np.ndarray) -> np.ndarray:
        """``C^T [X, 1]``, ``(K, d [+ 1])`` in float64."""
        table = np.asarray((self.X.T @ C).T, dtype=np.float64)
        return np.column_stack([table, C.sum(axis=0, dtype=np.float64)]) if self.fit_intercept else table

    def dense_inputs(self) -> np.ndarray:
        X = self.X.toarray() if sp.issparse(self.X) else self.X
        return np.column_stack([X, np.ones(len(X), dtype=X.dtype)]) if self.fit_intercept else X
