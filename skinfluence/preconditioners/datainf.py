"""P by DataInf: the mean of inverses of rank-one matrices, layer by layer, in place of the inverse of their mean."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar

from ..operators import TrainingProblem
from ._base import Solve, on_free


class DataInfInverse(BaseEstimator):
    """``P v = (1/n) sum_i (λ I + g_i g_i^T)^-1 v``, for each layer with its own λ.

    By the Sherman-Morrison formula that is ``(v - (1/n) sum_i g_i (g_i . v) / (λ + ‖g_i‖²)) / λ``: products with the
    rows' gradients and their norms, which are had layer by layer without forming any.

    Parameters
    ----------
    damping : float, default=0.1
        λ of a layer is this times the mean squared entry of its rows' gradients.

    Notes
    -----
    Rows count by their weights. The gradients are those of the training loss at the true labels, without the penalty.

    Examples
    --------
    >>> from skinfluence.methods import GradientMethod
    >>> from skinfluence.preconditioners import DataInfInverse
    >>> GradientMethod(preconditioner=DataInfInverse(damping=0.5))
    GradientMethod(preconditioner=DataInfInverse(damping=0.5))
    """

    def __init__(self, damping: float = 0.1) -> None:
        self.damping = damping

    def at(self, problem: TrainingProblem, params: np.ndarray) -> tuple[Solve, dict[str, Any]]:
        check_scalar(self.damping, "damping", Real, min_val=0, include_boundaries="neither")
        weight = shares(problem)
        squares: dict[str, float] = {}
        sizes: dict[str, int] = {}
        for at, layers in problem.layer_rows(params):
            for rows in layers:
                name = rows.layer.name
                squares[name] = squares.get(name, 0.0) + float(weight[at] @ rows.squared_norms())
                sizes[name] = rows.layer.size
        # A layer whose gradients are all zero is left as it is by any λ.
        lambdas = {name: self.damping * squares[name] / sizes[name] or 1.0 for name in squares}

        def solve(g: np.ndarray) -> np.ndarray:
            if g.ndim == 2:
                return np.column_stack([solve(column) for column in g.T])
            return _apply(problem, params, g, lambdas, weight)

        free = problem.free

        def on_the_free(g: np.ndarray) -> np.ndarray:
            padded = np.zeros((len(free), *g.shape[1:]))
            padded[free] = g
            return solve(padded)[free]

        return on_free(free, on_the_free), {"lambda": lambdas}


def _apply(
    problem: TrainingProblem, params: np.ndarray, v: np.ndarray, lambdas: dict[str, float], weight: np.ndarray
) -> np.ndarray:
    total = np.zeros_like(v)
    scaled = v.copy()
    known: dict[str, Any] = {}
    for at, layers in problem.layer_rows(params):
        for rows in layers:
            name = rows.layer.name
            if name not in known:
                known[name] = rows.like(rows.layer.matrix(v))
            shrink = rows.products(known[name]) / (lambdas[name] + rows.squared_norms())
            rows.layer.add(rows.total(weight[at] * shrink), total)
    scaled -= total
    for at, lambda_ in _by_parameter(problem, params, lambdas):
        scaled[at] /= lambda_
    return scaled


def _by_parameter(problem: TrainingProblem, params: np.ndarray, lambdas: dict[str, float]) -> list[tuple[slice, float]]:
    first = next(iter(problem.layer_rows(params)))[1]
    return [(at, lambdas[rows.layer.name]) for rows in first for at, _ in rows.layer.slices]


def shares(problem: TrainingProblem) -> np.ndarray:
    """The rows' weights ``(n,)``, as shares of their sum."""
    n = len(problem.rows)
    weight = np.ones(n) if problem.rows.weight is None else problem.rows.weight
    return weight / problem.total_weight
