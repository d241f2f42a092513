"""An objective of one's own: the model should be sure of what it says of rows without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax, xlogy
from sklearn.base import BaseEstimator

from skinfluence.models import DifferentiableModel
from skinfluence.operators import Rows, TrainingProblem, pull_back


# [math]
def entropy(F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Entropy ``(n,)`` of the predicted probabilities, and its derivative in the raw outputs ``(n, K)``."""
    logits = np.column_stack([np.zeros(len(F)), F]) if F.shape[1] == 1 else F  # one output stands for two classes
    P = softmax(logits, axis=1)
    values = -xlogy(P, P).sum(axis=1)
    slope = -(xlogy(P, P) + P * values[:, None])
    return values, slope[:, -1:] if F.shape[1] == 1 else slope


# [bound]
@dataclass(frozen=True)
class BoundUncertainty:
    """The mean entropy on some rows: what a method asks of an objective."""

    problem: TrainingProblem
    rows: Rows

    def value(self, model: DifferentiableModel) -> float:
        blocks = self.rows.blocks(4 * model.n_outputs)  # as many rows at once as working_memory allows
        return sum(float(entropy(model.outputs(X))[0].sum()) for _, X, _, _ in blocks) / len(self.rows)

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        def cotangents(F: np.ndarray, at: slice, member: int) -> np.ndarray:
            return entropy(F)[1] / len(self.rows)

        return pull_back(self.problem.fitted, self.rows, params, cotangents)


# [objective]
class Uncertainty(BaseEstimator):
    """The mean entropy of the predicted probabilities, on the validation rows; their labels play no part."""

    uses_groups = False
    calibrated = True  # scores estimate the change itself, if the method's do

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any) -> BoundUncertainty:
        if problem.fitted.task != "classification":
            raise TypeError("Uncertainty is for classifiers, and this is a regressor. Use Utility.")
        if rows.weight is not None:
            raise ValueError("Uncertainty takes no weights, and the rows have some. Leave them out.")
        return BoundUncertainty(problem, rows)


# [end]
