"""The table of linear families the conformance suite runs over: an estimator, its data, and its documented objective.

Each case names an estimator that converges tightly, and says in plain NumPy (see `reference`) what scikit-learn's
documentation says it minimises. A family joins the suite with one more line of this table.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import sklearn
from sklearn import linear_model as lm
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC, LinearSVR
from sklearn.utils.class_weight import compute_class_weight

from . import reference as ref

SKLEARN = tuple(int(part) for part in sklearn.__version__.split(".")[:2])
WEIGHTED_BALANCE = "sample_weight" in inspect.signature(compute_class_weight).parameters
"""Whether this scikit-learn counts classes by weight where class_weight="balanced" meets sample_weight."""

# --- data -----------------------------------------------------------------------------------------


class Data(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    sample_weight: np.ndarray


def _features(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Columns of unlike scale and mean, a little correlated."""
    mixed = rng.normal(size=(n, d)) @ (np.eye(d) + 0.1 * rng.normal(size=(d, d)))
    return mixed * np.linspace(0.7, 1.3, d) + np.linspace(-0.5, 0.6, d)


def _classes(rng: np.random.Generator, X: np.ndarray, n_classes: int) -> np.ndarray:
    coef = rng.normal(size=(X.shape[1], n_classes)) * (np.arange(X.shape[1]) != 1)[:, None]
    logits = X @ coef + np.linspace(0.6, -0.6, n_classes)
    return np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)


def _real(rng: np.random.Generator, X: np.ndarray, n_targets: int) -> np.ndarray:
    coef = np.resize([1.1, 0.0, -0.7, 0.0, 0.5], (X.shape[1] * n_targets)).reshape(X.shape[1], n_targets)
    return X @ coef + 1.5 + rng.normal(scale=0.8, size=(len(X), n_targets))


def _rate(rng: np.random.Generator, X: np.ndarray) -> np.ndarray:
    return np.exp(0.25 * X @ rng.normal(size=X.shape[1]) + 0.8)


_TARGETS = {
    "two": lambda rng, X: _classes(rng, X, 2),
    "three": lambda rng, X: _classes(rng, X, 3),
    "real": lambda rng, X: _real(rng, X, 1)[:, 0],
    "targets": lambda rng, X: _real(rng, X, 2),
    "counts": lambda rng, X: rng.poisson(_rate(rng, X)).astype(float),
    "positive": lambda rng, X: _rate(rng, X) * rng.gamma(3.0, 1 / 3.0, size=len(X)),
    "level": lambda rng, X: np.maximum(8 + X @ rng.uniform(-1, 1, size=X.shape[1]), 3) * rng.gamma(20, 1 / 20, len(X)),
}


@functools.cache
def make_data(kind: str, n: int = 90, n_val: int = 60) -> Data:
    """Seeded training and validation rows, and unequal row weights whose mean is not one."""
    d = 5 if kind in ("real", "targets") else 4
    rng = np.random.default_rng(20)
    X = _features(rng, n + n_val, d)
    y = _TARGETS[kind](rng, X)
    data = Data(X[:n], y[:n], X[n:], y[n:], rng.uniform(0.3, 2.5, size=n))
    for array in data:
        array.flags.writeable = False
    return data


# --- weighting ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighting:
    """Which weights a fit is given."""

    class_weight: str | None = None
    sample_weight: bool = False

    def __str__(self) -> str:
        parts = [self.class_weight, "rows" if self.sample_weight else None]
        return "+".join(part for part in parts if part) or "plain"


PLAIN = Weighting()
WEIGHTINGS = [Weighting(classes, rows) for rows in (False, True) for classes in (None, "dict", "balanced")]


# --- cases ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One family: an estimator, the data it is fitted on, and its documented objective.

    Attributes
    ----------
    loss
        The row loss, or a function of the fitted estimator that returns it.
    penalty
        The penalty in the units of `scale`, as a function of the fitted estimator.
    scale
        The objective is with "sum" Σ w loss + penalty, with "mean" Σ w loss / Σ w + penalty, and with "rows" (SGD)
        Σ w loss / n + penalty.
    class_weight
        None: not accepted. "rows": each row has its class's weight. "positive": in each one-vs-rest problem positive
        rows have their class's weight, the others 1. "problem": as "rows", but "balanced" balances each problem.
    weighted_balance
        "balanced" counts classes by sample weight (where this scikit-learn does so at all).
    zeros
        What may hold a coefficient at zero: an "l1" penalty, a "bound", ARD's pruning ("pruned"), or None.
    minimum
        "exact": the fit is a minimum to solver precision. "near": SGD's neighbourhood of one. None: no minimum.
    refit
        A function of the fitted estimator and of what the penalty's share of a mean must be multiplied by. Returns the
        estimator to fit on other rows.
    """

    id: str
    make: Callable[[], BaseEstimator]
    data: str
    loss: ref.Loss | Callable[[BaseEstimator], ref.Loss]
    penalty: Callable[[BaseEstimator], ref.Penalty] = lambda estimator: ref.no_penalty
    scale: str = "sum"
    minimum: str | None = "exact"
    class_weight: str | None = None
    sample_weight: bool = True
    weighted_balance: bool = False
    zeros: str | None = None
    link: Callable[[np.ndarray], np.ndarray] | None = None
    refit: Callable[[BaseEstimator, float], BaseEstimator] | None = None
    deprecated: bool = False
    gradient_tolerance: float = 1e-6

    def __str__(self) -> str:
        return self.id

    @property
    def classifies(self) -> bool:
        return self.data in ("two", "three")

    @property
    def n_classes(self) -> int:
        return {"two": 2, "three": 3}[self.data]

    @property
    def smooth(self) -> str:
        """The smoothness of the loss, whatever the fit."""
        return self.loss.smooth if isinstance(self.loss, ref.Loss) else self.loss(_Unfitted).smooth

    @property
    def weightings(self) -> list[Weighting]:
        """The weightings this family accepts."""
        return [
            weighting
            for weighting in WEIGHTINGS
            if (self.class_weight or not weighting.class_weight) and (self.sample_weight or not weighting.sample_weight)
        ]

    def estimator(self, weighting: Weighting = PLAIN) -> BaseEstimator:
        """A new, unfitted estimator."""
        estimator = self.make()
        if weighting.class_weight == "dict":
            estimator.set_params(class_weight=dict(enumerate([0.6, 1.7, 1.2][: self.n_classes])))
        elif weighting.class_weight:
            estimator.set_params(class_weight=weighting.class_weight)
        return estimator

    def fit(self, estimator: BaseEstimator, X, y, sample_weight=None) -> BaseEstimator:
        """Fit, quiet about the deprecation that a case is there to exercise, and about nothing else."""
        options = {} if sample_weight is None else {"sample_weight": sample_weight}
        with warnings.catch_warnings():
            if self.deprecated:
                warnings.simplefilter("ignore", FutureWarning)
            if SKLEARN == (1, 8):  # warns where C=np.inf is given as it asks for
                warnings.filterwarnings("ignore", "Setting penalty=None will ignore", UserWarning)
            return estimator.fit(X, y, **options)

    def refitted(self, estimator: BaseEstimator, X, y, sample_weight=None, *, factor: float = 1.0) -> BaseEstimator:
        """The estimator fitted on other rows, the penalty's share of a mean multiplied by `factor`."""
        if self.refit is not None:
            unfitted = self.refit(estimator, factor)
        else:
            unfitted = clone(estimator)
            if self.scale == "mean":
                unfitted.set_params(alpha=estimator.alpha * factor)
        return self.fit(unfitted, X, y, sample_weight)


class _Unfitted:
    """Stands for a fitted estimator where only the smoothness of its loss is asked for."""

    scale_ = 1.0


def class_weights(case: Case, weighting: Weighting, labels: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    """One weight for each class found in `labels`."""
    classes, codes = np.unique(labels, return_inverse=True)
    if weighting.class_weight is None:
        return np.ones(len(classes))
    if weighting.class_weight == "dict":
        return np.array([0.6, 1.7, 1.2])[: len(classes)]
    by_weight = case.weighted_balance and WEIGHTED_BALANCE and sample_weight is not None
    counts = np.bincount(codes, weights=sample_weight if by_weight else None)
    return counts.sum() / (len(classes) * counts)


def class_factors(
    case: Case, weighting: Weighting, y: np.ndarray, sample_weight: np.ndarray | None, of: np.ndarray
) -> np.ndarray:
    """The class weights, as the training labels `y` make them, of rows labelled `of`: (m, 1), or (m, K) by problem."""
    if not case.classifies or weighting.class_weight is None:
        return np.ones((len(of), 1))
    if case.class_weight == "problem" and weighting.class_weight == "balanced":
        labels = range(case.n_classes)
        tables = [class_weights(case, weighting, (y == label).astype(int), sample_weight) for label in labels]
        return np.column_stack([table[(of == label).astype(int)] for table, label in zip(tables, labels, strict=True)])
    each = class_weights(case, weighting, y, sample_weight)
    if case.class_weight == "positive" and case.n_classes > 2:
        return np.where(of[:, None] == np.arange(case.n_classes), each, 1.0)
    return each[of][:, None]


def encoded(case: Case, loss: ref.Loss, y: np.ndarray) -> np.ndarray:
    """The targets of the loss: class numbers for the softmax, ±1 by one-vs-rest problem, floats (n, K) otherwise."""
    if not case.classifies:
        return y.reshape(len(y), -1)
    if loss is ref.SOFTMAX:
        return y
    positive = y[:, None] == (np.array([1]) if case.n_classes == 2 else np.arange(case.n_classes))
    return np.where(positive, 1.0, -1.0)


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted case with its reference objective, on its training rows and on its validation rows."""

    case: Case
    weighting: Weighting
    estimator: BaseEstimator
    data: Data
    sample_weight: np.ndarray | None
    objective: ref.Objective
    validation: ref.Objective

    @functools.cached_property
    def theta(self) -> np.ndarray:
        """The fitted parameters, flat."""
        return ref.parameters(self.estimator)

    @property
    def unit(self) -> bool:
        """Whether what the objective is divided by is plain: each row has one weight."""
        return self.objective.weights.shape[1] == 1

    @functools.cached_property
    def row_gradients(self) -> np.ndarray:
        """(n, p), dense, at the fit."""
        return self.objective.row_gradients(self.theta)

    @functools.cached_property
    def influence(self) -> np.ndarray:
        """The dense influence of each row on the validation rows."""
        return ref.dense_influence(self.objective, self.validation, self.theta, self.free)

    @functools.cached_property
    def free(self) -> np.ndarray:
        """The coordinates that can move: not those an L1 penalty or a sign constraint holds at zero."""
        if self.case.zeros is None:
            return np.ones(len(self.theta), dtype=bool)
        coef, intercept = self.objective.split(self.theta)
        free = [coef != 0]
        if self.estimator.fit_intercept:
            penalised = self.objective.penalty(0 * coef, 1 + 0 * intercept) > 0
            free.append((intercept != 0)[:, None] | (not penalised))
        return np.column_stack(free).ravel()

    def moved(self, seed: int, size: float = 0.3) -> np.ndarray:
        """Parameters off the solution, along the free coordinates, no sign changed where a kink waits at zero."""
        push = np.random.default_rng(seed).uniform(-size, size, size=len(self.theta)) * self.free
        return self.theta * (1 + push) if self.case.zeros else self.theta + push


def _objective(
    case: Case, estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> ref.Objective:
    loss = case.loss if isinstance(case.loss, ref.Loss) else case.loss(estimator)
    total = float(weights.mean(axis=1).sum())
    factor = {"sum": 1 / total, "mean": 1.0, "rows": len(X) / total}[case.scale]
    return ref.Objective(
        X,
        encoded(case, loss, y),
        weights,
        loss,
        case.penalty(estimator),
        total,
        factor,
        len(ref.coef_and_intercept(estimator)[0]),
        estimator.fit_intercept,
        kinked_penalty=case.zeros is not None,
    )


def _validation(
    case: Case, estimator: BaseEstimator, X: np.ndarray, y: np.ndarray, factors: np.ndarray
) -> ref.Objective:
    """The mean training loss of validation rows, which have the weight of their class as in training."""
    normaliser = factors.sum() if factors.shape[1] == 1 else len(y)
    return replace(_objective(case, estimator, X, y, factors), normaliser=float(normaliser), penalty_factor=0.0)


@functools.cache
def fit(case: Case, weighting: Weighting = PLAIN) -> Fit:
    """The case fitted under the weighting, once."""
    data = make_data(case.data)
    sample_weight = data.sample_weight if weighting.sample_weight else None
    estimator = case.fit(case.estimator(weighting), data.X, data.y, sample_weight)
    factors, factors_val = (class_factors(case, weighting, data.y, sample_weight, of) for of in (data.y, data.y_val))
    rows = np.ones(len(data.y)) if sample_weight is None else sample_weight
    objective = _objective(case, estimator, data.X, data.y, rows[:, None] * factors)
    validation = _validation(case, estimator, data.X_val, data.y_val, factors_val)
    return Fit(case, weighting, estimator, data, sample_weight, objective, validation)


# --- classifiers ----------------------------------------------------------------------------------


def logistic(l1_ratio: float = 0.0, *, penalised: bool = True, C: float = 0.7, **options) -> lm.LogisticRegression:
    """A LogisticRegression, its penalty named as this version of scikit-learn names it."""
    if SKLEARN >= (1, 8):
        return lm.LogisticRegression(C=C if penalised else np.inf, l1_ratio=l1_ratio, **options)
    if not penalised:
        return lm.LogisticRegression(penalty=None, **options)
    name = {0.0: "l2", 1.0: "l1"}.get(l1_ratio, "elasticnet")
    return lm.LogisticRegression(penalty=name, C=C, l1_ratio=l1_ratio if name == "elasticnet" else None, **options)


def logistic_cv(l1_ratio: float = 0.0, **options) -> lm.LogisticRegressionCV:
    """A LogisticRegressionCV over three strengths, its penalty named as this version of scikit-learn names it."""
    common = {"Cs": [0.02, 0.2], "cv": 3, "scoring": "neg_log_loss", **options}
    if SKLEARN >= (1, 8):
        return lm.LogisticRegressionCV(l1_ratios=(l1_ratio,), **{"use_legacy_attributes": True, **common})
    name = {0.0: "l2", 1.0: "l1"}.get(l1_ratio, "elasticnet")
    return lm.LogisticRegressionCV(penalty=name, l1_ratios=[l1_ratio] if name == "elasticnet" else None, **common)


NEWTON = {"solver": "newton-cholesky", "tol": 1e-9}
NEWTON_CG = {"solver": "newton-cg", "tol": 1e-9, "max_iter": 1000}
SAGA = {"solver": "saga", "tol": 1e-7, "max_iter": 100_000, "random_state": 0}
LIBLINEAR = {"solver": "liblinear", "tol": 1e-9, "max_iter": 100_000, "random_state": 0}


def _logistic_case(name: str, data: str = "two", l1_ratio: float = 0.0, **options) -> Case:
    """A case of LogisticRegression; `options` starting with `case_` go to the case."""
    about = {key.removeprefix("case_"): options.pop(key) for key in list(options) if key.startswith("case_")}
    liblinear = options.get("solver") == "liblinear"
    scaling = options.get("intercept_scaling", 1.0) if liblinear and options.get("fit_intercept", True) else None
    penalised = options.get("penalised", True)
    options.setdefault("C", 0.15 if l1_ratio else 0.7)
    penalty = ref.elastic(1 / options["C"], l1_ratio, scaling) if penalised else ref.no_penalty
    settings = {
        "loss": ref.LOG if data == "two" else ref.SOFTMAX,
        "penalty": lambda estimator: penalty,
        "class_weight": "rows",
        "weighted_balance": True,
        "zeros": "l1" if l1_ratio else None,
        **about,
    }
    return Case(f"logistic-{name}", lambda: logistic(l1_ratio, **options), data, **settings)


def _first(values) -> float:
    return float(np.ravel(values)[0])


def _logistic_cv_case(name: str, data: str, l1_ratio: float = 0.0, **options) -> Case:
    solver = NEWTON_CG if l1_ratio == 0 else LIBLINEAR
    return Case(
        f"logistic-cv-{name}",
        lambda: logistic_cv(l1_ratio, **solver, **options),
        data,
        ref.LOG if data == "two" else ref.SOFTMAX,
        lambda estimator: ref.elastic(1 / _first(estimator.C_), l1_ratio, 1.0 if l1_ratio else None),
        class_weight="rows",
        weighted_balance=True,
        zeros="l1" if l1_ratio else None,
        refit=lambda est, factor: logistic(l1_ratio, C=_first(est.C_), class_weight=est.class_weight, **solver),
    )


def _logistic_cases() -> list[Case]:
    cases = [
        _logistic_case("lbfgs", solver="lbfgs", tol=1e-8, max_iter=10_000, case_gradient_tolerance=1e-5),
        _logistic_case("newton", **NEWTON),
        _logistic_case("newton-cg", **NEWTON_CG),
        _logistic_case("sag", solver="sag", tol=1e-9, max_iter=100_000, random_state=0),
        _logistic_case("no-intercept", fit_intercept=False, **NEWTON),
        _logistic_case("unpenalised", penalised=False, **NEWTON),
        _logistic_case("l1-saga", l1_ratio=1.0, **SAGA),
        _logistic_case("elastic-net-saga", l1_ratio=0.4, **SAGA),
        _logistic_case("l2-liblinear", **LIBLINEAR),
        _logistic_case("l2-liblinear-scaled-intercept", intercept_scaling=2.5, **LIBLINEAR),
        _logistic_case("l2-liblinear-dual", dual=True, case_gradient_tolerance=1e-5, **LIBLINEAR),
        _logistic_case("l2-liblinear-no-intercept", fit_intercept=False, **LIBLINEAR),
        _logistic_case("l1-liblinear", l1_ratio=1.0, intercept_scaling=3.0, **LIBLINEAR),
        _logistic_case("three-lbfgs", "three", solver="lbfgs", tol=1e-8, max_iter=10_000, case_gradient_tolerance=1e-5),
        _logistic_case("three-newton", "three", **NEWTON),
        _logistic_case("three-no-intercept", "three", fit_intercept=False, **NEWTON),
        _logistic_case("three-unpenalised", "three", penalised=False, **NEWTON),
        _logistic_case("three-l1-saga", "three", l1_ratio=1.0, C=0.2, **SAGA),
        _logistic_case("three-elastic-net-saga", "three", l1_ratio=0.4, **SAGA),
        _logistic_cv_case("two", "two"),
        _logistic_cv_case("two-l1-liblinear", "two", 1.0),
        _logistic_cv_case("three", "three"),
        Case(
            "logistic-infinite-C",
            lambda: lm.LogisticRegression(C=np.inf, **NEWTON),
            "two",
            ref.LOG,
            class_weight="rows",
            weighted_balance=True,
        ),
    ]
    if SKLEARN >= (1, 8):
        cases.append(_logistic_cv_case("three-new-attributes", "three", use_legacy_attributes=False))
    if (1, 8) <= SKLEARN < (1, 10):
        cases += _deprecated_penalty_cases()
    if SKLEARN < (1, 8):
        one_vs_rest = {"case_loss": ref.LOG, "case_deprecated": True}
        cases += [
            _logistic_case("ovr-liblinear", "three", case_class_weight="positive", **one_vs_rest, **LIBLINEAR),
            _logistic_case(
                "ovr-newton", "three", case_class_weight="problem", multi_class="ovr", **one_vs_rest, **NEWTON
            ),
            Case(
                "logistic-cv-ovr",
                lambda: logistic_cv(multi_class="ovr", **NEWTON_CG),
                "three",
                ref.LOG,
                lambda est: ref.elastic(1 / est.C_.reshape(-1, 1)),
                class_weight="rows",
                weighted_balance=True,
                deprecated=True,
            ),
        ]
    return cases


def _deprecated_penalty_cases() -> list[Case]:
    """The names of penalties that 1.8 deprecated and still obeys."""
    about = {"case_deprecated": True, "case_class_weight": None, "case_sample_weight": False}

    def case(name, ratio, **options):
        made = _logistic_case(name, "two", ratio, **about)
        return replace(made, make=lambda: lm.LogisticRegression(**options))

    return [
        case("penalty=l1", 1.0, penalty="l1", l1_ratio=1, C=0.15, **SAGA),
        case("penalty=l2", 0.0, penalty="l2", C=0.7, **NEWTON),
        case("penalty=elasticnet", 0.4, penalty="elasticnet", l1_ratio=0.4, C=0.15, **SAGA),
        Case(
            "logistic-penalty=None",
            lambda: lm.LogisticRegression(penalty=None, **NEWTON),
            "two",
            ref.LOG,
            deprecated=True,
            sample_weight=False,
        ),
    ]


SGD = {
    "alpha": 0.2,
    "learning_rate": "invscaling",
    "eta0": 0.02,
    "power_t": 0.3,
    "average": 20_000,
    "max_iter": 600,
    "tol": None,
    "random_state": 0,
}
SGD_CLASSIFIER_LOSSES = {
    "hinge": ref.HINGE,
    "log_loss": ref.LOG,
    "modified_huber": ref.MODIFIED_HUBER,
    "squared_hinge": ref.SQUARED_HINGE,
    "perceptron": ref.PERCEPTRON,
    "squared_error": ref.HALF_SQUARED,
    "huber": ref.huber(0.45),
    "epsilon_insensitive": ref.epsilon_insensitive(0.45),
    "squared_epsilon_insensitive": ref.squared_epsilon_insensitive(0.45),
}


def _sgd_classifier_case(name: str, data: str, loss: str, documented: ref.Penalty, /, **options) -> Case:
    settings = {**SGD, "epsilon": 0.45, "loss": loss, **options}
    return Case(
        f"sgd-{name}",
        lambda: lm.SGDClassifier(**settings),
        data,
        SGD_CLASSIFIER_LOSSES[loss],
        lambda estimator: documented,
        scale="rows",
        minimum=None if loss == "perceptron" else "near",
        class_weight="positive",
        zeros="l1" if options.get("penalty") in ("l1", "elasticnet") else None,
    )


def _sgd_classifier_cases() -> list[Case]:
    l2 = ref.elastic(0.2)
    plain_steps = {"average": False, "alpha": 0.05}
    return [
        *(
            _sgd_classifier_case(f"{data}-{loss}", data, loss, l2)
            for data in ("two", "three")
            for loss in SGD_CLASSIFIER_LOSSES
        ),
        _sgd_classifier_case("no-intercept", "two", "log_loss", l2, fit_intercept=False),
        _sgd_classifier_case("l1", "two", "log_loss", ref.elastic(0.05, 1.0), penalty="l1", **plain_steps),
        _sgd_classifier_case(
            "elasticnet", "two", "log_loss", ref.elastic(0.05, 0.3), penalty="elasticnet", l1_ratio=0.3, **plain_steps
        ),
    ]


def _perceptron_case(data: str, strength: float, **options) -> Case:
    penalty = ref.elastic(strength) if strength else ref.no_penalty
    return Case(
        f"perceptron-{data}-{options.get('penalty')}",
        lambda: lm.Perceptron(random_state=0, max_iter=50, tol=None, **options),
        data,
        ref.PERCEPTRON,
        lambda estimator: penalty,
        scale="rows",
        minimum=None,
        class_weight="positive",
    )


def _linear_svc_case(name: str, data: str, loss: ref.Loss, l1_ratio: float = 0.0, /, **options) -> Case:
    scaling = options.get("intercept_scaling", 1.0) if options.get("fit_intercept", True) else None
    settings = {"C": 0.4, "tol": 1e-9, "max_iter": 1_000_000, "random_state": 0, "dual": False, **options}
    return Case(
        f"linear-svc-{name}",
        lambda: LinearSVC(**settings),
        data,
        loss,
        lambda estimator: ref.elastic(1 / settings["C"], l1_ratio, scaling),
        class_weight="positive",
        weighted_balance=True,
        zeros="l1" if l1_ratio else None,
    )


def _linear_svc_cases() -> list[Case]:
    hinge = {"loss": "hinge", "dual": True, "tol": 1e-7}
    return [
        _linear_svc_case("two-squared-hinge", "two", ref.SQUARED_HINGE),
        _linear_svc_case("two-squared-hinge-dual", "two", ref.SQUARED_HINGE, dual=True, intercept_scaling=2.0),
        _linear_svc_case("two-no-intercept", "two", ref.SQUARED_HINGE, fit_intercept=False),
        _linear_svc_case("two-l1", "two", ref.SQUARED_HINGE, 1.0, penalty="l1", C=0.06),
        _linear_svc_case("three-squared-hinge", "three", ref.SQUARED_HINGE, intercept_scaling=1.5),
        _linear_svc_case("two-hinge", "two", ref.HINGE, **hinge),
        _linear_svc_case("three-hinge", "three", ref.HINGE, **hinge),
    ]


def _ridge_classifier_case(name: str, data: str, make, **settings) -> Case:
    return Case(f"ridge-classifier-{name}", make, data, ref.HALF_SQUARED, class_weight="rows", **settings)


def _ridge_classifier_cases() -> list[Case]:
    plain = {"penalty": lambda estimator: ref.elastic(estimator.alpha)}
    searched = {
        "penalty": lambda estimator: ref.elastic(estimator.alpha_),
        "refit": lambda est, factor: lm.RidgeClassifier(alpha=est.alpha_, class_weight=est.class_weight),
    }
    alphas = [0.3, 3.0, 30.0]
    return [
        _ridge_classifier_case("two", "two", lambda: lm.RidgeClassifier(alpha=3.0), **plain),
        _ridge_classifier_case("three", "three", lambda: lm.RidgeClassifier(alpha=3.0), **plain),
        _ridge_classifier_case(
            "no-intercept", "three", lambda: lm.RidgeClassifier(alpha=3.0, fit_intercept=False), **plain
        ),
        _ridge_classifier_case("cv-two", "two", lambda: lm.RidgeClassifierCV(alphas=alphas), **searched),
        _ridge_classifier_case("cv-three", "three", lambda: lm.RidgeClassifierCV(alphas=alphas, cv=3), **searched),
    ]


# --- regressors -----------------------------------------------------------------------------------


def _squared_case(name: str, make, data: str = "real", penalty=lambda estimator: ref.no_penalty, **settings) -> Case:
    return Case(name, make, data, ref.HALF_SQUARED, penalty, **settings)


def _per_target(values) -> np.ndarray | float:
    """Penalty strengths that broadcast to coef (K, d)."""
    return np.reshape(values, (-1, 1)) if np.ndim(values) else values


def _least_squares_cases() -> list[Case]:
    ridge = {"penalty": lambda estimator: ref.elastic(_per_target(estimator.alpha))}
    searched = {
        "penalty": lambda estimator: ref.elastic(_per_target(estimator.alpha_)),
        "refit": lambda est, factor: lm.Ridge(alpha=est.alpha_, fit_intercept=est.fit_intercept),
    }
    alphas = [0.3, 3.0, 30.0]
    return [
        _squared_case("linear", lm.LinearRegression),
        _squared_case("linear-no-intercept", lambda: lm.LinearRegression(fit_intercept=False)),
        _squared_case("linear-targets", lm.LinearRegression, "targets"),
        _squared_case("linear-positive", lambda: lm.LinearRegression(positive=True), zeros="bound"),
        _squared_case("ridge", lambda: lm.Ridge(alpha=4.0), **ridge),
        _squared_case("ridge-no-intercept", lambda: lm.Ridge(alpha=4.0, fit_intercept=False), **ridge),
        _squared_case("ridge-targets", lambda: lm.Ridge(alpha=4.0), "targets", **ridge),
        _squared_case("ridge-alpha-per-target", lambda: lm.Ridge(alpha=np.array([0.5, 20.0])), "targets", **ridge),
        _squared_case(
            "ridge-positive",
            lambda: lm.Ridge(alpha=4.0, positive=True, tol=1e-12, max_iter=100_000),
            zeros="bound",
            gradient_tolerance=1e-4,
            **ridge,
        ),
        _squared_case("ridge-cv", lambda: lm.RidgeCV(alphas=alphas), **searched),
        _squared_case("ridge-cv-folds", lambda: lm.RidgeCV(alphas=alphas, cv=4, fit_intercept=False), **searched),
        _squared_case("ridge-cv-targets", lambda: lm.RidgeCV(alphas=alphas), "targets", **searched),
        _squared_case(
            "ridge-cv-alpha-per-target",
            lambda: lm.RidgeCV(alphas=alphas, alpha_per_target=True),
            "targets",
            **searched,
        ),
        _squared_case(
            "bayesian-ridge",
            lambda: lm.BayesianRidge(tol=1e-8, max_iter=3000),
            penalty=lambda est: ref.elastic(est.lambda_ / est.alpha_),
            refit=lambda est, factor: lm.Ridge(alpha=est.lambda_ / est.alpha_),
        ),
        _squared_case(
            "ard",
            lambda: lm.ARDRegression(tol=1e-8, max_iter=3000, threshold_lambda=40.0),
            penalty=lambda est: ref.elastic(np.where(est.coef_ != 0, est.lambda_, 0.0) / est.alpha_),
            sample_weight=False,
            zeros="pruned",
            refit=lambda est, factor: _Scaled(est),
        ),
    ]


class _Scaled(BaseEstimator):
    """ARD's posterior mean at its fitted precisions: a ridge on the columns it kept, each scaled by its precision."""

    def __init__(self, ard):
        self.ard = ard
        self.fit_intercept = True

    def fit(self, X, y):
        scale = np.where(self.ard.coef_ != 0, self.ard.lambda_**-0.5, 0.0)
        inner = make_pipeline(FunctionTransformer(lambda rows: rows * scale), lm.Ridge(alpha=1 / self.ard.alpha_))
        ridge = inner.fit(X, y)[-1]
        self.coef_, self.intercept_ = ridge.coef_ * scale, ridge.intercept_
        return self


def _lasso_cases() -> list[Case]:
    tight = {"tol": 1e-12, "max_iter": 100_000}

    def lasso(estimator):
        return ref.elastic(estimator.alpha, 1.0)

    def net(estimator):
        return ref.elastic(estimator.alpha, estimator.l1_ratio)

    def found(est):
        return ref.elastic(est.alpha_, getattr(est, "l1_ratio_", 1.0))

    def again(est, factor):
        return lm.ElasticNet(alpha=est.alpha_ * factor, l1_ratio=getattr(est, "l1_ratio_", 1.0), **tight)

    lasso_like = {"zeros": "l1", "scale": "mean"}
    return [
        _squared_case("lasso", lambda: lm.Lasso(alpha=0.3, **tight), penalty=lasso, **lasso_like),
        _squared_case(
            "lasso-no-intercept",
            lambda: lm.Lasso(alpha=0.2, fit_intercept=False, **tight),
            penalty=lasso,
            **lasso_like,
        ),
        _squared_case("lasso-targets", lambda: lm.Lasso(alpha=0.15, **tight), "targets", penalty=lasso, **lasso_like),
        _squared_case(
            "lasso-positive",
            lambda: lm.Lasso(alpha=0.1, positive=True, **tight),
            penalty=lasso,
            scale="mean",
            zeros="bound",
        ),
        _squared_case(
            "lasso-cv", lambda: lm.LassoCV(alphas=[0.2, 2.0], cv=3, **tight), penalty=found, refit=again, **lasso_like
        ),
        _squared_case(
            "elastic-net", lambda: lm.ElasticNet(alpha=0.4, l1_ratio=0.6, **tight), penalty=net, **lasso_like
        ),
        _squared_case(
            "elastic-net-l2", lambda: lm.ElasticNet(alpha=0.4, l1_ratio=0.05, **tight), penalty=net, **lasso_like
        ),
        _squared_case(
            "elastic-net-cv",
            lambda: lm.ElasticNetCV(alphas=[0.3, 3.0], l1_ratio=[0.5, 0.9], cv=3, **tight),
            penalty=found,
            refit=again,
            **lasso_like,
        ),
    ]


def _glm_case(name: str, make, data: str, power: float, link=np.exp, **settings) -> Case:
    return Case(
        name,
        make,
        data,
        ref.half_deviance(power, link),
        lambda estimator: ref.elastic(estimator.alpha),
        scale="mean",
        link=link,
        **settings,
    )


def _identity(raw: np.ndarray) -> np.ndarray:
    return raw


def _glm_cases() -> list[Case]:
    newton = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 1000}
    lbfgs = {"solver": "lbfgs", "tol": 1e-8, "max_iter": 100_000}

    def tweedie(power, link, **options):
        return lambda: lm.TweedieRegressor(power=power, link=link, alpha=0.2, **options)

    loose = {"gradient_tolerance": 1e-5}
    return [
        _glm_case("poisson", lambda: lm.PoissonRegressor(alpha=0.2, **newton), "counts", 1),
        _glm_case("poisson-lbfgs", lambda: lm.PoissonRegressor(alpha=0.2, **lbfgs), "counts", 1, **loose),
        _glm_case(
            "poisson-no-intercept", lambda: lm.PoissonRegressor(alpha=0.2, fit_intercept=False, **newton), "counts", 1
        ),
        _glm_case("poisson-unpenalised", lambda: lm.PoissonRegressor(alpha=0.0, **newton), "counts", 1),
        _glm_case("gamma", lambda: lm.GammaRegressor(alpha=0.2, **newton), "positive", 2),
        _glm_case("tweedie--1-log", tweedie(-1, "log", **lbfgs), "positive", -1, **loose),
        _glm_case("tweedie-0-auto", tweedie(0, "auto", **newton), "real", 0, _identity),
        _glm_case("tweedie-0-log", tweedie(0, "log", **lbfgs), "positive", 0, **loose),
        _glm_case("tweedie-1-auto", tweedie(1, "auto", **newton), "counts", 1),
        _glm_case("tweedie-1-identity", tweedie(1, "identity", **lbfgs), "level", 1, _identity, **loose),
        _glm_case("tweedie-1.5-log", tweedie(1.5, "log", **newton), "counts", 1.5),
        _glm_case("tweedie-1.5-identity", tweedie(1.5, "identity", **lbfgs), "level", 1.5, _identity, **loose),
        _glm_case("tweedie-2-log", tweedie(2, "log", **newton), "positive", 2),
        _glm_case("tweedie-2-identity", tweedie(2, "identity", **lbfgs), "level", 2, _identity, **loose),
        _glm_case("tweedie-3-log", tweedie(3, "log", **newton), "positive", 3),
    ]


def _robust_cases() -> list[Case]:
    def huber_regressor(**options):
        return lambda: lm.HuberRegressor(alpha=1.5, tol=1e-9, max_iter=100_000, **options)

    frozen_scale = {
        "penalty": lambda est: ref.elastic(2 * est.alpha),
        "gradient_tolerance": 1e-4,
    }

    def quantile(name, level, alpha):
        return Case(
            name,
            lambda: lm.QuantileRegressor(quantile=level, alpha=alpha, solver="highs"),
            "real",
            ref.pinball(level),
            lambda est: ref.elastic(est.alpha, 1.0),
            scale="mean",
            zeros="l1",
        )

    return [
        Case("huber", huber_regressor(), "real", lambda est: ref.scaled_huber(1.35, est.scale_), **frozen_scale),
        Case(
            "huber-no-intercept",
            huber_regressor(fit_intercept=False, epsilon=1.8),
            "real",
            lambda est: ref.scaled_huber(1.8, est.scale_),
            **frozen_scale,
        ),
        quantile("quantile-median", 0.5, 0.02),
        quantile("quantile-0.8", 0.8, 0.0),
        *_linear_svr_cases(),
    ]


def _linear_svr_cases() -> list[Case]:
    tight = {"C": 0.4, "max_iter": 1_000_000, "random_state": 0, "epsilon": 0.3}

    def case(name, loss, scaling=1.0, /, **options):
        return Case(
            f"linear-svr-{name}",
            lambda: LinearSVR(**tight, **options),
            "real",
            loss,
            lambda est: ref.elastic(1 / 0.4, 0.0, scaling),
        )

    squared = {"loss": "squared_epsilon_insensitive", "dual": False, "tol": 1e-9}
    return [
        case("squared", ref.squared_epsilon_insensitive(0.3), **squared),
        case("squared-scaled", ref.squared_epsilon_insensitive(0.3), 2.0, intercept_scaling=2.0, **squared),
        case("squared-no-intercept", ref.squared_epsilon_insensitive(0.3), None, fit_intercept=False, **squared),
        case("plain", ref.epsilon_insensitive(0.3), loss="epsilon_insensitive", dual=True, tol=1e-7),
    ]


def _sgd_regressor_cases() -> list[Case]:
    losses = {
        "squared_error": ref.HALF_SQUARED,
        "huber": ref.huber(0.45),
        "epsilon_insensitive": ref.epsilon_insensitive(0.45),
        "squared_epsilon_insensitive": ref.squared_epsilon_insensitive(0.45),
    }

    def case(name, loss, documented, /, **options):
        settings = {**SGD, "loss": loss, "epsilon": 0.45, **options}
        return Case(
            f"sgd-regressor-{name}",
            lambda: lm.SGDRegressor(**settings),
            "real",
            losses[loss],
            lambda est: documented,
            scale="rows",
            minimum="near",
            zeros="l1" if options.get("penalty") in ("l1", "elasticnet") else None,
        )

    return [
        *(case(loss, loss, ref.elastic(0.2)) for loss in losses),
        case("l1", "squared_error", ref.elastic(0.2, 1.0), penalty="l1", average=False),
        case("unpenalised", "squared_error", ref.no_penalty, penalty=None),
    ]


CASES = [
    *_logistic_cases(),
    *_sgd_classifier_cases(),
    _perceptron_case("two", 0.0),
    _perceptron_case("two", 0.01, penalty="l2", alpha=0.01),
    _perceptron_case("three", 0.0),
    *_linear_svc_cases(),
    *_ridge_classifier_cases(),
    *_least_squares_cases(),
    *_lasso_cases(),
    *_glm_cases(),
    *_robust_cases(),
    *_sgd_regressor_cases(),
]
BY_ID = {case.id: case for case in CASES}
