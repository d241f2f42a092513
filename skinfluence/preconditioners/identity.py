"""P = I: no Hessian at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..operators import TrainingProblem
from ._base import Solve, on_free


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
        return on_free(problem.free, np.copy), {}
