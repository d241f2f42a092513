"""Whether the fitted parameters are where influence functions take them to be: at a minimum."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ..models.linear import LinearModel
from ._problem import TrainingProblem
from ._rows import Rows
from ._sent import RowNorms

# Measured on converged solvers of scikit-learn: below 0.01; stopped after three iterations: 0.05 and more.
_MOST = 0.03
_SAMPLED_ROWS = 2000
_ROUNDING = 1e-8


def warn_unless_minimum(problem: TrainingProblem, params: np.ndarray) -> float | None:
    """The norm of the training objective's gradient, relative to that of a typical row; warns where it is not small.

    Influence functions expand the objective around its minimum. Where the solver stopped short of it, the scores of
    methods with an inverse Hessian are off by what is left of the way. It is asked of linear models alone, and of the
    fitted parameters: nets are hardly ever at a minimum, and copies with dropped parameters never.
    """
    if not isinstance(problem.fitted.model, LinearModel) or params is not problem.params:
        return None
    left = float(np.linalg.norm(problem.gradient(params)[problem.free]))
    stride = max(len(problem.rows) // _SAMPLED_ROWS, 1)
    some = problem.rows.take(np.arange(0, len(problem.rows), stride)) if stride > 1 else problem.rows
    typical = _typical(problem, params, some)
    # Where every row is fitted exactly, all that is left are rounding errors.
    if not left > _MOST * typical or typical <= _ROUNDING * _of_outputs(problem, params, some):
        return left
    warnings.warn(
        f"{type(problem.fitted.estimator).__name__} is not at a minimum of its training objective: the gradient there "
        f"has norm {left:.3g}, {left / max(typical, np.finfo(float).tiny):.0%} of a typical row's {typical:.3g}. "
        "Influence functions assume that it is zero. Fit the estimator with more iterations or a smaller tolerance, "
        "and scale the features.",
        ConvergenceWarning,
        stacklevel=3,
    )
    return left


def _typical(problem: TrainingProblem, params: np.ndarray, rows: Rows) -> float:
    return float(np.sqrt(problem.squared_gradient_norms(params, rows).mean()))


def _of_outputs(problem: TrainingProblem, params: np.ndarray, rows: Rows) -> float:
    """What a typical row's gradient would be if the loss's derivative were as large as the outputs."""
    model = problem.fitted.model.at(params)
    squares = rows.each(RowNorms(model, _outputs, np.ones_like(problem.free), rows.name), 4 * model.n_outputs)
    return float(np.sqrt(squares.mean()))


def _outputs(F: np.ndarray, y: np.ndarray) -> np.ndarray:
    return F
