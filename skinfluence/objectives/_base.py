"""What an objective is, and the one that most others are made of: a mean over rows.

An objective is a configuration; `bind` ties it to a training problem and to the rows it is taken on, and gives a
`BoundObjective` with the value and the gradient that the methods use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import expit, softmax

from ..losses import Link, Loss
from ..models import DifferentiableModel
from ..operators import Rows, TrainingProblem, outputs_by_block, pull_back


class BoundObjective(Protocol):
    """An objective on its rows."""

    def value(self, model: DifferentiableModel) -> float:
        """The objective at a model."""

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Its gradient ``(p,)`` at each parameter vector."""


@dataclass(frozen=True)
class MeanLoss:
    """The weighted mean of a loss over rows."""

    problem: TrainingProblem
    rows: Rows
    loss: Loss

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise ValueError("The objective needs at least one validation row, got none.")

    @property
    def _total(self) -> float:
        return float(len(self.rows)) if self.rows.weight is None else float(self.rows.weight.sum())

    def value(self, model: DifferentiableModel) -> float:
        total = 0.0
        weight = self.rows.weight
        for at, (F,) in outputs_by_block(model, self.rows, [model.params]):
            values = self.loss.value(F, self.rows.y[at])
            total += float(values.sum(dtype=np.float64)) if weight is None else float(values @ weight[at])
        return total / self._total

    def gradients(self, params: Sequence[np.ndarray]) -> list[np.ndarray]:
        def cotangents(F: np.ndarray, at: slice, member: int) -> np.ndarray:
            return self.row_cotangents(F, at)

        return [total / self._total for total in pull_back(self.problem.fitted, self.rows, params, cotangents)]

    def row_cotangents(self, F: np.ndarray, at: slice) -> np.ndarray:
        """Derivatives of each row's weighted loss in its outputs: `gradients` is their pull-back over the rows' total
        weight.
        """
        D = self.loss.gradient(F, self.rows.y[at])
        weight = self.rows.weight
        return D if weight is None else D * weight[at, None].astype(D.dtype)


@dataclass(frozen=True)
class Predicted:
    """What a model predicts, as a smooth function of its raw outputs: probabilities of classes, or means.

    Probabilities are the softmax of the outputs, or the sigmoid of each for binary and one-vs-rest models, for models
    that estimate none too; as in `Utility`.
    """

    link: Link

    @classmethod
    def of(cls, problem: TrainingProblem) -> Predicted:
        if problem.loss.link is None:
            raise TypeError(
                f"This objective is about predictions, and from the loss of {type(problem.fitted.estimator).__name__} "
                "it is not known what its raw outputs predict. Use objective='utility', with validation rows."
            )
        return cls(problem.loss.link)

    def value(self, F: np.ndarray) -> np.ndarray:
        """Predictions ``(n, K)`` of raw outputs ``(n, K)``."""
        if self.link == "identity":
            return F
        if self.link == "exp":
            return np.exp(F)
        return expit(F) if self.link == "sigmoid" else softmax(F, axis=1)

    def vjp(self, F: np.ndarray, cotangents: np.ndarray) -> np.ndarray:
        """Cotangents of the raw outputs, given those of the predictions; both ``(n, K)``."""
        if self.link == "identity":
            return cotangents
        P = self.value(F)
        if self.link == "exp":
            return P * cotangents
        if self.link == "sigmoid":
            return P * (1 - P) * cotangents
        return P * (cotangents - (P * cotangents).sum(axis=1, keepdims=True))


def predicted_codes(F: np.ndarray) -> np.ndarray:
    """The class that a classifier predicts from raw outputs ``(n, K)``, as a code ``(n,)``."""
    return (F[:, 0] > 0).astype(np.intp) if F.shape[1] == 1 else F.argmax(axis=1)


class Objective(Protocol):
    """What scoring asks of an objective. It is *lower is better*, and a function of the model's raw outputs.

    ``uses_groups`` says whether it is about groups of rows; objectives that are not refuse sensitive features.
    """

    uses_groups: bool

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any) -> BoundObjective:
        """The objective on ``rows``; ``trusted`` says that their labels are known to be right."""
