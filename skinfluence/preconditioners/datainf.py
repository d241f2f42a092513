"""P by DataInf: the mean of inverses of rank-one matrices, layer by layer, in place of the inverse of their mean."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_scalar

from ..models._layers import Layer
from ..operators import TrainingProblem
from ._base import Solve, by_columns, on_free
from ._passes import LayerPasses


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
        passes = LayerPasses(problem, params)
        found: dict[str, Layer] = {}
        norms: dict[str, np.ndarray] = {}
        for at, layers in passes:
            for rows in layers:
                name = rows.layer.name
                if name not in norms:
                    found[name], norms[name] = rows.layer, np.zeros(len(weight))
                norms[name][at] = rows.squared_norms()
        # A layer whose gradients are all zero is left as it is by any λ.
        lambdas = {
            name: self.damping * float(weight @ norms[name]) / layer.size or 1.0 for name, layer in found.items()
        }

        def solve(g: np.ndarray) -> np.ndarray:
            total, known = np.zeros_like(g), {}
            for at, layers in passes:
                for rows in layers:
                    name = rows.layer.name
                    if name not in known:
                        known[name] = rows.like(rows.layer.matrix(g))
                    shrink = rows.products(known[name]) / (lambdas[name] + norms[name][at])
                    rows.layer.add(rows.total(weight[at] * shrink), total)
            scaled = g - total
            for name, layer in found.items():
                for part, _ in layer.slices:
                    scaled[part] /= lambdas[name]
            return scaled

        free = problem.free

        def on_the_free(g: np.ndarray) -> np.ndarray:
            padded = np.zeros(len(free))
            padded[free] = g
            return solve(padded)[free]

        return on_free(free, by_columns(on_the_free)), {"lambda": lambdas}


def shares(problem: TrainingProblem) -> np.ndarray:
    """The rows' weights ``(n,)``, as shares of their sum."""
    weight = problem.rows.weight
    return (np.ones(len(problem.rows)) if weight is None else np.asarray(weight)) / problem.total_weight
