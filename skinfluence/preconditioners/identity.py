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
            u[~free] = 0.0  # not by way of the free ones alone, which for the millions of a net's takes a second
            return u

        return solve, {}
