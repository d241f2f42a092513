"""A model family of one's own: a regression with the log-cosh loss, which scikit-learn does not have."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import validate_data

from skinfluence.curves import Curve
from skinfluence.losses import ResidualLoss
from skinfluence.models import FittedModel, LinearModel, Penalty


# [curve]
def log_cosh(r: np.ndarray) -> np.ndarray:
    """``log(cosh(r))``, without overflow."""
    return np.logaddexp(r, -r) - np.log(2)


def curvature(r: np.ndarray) -> np.ndarray:
    """Its second derivative."""
    return 1 - np.tanh(r) ** 2


CURVE = Curve("log_cosh", value=log_cosh, slope=np.tanh, curvature=curvature)


# [estimator]
class LogCoshRegressor(RegressorMixin, BaseEstimator):
    """Minimises ``sum_i log(cosh(x_i . w + b - y_i)) + alpha / 2 |w|^2``."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any) -> LogCoshRegressor:
        X, y = validate_data(self, X, y, y_numeric=True)

        def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
            r = X @ theta[:-1] + theta[-1] - y
            value = log_cosh(r).sum() + self.alpha / 2 * theta[:-1] @ theta[:-1]
            slope = np.tanh(r)
            return value, np.append(X.T @ slope + self.alpha * theta[:-1], slope.sum())

        theta = minimize(objective, np.zeros(X.shape[1] + 1), jac=True, tol=1e-12).x
        self.coef_, self.intercept_ = theta[:-1], theta[-1]
        return self

    def predict(self, X: Any) -> np.ndarray:
        return validate_data(self, X, reset=False) @ self.coef_ + self.intercept_


# [family]
def log_cosh_family(est: LogCoshRegressor) -> FittedModel:
    """What scoring needs to know of the fitted estimator: model, loss and penalty."""
    model = LinearModel.from_coef(est.coef_[None, :], np.array([est.intercept_]))
    l2 = np.append(np.full(len(est.coef_), est.alpha), 0.0)  # the intercept is not penalised
    penalty = Penalty(l2=l2, l1=np.zeros_like(l2), free=np.ones(len(l2), dtype=bool), per="sum")
    return FittedModel(estimator=est, model=model, loss=ResidualLoss(CURVE), penalty=penalty, task="regression")


# [end]
