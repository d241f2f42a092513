"""Curves: functions of one number with their derivatives, of which losses are made.

A margin curve is a function of ``z = s F``, a residual curve one of ``r = F - y``. The functions are at module level,
and bound to their parameters by `functools.partial`, so that everything that holds a curve can be pickled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy.special import expit, log_expit

Function = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Curve:
    """A function of one number with its derivatives; ``curvature`` is None where the second derivative carries no
    information.

    Examples
    --------
    >>> from skinfluence.curves import squared_curve
    >>> curve = squared_curve()
    >>> float(curve.value(3.0)), float(curve.slope(3.0))
    (4.5, 3.0)
    """

    name: str
    value: Function = field(repr=False)
    slope: Function = field(repr=False)
    curvature: Function | None = field(repr=False)

    def shifted(self, by: float) -> Curve:
        """The curve ``z -> curve(z - by)``: a residual curve on targets ``±1`` is a margin curve shifted by one."""
        return Curve(
            self.name,
            partial(_at_shift, self.value, by),
            partial(_at_shift, self.slope, by),
            None if self.curvature is None else partial(_at_shift, self.curvature, by),
        )


def _at_shift(function: Function, by: float, z: np.ndarray) -> np.ndarray:
    return function(z - by)


# --- margin curves: functions of z = s F, decreasing ------------------------------------------------------------------


def cross_entropy_curve(q: float = 0.0) -> Curve:
    """Generalised cross-entropy ``(1 - p^q) / q`` of ``p = sigmoid(z)``: the log-loss at ``q = 0``, ``1 - p`` (MAE) at
    ``q = 1``.

    Source: Zhang and Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
    NeurIPS 2018.
    """
    if q == 0.0:
        return Curve("log_loss", _log_value, _log_slope, _log_curvature)
    return Curve(f"gce({q:g})", partial(_gce_value, q), partial(_gce_slope, q), partial(_gce_curvature, q))


def _log_value(z: np.ndarray) -> np.ndarray:
    return -log_expit(z)


def _log_slope(z: np.ndarray) -> np.ndarray:
    # As accurate as expit at both ends, and several times faster: NumPy's exp is vectorised. exp(710) = inf gives the
    # right zero.
    with np.errstate(over="ignore"):
        slope = np.exp(z)
    slope += 1
    return np.divide(-1, slope, out=slope)


def _log_curvature(z: np.ndarray) -> np.ndarray:
    p = expit(z)
    return p * (1 - p)


def _gce_value(q: float, z: np.ndarray) -> np.ndarray:
    return -np.expm1(q * log_expit(z)) / q


def _gce_slope(q: float, z: np.ndarray) -> np.ndarray:
    return -(expit(z) ** q) * expit(-z)


def _gce_curvature(q: float, z: np.ndarray) -> np.ndarray:
    p = expit(z)
    return p**q * (1 - p) * (p - q * (1 - p))


def hinge_curve(threshold: float = 1.0) -> Curve:
    """``max(0, threshold - z)``: the SVM's hinge, and the Perceptron's loss at ``threshold = 0``."""
    return Curve("hinge", partial(_hinge_value, threshold), partial(_hinge_slope, threshold), None)


def _hinge_value(threshold: float, z: np.ndarray) -> np.ndarray:
    return np.maximum(threshold - z, 0)


def _hinge_slope(threshold: float, z: np.ndarray) -> np.ndarray:
    return np.where(z <= threshold, -1, 0).astype(z.dtype)


def squared_hinge_curve() -> Curve:
    """``max(0, 1 - z)^2``."""
    return Curve("squared_hinge", _squared_hinge_value, _squared_hinge_slope, _squared_hinge_curvature)


def _squared_hinge_value(z: np.ndarray) -> np.ndarray:
    return np.maximum(1 - z, 0) ** 2


def _squared_hinge_slope(z: np.ndarray) -> np.ndarray:
    return -2 * np.maximum(1 - z, 0)


def _squared_hinge_curvature(z: np.ndarray) -> np.ndarray:
    return np.where(z < 1, 2, 0).astype(z.dtype)


def modified_huber_curve() -> Curve:
    """``max(0, 1 - z)^2`` for ``z >= -1`` and ``-4 z`` below, as in `sklearn.linear_model.SGDClassifier`."""
    return Curve("modified_huber", _modified_huber_value, _modified_huber_slope, _modified_huber_curvature)


def _modified_huber_value(z: np.ndarray) -> np.ndarray:
    return np.where(z >= -1, np.maximum(1 - z, 0) ** 2, -4 * z)


def _modified_huber_slope(z: np.ndarray) -> np.ndarray:
    return np.where(z >= -1, -2 * np.maximum(1 - z, 0), -4).astype(z.dtype)


def _modified_huber_curvature(z: np.ndarray) -> np.ndarray:
    return np.where((z >= -1) & (z < 1), 2, 0).astype(z.dtype)


# --- residual curves: functions of r = F - y --------------------------------------------------------------------------


def squared_curve() -> Curve:
    """Half the square, ``r^2 / 2``."""
    return Curve("squared_error", _squared_value, _identity, np.ones_like)


def _squared_value(r: np.ndarray) -> np.ndarray:
    return r * r / 2


def _identity(r: np.ndarray) -> np.ndarray:
    return r


def huber_curve(threshold: float | np.ndarray, scale: float = 1.0) -> Curve:
    """``scale * r^2 / 2`` within the threshold, ``scale * threshold * (|r| - threshold / 2)`` beyond it."""
    return Curve(
        "huber",
        partial(_huber_value, threshold, scale),
        partial(_huber_slope, threshold, scale),
        partial(_huber_curvature, threshold, scale),
    )


def _huber_value(threshold: float | np.ndarray, scale: float, r: np.ndarray) -> np.ndarray:
    size = np.abs(r)
    return scale * np.where(size <= threshold, r * r / 2, threshold * (size - threshold / 2))


def _huber_slope(threshold: float | np.ndarray, scale: float, r: np.ndarray) -> np.ndarray:
    return (scale * np.clip(r, -threshold, threshold)).astype(r.dtype, copy=False)


def _huber_curvature(threshold: float | np.ndarray, scale: float, r: np.ndarray) -> np.ndarray:
    return np.where(np.abs(r) <= threshold, scale, 0).astype(r.dtype)


def epsilon_insensitive_curve(epsilon: float) -> Curve:
    """``max(0, |r| - epsilon)``."""
    return Curve("epsilon_insensitive", partial(_epsilon_value, epsilon), partial(_epsilon_slope, epsilon), None)


def _epsilon_value(epsilon: float, r: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(r) - epsilon, 0)


def _epsilon_slope(epsilon: float, r: np.ndarray) -> np.ndarray:
    return np.where(np.abs(r) > epsilon, np.sign(r), 0).astype(r.dtype)


def squared_epsilon_insensitive_curve(epsilon: float) -> Curve:
    """``max(0, |r| - epsilon)^2``."""
    return Curve(
        "squared_epsilon_insensitive",
        partial(_squared_epsilon_value, epsilon),
        partial(_squared_epsilon_slope, epsilon),
        partial(_squared_epsilon_curvature, epsilon),
    )


def _squared_epsilon_value(epsilon: float, r: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(r) - epsilon, 0) ** 2


def _squared_epsilon_slope(epsilon: float, r: np.ndarray) -> np.ndarray:
    return 2 * np.sign(r) * np.maximum(np.abs(r) - epsilon, 0)


def _squared_epsilon_curvature(epsilon: float, r: np.ndarray) -> np.ndarray:
    return np.where(np.abs(r) > epsilon, 2, 0).astype(r.dtype)


def pinball_curve(quantile: float) -> Curve:
    """The quantile loss of ``y - F``: ``(1 - quantile) r`` above the target, ``-quantile r`` below it."""
    return Curve("pinball", partial(_pinball_value, quantile), partial(_pinball_slope, quantile), None)


def _pinball_value(quantile: float, r: np.ndarray) -> np.ndarray:
    return np.where(r >= 0, (1 - quantile) * r, -quantile * r)


def _pinball_slope(quantile: float, r: np.ndarray) -> np.ndarray:
    return np.where(r >= 0, 1 - quantile, -quantile).astype(r.dtype)
