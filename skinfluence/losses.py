"""Losses: value, gradient and Hessian product in the model's raw outputs.

Conventions, stated once. ``F`` is the ``(n, K)`` array of raw outputs (scores before any link), in any memory order;
``K = 1`` for a binary classifier and for a single target. Classification targets are integer codes ``(n,)``, regression
targets floats ``(n, K)``. Every loss is a loss *per row*: ``value`` is ``(n,)``, ``gradient`` and ``hessian_product``
are ``(n, K)``; nothing here averages or weights rows.

What is a function of one number is a `skinfluence.curves.Curve`; `MarginLoss` applies a curve to the margins ``s F`` of
a (one-vs-rest) classifier, `ResidualLoss` to the residuals ``F - y`` of a regressor. `SoftmaxLoss` and `DevianceLoss`
are the two that are neither. `CappedLoss` is a regressor's loss that gives up on rows far away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy.special import logsumexp, xlogy

from .curves import Curve

Link = Literal["sigmoid", "softmax", "identity", "exp"]
"""What makes predictions of raw outputs: probabilities of classes (the sigmoid of each output, or the softmax of all),
or means.
"""


class Loss(Protocol):
    """What the rest of the package asks of a loss. ``link`` is None where it is not known what the outputs mean."""

    @property
    def link(self) -> Link | None: ...

    @property
    def twice_differentiable(self) -> bool: ...

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray: ...

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray: ...

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class MarginLoss:
    """``sum_k a_k curve(s_k F_k)``: a binary classifier (``K = 1``), or the sum over the problems of one-vs-rest.

    ``s_k`` is +1 where the row belongs to class ``k`` (class 1 if ``K = 1``), else -1. ``side_weights`` holds, for each
    problem ``k``, the weight of its positive and of its negative rows: scikit-learn's one-vs-rest solvers apply
    ``class_weight`` so.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.curves import hinge_curve
    >>> from skinfluence.losses import MarginLoss
    >>> MarginLoss(hinge_curve()).value(np.array([[0.5], [2.0]]), np.array([1, 1]))
    array([0.5, 0. ])
    """

    curve: Curve
    side_weights: tuple[tuple[float, float], ...] | None = None

    @property
    def link(self) -> Link:
        return "sigmoid"

    @property
    def twice_differentiable(self) -> bool:
        return self.curve.curvature is not None

    def _signs(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        if F.shape[1] == 1:
            # Made of single bytes, which takes an eighth of the time.
            return (2 * (y > 0).view(np.int8) - 1).astype(F.dtype)[:, None]
        signs = np.full_like(F, -1)
        signs[np.arange(len(y)), y] = 1
        return signs

    def _weigh(self, terms: np.ndarray, signs: np.ndarray) -> np.ndarray:
        if self.side_weights is None:
            return terms
        positive, negative = np.asarray(self.side_weights, dtype=terms.dtype).T
        return terms * np.where(signs > 0, positive, negative)

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        signs = self._signs(F, y)
        return self._weigh(self.curve.value(signs * F), signs).sum(axis=1)

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        signs = self._signs(F, y)
        slopes = self.curve.slope(signs * F)
        if self.side_weights is None:
            signs *= slopes
            return signs
        return self._weigh(signs * slopes, signs)

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        assert self.curve.curvature is not None
        signs = self._signs(F, y)
        return self._weigh(self.curve.curvature(signs * F) * V, signs)


@dataclass(frozen=True)
class SoftmaxLoss:
    """Generalised cross-entropy ``(1 - p_y^q) / q`` of the softmax of ``K >= 2`` outputs: log-loss at ``q = 0``, ``1 -
    p_y`` at ``q = 1``.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.losses import SoftmaxLoss
    >>> SoftmaxLoss().value(np.zeros((1, 4)), np.array([2])).round(3)  # log(4)
    array([1.386])
    """

    q: float = 0.0

    @property
    def link(self) -> Link:
        return "softmax"

    @property
    def twice_differentiable(self) -> bool:
        return self.q == 0.0

    @staticmethod
    def _softmax(F: np.ndarray) -> np.ndarray:
        # F may be class-major (Fortran order): reductions over axis 1 then add whole columns, and all temporaries keep
        # that order.
        P = np.exp(F - F.max(axis=1, keepdims=True))
        P /= P.sum(axis=1, keepdims=True)
        return P

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        log_p = F[np.arange(len(y)), y] - logsumexp(F, axis=1)
        return -log_p if self.q == 0.0 else -np.expm1(self.q * log_p) / self.q

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        rows = np.arange(len(y))
        P = self._softmax(F)
        own = P[rows, y]
        P[rows, y] -= 1
        if self.q != 0.0:
            P *= (own**self.q)[:, None]
        return P

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        if self.q != 0.0:
            raise ValueError(f"hessian_product is defined for the log-loss (q = 0), got q = {self.q}.")
        P = self._softmax(F)
        PV = P * V
        P *= PV.sum(axis=1, keepdims=True)
        PV -= P
        return PV


@dataclass(frozen=True)
class ResidualLoss:
    """``sum_k curve(mean(F_k) - y_k)``; ``mean`` is the identity or, with a log link, the exponential.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.curves import squared_curve
    >>> from skinfluence.losses import ResidualLoss
    >>> ResidualLoss(squared_curve()).value(np.array([[3.0]]), np.array([[1.0]]))
    array([2.])
    """

    curve: Curve
    log_link: bool = False

    @property
    def link(self) -> Link:
        return "exp" if self.log_link else "identity"

    @property
    def twice_differentiable(self) -> bool:
        return self.curve.curvature is not None

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.curve.value((np.exp(F) if self.log_link else F) - y).sum(axis=1)

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        if not self.log_link:
            return self.curve.slope(F - y)
        mean = np.exp(F)
        return self.curve.slope(mean - y) * mean

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        assert self.curve.curvature is not None
        if not self.log_link:
            return self.curve.curvature(F - y) * V
        mean = np.exp(F)
        return (self.curve.curvature(mean - y) * mean + self.curve.slope(mean - y)) * mean * V


@dataclass(frozen=True)
class DevianceLoss:
    """Half the Tweedie deviance of ``y`` and the mean ``exp(F)`` (``log_link``) or ``F``, constants in ``y`` alone left
    out.

    ``power`` 0 is the squared error, 1 Poisson, 2 Gamma, 3 inverse Gaussian, as in
    `sklearn.linear_model.TweedieRegressor`. Source: B. Jorgensen, "Exponential Dispersion Models", JRSS B, 1987.
    """

    power: float
    log_link: bool = True

    @property
    def link(self) -> Link:
        return "exp" if self.log_link else "identity"

    @property
    def twice_differentiable(self) -> bool:
        return True

    def check_targets(self, y: np.ndarray) -> None:
        """Raise if a target is outside what the deviance is defined for."""
        bound = {True: "> 0", False: ">= 0"}[self.power >= 2]
        if self.power >= 1 and (y.min() < 0 or (self.power >= 2 and y.min() == 0)):
            raise ValueError(f"y must be {bound} for a deviance of power {self.power:g}, got a value of {y.min():g}.")

    def _mean(self, F: np.ndarray) -> np.ndarray:
        return np.exp(F) if self.log_link else F

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        mean, p = self._mean(F), self.power
        if p == 0:
            terms = (mean - y) ** 2 / 2
        elif p == 1:
            terms = mean - xlogy(y, mean)
        elif p == 2:
            terms = np.log(mean) + y / mean
        else:
            terms = mean ** (2 - p) / (2 - p) - y * mean ** (1 - p) / (1 - p)
        return terms.sum(axis=1)

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        # d/dmean is (mean - y) / mean^p; the log link multiplies by mean.
        mean = self._mean(F)
        return (mean - y) * mean ** (self.log_link - self.power)

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        mean, p = self._mean(F), self.power
        if self.log_link:
            return ((2 - p) * mean - (1 - p) * y) * mean ** (1 - p) * V
        return ((1 - p) * mean + p * y) * mean ** (-p - 1) * V


@dataclass(frozen=True)
class CappedLoss:
    """A regressor's loss that grows no further where the residual ``F - y`` leaves the range from ``low`` to ``high``.

    Its slope is that of ``loss`` within the range and zero outside, so that nowhere does a row pull harder than it does
    under ``loss``. The range is one for all outputs, or one for each. Source: Hinich and Talwar, "A Simple Method for
    Robust Regression", JASA 70, 1975, of the squared error.

    Examples
    --------
    >>> import numpy as np
    >>> from skinfluence.curves import squared_curve
    >>> from skinfluence.losses import CappedLoss, ResidualLoss
    >>> loss = CappedLoss(ResidualLoss(squared_curve()), low=-3.0, high=3.0)
    >>> loss.value(np.array([[2.0], [9.0]]), np.zeros((2, 1)))
    array([2. , 4.5])
    """

    loss: Loss
    low: float | np.ndarray
    high: float | np.ndarray

    @property
    def link(self) -> Link:
        return "identity"

    @property
    def twice_differentiable(self) -> bool:
        return self.loss.twice_differentiable

    def _inside(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (F - y >= self.low) & (F - y <= self.high)

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.loss.value((y + np.clip(F - y, self.low, self.high)).astype(F.dtype, copy=False), y)

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        return self.loss.gradient(F, y) * self._inside(F, y)

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        return self.loss.hessian_product(F, y, V) * self._inside(F, y)
