"""P = V (Λ + damping I)^-1 V': the inverse Hessian on its leading eigenvectors, found in a Krylov space."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from scipy.linalg import eigh_tridiagonal
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar

from ..models import LinearModel
from ..operators import TrainingProblem, warn_unless_minimum
from ._base import Solve, on_free
from .cg import check_damping, net_damping, warn_of_damping


class ArnoldiInverse(BaseEstimator):
    """The inverse Hessian on its eigenvectors of largest eigenvalue, zero on all else.

    Arnoldi's iteration, which for a symmetric matrix is Lanczos's, projects H on a Krylov space of dimension
    ``n_iter``; of the projection's eigenvalues the ``rank`` of largest size are kept.

    Parameters
    ----------
    rank : int, default=100
        Number of eigenpairs kept; no more than there are parameters that can move. Those are all at full rank, and the
        answer is then that of the dense inverse.
    n_iter : int, default=200
        Dimension of the Krylov space, one Hessian product each; at least ``rank``.
    damping : "auto" or float, default="auto"
        Added to the eigenvalues kept. "auto" adds nothing (for nets: a tenth of the Hessian's mean eigenvalue) unless
        one is negative, and then 1.1 times the size of the most negative, with a warning.
    random_state : int, RandomState instance or None, default=None
        Seed of the start vector.

    Raises
    ------
    TypeError
        If the training loss has no second derivative.
    ValueError
        If a parameter is out of range, a kept eigenvalue plus ``damping`` is negative, or the basis would take more
        than ``sklearn.get_config()["working_memory"]``.

    Notes
    -----
    Every new vector is orthogonalised against all before it, twice; where the space is exhausted (repeated eigenvalues)
    the iteration goes on from a new random vector. Memory: ``n_iter`` vectors of p numbers. Eigenvalues that are zero
    to rounding are not inverted. The report holds ``eigenvalues`` (kept, largest size first), ``rank``, ``n_iter`` and
    ``damping``.

    It fails where the objective's gradient lies in directions of small curvature: those are dropped, although the
    inverse weighs them most.

    Source: Schioppa, Zablotskaia, Vilar and Sokolov, "Scaling Up Influence Functions", AAAI 2022.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import ArnoldiInverse
    >>> method = GradientMethod(preconditioner=ArnoldiInverse(rank=20, n_iter=60))
    """

    def __init__(
        self, rank: int = 100, n_iter: int = 200, damping: float | str = "auto", random_state: Any = None
    ) -> None:
        self.rank = rank
        self.n_iter = n_iter
        self.damping = damping
        self.random_state = random_state

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        problem.require_hessian("arnoldi")
        warn_unless_minimum(problem, params)
        check_scalar(self.rank, "rank", Integral, min_val=1)
        check_scalar(self.n_iter, "n_iter", Integral, min_val=self.rank)
        damping = check_damping(self.damping)
        free = problem.free
        n_free = int(free.sum())
        n_iter = min(self.n_iter, n_free)
        _require_memory(n_iter, n_free)
        H = problem.hessian(params)

        def product(v: np.ndarray) -> np.ndarray:
            padded = np.zeros(free.shape[0])
            padded[free] = v
            return H.matvec(padded)[free]

        diagonal, off, Q = lanczos(product, n_free, n_iter, check_random_state(self.random_state))
        values, vectors = eigh_tridiagonal(diagonal, off) if n_iter > 1 else (diagonal, np.ones((n_iter, n_iter)))
        kept = np.argsort(-np.abs(values), kind="stable")[: self.rank]
        # Eigenvalues below the rounding of the products are zero.
        rounding = 10 * n_iter * float(np.finfo(problem.rows.X.dtype).eps)
        kept = kept[np.abs(values[kept]) > rounding * np.abs(values).max(initial=0.0)]
        values, basis = values[kept], Q @ vectors[:, kept]
        least = float(values.min(initial=np.inf))
        if self.damping == "auto" and not isinstance(problem.fitted.model, LinearModel):
            damping = net_damping(H, free)
        if least + damping < 0 and self.damping == "auto":
            damping = 1.1 * abs(least)
            warn_of_damping(damping)
        elif least + damping <= 0:
            raise ValueError(
                f"H + {damping:g} I is not positive definite: its smallest eigenvalue is {least + damping:.3g} or "
                "less. Use a larger damping, or damping='auto'."
            )
        report = {
            "solver": "arnoldi",
            "damping": damping,
            "rank": len(values),
            "n_iter": n_iter,
            "eigenvalues": values,
        }

        def solve(g: np.ndarray) -> np.ndarray:
            return basis @ ((basis.T @ g).T / (values + damping)).T

        return on_free(free, solve), report


def _require_memory(n_iter: int, p: int) -> None:
    budget = get_config()["working_memory"]
    needed = n_iter * p * 8 / 2**20
    if needed > budget:
        raise ValueError(
            f"A Krylov basis of n_iter={n_iter} vectors of {p} parameters takes {needed:.0f} MiB, more than "
            f"working_memory={budget} MiB. Lower n_iter and rank, raise working_memory "
            "(sklearn.set_config(working_memory=...)), or take influence through fewer parameters."
        )


def lanczos(
    product: Callable[[np.ndarray], np.ndarray], p: int, n_iter: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lanczos's iteration with full reorthogonalisation: ``Q' H Q`` is tridiagonal.

    Returns its diagonal ``(n_iter,)``, its off-diagonal ``(n_iter - 1,)``, and Q ``(p, n_iter)``, orthonormal.
    """
    Q = np.empty((p, n_iter), order="F")
    diagonal, off = np.zeros(n_iter), np.zeros(max(n_iter - 1, 0))
    size = 0.0  # of H, as far as seen

    def orthogonal(w: np.ndarray, k: int) -> np.ndarray:
        for _ in range(2):  # once leaves what rounding brought in; "twice is enough" (Kahan and Parlett)
            w = w - Q[:, :k] @ (Q[:, :k].T @ w)
        return w

    q = rng.standard_normal(p)
    for k in range(n_iter):
        Q[:, k] = q / np.linalg.norm(q)
        w = product(Q[:, k])
        diagonal[k] = float(Q[:, k] @ w)
        size = max(size, float(np.linalg.norm(w)))
        if k + 1 == n_iter:
            break
        q = orthogonal(w, k + 1)
        off[k] = float(np.linalg.norm(q))
        if off[k] <= 1e-12 * size:
            # The space is closed under H. What lies outside it (a repeated eigenvalue, say) starts another.
            off[k] = 0.0
            q = orthogonal(rng.standard_normal(p), k + 1)
    return diagonal, off, Q
