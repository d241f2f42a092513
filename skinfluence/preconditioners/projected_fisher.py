"""P = R (R' F R + damping I)^-1 R': the inverse of the empirical Fisher matrix F in a random subspace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import scipy.fft
import scipy.linalg as sla
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, check_scalar

from ..operators import Rows, TrainingProblem, require_finite
from ._base import Solve, on_free, require_room
from .cg import check_damping

_AUTO_DAMPING = 0.1
_MOST_DIRECTIONS = 32


class RandomBasis:
    """Orthonormal columns ``R (p, k)``, chosen at random and never stored: a randomised cosine transform.

    R is a diagonal of random signs times k of the p columns of the orthogonal cosine transform. It serves as a random
    projection like a Gaussian one does, needs ``p log p`` operations and p numbers, and at ``k = p`` is a rotation.

    Source: Ailon and Chazelle, "The Fast Johnson-Lindenstrauss Transform", SIAM J. Comput., 2009; Tropp, "Improved
    Analysis of the Subsampled Randomized Hadamard Transform", 2011.
    """

    def __init__(self, p: int, k: int, rng: np.random.RandomState) -> None:
        self.signs = rng.randint(2, size=p) * 2.0 - 1.0
        self.chosen = np.sort(rng.permutation(p)[:k])

    def coordinates(self, V: np.ndarray) -> np.ndarray:
        """``R' V``, ``(k, m)``."""
        return scipy.fft.dct(self.signs[:, None] * V, axis=0, norm="ortho")[self.chosen]

    def vectors(self, A: np.ndarray) -> np.ndarray:
        """``R A``, ``(p, m)``."""
        padded = np.zeros((len(self.signs), A.shape[1]))
        padded[self.chosen] = A
        return self.signs[:, None] * scipy.fft.idct(padded, axis=0, norm="ortho")


class ProjectedFisher(BaseEstimator):
    """The inverse of the empirical Fisher matrix, ``sum_i w_i grad loss_i grad loss_i' / sum_i w_i``, in a random
    subspace.

    Parameters
    ----------
    n_projections : int, default=512
        Dimension k of the subspace. As many as there are free parameters, or more, leave nothing out: P is then the
        inverse of the whole matrix.
    damping : "auto" or float, default="auto"
        Added to the diagonal of the projected matrix. "auto" is a tenth of its mean eigenvalue. At 0 directions in
        which no row has a gradient are left out.
    random_state : int, RandomState instance or None, default=None
        Seed of the subspace.

    Raises
    ------
    ValueError
        If a parameter is out of range, or ``n_projections ** 2`` numbers take more than
        ``sklearn.get_config()["working_memory"]``.

    Notes
    -----
    Costs ``n_projections`` derivatives along a direction for each row, taken in one pass over blocks of rows; memory
    ``n_projections ** 2`` and a block. Needs no second derivative. The report holds ``damping``, ``n_projections`` and
    ``rank``.

    Source: Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023; `RandomBasis` for the projection.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import ProjectedFisher
    >>> method = GradientMethod(preconditioner=ProjectedFisher(n_projections=64, random_state=0))
    """

    def __init__(self, n_projections: int = 512, damping: float | str = "auto", random_state: Any = None) -> None:
        self.n_projections = n_projections
        self.damping = damping
        self.random_state = random_state

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        check_scalar(self.n_projections, "n_projections", Integral, min_val=1)
        damping = check_damping(self.damping)
        free = problem.free
        n_free = int(free.sum())
        k = min(self.n_projections, n_free)
        report = {"solver": "projected_fisher", "damping": damping, "n_projections": k, "rank": 0}
        if n_free == 0:
            return on_free(free, np.copy), report
        basis = RandomBasis(n_free, k, check_random_state(self.random_state))
        require_room(k, "A projected matrix", "Lower n_projections")
        fisher = _ProjectedFisher(problem.fitted.model.at(params), problem.loss, free, basis)
        F = problem.rows.total(fisher) / problem.total_weight
        values, vectors = sla.eigh(F)
        if self.damping == "auto":
            damping = _AUTO_DAMPING * float(values.mean())
        # Eigenvalues below the rounding of the gradients' products are zero.
        rounding = 10 * k * float(np.finfo(problem.rows.X.dtype).eps)
        used = values + damping > rounding * values.max(initial=0.0)
        values, vectors = values[used] + damping, vectors[:, used]
        report.update(damping=damping, rank=int(used.sum()))

        def solve(g: np.ndarray) -> np.ndarray:
            V = g if g.ndim == 2 else g[:, None]
            coordinates = vectors.T @ basis.coordinates(V)
            return basis.vectors(vectors @ (coordinates / values[:, None])).reshape(g.shape)

        return on_free(free, solve), report


@dataclass(frozen=True)
class _ProjectedFisher:
    """``sum_i w_i R' grad loss_i grad loss_i' R``, ``(k, k)``: the projected gradients of a slab of rows are stored."""

    model: Any
    loss: Any
    free: np.ndarray
    basis: RandomBasis

    def __call__(self, rows: Rows) -> np.ndarray:
        k = len(self.basis.chosen)
        budget = int(get_config()["working_memory"] * 2**20) // 8
        F = np.zeros((k, k))
        step = max(budget // (4 * k), 1)
        for start in range(0, len(rows), step):
            whole = step >= len(rows)
            slab = rows if whole else rows.take(np.arange(start, min(start + step, len(rows))))
            G = self._gradients(slab, budget)
            if slab.weight is not None:
                G *= np.sqrt(slab.weight)[:, None]
            F += G.T @ G
        return F

    def _gradients(self, rows: Rows, budget: int) -> np.ndarray:
        """``grad loss_i . r_j`` for each row and each column of R, not weighted, ``(n, k)``."""
        model, k, p = self.model, len(self.basis.chosen), self.free.shape[0]
        G = np.empty((len(rows), k))
        for columns in _column_slices(k, p, budget):
            width = columns.stop - columns.start
            directions = np.zeros((p, width))
            directions[self.free] = self.basis.vectors(np.eye(k)[:, columns])
            for at, X, y, _ in rows.blocks(4 * width * model.n_outputs):
                Fs, Ts = model.outputs_and_jvps(X, [model.params] * width, list(np.ascontiguousarray(directions.T)))
                require_finite(Fs[0], X, rows.name)
                D = self.loss.gradient(Fs[0], y)
                for j, T in zip(range(columns.start, columns.stop), Ts, strict=True):
                    G[at, j] = (D * T).sum(axis=1)
        return G


def _column_slices(k: int, p: int, budget: int) -> Iterator[slice]:
    step = min(max(budget // (8 * p), 1), _MOST_DIRECTIONS)
    for start in range(0, k, step):
        yield slice(start, min(start + step, k))
