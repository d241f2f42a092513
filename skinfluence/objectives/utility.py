"""Utility: the loss on the validation rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from .. import curves
from ..losses import CappedLoss, Loss, MarginLoss, ResidualLoss, SoftmaxLoss
from ..operators import Rows, TrainingProblem, outputs_by_block
from ._base import MeanLoss

_HUBER_THRESHOLD = 1.345  # 95 % efficiency under normal errors, in units of the residuals' spread (Huber, 1964)
_CAP = 2.795  # the same efficiency, for a squared error that is capped (Hinich and Talwar, 1975)
_FAR = 1e3  # residuals, in units of their spread, at which a loss shows whether its slope has stopped growing
_GCE_Q = 0.7  # the value of Zhang and Sabuncu, 2018


class Utility(BaseEstimator):
    """The mean loss on the validation rows.

    Parameters
    ----------
    loss : {"auto", "training", "log_loss", "mae", "gce", "squared_error", "huber", "capped"} or callable, \
            default="auto"
        - "auto": the model's own training loss if the validation rows were given by the user, whose labels are trusted;
          otherwise, since the labels may be wrong, one that bears them better than the training loss does: "mae" for
          classifiers; for regressors "huber" or, where the training loss has a bounded slope itself (Huber's, the
          epsilon-insensitive, the absolute and the quantile loss), "capped".
        - "training": the model's own training loss, whoever gave the rows.
        - "log_loss": cross-entropy of the class probabilities (classifiers).
        - "mae": ``1 - p_y`` (classifiers): a mislabelled validation row has a bounded pull. Source: Ghosh et al., AAAI
          2017.
        - "gce": ``(1 - p_y^0.7) / 0.7``, between the two. Source: Zhang and Sabuncu, NeurIPS 2018.
        - "squared_error", "huber": of the predicted mean (regressors); Huber's threshold is 1.345 times the residuals'
          normalised median absolute deviation.
        - "capped": the training loss of the residuals (regressors that predict the mean by their raw output), constant
          beyond 2.795 such deviations on either side of their median. Source: Hinich and Talwar, JASA, 1975.
        - a callable ``loss(outputs, targets) -> (values, gradient)``: raw outputs ``(n, K)``, encoded targets (class
          codes ``(n,)`` or floats ``(n, K)``); values ``(n,)`` and their derivatives in the outputs ``(n, K)``.

        Probabilities are the softmax of the outputs, or the sigmoid of each for binary and one-vs-rest models, for
        models that estimate none (SVMs, the perceptron, ridge classifiers) too. For one-vs-rest models the loss is the
        sum over the binary problems.

    Notes
    -----
    Rows count as they do in training: by their ``sample_weight`` and by the estimator's ``class_weight``.

    A model that was fitted on the very rows that judge it is at rest under its own loss: what an objective asks for
    there is the difference between the two. Were it the less robust one, it would ask for more of the outliers, and the
    rows that oppose them would be removed. Huber's loss is no more robust than a `sklearn.linear_model.HuberRegressor`,
    and less so than an absolute loss; hence "capped", whose slope is the model's own, and zero for outliers.

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
        choices: dict[str, float | None] = {"log_loss": 0.0, "mae": 1.0, "gce": _GCE_Q}
        if not classifier:
            choices = dict.fromkeys(("squared_error", "huber", "capped"))
        name = self.loss
        if name == "training" or (name == "auto" and trusted):
            return problem.loss
        if name not in (*choices, "auto"):
            raise ValueError(
                "Utility(loss=...) must be 'auto', 'training', a callable or, for a "
                f"{'classifier' if classifier else 'regressor'}, one of "
                f"{list(choices)}; got {self.loss!r}."
            )
        if classifier:
            return _cross_entropy(problem, choices["mae" if name == "auto" else name])
        if problem.loss.link is None:
            raise _unknown_outputs(problem)
        return _of_residuals(problem, rows, name)


def _of_residuals(problem: TrainingProblem, rows: Rows, name: str) -> Loss:
    """A regressor's loss by its name."""
    training = problem.loss
    log_link = training.link == "exp"
    if name == "squared_error":
        return ResidualLoss(curves.squared_curve(), log_link)
    if name == "capped" and log_link:
        raise ValueError(
            "Utility(loss='capped') is for regressors whose raw outputs are their predictions; those of "
            f"{type(problem.fitted.estimator).__name__} are logarithms of them. Use loss='huber'."
        )
    middle, spread = _residuals(problem, rows, log_link)
    if name == "auto":
        name = "capped" if not log_link and _is_bounded(training, rows, spread) else "huber"
    if name == "huber":
        return ResidualLoss(curves.huber_curve(_HUBER_THRESHOLD * spread), log_link)
    return CappedLoss(training, middle - _CAP * spread, middle + _CAP * spread)


def _is_bounded(loss: Loss, rows: Rows, spread: np.ndarray) -> bool:
    """Whether the slope of a loss has stopped growing for targets far away, on both sides.

    It is asked of the loss itself, which may be one of the user's own.
    """
    F = rows.y[:1]
    for side in (-_FAR, _FAR):
        far, farther = (np.abs(loss.gradient(F, (F + k * side * spread).astype(F.dtype))) for k in (1, 2))
        if not (farther <= 1.01 * far).all():
            return False
    return True


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


def _residuals(problem: TrainingProblem, rows: Rows, log_link: bool) -> tuple[np.ndarray, np.ndarray]:
    """Median of the fitted model's residuals and their normalised median absolute deviation, one for each target."""
    residuals = np.empty(rows.y.shape)
    for at, (F,) in outputs_by_block(problem.fitted.model, rows, [problem.params]):
        residuals[at] = (np.exp(F) if log_link else F) - rows.y[at]
    middle = np.median(residuals, axis=0)
    spread = 1.4826 * np.median(np.abs(residuals - middle), axis=0)
    # Where more than half of the residuals are alike any small spread will do: Huber's loss is then the absolute one.
    spread = np.where(spread > 0, spread, np.abs(residuals).mean(axis=0))
    return middle, np.where(spread > 0, spread, 1.0)


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
