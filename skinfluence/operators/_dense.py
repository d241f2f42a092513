"""The Hessian as an array, where it is small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..models._blocks import take
from ..models.linear import LinearModel
from ._rows import require_finite

if TYPE_CHECKING:
    from ._problem import TrainingProblem


def dense_hessian(problem: TrainingProblem, params: np.ndarray) -> np.ndarray:
    """The Hessian of the training objective as an array ``(p, p)``: from weighted Gram matrices for linear models, from
    blocks of rows' Jacobians for others.
    """
    model = problem.fitted.model.at(params)
    if not isinstance(model, LinearModel):
        return _dense_curvature(problem, model)
    K, width = model.n_outputs, model.width
    H = np.zeros((K, width, K, width))
    for at, X, y, _ in problem.rows.blocks(2 * model.width + 4 * K):
        F = model.outputs(X)
        require_finite(F, problem.rows.X)
        for k in range(K):
            e = np.zeros_like(F)
            e[:, k] = 1
            curvature = problem.weighted(problem.loss.hessian_product(F, y, e), at)
            for j in range(k + 1):
                if curvature[:, j].any():
                    H[k, :, j, :] += model.gram(X, np.ascontiguousarray(curvature[:, j]))
    for k in range(K):
        for j in range(k):
            H[j, :, k, :] = H[k, :, j, :].T
    dense = H.reshape(problem.n_params, problem.n_params)
    dense /= problem.total_weight
    dense[np.diag_indices_from(dense)] += problem.penalty_scale * problem.fitted.penalty.l2
    return dense


def _dense_curvature(problem: TrainingProblem, model: Any) -> np.ndarray:
    p, K = problem.n_params, model.n_outputs
    if problem.fitted.curvature == "hessian":
        product = problem.hessian(model.params)
        return np.column_stack([product @ e for e in np.eye(p)])
    H = np.zeros((p, p))
    for at, F, y, _ in problem.outputs_by_block(problem.rows, model.params):
        curvature = np.empty((*F.shape, K))
        for k in range(K):
            e = np.zeros_like(F)
            e[:, k] = 1
            curvature[:, :, k] = problem.weighted(problem.loss.hessian_product(F, y, e), at)
        start = 0
        for J in model.jacobians(take(problem.rows.X, at)):
            flat = J.reshape(-1, p)
            H += flat.T @ (curvature[start : start + len(J)] @ J).reshape(-1, p)
            start += len(J)
    H /= problem.total_weight
    H[np.diag_indices_from(H)] += problem.penalty_scale * problem.fitted.penalty.l2
    return (H + H.T) / 2
