"""P = (H + damping I)^-1 by preconditioned conjugate gradients: products with H alone."""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, minres
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar

from ..models.linear import LinearModel
from ..operators import TrainingProblem, warn_unless_minimum
from ._base import Solve, by_columns, on_free

_WIDEST_GRAM = 2048
_MOST_RESTARTS = 20
_N_TRACE_PROBES = 4
# The curvature of a net has far fewer directions than parameters, and its inverse none to trust in the others: a tenth
# of the mean eigenvalue is what Grosse et al., "Studying Large Language Model Generalization with Influence
# Functions", 2023, add.
NET_DAMPING = 0.1


class CGInverse(BaseEstimator):
    """Inverse Hessian products by conjugate gradients, without forming the Hessian.

    Where parameters besides the intercepts are not penalised H may be singular; MINRES then gives a least-squares
    solution. Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952; for
    influence, Martens, "Deep learning via Hessian-free optimization", ICML 2010.

    For a linear model of up to 2,048 columns the iteration is preconditioned by Kronecker factors of its Hessian. For
    nets it is not: on trained MLPs and CNNs their Kronecker factors, those of EKFAC, halved the iterations to a
    residual of 1e-2 at best and doubled those to 1e-4, for the damping makes most directions alike; their diagonal was
    worse everywhere.

    Parameters
    ----------
    damping : "auto" or float, default="auto"
        Added to the diagonal of H. "auto" adds nothing (for nets: a tenth of the mean eigenvalue) unless the iteration
        meets a direction of negative curvature; it then starts again with ten times as much as that direction asks for.
    tol : float, default=1e-6
        Relative residual at which the iteration stops.
    max_iter : int, default=1000
        Most iterations; reaching it warns.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import CGInverse
    >>> GradientMethod(preconditioner=CGInverse(tol=1e-4))
    GradientMethod(preconditioner=CGInverse(tol=0.0001))
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
        warn_unless_minimum(problem, params)
        H, free = problem.hessian(params), problem.free
        if self.damping == "auto" and not isinstance(problem.fitted.model, LinearModel):
            damping = net_damping(H, free)
        report: dict[str, Any] = {"solver": "cg", "damping": damping, "n_iter": 0, "residual": 0.0}
        approximate_inverse = _kronecker_inverse(problem, params) if free.all() else np.copy

        def product(v: np.ndarray) -> np.ndarray:
            padded = np.zeros(free.shape[0])
            padded[free] = v
            return H.matvec(padded)[free] + report["damping"] * v

        def solve(g: np.ndarray) -> np.ndarray:
            if report["damping"] == 0.0 and _may_be_singular(problem):
                return _least_squares(product, g, self.tol, self.max_iter, report)
            for _ in range(_MOST_RESTARTS):
                u, n_iter, residual, curvature = conjugate_gradients(
                    product, g, approximate_inverse, self.tol, self.max_iter
                )
                report["n_iter"], report["residual"] = max(n_iter, report["n_iter"]), max(residual, report["residual"])
                if curvature >= 0:
                    break
                if self.damping != "auto":
                    raise ValueError(
                        f"H + {report['damping']:g} I is not positive definite: a direction of curvature "
                        f"{curvature:.3g} was met. Use a larger damping, or damping='auto'."
                    )
                report["damping"] += 10 * abs(curvature)
                warn_of_damping(report["damping"])
            if residual > self.tol:
                _warn_unsolved(n_iter, residual, self.tol)
            return u

        return on_free(free, by_columns(solve)), report


def net_damping(H: LinearOperator, free: np.ndarray) -> float:
    """What the inverse Hessians of this package add for nets when they are left to choose."""
    return NET_DAMPING * abs(mean_eigenvalue(H, free))


def mean_eigenvalue(H: LinearOperator, free: np.ndarray) -> float:
    """The mean eigenvalue of H on the free parameters, estimated from a few products with random signs.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989.
    """
    rng = np.random.RandomState(0)
    found = []
    for _ in range(_N_TRACE_PROBES):
        signs = rng.choice([-1.0, 1.0], size=free.shape[0]) * free
        found.append(float(signs @ H.matvec(signs)))
    return float(np.mean(found)) / max(int(free.sum()), 1)


def check_damping(damping: float | str) -> float:
    """The damping to start from."""
    if isinstance(damping, str):
        if damping != "auto":
            raise ValueError(f"damping must be 'auto' or a number >= 0, got {damping!r}.")
        return 0.0
    value = float(check_scalar(damping, "damping", Real, min_val=0))
    if not np.isfinite(value):
        raise ValueError(f"damping must be 'auto' or a finite number >= 0, got {damping!r}.")
    return value


def warn_of_damping(damping: float) -> None:
    """Say that the Hessian had negative curvature and what was added to it."""
    warnings.warn(
        f"The Hessian of the training objective has negative curvature; {damping:.3g} was added to its diagonal.",
        ConvergenceWarning,
        stacklevel=3,
    )


def _warn_unsolved(n_iter: int, residual: float, tol: float) -> None:
    warnings.warn(
        f"The solver stopped after {n_iter} iterations at a relative residual of {residual:.2g} (tol={tol:g}). "
        "Increase "
        "max_iter or damping, or scale the features.",
        ConvergenceWarning,
        stacklevel=3,
    )


def _may_be_singular(problem: TrainingProblem) -> bool:
    """Whether more parameters are left unpenalised than the intercepts."""
    unpenalised = np.count_nonzero(problem.fitted.penalty.l2[problem.free] == 0)
    return bool(unpenalised > problem.fitted.model.n_outputs)


def _least_squares(product: Solve, g: np.ndarray, tol: float, max_iter: int, report: dict[str, Any]) -> np.ndarray:
    """Solve a system that may be singular, and g out of its range, by MINRES: conjugate gradients would diverge there.

    Source: Paige and Saunders, "Solution of Sparse Indefinite Systems of Linear Equations", SIAM J. Numer. Anal., 1975.
    """
    if not g.any():
        return np.zeros_like(g)
    size = max(float(np.linalg.norm(product(g))), np.finfo(float).tiny)
    n_iter, latest = 0, deque([np.zeros_like(g)], maxlen=2)

    def keep(u: np.ndarray) -> None:
        nonlocal n_iter
        n_iter += 1
        latest.append(u.copy())

    def unsolved(u: np.ndarray) -> float:
        # What is left of g may lie out of the range of H; what of it lies within is what was not solved for.
        return float(np.linalg.norm(product(product(u) - g)) / size)

    operator = LinearOperator((len(g), len(g)), matvec=product, dtype=np.float64)
    keyword = "rtol" if "rtol" in inspect.signature(minres).parameters else "tol"  # SciPy 1.11 has the older name
    minres(operator, g, maxiter=max_iter, callback=keep, **{keyword: tol * 1e-2})
    # It sees only a step late that it is done, and if g is out of range and the space exhausted, that step divides by
    # what is zero to rounding.
    left, _, u = min((unsolved(u), -at, u) for at, u in enumerate(latest))
    report.update(solver="minres", n_iter=max(n_iter, report["n_iter"]), residual=max(left, report["residual"]))
    if left > max(100 * tol, 1e-4):
        _warn_unsolved(n_iter, left, tol)
    return u


def conjugate_gradients(
    product: Solve, g: np.ndarray, approximate_inverse: Solve, tol: float, max_iter: int
) -> tuple[np.ndarray, int, float, float]:
    """Solve ``A u = g`` by preconditioned conjugate gradients.

    Returns u, the iterations, the relative residual, and the least curvature met: where that is negative, or zero to
    rounding, the iteration stops with what it has.
    """
    u = np.zeros_like(g)
    size = float(np.linalg.norm(g))
    if size == 0.0:
        return u, 0, 0.0, 0.0
    r = g.copy()
    z = approximate_inverse(r)
    d, rz = z.copy(), float(r @ z)
    least, most = np.inf, 0.0
    n_iter = 0
    for n_iter in range(1, max_iter + 1):  # noqa: B007 - how far it came is returned
        Ad = product(d)
        dAd = float(d @ Ad)
        curvature = dAd / float(d @ d)
        most = max(most, abs(curvature))
        if abs(curvature) <= 1e-14 * most:
            least = min(least, 0.0)
            break
        least = min(least, curvature)
        if curvature < 0.0:
            break
        step = rz / dAd
        u += step * d
        r -= step * Ad
        if float(np.linalg.norm(r)) <= tol * size:
            break
        z = approximate_inverse(r)
        rz, previous = float(r @ z), rz
        d = z + (rz / previous) * d
    return u, n_iter, float(np.linalg.norm(r)) / size, least


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
