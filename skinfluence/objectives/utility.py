"""Utility: the loss on the validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from .. import curves
from ..losses import Loss, MarginLoss, ResidualLoss, SoftmaxLoss
from ..operators import Rows, TrainingProblem, outputs_by_block
from ._base import MeanLoss

_HUBER_THRESHOLD = 1.345  # 95 % efficiency under normal errors, in units of the residuals' spread (Huber, 1964)
_GCE_Q = 0.7  # the value of Zhang and Sabuncu, 2018


class Utility(BaseEstimator):
    """The mean loss on the validation rows.

    Parameters
    ----------
    loss : {"auto", "training", "log_loss", "mae", "gce", "squared_error", "huber"} or callable, default="auto"
        - "auto": the model's own training loss if the validation rows were given by the user, whose labels are trusted;
          otherwise, since the labels may be wrong, "mae" for classifiers and "huber" for regressors.
        - "training": the model's own training loss, whoever gave the rows.
        - "log_loss": cross-entropy of the class probabilities (classifiers).
        - "mae": ``1 - p_y`` (classifiers): a mislabelled validation row has a bounded pull. Source: Ghosh et al., AAAI
          2017.
        - "gce": ``(1 - p_y^0.7) / 0.7``, between the two. Source: Zhang and Sabuncu, NeurIPS 2018.
        - "squared_error", "huber": of the predicted mean (regressors); Huber's threshold is 1.345 times the residuals'
          normalised median absolute deviation.
        - a callable ``loss(outputs, targets) -> (values, gradient)``: raw outputs ``(n, K)``, encoded targets (class
          codes ``(n,)`` or floats ``(n, K)``); values ``(n,)`` and their derivatives in the outputs ``(n, K)``.

        Probabilities are the softmax of the outputs, or the sigmoid of each for binary and one-vs-rest models, for
        models that estimate none (SVMs, the perceptron, ridge classifiers) too. For one-vs-rest models the loss is the
        sum over the binary problems.

    Notes
    -----
    Rows count as they do in training: by their ``sample_weight`` and by the estimator's ``class_weight``.

    Examples
    --------
    >>> from skinfluence.objectives import Utility
    >>> Utility(loss="mae")
    Utility(loss='mae')
    """

    uses_groups = False

    def __init__(self, loss: str | Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = "auto") -> None:
        self.loss = loss

    def bind(self, problem: TrainingProblem, rows: Rows, *, trusted: bool, sensitive_features: Any = None) -> MeanLoss:
        """The objective on ``rows``; ``trusted`` says that their labels are known to be right."""
        return MeanLoss(problem, rows, self._resolve(problem, rows, trusted))

    def _resolve(self, problem: TrainingProblem, rows: Rows, trusted: bool) -> Loss:
        if callable(self.loss):
            return UserLoss(self.loss)
        classifier = problem.fitted.task == "classification"
        choices = {"log_loss": 0.0, "mae": 1.0, "gce": _GCE_Q} if classifier else {"squared_error": None, "huber": None}
        name = self.loss
        if name == "auto":
            name = "training" if trusted else "mae" if classifier else "huber"
        if name == "training":
            return problem.loss
        if name not in choices:
            raise ValueError(
                "Utility(loss=...) must be 'auto', 'training', a callable or, for a "
                f"{'classifier' if classifier else 'regressor'}, one of "
                f"{list(choices)}; got {self.loss!r}."
            )
        if classifier:
            return _cross_entropy(problem, choices[name])
        if problem.loss.link is None:
            raise _unknown_outputs(problem)
        log_link = problem.loss.link == "exp"
        if name == "squared_error":
            return ResidualLoss(curves.squared_curve(), log_link)
        return ResidualLoss(curves.huber_curve(_residual_threshold(problem, rows, log_link)), log_link)


def _cross_entropy(problem: TrainingProblem, q: float | None) -> Loss:
    assert q is not None
    training = problem.loss
    if isinstance(training, MarginLoss):
        return replace(training, curve=curves.cross_entropy_curve(q))
    if training.link == "sigmoid":
        return MarginLoss(curves.cross_entropy_curve(q))
    if training.link == "softmax":
        return SoftmaxLoss(q)
    raise _unknown_outputs(problem)


def _unknown_outputs(problem: TrainingProblem) -> TypeError:
    return TypeError(
        f"From the loss of {type(problem.fitted.estimator).__name__} it is not known what its raw outputs predict, so "
        "that no other loss can be put in its place. Use Utility(loss='training'), which trusts the labels, or give a "
        "callable."
    )


def _residual_threshold(problem: TrainingProblem, rows: Rows, log_link: bool) -> np.ndarray:
    """Huber's threshold for the residuals of the fitted model, one for each target."""
    residuals = np.empty(rows.y.shape)
    for at, (F,) in outputs_by_block(problem.fitted.model, rows, [problem.params]):
        residuals[at] = (np.exp(F) if log_link else F) - rows.y[at]
    spread = 1.4826 * np.median(np.abs(residuals - np.median(residuals, axis=0)), axis=0)
    # Where more than half of the residuals are alike any small threshold will do: Huber's loss is then the absolute
    # one.
    spread = np.where(spread > 0, spread, np.abs(residuals).mean(axis=0))
    return _HUBER_THRESHOLD * np.where(spread > 0, spread, 1.0)


@dataclass(frozen=True)
class UserLoss:
    """A user's callable as a loss of the objective."""

    function: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

    @property
    def link(self) -> None:
        return None

    @property
    def twice_differentiable(self) -> bool:
        return False

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._call(F, y)[0]

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self._call(F, y)[1]

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        raise TypeError("A loss given as a callable has no second derivative.")

    def _call(self, F: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, gradient = (np.asarray(part) for part in self.function(F, y))
        if values.shape != F.shape[:1] or gradient.shape != F.shape:
            raise ValueError(
                f"The loss callable must return values of shape {F.shape[:1]} and a gradient of shape {F.shape}, got "
                f"{values.shape} and {gradient.shape}."
            )
        return values, gradient
