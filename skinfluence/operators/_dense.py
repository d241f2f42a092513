"""The Hessian as an array, where it is small."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..models.linear import LinearModel
from ._sent import GramCurvature, JacobianCurvature

if TYPE_CHECKING:
    from ._problem import TrainingProblem


def dense_hessian(problem: TrainingProblem, params: np.ndarray) -> np.ndarray:
    """The Hessian of the training objective as an array ``(p, p)``: from weighted Gram matrices for linear models, from
    blocks of rows' Jacobians for others.
    """
    p = problem.n_params
    reduced = problem.reduced(params)
    model, rows, order = reduced
    if isinstance(model, LinearModel):
        if rows.X is not problem.rows.X:  # of a net's layer: in double precision, as sums of Jacobians are
            rows = replace(rows, X=np.asarray(rows.X, dtype=np.float64))
        made = rows.total(GramCurvature(model, problem.loss))
        for k in range(model.n_outputs):
            for j in range(k):
                made[j, :, k, :] = made[k, :, j, :].T
        H = made.reshape(p, p)
        if not isinstance(order, slice):
            H = np.empty((p, p))
            H[np.ix_(order, order)] = made.reshape(p, p)
    elif problem.fitted.curvature == "hessian":
        return problem.hessian(reduced).matmat(np.eye(p))
    else:
        H = rows.total(JacobianCurvature(model, problem.loss))
        H = (H + H.T) / 2
    H /= problem.total_weight
    H[np.diag_indices_from(H)] += problem.penalty_scale * problem.fitted.penalty.l2
    return H
