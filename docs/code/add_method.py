"""Methods of one's own: a new preconditioner, and a method that is none of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

from skinfluence.methods import GradientMethod
from skinfluence.objectives import BoundObjective
from skinfluence.operators import Rows, TrainingProblem


# [preconditioner]
class DiagonalInverse(BaseEstimator):
    """The inverse of the Hessian's diagonal, which is estimated from products with random signs.

    Source: Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", 2007.
    """

    def __init__(self, n_probes: int = 100, damping: float = 1e-6, random_state: Any = 0) -> None:
        self.n_probes = n_probes
        self.damping = damping
        self.random_state = random_state

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Any, dict[str, Any]]:
        problem.require_hessian("DiagonalInverse")  # raises for losses without a second derivative
        H = problem.hessian(params)
        rng = check_random_state(self.random_state)
        probes = rng.choice([-1.0, 1.0], size=(self.n_probes, H.shape[0]))
        diagonal = np.mean([z * (H @ z) for z in probes], axis=0)
        inverse = np.where(problem.free, 1 / (np.maximum(diagonal, 0) + self.damping), 0)  # what is held does not move

        def solve(g: np.ndarray) -> np.ndarray:  # (p,), or (p, m) column by column
            return (g.T * inverse).T

        return solve, {"solver": "diagonal", "damping": self.damping}


# [method]
def diagonal(**parameters: Any) -> GradientMethod:
    """Everything else of a gradient method is there."""
    return GradientMethod(preconditioner=DiagonalInverse(**parameters))


# [own]
class RowLoss(BaseEstimator):
    """Minus each row's own loss: the baseline that every method should be held to.

    Cross-fitted, as in the curators, it is the out-of-fold loss.
    """

    calibrated = False  # the sign says nothing, so that removal_rate="auto" is refused

    def score_rows(
        self,
        problem: TrainingProblem,
        objective: BoundObjective,
        rows: Rows | None,
        random_state: np.random.RandomState,
        n_jobs: int | None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        rows = problem.rows if rows is None else rows
        return -problem.row_values(problem.params, rows) / problem.total_weight, {}


# [end]
