"""Mini-batches, and a gradient over one that is right on average."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..operators import Rows, TrainingProblem


def batch_indices(n: int, size: int, rng: np.random.RandomState) -> Iterator[np.ndarray]:
    """Indices ``(size,)`` of one batch after the other, without end: shuffled passes over ``n`` rows, joined."""
    left = np.empty(0, dtype=np.intp)
    while True:
        while len(left) < size:
            left = np.concatenate([left, rng.permutation(n)])
        yield left[:size]
        left = left[size:]


def batch_gradient(problem: TrainingProblem, params: np.ndarray, rows: Rows) -> np.ndarray:
    """The gradient of the training objective, estimated from a batch ``rows``, ``(p,)``.

    The batch's losses count by the *expected* weight of such a batch. To divide by the weight it happens to have would
    favour the rows that are drawn beside light ones.
    """
    if rows.weight is None:
        return problem.gradient(params, rows)
    penalty = problem.penalty_scale * problem.fitted.penalty.gradient(params)
    share = float(rows.weight.sum()) * len(problem.rows) / (len(rows) * problem.total_weight)
    return penalty if share == 0.0 else (problem.gradient(params, rows) - penalty) * share + penalty
