"""P = (H + damping I)^-1 by preconditioned conjugate gradients: products with H alone."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar

from ..models.linear import LinearModel
from ..operators import TrainingProblem
from ._base import Solve, on_free

_WIDEST_GRAM = 2048


class CGInverse(BaseEstimator):
    """Inverse Hessian products by conjugate gradients, without forming the Hessian.

    Where H is singular and g lies in its range, as in the multinomial model, the iteration started at zero converges to
    the minimum-norm solution. Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear
    Systems", 1952; for influence, Martens, "Deep learning via Hessian-free optimization", ICML 2010.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of H. "auto" adds nothing unless the iteration meets a direction of no or negative
        curvature; it then starts again with ten times as much as that direction asks for.
    tol : float, default=1e-6
        Relative residual at which the iteration stops.
    max_iter : int, default=1000
        Most iterations; reaching it warns.
    """

    def __init__(self, damping: float | str = "auto", tol: float = 1e-6, max_iter: int = 1000) -> None:
        self.damping = damping
        self.tol = tol
        self.max_iter = max_iter

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        problem.require_hessian("cg")
        damping = check_damping(self.damping)
        check_scalar(self.tol, "tol", Real, min_val=0, max_val=1, include_boundaries="neither")
        check_scalar(self.max_iter, "max_iter", Integral, min_val=1)
        H, free = problem.hessian(params), problem.free
        report: dict[str, Any] = {"solver": "cg", "damping": damping, "n_iter": 0, "residual": 0.0}
        approximate_inverse = _kronecker_inverse(problem, params) if free.all() else np.copy

        def product(v: np.ndarray) -> np.ndarray:
            padded = np.zeros(free.shape[0])
            padded[free] = v
            return H.matvec(padded)[free] + report["damping"] * v

        def solve(g: np.ndarray) -> np.ndarray:
            if g.ndim == 2:
                return np.column_stack([solve(column) for column in g.T])
            while True:
                u, n_iter, residual, curvature = conjugate_gradients(
                    product, g, approximate_inverse, self.tol, self.max_iter
                )
                report["n_iter"], report["residual"] = max(n_iter, report["n_iter"]), max(residual, report["residual"])
                if curvature is None:
                    break
                if self.damping != "auto":
                    raise ValueError(
                        f"H + {report['damping']:g} I is not positive definite: a direction of curvature "
                        f"{curvature:.3g} was met. "
                        "Use a larger damping, or damping='auto'."
                    )
                report["damping"] += 10 * abs(curvature) + np.finfo(float).eps * float(
                    np.linalg.norm(product(g)) / np.linalg.norm(g)
                )
            if residual > self.tol:
                warnings.warn(
                    f"Conjugate gradients stopped after {n_iter} iterations at a relative residual of {residual:.2g} "
                    f"(tol={self.tol:g}). "
                    "Increase max_iter or damping, or scale the features.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
            return u

        return on_free(free, solve), report


def check_damping(damping: float | str) -> float:
    """The damping to start from."""
    if isinstance(damping, str):
        if damping != "auto":
            raise ValueError(f"damping must be 'auto' or a number >= 0, got {damping!r}.")
        return 0.0
    return float(check_scalar(damping, "damping", Real, min_val=0))


def conjugate_gradients(
    product: Solve, g: np.ndarray, approximate_inverse: Solve, tol: float, max_iter: int
) -> tuple[np.ndarray, int, float, float | None]:
    """Solve ``A u = g``; returns u, iterations, relative residual, and the curvature that stopped it (None if none
    did).
    """
    u = np.zeros_like(g)
    size = float(np.linalg.norm(g))
    if size == 0.0:
        return u, 0, 0.0, None
    r = g.copy()
    z = approximate_inverse(r)
    d, rz = z.copy(), float(r @ z)
    for n_iter in range(1, max_iter + 1):
        Ad = product(d)
        dAd, dd = float(d @ Ad), float(d @ d)
        if dAd <= 0.0:
            return u, n_iter, float(np.linalg.norm(r)) / size, dAd / dd
        step = rz / dAd
        u += step * d
        r -= step * Ad
        if float(np.linalg.norm(r)) <= tol * size:
            break
        z = approximate_inverse(r)
        rz, previous = float(r @ z), rz
        d = z + (rz / previous) * d
    return u, n_iter, float(np.linalg.norm(r)) / size, None


def _kronecker_inverse(problem: TrainingProblem, params: np.ndarray) -> Solve:
    """An approximate inverse of a linear model's Hessian: ``(A ⊗ X'X/n + l2 I)^-1``, A the mean curvature in the
    outputs.

    A strided sample of a few rows for each column is enough for it, and makes it cheaper than the iterations it saves.
    """
    model = problem.fitted.model
    if not isinstance(model, LinearModel) or model.width > _WIDEST_GRAM:
        return np.copy
    stride = max(len(problem.rows) // (4 * model.width), 1)
    X, y = problem.rows.X[::stride], problem.rows.y[::stride]
    weight = np.ones(len(y)) if problem.rows.weight is None else problem.rows.weight[::stride]
    F = model.at(params).outputs(X)
    A = np.empty((model.n_outputs, model.n_outputs))
    for k in range(model.n_outputs):
        e = np.zeros_like(F)
        e[:, k] = 1
        A[k] = weight @ problem.loss.hessian_product(F, y, e)
    a, Q = np.linalg.eigh(A / max(float(weight.sum()), np.finfo(float).tiny))
    g, V = np.linalg.eigh(model.gram(X, np.full(len(y), 1.0 / len(y), dtype=X.dtype)))
    spectrum = np.outer(np.maximum(a, 0), np.maximum(g, 0)) + problem.penalty_scale * float(
        problem.fitted.penalty.l2.mean()
    )
    # The floor keeps directions without curvature (the intercepts' common shift) in hand; it only steers the iteration.
    if spectrum.max() <= 0:
        return np.copy
    spectrum = np.maximum(spectrum, 1e-10 * spectrum.max())

    def apply(r: np.ndarray) -> np.ndarray:
        return (Q @ ((Q.T @ model.table(r) @ V) / spectrum) @ V.T).ravel()

    return apply
