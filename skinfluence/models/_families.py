"""scikit-learn's linear estimators, read off one by one: loss, penalty, and how class weights enter.

Each function takes a fitted estimator and returns a `FittedModel`. The penalties are those of the objectives that
scikit-learn documents, in the scale of its own objective; `Penalty.per` says what that scale is relative to.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
from sklearn.utils.class_weight import compute_class_weight

from .. import curves
from ..curves import Curve
from ..losses import DevianceLoss, Loss, MarginLoss, ResidualLoss, SoftmaxLoss
from ._fitted import ClassWeight, FittedModel, Penalty
from .linear import LinearModel

# From this release on, logistic regression and liblinear balance classes by weight rather than by number.
_WEIGHTED_COUNTS = "sample_weight" in inspect.signature(compute_class_weight).parameters


def _build(
    est: Any,
    loss: Loss,
    *,
    per: Literal["sum", "mean", "rows"] = "sum",
    l2: Any = 0.0,
    l1: Any = 0.0,
    intercept_l2: Any = 0.0,
    intercept_l1: Any = 0.0,
    free: np.ndarray | None = None,
    class_weight: ClassWeight | None = None,
) -> FittedModel:
    """``l2`` and ``l1`` broadcast to ``coef (K, d)``, their intercept twins to ``(K,)``; ``free`` marks entries of
    ``coef``.
    """
    coef = est.coef_.toarray() if sp.issparse(est.coef_) else est.coef_  # after sparsify()
    coef = np.asarray(coef, dtype=np.float64)
    coef = coef.reshape(1, -1) if coef.ndim == 1 else coef
    K = coef.shape[0]
    # SGD's fit_intercept=False and everybody else's leave zeros in intercept_.
    intercept = np.full(K, est.intercept_, dtype=np.float64) if est.fit_intercept else None
    model = LinearModel.from_coef(coef, intercept)

    def table(on_coef: Any, on_intercept: Any) -> np.ndarray:
        filled = np.empty((K, model.width))
        filled[:, : model.n_features] = on_coef
        if intercept is not None:
            filled[:, -1] = on_intercept
        return filled.ravel()

    l1_table = table(l1, intercept_l1)
    held = (l1_table > 0) & (model.params == 0)
    if free is not None:
        held |= table(~free, False).astype(bool)
    penalty = Penalty(l2=table(l2, intercept_l2), l1=l1_table, free=~held, per=per)
    classes = getattr(est, "classes_", None)
    if classes is not None and (1 if len(classes) == 2 else len(classes)) != K:
        raise ValueError(
            f"{type(est).__name__} has {len(classes)} classes and coefficients for {K}: it was fitted on rows of which "
            "some class has no weight. Leave out the rows of weight zero."
        )
    return FittedModel(
        estimator=est,
        model=model,
        loss=loss,
        penalty=penalty,
        task="regression" if classes is None else "classification",
        classes=classes,
        class_weight=class_weight,
    )


# --- classifiers ------------------------------------------------------------------------------------------------------


def _logistic_penalty(est: Any) -> tuple[np.ndarray, np.ndarray]:
    """Inverse strength ``1/C`` and L1 share, one for each output or one for all, whatever release wrote the estimator's
    parameters.
    """
    C = np.asarray(est.C_ if hasattr(est, "C_") else est.C, dtype=np.float64).ravel()
    penalty = getattr(est, "penalty", "deprecated")
    if penalty == "deprecated" or penalty == "elasticnet":
        share = est.l1_ratio_ if hasattr(est, "l1_ratio_") else est.l1_ratio
        ratio = np.array([0.0 if r is None else float(r) for r in np.ravel(np.asarray(share, dtype=object))])
    else:
        ratio = np.array([1.0 if penalty == "l1" else 0.0])
    strength = np.zeros_like(C) if penalty is None or penalty == "none" else 1.0 / C
    return strength[:, None], ratio[:, None]


def logistic(est: Any) -> FittedModel:
    K = est.coef_.shape[0]
    strength, ratio = _logistic_penalty(est)
    if strength.shape[0] not in (1, K):  # a CV estimator repeats one value for every class
        strength, ratio = strength[:1], ratio[:1]
    liblinear = est.solver == "liblinear"
    if K == 1 and getattr(est, "multi_class", None) == "multinomial":
        raise TypeError(
            f"{type(est).__name__} was fitted with multi_class='multinomial' on two classes, which scikit-learn "
            "deprecated and "
            "which is not supported. Leave multi_class out."
        )
    one_vs_rest = K > 1 and (liblinear or getattr(est, "multi_class", None) == "ovr")
    loss: Loss = MarginLoss(curves.cross_entropy_curve()) if K == 1 or one_vs_rest else SoftmaxLoss()
    scheme: Literal["rows", "sides", "balanced_sides"] = "rows"
    if one_vs_rest and liblinear and not hasattr(est, "C_"):
        scheme = "sides"
    elif one_vs_rest and est.class_weight == "balanced" and not hasattr(est, "C_"):
        scheme = "balanced_sides"
    on_intercept = strength / est.intercept_scaling**2 if liblinear else 0.0
    return _build(
        est,
        loss,
        l2=strength * (1 - ratio),
        l1=strength * ratio,
        intercept_l2=np.ravel(on_intercept * (1 - ratio)),
        intercept_l1=np.ravel((strength / est.intercept_scaling if liblinear else 0.0) * ratio),
        class_weight=ClassWeight(est.class_weight, scheme, weighted_counts=_WEIGHTED_COUNTS),
    )


def linear_svc(est: Any) -> FittedModel:
    if est.multi_class != "ovr":
        raise TypeError(f"LinearSVC is supported with multi_class='ovr', got multi_class={est.multi_class!r}.")
    curve = curves.squared_hinge_curve() if est.loss == "squared_hinge" else curves.hinge_curve()
    K = est.coef_.shape[0]
    l1 = est.penalty == "l1"
    return _build(
        est,
        MarginLoss(curve),
        l2=0.0 if l1 else 1.0 / est.C,
        l1=1.0 / est.C if l1 else 0.0,
        intercept_l2=0.0 if l1 else 1.0 / (est.C * est.intercept_scaling**2),
        intercept_l1=1.0 / (est.C * est.intercept_scaling) if l1 else 0.0,
        class_weight=ClassWeight(est.class_weight, "sides" if K > 1 else "rows", weighted_counts=_WEIGHTED_COUNTS),
    )


def ridge_classifier(est: Any) -> FittedModel:
    if est.coef_.ndim == 2 and len(est.classes_) != max(2, est.coef_.shape[0]) and est.coef_.shape[0] > 1:
        raise TypeError("RidgeClassifier is supported for one label a row, and this one was fitted on several.")
    alpha = est.alpha_ if hasattr(est, "alpha_") else est.alpha
    # Ridge on targets -1 and 1: (F - s)^2 = (sF - 1)^2.
    loss = MarginLoss(curves.squared_curve().shifted(1.0))
    return _build(est, loss, l2=alpha, free=_inside_bounds(est), class_weight=ClassWeight(est.class_weight))


def _sgd_curve(est: Any) -> Curve:
    """The curve of SGDClassifier's ``loss``, in the margin."""
    epsilon = getattr(est, "epsilon", 0.0)
    table: dict[str, Callable[[], Curve]] = {
        "log_loss": curves.cross_entropy_curve,
        "hinge": curves.hinge_curve,
        "perceptron": lambda: curves.hinge_curve(0.0),
        "squared_hinge": curves.squared_hinge_curve,
        "modified_huber": curves.modified_huber_curve,
    }
    if est.loss in table:
        return table[est.loss]()
    return _sgd_residual_curve(est.loss, epsilon).shifted(1.0)


def _sgd_residual_curve(loss: str, epsilon: float) -> Curve:
    table: dict[str, Callable[[float], Curve]] = {
        "squared_error": lambda _: curves.squared_curve(),
        "huber": curves.huber_curve,
        "epsilon_insensitive": curves.epsilon_insensitive_curve,
        "squared_epsilon_insensitive": curves.squared_epsilon_insensitive_curve,
    }
    return table[loss](epsilon)


def _sgd_penalty(est: Any) -> dict[str, Any]:
    ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": getattr(est, "l1_ratio", 0.15)}.get(est.penalty, 0.0)
    alpha = 0.0 if est.penalty is None else est.alpha
    return {"l2": alpha * (1 - ratio), "l1": alpha * ratio}


def sgd_classifier(est: Any) -> FittedModel:
    K = est.coef_.shape[0]
    return _build(
        est,
        MarginLoss(_sgd_curve(est)),
        per="rows",
        **_sgd_penalty(est),
        class_weight=ClassWeight(est.class_weight, "sides" if K > 1 else "rows"),
    )


# --- regressors -------------------------------------------------------------------------------------------------------


def _squared(est: Any, **penalty: Any) -> FittedModel:
    return _build(est, ResidualLoss(curves.squared_curve()), **penalty)


def _inside_bounds(est: Any) -> np.ndarray | None:
    """Coefficients that ``positive=True`` does not hold at zero."""
    if not getattr(est, "positive", False):
        return None
    coef = np.asarray(est.coef_)
    return (coef > 0).reshape(1, -1) if coef.ndim == 1 else coef > 0


def linear_regression(est: Any) -> FittedModel:
    return _squared(est, free=_inside_bounds(est))


def ridge(est: Any) -> FittedModel:
    alpha = np.asarray(est.alpha_ if hasattr(est, "alpha_") else est.alpha, dtype=np.float64)
    return _squared(est, l2=alpha.reshape(-1, 1), free=_inside_bounds(est))


def elastic_net(est: Any) -> FittedModel:
    alpha = est.alpha_ if hasattr(est, "alpha_") else est.alpha
    # Lasso has no l1_ratio of its own: it is ElasticNet's, fixed at one; LassoCV has none at all.
    ratio = getattr(est, "l1_ratio_", getattr(est, "l1_ratio", 1.0))
    return _squared(est, per="mean", l2=alpha * (1 - ratio), l1=alpha * ratio, free=_inside_bounds(est))


def huber(est: Any) -> FittedModel:
    # sigma * H(r / sigma), with H(z) = z^2 inside epsilon; the fitted scale sigma is held.
    curve = curves.huber_curve(est.epsilon * est.scale_, 2.0 / est.scale_)
    return _build(est, ResidualLoss(curve), l2=2.0 * est.alpha)


def linear_svr(est: Any) -> FittedModel:
    squared = est.loss == "squared_epsilon_insensitive"
    curve = (curves.squared_epsilon_insensitive_curve if squared else curves.epsilon_insensitive_curve)(est.epsilon)
    return _build(est, ResidualLoss(curve), l2=1.0 / est.C, intercept_l2=1.0 / (est.C * est.intercept_scaling**2))


def quantile(est: Any) -> FittedModel:
    return _build(est, ResidualLoss(curves.pinball_curve(est.quantile)), per="mean", l1=est.alpha)


def tweedie(est: Any) -> FittedModel:
    power = {"PoissonRegressor": 1.0, "GammaRegressor": 2.0}.get(_sklearn_class(est).__name__)
    link = "log"
    if power is None:
        power = float(est.power)
        link = est.link if est.link != "auto" else ("identity" if power <= 0 else "log")
    return _build(est, DevianceLoss(power, log_link=link == "log"), per="mean", l2=est.alpha)


def sgd_regressor(est: Any) -> FittedModel:
    return _build(est, ResidualLoss(_sgd_residual_curve(est.loss, est.epsilon)), per="rows", **_sgd_penalty(est))


def bayesian_ridge(est: Any) -> FittedModel:
    # The posterior mean is a ridge solution; the fitted precisions are held.
    return _squared(est, l2=est.lambda_ / est.alpha_)


def ard(est: Any) -> FittedModel:
    kept = np.asarray(est.lambda_ < est.threshold_lambda)
    return _squared(est, l2=np.where(kept, est.lambda_, 0.0) / est.alpha_, free=kept.reshape(1, -1))


FAMILIES: dict[str, Callable[[Any], FittedModel]] = {
    "LogisticRegression": logistic,
    "LogisticRegressionCV": logistic,
    "LinearSVC": linear_svc,
    "RidgeClassifier": ridge_classifier,
    "RidgeClassifierCV": ridge_classifier,
    "SGDClassifier": sgd_classifier,
    "Perceptron": sgd_classifier,
    "LinearRegression": linear_regression,
    "Ridge": ridge,
    "RidgeCV": ridge,
    "Lasso": elastic_net,
    "LassoCV": elastic_net,
    "ElasticNet": elastic_net,
    "ElasticNetCV": elastic_net,
    "HuberRegressor": huber,
    "LinearSVR": linear_svr,
    "QuantileRegressor": quantile,
    "PoissonRegressor": tweedie,
    "GammaRegressor": tweedie,
    "TweedieRegressor": tweedie,
    "SGDRegressor": sgd_regressor,
    "BayesianRidge": bayesian_ridge,
    "ARDRegression": ard,
}


def _sklearn_class(est: Any) -> type:
    """The first class of scikit-learn's own in the estimator's ancestry: a user's subclass is what it extends, nothing
    more distant.
    """
    return next((c for c in type(est).__mro__ if c.__module__.startswith("sklearn.")), type(est))


def family_of(est: Any) -> Callable[[Any], FittedModel] | None:
    """The function of `FAMILIES` that reads this estimator, or None."""
    cls = _sklearn_class(est)
    in_linear = cls.__module__.startswith(("sklearn.linear_model.", "sklearn.svm."))
    return FAMILIES.get(cls.__name__) if in_linear else None
