"""P = I: no Hessian at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..operators import TrainingProblem
from ._base import Solve


class Identity(BaseEstimator):
    """The identity on the parameters that can move, as the Hessian-free methods have it.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import Identity
    >>> GradientMethod(preconditioner=Identity())  # "ip"
    GradientMethod(preconditioner=Identity())
    """

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        free = problem.free

        def solve(g: np.ndarray) -> np.ndarray:
            u = np.copy(g)
            if not free.all():  # not as `on_free` does, which for the millions of parameters of a net takes a second
                u[~free] = 0.0
            return u

        return solve, {}
