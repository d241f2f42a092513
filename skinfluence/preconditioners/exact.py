"""P = (H + damping I)^-1, exactly: Cholesky where H is small and definite, else conjugate gradients or the pseudo-
inverse.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as sla
from sklearn.base import BaseEstimator

from ..models.linear import LinearModel
from ..operators import TrainingProblem, warn_unless_minimum
from ._base import Solve, on_free
from .cg import NET_DAMPING, CGInverse, check_damping, warn_of_damping

# A dense Hessian of K outputs takes K (K + 1) / 2 Gram matrices; beyond these sizes the products that CG needs cost
# less.
_MOST_PARAMS = 4096
_MOST_GRAM_COLUMNS = 1200
_MOST_HESSIAN_PARAMS = 512  # a net's own Hessian is made by a product for each column
_CG_TOL = 1e-6


class ExactInverse(BaseEstimator):
    """The inverse Hessian to working precision.

    A small Hessian is formed from weighted Gram matrices and factored by Cholesky; if it is singular its pseudo-inverse
    is used, which gives the minimum-norm solution. A large one is solved matrix-free by conjugate gradients to a
    relative residual of 1e-6.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of H. "auto" adds nothing to a Hessian without negative curvature, and otherwise 1.1 times
        the most negative eigenvalue's size; to that of a net it adds a tenth of the mean eigenvalue first. What was
        used is reported.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import ExactInverse
    >>> from skinfluence.snapshots import Dropout
    >>> method = GradientMethod(snapshots=Dropout(3), preconditioner=ExactInverse())
    """

    def __init__(self, damping: float | str = "auto") -> None:
        self.damping = damping

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        problem.require_hessian("exact")
        damping = check_damping(self.damping)
        if not _is_small(problem):
            return CGInverse(damping=self.damping, tol=_CG_TOL, max_iter=10_000).at(problem, params)
        warn_unless_minimum(problem, params)
        free = problem.free
        H = problem.dense_hessian(params)
        if not np.isfinite(H).all():
            raise ValueError("The Hessian is not finite: the values of X are too large. Scale the features.")
        H = H if free.all() else H[np.ix_(free, free)]
        if self.damping == "auto" and not isinstance(problem.fitted.model, LinearModel):
            damping = NET_DAMPING * abs(float(np.trace(H))) / len(H)
        report: dict[str, Any] = {"solver": "cholesky", "damping": damping, "rank": len(H)}
        solve = _cholesky(H, damping)
        if solve is None:
            # Eigenvalues below the rounding of the products that made H are zero.
            rounding = len(H) * float(np.finfo(problem.rows.X.dtype).eps)
            solve = _pseudo_inverse(H, damping, rounding, automatic=self.damping == "auto", report=report)
        return on_free(free, solve), report


def _is_small(problem: TrainingProblem) -> bool:
    model = problem.fitted.model
    if not isinstance(model, LinearModel):
        most = _MOST_PARAMS if problem.fitted.curvature == "gauss_newton" else _MOST_HESSIAN_PARAMS
        return problem.n_params <= most
    return problem.n_params <= _MOST_PARAMS and model.width * (model.n_outputs + 1) / 2 <= _MOST_GRAM_COLUMNS


def _cholesky(H: np.ndarray, damping: float) -> Solve | None:
    """A Cholesky solve of ``H + damping I``, or None if that is not numerically definite."""
    p = len(H)
    if p == 0:
        return np.copy
    A = H.copy(order="F")  # as LAPACK has it, which then needs no copy of its own
    A[np.diag_indices_from(A)] += damping
    size = np.abs(A).sum(axis=0).max()
    factor, failed = sla.lapack.dpotrf(A, lower=True, overwrite_a=True)
    if failed:
        return None
    rcond, _ = sla.lapack.dpocon(factor, size, uplo="L")
    if rcond < 10 * p * np.finfo(np.float64).eps:
        return None

    def solve(g: np.ndarray) -> np.ndarray:
        u, _ = sla.lapack.dpotrs(factor, g, lower=True)
        return u.reshape(g.shape)

    return solve


def _pseudo_inverse(
    H: np.ndarray, damping: float, rounding: float, *, automatic: bool, report: dict[str, Any]
) -> Solve:
    values, vectors = np.linalg.eigh(H)
    cutoff = 10 * rounding * float(np.abs(values).max())
    values = values + damping
    if values[0] < -cutoff:
        if not automatic:
            raise ValueError(
                f"H + {damping:g} I is not positive definite: its smallest eigenvalue is {values[0]:.3g}. Use a "
                "larger damping, "
                "or damping='auto'."
            )
        report["damping"] = 1.1 * abs(float(values[0]))
        warn_of_damping(report["damping"])
        values = values + report["damping"]
    used = values > cutoff
    report.update(solver="eigh", rank=int(used.sum()))
    basis, inverse = vectors[:, used], 1.0 / values[used]

    def solve(g: np.ndarray) -> np.ndarray:
        coordinates = basis.T @ g
        return basis @ (coordinates * (inverse if g.ndim == 1 else inverse[:, None]))

    return solve
