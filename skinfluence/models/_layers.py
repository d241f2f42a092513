"""The gradients of rows, layer by layer, without ever forming them.

A layer that multiplies its inputs ``A`` by a matrix has, for row i, the gradient ``sum_t B_it A_it^T``: ``A (n, T, a)``
are its inputs at T positions (one, in a plain linear layer; an input that is always one stands for the bias) and ``B
(n, T, b)`` the gradients at its outputs. Norms, products with a direction and sums over rows all follow from A and B.
Source of the norms: Goodfellow, "Efficient Per-Example Gradient Computations", 2015; with positions: Rochette, Manoel
and Tramel, 2019; Li et al., "Large Language Models Can Be Strong Differentially Private Learners", ICLR 2022.

The arrays are NumPy's or torch's: what is used here (products, einsum, sums) is spelled alike in both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

# What is formed of a few rows at a time: on a processor no more than stays in its caches.
_CACHE_BYTES = 1 << 22
_DEVICE_BYTES = 1 << 26


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

    def second_moments(self, weights: np.ndarray) -> tuple[Any, Any]:
        """The Kronecker factors ``(a, a)`` and ``(b, b)``, summed over rows and positions, as `wide` has them; None for
        the identity.
        """

    def rotated_squares(self, Q_A: Any, Q_B: Any, weights: np.ndarray) -> np.ndarray:
        """``sum_i weights_i (Q_B^T G_i Q_A)^2``, entry by entry, ``(b, a)`` in float64; a basis of None is the axes."""


@dataclass(frozen=True)
class AffineRows:
    """A layer with a matrix: inputs ``A (n, T, a)`` and gradients at the outputs ``B (n, T, b)``.

    ``bias`` says that the matrix has one column more, of an input that is one at every position.
    """

    layer: Layer
    A: Any
    B: Any
    bias: bool = False

    def like(self, matrix: np.ndarray) -> Any:
        return as_like(matrix, self.B)

    def squared_norms(self) -> np.ndarray:
        A, B = self.A, self.B
        n, T, a = A.shape
        b = B.shape[2]
        if T == 1:
            return to_numpy((_squares(A[:, 0]) + self.bias) * _squares(B[:, 0]))
        out = np.empty(n)
        if T * (a + b) < a * b:
            for at in chunks(n, 2 * T * T, A):
                gram = A[at] @ A[at].swapaxes(1, 2)
                gram += self.bias
                gram *= B[at] @ B[at].swapaxes(1, 2)
                out[at] = to_numpy(gram.sum(axis=(1, 2)))
            return out
        for at, G in self.gradients():
            out[at] = to_numpy(_squares(G.reshape(G.shape[0], -1)))
        return out + to_numpy(_squares(B.sum(axis=1))) if self.bias else out

    def products(self, V: Any) -> np.ndarray:
        n, T, b = self.B.shape
        a = self.A.shape[2]
        pulled = (self.B.reshape(n * T, b) @ V[:, :a]).reshape(n, -1)
        found = _dots(pulled, self.A.reshape(n, -1))
        return to_numpy(found + (self.B @ V[:, a]).sum(axis=1) if self.bias else found)

    def total(self, weights: np.ndarray) -> np.ndarray:
        n, T, b = self.B.shape
        scaled = (self.B * as_like(weights, self.B)[:, None, None]).reshape(n * T, b)
        matrix = to_numpy(scaled.T @ self.A.reshape(n * T, -1))
        return with_bias(matrix, to_numpy(scaled.sum(axis=0)) if self.bias else None)

    def gradients(self) -> Iterator[tuple[slice, Any]]:
        """The gradients themselves without those of the bias, ``(m, b, a)``, a chunk of rows at a time."""
        n, _, a = self.A.shape
        for at in chunks(n, self.B.shape[2] * a, self.A):
            yield at, self.B[at].swapaxes(1, 2) @ self.A[at]

    def second_moments(self, weights: np.ndarray) -> tuple[Any, Any]:
        """``sum_it w_i A_it A_it^T`` and the same of B, in float64."""
        root = as_like(np.sqrt(weights), self.B)[:, None, None]
        A = (self.A * root).reshape(-1, self.A.shape[2])
        B = (self.B * root).reshape(-1, self.B.shape[2])
        of_inputs, of_outputs = wide(A.T @ A), wide(B.T @ B)
        if not self.bias:
            return of_inputs, of_outputs
        # Of the input that is always one: the sums of the others, and of the weights.
        scaled = (self.A * as_like(weights, self.A)[:, None, None]).reshape(-1, self.A.shape[2])
        a = A.shape[1]
        moments = as_like(np.zeros((a + 1, a + 1)), of_inputs)
        moments[:a, :a] = of_inputs
        moments[:a, a] = moments[a, :a] = wide(scaled.sum(axis=0))
        moments[a, a] = self.A.shape[1] * float(weights.sum())
        return moments, of_outputs

    def rotated_squares(self, Q_A: Any, Q_B: Any, weights: np.ndarray) -> np.ndarray:
        """``sum_i w_i (Q_B^T G_i Q_A)^2``, entry by entry, ``(b, a)`` in float64."""
        a = self.A.shape[2]
        A, B, w = self.A @ Q_A[:a], self.B @ Q_B, as_like(weights, self.B)
        if self.bias:
            A += Q_A[a]
        if A.shape[1] == 1:
            return to_numpy(((B[:, 0] ** 2) * w[:, None]).T @ (A[:, 0] ** 2))
        parts = (
            wide(((G**2) * w[at][:, None, None]).sum(axis=0)) for at, G in AffineRows(self.layer, A, B).gradients()
        )
        return to_numpy(sum(parts))


@dataclass(frozen=True)
class DirectRows:
    """A layer whose rows' gradients ``G (n, b, a)`` are small, or cannot be had otherwise."""

    layer: Layer
    G: Any

    def like(self, matrix: np.ndarray) -> Any:
        return as_like(matrix, self.G)

    def squared_norms(self) -> np.ndarray:
        return to_numpy(_squares(self.G.reshape(self.G.shape[0], -1)))

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


def wide(values: Any) -> Any:
    """Values in float64 to be added up, of a NumPy or torch array: on a CUDA device they stay there, so that no large
    matrix is brought home for each block; others come as NumPy's.
    """
    if getattr(getattr(values, "device", None), "type", "cpu") == "cuda":
        return values.detach().double()
    return to_numpy(values)


def eigenvectors(matrix: Any) -> Any:
    """Of a symmetric matrix, in columns, computed where it is."""
    if isinstance(matrix, np.ndarray):
        return np.linalg.eigh(matrix)[1]
    return sys.modules["torch"].linalg.eigh(matrix)[1]  # whoever made the tensor has imported it; the core never does


def as_like(values: np.ndarray, like: Any) -> Any:
    """A NumPy array as one of the kind, dtype and device of ``like``."""
    if hasattr(like, "new_tensor"):
        return like.new_tensor(values)
    return np.asarray(values, dtype=like.dtype)


def nbytes(rows: LayerRows) -> int:
    """Of the arrays that hold a block of rows."""
    return sum(getattr(part, "nbytes", 0) for part in vars(rows).values())


def with_bias(matrix: np.ndarray, column: np.ndarray | None) -> np.ndarray:
    """A matrix ``(b, a)``, with the bias's column at its right if there is one."""
    return matrix if column is None else np.column_stack([matrix, column])


def chunks(n: int, numbers: int, like: Any) -> Iterator[slice]:
    """Slices of n rows that take so many numbers each while they are worked on, on the device of ``like``."""
    on_device = getattr(getattr(like, "device", None), "type", "cpu") != "cpu"
    budget = _DEVICE_BYTES if on_device else _CACHE_BYTES
    step = max(budget // max(numbers * like.itemsize, 1), 1)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _squares(values: Any) -> Any:
    """Sums of squares along the last axis, without an array of the squares."""
    if isinstance(values, np.ndarray):
        return np.einsum("...i,...i->...", values, values)
    return values.norm(dim=-1).square()


def _dots(left: Any, right: Any) -> Any:
    """Inner products along the last axis."""
    return (left * right).sum(axis=-1)
