"""The ends of the spectrum of a symmetric matrix that is known by its products alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import eigvalsh_tridiagonal

_MOST_STEPS = 100
_TOL = 1e-3
_SETTLED = 2


def extreme_eigenvalues(times: Callable[[np.ndarray], np.ndarray], p: int) -> tuple[float, float]:
    """Estimates of the greatest and the least eigenvalue of a symmetric matrix ``(p, p)``, by Lanczos's iteration.

    ``times`` gives products with columns ``(p, 1)``. Both lie between the true ones: the greatest is not overestimated,
    the least not underestimated. Stops where twice running a product moved neither by more than a thousandth of the
    larger of them. Three vectors are held; without all that came before they lose their orthogonality, which repeats
    eigenvalues and does not move the outermost.

    Source: Golub and Van Loan, "Matrix Computations", 4th edition, sections 10.1 and 10.3.

    Raises
    ------
    ValueError
        If a product is not finite.
    """
    # A fixed start: the estimate is no draw, and does not move with the seed.
    v = np.random.RandomState(0).standard_normal((p, 1))
    v /= np.linalg.norm(v)
    before = v
    diagonal: list[float] = []
    off: list[float] = []
    ends, settled = np.zeros(2), 0
    for _ in range(min(p, _MOST_STEPS)):
        w = times(v)
        diagonal.append(float(v[:, 0] @ w[:, 0]))
        if not np.isfinite(diagonal[-1]):
            raise ValueError("A product with the Hessian is NaN or inf: the model's outputs or derivatives overflow.")
        if off:
            # Of a symmetric matrix both are one. Of products that rounding has made asymmetric, as those of a net that
            # is all but certain of its rows, the length takes in what is asymmetric, and puts ends where none are.
            up = float(before[:, 0] @ w[:, 0])
            off[-1] = min(off[-1], abs(up))
            w = w - up * before
        w = w - diagonal[-1] * v
        # Once more: where the space of all products is used up, as where eigenvalues are repeated, w is rounding and
        # points anywhere, also where the iteration has just been, and would put ends outside the spectrum.
        for known in (before, v):
            w = w - float(known[:, 0] @ w[:, 0]) * known
        values = eigvalsh_tridiagonal(diagonal, off) if off else np.array(diagonal)
        moved = np.abs(values[[0, -1]] - ends).max()
        ends = values[[0, -1]]
        size = np.abs(ends).max()
        length = float(np.linalg.norm(w))
        settled = settled + 1 if moved <= _TOL * size else 0
        if settled == _SETTLED or length <= np.finfo(np.float64).eps * size * p:
            break
        off.append(length)
        before, v = v, w / length
    return float(ends[1]), float(ends[0])
