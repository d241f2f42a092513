"""scikit-learn's documented objectives, written out plainly: slow, dense, and the truth the package is held against.

Nothing here uses the package. A loss is a function of the raw outputs ``F`` (n, K) and the targets; a penalty is a
function of the coefficients and intercepts; every derivative is a finite difference of those. Parameters are flat: for
each output its coefficients, followed by its intercept where the estimator fits one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, xlogy

# --- losses ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """A row loss. `rows(F, T)` is (n, K), or (n, 1) where the outputs are coupled.

    `smooth` is "twice" (has a Hessian everywhere), "once" (almost everywhere, as of a squared hinge) or "kinked".
    """

    rows: Callable[[np.ndarray, np.ndarray], np.ndarray]
    smooth: str = "twice"


def _margin(function: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda F, T: function(F * T)


def _residual(function: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda F, T: function(T - F)


def _softmax(F: np.ndarray, T: np.ndarray) -> np.ndarray:
    return (logsumexp(F, axis=1) - F[np.arange(len(T)), T])[:, None]


def _modified_huber(z: np.ndarray) -> np.ndarray:
    return np.where(z >= -1, np.maximum(0, 1 - z) ** 2, -4 * z)


LOG = Loss(_margin(lambda z: np.logaddexp(0, -z)))
SOFTMAX = Loss(_softmax)
HINGE = Loss(_margin(lambda z: np.maximum(0, 1 - z)), "kinked")
PERCEPTRON = Loss(_margin(lambda z: np.maximum(0, -z)), "kinked")
SQUARED_HINGE = Loss(_margin(lambda z: np.maximum(0, 1 - z) ** 2), "once")
MODIFIED_HUBER = Loss(_margin(_modified_huber), "once")
HALF_SQUARED = Loss(_residual(lambda r: r**2 / 2))


def huber(epsilon: float) -> Loss:
    """SGD's: half the square within `epsilon`, a line beyond."""
    rows = _residual(lambda r: np.where(np.abs(r) <= epsilon, r**2 / 2, epsilon * np.abs(r) - epsilon**2 / 2))
    return Loss(rows, "once")


def scaled_huber(epsilon: float, scale: float) -> Loss:
    """HuberRegressor's at its fitted scale: H(residual / scale) * scale with H(z) = z² or 2ε|z| - ε²."""

    def rows(z):
        return scale * np.where(np.abs(z) < epsilon, z**2, 2 * epsilon * np.abs(z) - epsilon**2)

    return Loss(_residual(lambda r: rows(r / scale)), "once")


def epsilon_insensitive(epsilon: float) -> Loss:
    return Loss(_residual(lambda r: np.maximum(0, np.abs(r) - epsilon)), "kinked")


def squared_epsilon_insensitive(epsilon: float) -> Loss:
    return Loss(_residual(lambda r: np.maximum(0, np.abs(r) - epsilon) ** 2), "once")


def pinball(quantile: float) -> Loss:
    return Loss(_residual(lambda r: np.where(r >= 0, quantile * r, (quantile - 1) * r)), "kinked")


def half_deviance(power: float, link: Callable[[np.ndarray], np.ndarray] = np.exp) -> Loss:
    """Half the unit deviance of a Tweedie distribution; 0 is the normal, 1 Poisson, 2 gamma."""

    def rows(F, y):
        mu = link(F)
        if power == 0:
            return (y - mu) ** 2 / 2
        if power == 1:
            return xlogy(y, y / mu) - y + mu
        if power == 2:
            return np.log(mu / y) + y / mu - 1
        constant = np.maximum(y, 0) ** (2 - power) / ((1 - power) * (2 - power))
        return constant - y * mu ** (1 - power) / (1 - power) + mu ** (2 - power) / (2 - power)

    return Loss(rows)


# --- penalties ------------------------------------------------------------------------------------

Penalty = Callable[[np.ndarray, np.ndarray], float]


def elastic(strength=1.0, l1_ratio: float = 0.0, intercept_scaling: float | None = None) -> Penalty:
    """strength · (l1_ratio · ‖w‖₁ + (1 - l1_ratio) / 2 · ‖w‖²), over coef (K, d); `strength` broadcasts to it.

    With `intercept_scaling` the intercept is penalised as liblinear does: as the weight of a feature of that value.
    """

    def penalty(coef, intercept):
        total = np.sum(strength * (l1_ratio * np.abs(coef) + (1 - l1_ratio) / 2 * coef**2))
        if intercept_scaling is not None:
            weight = intercept / intercept_scaling
            total += np.sum(strength * (l1_ratio * np.abs(weight) + (1 - l1_ratio) / 2 * weight**2))
        return float(total)

    return penalty


def no_penalty(coef: np.ndarray, intercept: np.ndarray) -> float:
    return 0.0


# --- objectives -----------------------------------------------------------------------------------


def coef_and_intercept(estimator) -> tuple[np.ndarray, np.ndarray]:
    """The fitted coefficients (K, d) and intercepts (K,)."""
    coef = np.atleast_2d(np.asarray(estimator.coef_, dtype=float))
    return coef, np.broadcast_to(np.ravel(np.asarray(estimator.intercept_, dtype=float)), len(coef))


def parameters(estimator) -> np.ndarray:
    """The fitted parameters, flat."""
    coef, intercept = coef_and_intercept(estimator)
    return np.column_stack([coef, intercept] if estimator.fit_intercept else [coef]).ravel()


@dataclass(frozen=True)
class Objective:
    """Σᵢ Σₖ weights[i, k] · loss(F, T)[i, k] / normaliser + penalty_factor · penalty(coef, intercept)."""

    X: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    loss: Loss
    penalty: Penalty
    normaliser: float
    penalty_factor: float
    n_outputs: int
    fit_intercept: bool
    kinked_penalty: bool = False

    @property
    def step(self) -> float:
        """A step for first differences: long where all is smooth, short where it may cross a kink."""
        if self.loss.smooth != "twice":
            return 1e-6
        return 1e-4 if self.kinked_penalty else 1e-3

    def split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = np.reshape(theta, (self.n_outputs, -1))
        return (table[:, :-1], table[:, -1]) if self.fit_intercept else (table, np.zeros(self.n_outputs))

    def outputs(self, theta: np.ndarray) -> np.ndarray:
        coef, intercept = self.split(theta)
        return self.X @ coef.T + intercept

    def row_losses(self, theta: np.ndarray) -> np.ndarray:
        """(n,): each row's loss, without any weight."""
        return self.loss.rows(self.outputs(theta), self.targets).sum(axis=1)

    def rows(self, theta: np.ndarray) -> np.ndarray:
        """(n,): what each row adds to the objective."""
        return (self.weights * self.loss.rows(self.outputs(theta), self.targets)).sum(axis=1) / self.normaliser

    def value(self, theta: np.ndarray) -> float:
        return float(self.rows(theta).sum() + self.penalty_factor * self.penalty(*self.split(theta)))

    def row_gradients(self, theta: np.ndarray) -> np.ndarray:
        """(n, p), dense."""
        return jacobian(self.rows, theta, self.step)

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return jacobian(self.value, theta, self.step)

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """(p, p), dense: differences of differences, with a step long enough for both."""
        return second_differences(self.value, theta, max(self.step, 1e-5))


# --- derivatives ----------------------------------------------------------------------------------


def directional(function: Callable, theta: np.ndarray, direction: np.ndarray, step: float):
    """The five-point central difference of `function` at `theta` along `direction`."""
    near = function(theta + step * direction) - function(theta - step * direction)
    far = function(theta + 2 * step * direction) - function(theta - 2 * step * direction)
    return (8 * near - far) / (12 * step)


def jacobian(function: Callable, theta: np.ndarray, step: float) -> np.ndarray:
    """(…, p): one directional derivative per coordinate."""
    return np.stack([directional(function, theta, axis, step) for axis in np.eye(len(theta))], axis=-1)


def second_differences(function: Callable, theta: np.ndarray, step: float) -> np.ndarray:
    """(p, p): the mixed central differences of a scalar function."""
    axes = step * np.eye(len(theta))
    found = np.empty(axes.shape)
    for j, k in zip(*np.tril_indices(len(theta)), strict=True):
        alike = function(theta + axes[j] + axes[k]) + function(theta - axes[j] - axes[k])
        unlike = function(theta + axes[j] - axes[k]) + function(theta - axes[j] + axes[k])
        found[j, k] = found[k, j] = (alike - unlike) / (4 * step**2)
    return found


def dense_influence(objective: Objective, validation: Objective, theta: np.ndarray, free: np.ndarray) -> np.ndarray:
    """How much `validation` rises as each row is taken away: row gradients · pinv(Hessian) · validation gradient."""
    direction = np.zeros(len(theta))
    gradient = validation.gradient(theta)[free]
    direction[free] = np.linalg.pinv(objective.hessian(theta)[np.ix_(free, free)], rcond=1e-6) @ gradient
    return objective.row_gradients(theta) @ direction
