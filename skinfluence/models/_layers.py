"""The gradients of rows, layer by layer, without ever forming them.

A layer that multiplies its inputs ``A`` by a matrix has, for row i, the gradient ``sum_t B_it A_it^T``: ``A (n, T, a)``
are its inputs at T positions (one, in a plain linear layer; a column of ones stands for the bias) and ``B (n, T, b)``
the gradients at its outputs. Norms, products with a direction and sums over rows all follow from A and B. Source of
the norms: Goodfellow, "Efficient Per-Example Gradient Computations", 2015; with positions: Rochette, Manoel and
Tramel, 2019; Li et al., "Large Language Models Can Be Strong Differentially Private Learners", ICLR 2022.

The arrays are NumPy's or torch's: what is used here (products, einsum, sums) is spelled alike in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class Layer:
    """Where a layer's parameters lie in the flat vector: one or two slices, each ``(rows, columns)`` of its matrix.

    The matrix ``(b, a)`` is made of the slices side by side: a weight ``(b, a - 1)`` and a bias ``(b, 1)``, say.
    """

    name: str
    slices: tuple[tuple[slice, tuple[int, int]], ...]

    @property
    def shape(self) -> tuple[int, int]:
        return self.slices[0][1][0], sum(shape[1] for _, shape in self.slices)

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def matrix(self, v: np.ndarray) -> np.ndarray:
        """The layer's part ``(b, a)`` of a flat vector."""
        return np.concatenate([v[at].reshape(shape) for at, shape in self.slices], axis=1)

    def add(self, matrix: np.ndarray, into: np.ndarray) -> None:
        """Add a matrix ``(b, a)`` to the layer's part of a flat vector."""
        start = 0
        for at, shape in self.slices:
            into[at] += matrix[:, start : start + shape[1]].reshape(-1)
            start += shape[1]


class LayerRows(Protocol):
    """The gradients of a block of rows in one layer."""

    @property
    def layer(self) -> Layer: ...

    def squared_norms(self) -> np.ndarray:
        """``(n,)``."""

    def products(self, V: Any) -> np.ndarray:
        """Inner products ``(n,)`` of the rows' gradients with a matrix ``(b, a)`` made by `like`."""

    def like(self, matrix: np.ndarray) -> Any:
        """A NumPy matrix as an array of the layer's own kind."""

    def total(self, weights: np.ndarray) -> np.ndarray:
        """``sum_i weights_i G_i``, ``(b, a)`` in float64."""

    def second_moments(self, weights: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
        """The Kronecker factors ``(a, a)`` and ``(b, b)``, summed over rows and positions; None for the identity."""

    def rotated_squares(self, Q_A: Any, Q_B: Any, weights: np.ndarray) -> np.ndarray:
        """``sum_i weights_i (Q_B^T G_i Q_A)^2``, entry by entry, ``(b, a)`` in float64; a basis of None is the axes."""


@dataclass(frozen=True)
class AffineRows:
    """A layer with a matrix: inputs ``A (n, T, a)`` and gradients at the outputs ``B (n, T, b)``."""

    layer: Layer
    A: Any
    B: Any

    def like(self, matrix: np.ndarray) -> Any:
        return as_like(matrix, self.B)

    def squared_norms(self) -> np.ndarray:
        A, B = self.A, self.B
        n, T, a = A.shape
        b = B.shape[2]
        if T == 1:
            return to_numpy((A[:, 0] ** 2).sum(axis=1) * (B[:, 0] ** 2).sum(axis=1))
        out = np.empty(n)
        if T * (a + b) < a * b:
            for at in _chunks(n, 2 * T * T * A.itemsize):
                gram = (A[at] @ A[at].swapaxes(1, 2)) * (B[at] @ B[at].swapaxes(1, 2))
                out[at] = to_numpy(gram.sum(axis=(1, 2)))
            return out
        for at, G in self.gradients():
            out[at] = to_numpy((G.reshape(G.shape[0], -1) ** 2).sum(axis=1))
        return out

    def products(self, V: Any) -> np.ndarray:
        n, T, b = self.B.shape
        pulled = (self.B.reshape(n * T, b) @ V).reshape(n, -1)
        return to_numpy((pulled * self.A.reshape(n, -1)).sum(axis=1))

    def total(self, weights: np.ndarray) -> np.ndarray:
        n, T, b = self.B.shape
        scaled = (self.B * as_like(weights, self.B)[:, None, None]).reshape(n * T, b)
        return to_numpy(scaled.T @ self.A.reshape(n * T, -1))

    def gradients(self) -> Iterator[tuple[slice, Any]]:
        """The gradients themselves, ``(m, b, a)``, a chunk of rows at a time."""
        n, _, a = self.A.shape
        for at in _chunks(n, self.B.shape[2] * a * self.A.itemsize):
            yield at, self.B[at].swapaxes(1, 2) @ self.A[at]

    def second_moments(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``sum_it w_i A_it A_it^T`` and the same of B, in float64."""
        root = as_like(np.sqrt(weights), self.B)[:, None, None]
        A = (self.A * root).reshape(-1, self.A.shape[2])
        B = (self.B * root).reshape(-1, self.B.shape[2])
        return to_numpy(A.T @ A), to_numpy(B.T @ B)

    def rotated_squares(self, Q_A: Any, Q_B: Any, weights: np.ndarray) -> np.ndarray:
        """``sum_i w_i (Q_B^T G_i Q_A)^2``, entry by entry, ``(b, a)`` in float64."""
        A, B, w = self.A @ Q_A, self.B @ Q_B, as_like(weights, self.B)
        if A.shape[1] == 1:
            return to_numpy(((B[:, 0] ** 2) * w[:, None]).T @ (A[:, 0] ** 2))
        out = np.zeros(self.layer.shape)
        for at, G in AffineRows(self.layer, A, B).gradients():
            out += to_numpy(((G**2) * w[at][:, None, None]).sum(axis=0))
        return out


@dataclass(frozen=True)
class DirectRows:
    """A layer whose rows' gradients ``G (n, b, a)`` are small, or cannot be had otherwise."""

    layer: Layer
    G: Any

    def like(self, matrix: np.ndarray) -> Any:
        return as_like(matrix, self.G)

    def squared_norms(self) -> np.ndarray:
        return to_numpy((self.G.reshape(self.G.shape[0], -1) ** 2).sum(axis=1))

    def products(self, V: Any) -> np.ndarray:
        return to_numpy(self.G.reshape(self.G.shape[0], -1) @ V.reshape(-1))

    def total(self, weights: np.ndarray) -> np.ndarray:
        n = self.G.shape[0]
        return to_numpy(as_like(weights, self.G) @ self.G.reshape(n, -1)).reshape(self.layer.shape)

    def second_moments(self, weights: np.ndarray) -> tuple[None, None]:
        """None: the axes are their own basis."""
        return None, None

    def rotated_squares(self, Q_A: None, Q_B: None, weights: np.ndarray) -> np.ndarray:
        """``sum_i w_i G_i^2``, entry by entry, ``(b, a)`` in float64."""
        n = self.G.shape[0]
        return to_numpy(as_like(weights, self.G) @ (self.G.reshape(n, -1) ** 2)).reshape(self.layer.shape)


def to_numpy(values: Any) -> np.ndarray:
    """A float64 NumPy array of a NumPy or torch one."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def as_like(values: np.ndarray, like: Any) -> Any:
    """A NumPy array as one of the kind, dtype and device of ``like``."""
    if hasattr(like, "new_tensor"):
        return like.new_tensor(values)
    return np.asarray(values, dtype=like.dtype)


def _chunks(n: int, row_bytes: int) -> Iterator[slice]:
    step = max(_CHUNK_BYTES // max(row_bytes, 1), 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))
