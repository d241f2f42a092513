"""What the recursion of LiSSA comes to, by the eigenvectors of a matrix that is small beside its right-hand sides."""

from __future__ import annotations

import numpy as np
from scipy import linalg

_ROUNDING = 1e-10


class Series:
    """Partial sums of ``sum_j (I - (H + damping I) / scale)^j``, for any number of terms at the cost of one.

    In the eigenvectors of H each term is a power of a number, and their sum is geometric. Made once, it takes two
    products with ``(p, p)`` matrices for as many steps as the recursion may make.

    Parameters
    ----------
    H : ndarray of shape (p, p)
        Symmetric, but for rounding.
    damping, scale : float
    rounding : float, default=0
        How far below zero, in units of the scale, an eigenvalue may lie that is zero but for rounding.
    """

    def __init__(self, H: np.ndarray, damping: float, scale: float, rounding: float = 0.0) -> None:
        values, self.vectors = linalg.eigh((H + H.T) / 2, overwrite_a=True)
        self.scale = scale
        self.shrunk = (values + damping) / scale
        # A number that is not smaller than one in size does not become small: there the recursion grows.
        self.settles = bool(self.shrunk[0] > -max(rounding, _ROUNDING) and self.shrunk[-1] < 2.0)
        with np.errstate(divide="ignore"):  # what is done with after one step
            self.log_factor = np.log1p(-np.where(self.shrunk < 1, self.shrunk, 2 - self.shrunk))

    def solve(self, V: np.ndarray, depth: int, tol: float) -> tuple[np.ndarray, int, float]:
        """Solutions ``(p, m)`` for a finite V, most steps made, and the worst relative residual, as the recursion has
        them.

        Each column takes the first number of steps after which its residual is at most ``tol``, or ``depth``.
        """
        unit = np.abs(V).max(axis=0)
        unit[unit == 0] = 1.0
        C = self.vectors.T @ (V / unit)
        squares = C * C
        sizes = np.sqrt(squares.sum(axis=0))
        few, many = np.ones(V.shape[1], dtype=np.intp), np.full(V.shape[1], depth, dtype=np.intp)
        while bool((few < many).any()):  # by halves: the residual falls with every step
            middle = (few + many) // 2
            done = self._residuals(squares, sizes, middle) <= tol
            many, few = np.where(done, middle, many), np.where(done, few, np.minimum(middle + 1, many))
        residual = float(self._residuals(squares, sizes, many).max(initial=0.0))
        C *= self._sums(many)
        return self.vectors @ C * (unit / self.scale), int(many[sizes > 0].max(initial=0)), residual

    def _residuals(self, squares: np.ndarray, sizes: np.ndarray, steps: np.ndarray) -> np.ndarray:
        left = np.exp(np.multiply.outer(2 * self.log_factor, steps))
        left *= squares
        found: np.ndarray = np.sqrt(left.sum(axis=0)) / np.where(sizes > 0, sizes, 1.0)
        return found

    def _sums(self, steps: np.ndarray) -> np.ndarray:
        """``sum of (1 - shrunk)^j`` for j from 0 to the steps, ``(p, m)``."""
        terms = steps + 1
        powers = np.multiply.outer(self.log_factor, terms)
        # 1 - (1 - shrunk)^terms, without the loss of digits where that is near one; beyond one the sign alternates.
        sums, alternate = -np.expm1(powers), self.shrunk > 1
        sums[alternate] = 1 - np.where(terms % 2, -1.0, 1.0) * np.exp(powers[alternate])
        flat = self.shrunk == 0
        sums /= np.where(flat, 1.0, self.shrunk)[:, None]
        sums[flat] = terms
        return sums
