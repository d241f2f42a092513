"""Objectives: gradients against finite differences, signs against refits, and what each refuses."""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit, softmax
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from skinfluence import HeldOut, InfluenceSelector, influence_scores, metrics
from skinfluence.methods import Exact, IPEnsemble
from skinfluence.models import as_model
from skinfluence.objectives import (
    OBJECTIVES,
    AdversarialRobustness,
    Counterfactual,
    CustomObjective,
    DemographicParity,
    EqualizedOdds,
    EqualOpportunity,
    Joint,
    MeanLoss,
    Utility,
    adversarial_rows,
    resolve_objective,
)
from skinfluence.operators import TrainingProblem

# --- models and rows --------------------------------------------------------------------------------------------------

N, D = 120, 5


class Setting(NamedTuple):
    problem: TrainingProblem
    rows: Any
    X_val: np.ndarray
    y_val: np.ndarray
    groups: np.ndarray
    weight: np.ndarray | None


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "binary": lambda: LogisticRegression(C=0.5, tol=1e-8, max_iter=500),
    "multinomial": lambda: LogisticRegression(C=0.5, tol=1e-8, max_iter=500),
    "one-vs-rest": lambda: LinearSVC(C=0.1, tol=1e-6, max_iter=10_000),
    "no-intercept": lambda: LogisticRegression(fit_intercept=False, class_weight={0: 1.0, 1: 3.0}),
    "ridge": lambda: Ridge(alpha=2.0),
    "targets": lambda: Ridge(alpha=2.0),
    "log-link": lambda: PoissonRegressor(alpha=0.1, tol=1e-6),
}
CLASSIFIERS = ["binary", "multinomial", "one-vs-rest", "no-intercept"]
REGRESSORS = ["ridge", "targets", "log-link"]


def labels_of(kind: str, logits: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    if kind in ("multinomial", "one-vs-rest"):
        return np.array(["a", "b", "c"])[(logits[:, :3] + rng.gumbel(size=(len(logits), 3))).argmax(axis=1)]
    if kind in ("binary", "no-intercept"):
        return (logits[:, 0] + rng.logistic(size=len(logits)) > 0).astype(int)
    if kind == "targets":
        return logits[:, :2] + rng.normal(size=(len(logits), 2))
    if kind == "log-link":
        return rng.poisson(np.exp(0.3 * logits[:, 0])).astype(float)
    return logits[:, 0] + rng.normal(size=len(logits))


@functools.cache
def setting(kind: str, container: str = "dense", weighted: bool = False, dtype: type = np.float64) -> Setting:
    rng = np.random.RandomState(3)
    X = rng.normal(size=(2 * N, D)) * (rng.uniform(size=(2 * N, D)) < 0.8)
    groups = np.array(["p", "q", "r"])[np.digitize(X[:, 0] + rng.normal(size=2 * N), [-0.8, 0.9])]
    y = labels_of(kind, X @ rng.normal(size=(D, 3)), rng)
    weight = rng.uniform(0.2, 3.0, size=2 * N) if weighted else None
    X = X.astype(dtype)
    wrap = {"dense": np.asarray, "csr": sp.csr_array, "csc": sp.csc_array}[container]
    train, val = slice(0, N), slice(N, None)
    w, w_val = (None, None) if weight is None else (weight[train], weight[val])
    estimator = ESTIMATORS[kind]().fit(X[train], y[train], sample_weight=w)
    problem = TrainingProblem(as_model(estimator), wrap(X[train]), y[train], w)
    rows = problem.other_rows(wrap(X[val]), y[val], w_val)
    return Setting(problem, rows, X[val], y[val], groups[val], w_val)


def moved_params(problem: TrainingProblem, seed: int = 0) -> np.ndarray:
    return problem.params + 0.3 * np.random.RandomState(seed).normal(size=problem.n_params)


def squares(outputs, targets, sample_weight=None):
    """The log of the sum of squares: no mean over rows."""
    total = (outputs**2).sum()
    return np.log(total), 2 * outputs / total


def objective_of(name: str, kind: str) -> Any:
    positive = "b" if kind in ("multinomial", "one-vs-rest") else None
    rng = np.random.RandomState(5)
    pairs = tuple(rng.normal(size=(40, D)) for _ in range(2))
    return {
        "demographic_parity": DemographicParity(positive),
        "equal_opportunity": EqualOpportunity(positive),
        "equalized_odds": EqualizedOdds(positive),
        "robustness": AdversarialRobustness(),
        "robustness-mae": AdversarialRobustness(gamma=0.7, loss="mae"),
        "counterfactual": Counterfactual(pairs),
        "counterfactual-sparse": Counterfactual((sp.csr_array(pairs[0]), sp.csc_array(pairs[1]))),
        "custom": CustomObjective(squares, check_gradient=True),
    }[name]


def bound_on(name: str, kind: str, *where: Any) -> tuple[Any, Setting]:
    at = setting(kind, *where)
    objective = objective_of(name, kind)
    groups = at.groups if objective.uses_groups else None
    return objective.bind(at.problem, at.rows, trusted=True, sensitive_features=groups), at


EVERYWHERE = ["demographic_parity", "counterfactual", "custom"]
OF_CLASSES = ["equal_opportunity", "equalized_odds", "robustness", "robustness-mae"]
GRID = [(name, kind) for name in EVERYWHERE for kind in ESTIMATORS]
GRID += [(name, kind) for name in OF_CLASSES for kind in CLASSIFIERS]


def slope(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences."""
    moves = step * np.eye(len(at))
    return np.array([function(at + move) - function(at - move) for move in moves]) / (2 * step)


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["dense", "csr"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("name", "kind"), GRID)
def test_the_gradient_is_the_slope_of_the_value(name, kind, container, weighted):
    bound, at = bound_on(name, kind, container, weighted)
    model = at.problem.fitted.model
    points = [at.problem.params, moved_params(at.problem, 1), moved_params(at.problem, 2)]
    for point, gradient in zip(points, bound.gradients(points), strict=True):
        expected = slope(lambda params: bound.value(model.at(params)), point)
        assert gradient.shape == (at.problem.n_params,)
        assert_allclose(gradient, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
        assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize(("name", "kind"), GRID)
def test_blocks_and_containers_change_nothing(name, kind):
    bound, at = bound_on(name, kind, "dense", True)
    points = [at.problem.params, moved_params(at.problem)]
    model = at.problem.fitted.model.at(points[1])
    value, gradients = bound.value(model), bound.gradients(points)
    hard = bound.hard_value(model) if hasattr(bound, "hard_value") else None
    for container in ("dense", "csr", "csc"):
        with config_context(working_memory=0.005):
            other, _ = bound_on(name, kind, container, True)
            assert_allclose(other.value(model), value, rtol=1e-12)
            assert_allclose(other.gradients(points), gradients, rtol=1e-9, atol=1e-12)
            if hard is not None:
                assert_allclose(other.hard_value(model), hard, rtol=1e-12)


@pytest.mark.parametrize(("name", "kind"), GRID)
def test_float32_tables_give_the_same_to_their_precision(name, kind):
    bound, at = bound_on(name, kind)
    narrow, _ = bound_on(name, kind, "dense", False, np.float32)
    model, points = at.problem.fitted.model, [at.problem.params]
    assert_allclose(narrow.value(model), bound.value(model), rtol=1e-3)
    (expected,), (gradient,) = bound.gradients(points), narrow.gradients(points)
    assert gradient.dtype == np.float64
    assert_allclose(gradient, expected, atol=1e-2 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_input_gradient_is_the_slope_of_the_outputs_in_x(kind):
    at = setting(kind)
    model = at.problem.fitted.model
    X = at.X_val[:7]
    C = np.random.RandomState(0).normal(size=(7, model.n_outputs))
    gradient = model.input_gradient(X, C)
    assert gradient.shape == X.shape
    for i, row in enumerate(X):
        assert_allclose(gradient[i], slope(lambda x, i=i: float(model.outputs(x[None])[0] @ C[i]), row), atol=1e-8)
    assert_allclose(model.input_gradient(sp.csr_array(X), C), gradient)
    assert model.input_gradient(X.astype(np.float32), C).dtype == np.float32


# --- signs ------------------------------------------------------------------------------------------------------------


class Biased(NamedTuple):
    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray


def biased(seed: int, n: int, regression: bool = False, flips: float = 0.1) -> Biased:
    """Rows whose labels (some of them wrong) depend on the group beyond what the features tell."""
    rng = np.random.RandomState(seed)
    groups = rng.randint(2, size=n)
    X = np.column_stack([rng.normal(size=(n, 3)), groups + 0.5 * rng.normal(size=n)])
    signal = X[:, 0] - X[:, 1] + 3.0 * groups - 1.5
    if regression:
        return Biased(X, signal + rng.normal(size=n), groups)
    y = (signal + rng.logistic(size=n) > 0).astype(int)
    return Biased(X, np.where(rng.uniform(size=n) < flips, 1 - y, y), groups)


def smallest_margin(outputs, targets):
    """The negative of the smallest margin, smoothed."""
    side = 2.0 * targets[:, None] - 1
    powers = np.exp(-side * outputs)
    return np.log(powers.mean()), -side * powers / powers.sum()


def signed(name: str, X_val: np.ndarray) -> Any:
    twins = X_val.copy()
    twins[:, 3] = 1 - twins[:, 3]
    return {
        "robustness": AdversarialRobustness(),
        "robustness-1.05": AdversarialRobustness(gamma=1.05),
        "counterfactual": Counterfactual((X_val, twins)),
        "custom": CustomObjective(smallest_margin),
    }.get(name) or resolve_objective(name.removesuffix("-ridge"))


@pytest.mark.parametrize(
    "name",
    [
        "demographic_parity",
        "demographic_parity-ridge",
        "equal_opportunity",
        "equalized_odds",
        "robustness",
        "robustness-1.05",
        "counterfactual",
        "custom",
    ],
)
def test_removing_the_worst_rows_lowers_the_objective_more_than_chance(name):
    regression, n, n_removed = name.endswith("ridge"), 600, 20
    for seed in range(4):
        train, val = biased(seed, n, regression), biased(100 + seed, 400, regression, flips=0.0)
        estimator = Ridge(1.0) if regression else LogisticRegression(C=1.0, tol=1e-6)
        estimator.fit(train.X, train.y)
        problem = TrainingProblem(as_model(estimator), train.X, train.y)
        objective = signed(name, val.X)
        bound = objective.bind(
            problem,
            problem.other_rows(val.X, val.y),
            trusted=True,
            sensitive_features=val.groups if objective.uses_groups else None,
        )
        rng = np.random.RandomState(seed)
        scores, _ = Exact().score_rows(problem, bound, None, rng, None)
        order, base = scores.argsort(), bound.value(problem.fitted.model)

        def change(removed, train=train, estimator=estimator, bound=bound, base=base):
            keep = np.setdiff1d(np.arange(n), removed)
            return bound.value(as_model(clone(estimator).fit(train.X[keep], train.y[keep])).model) - base

        worst, best = change(order[:n_removed]), change(order[-n_removed:])
        random = [change(rng.choice(n, n_removed, replace=False)) for _ in range(4)]
        assert worst < min(random) < max(random) < best
        assert worst < 0 < best
        assert_allclose(change(order[:1]), scores[order[0]], rtol=0.1)


@pytest.mark.parametrize("objective", [DemographicParity(), EqualizedOdds(), AdversarialRobustness()], ids=str)
def test_exact_is_leave_one_out(objective):
    train, val = biased(0, 60), biased(1, 200)
    estimator = LogisticRegression(C=1.0, tol=1e-8).fit(train.X, train.y)
    held_out = HeldOut(val.X, val.y, sensitive_features=val.groups if objective.uses_groups else None)
    exact, truth = (
        influence_scores(estimator, train.X, train.y, held_out, method=method, objective=objective)
        for method in ("exact", "leave_one_out")
    )
    assert np.corrcoef(exact, truth)[0, 1] > 0.95
    assert 0.7 < (exact @ truth) / (exact @ exact) < 1.4


# --- fairness ---------------------------------------------------------------------------------------------------------


def probabilities(at: Setting, params: np.ndarray) -> np.ndarray:
    F = at.problem.fitted.model.at(params).outputs(at.X_val)
    if F.shape[1] == 1:
        return expit(F[:, 0])
    return softmax(F, axis=1)[:, 1] if isinstance(at.problem.fitted.estimator, LogisticRegression) else expit(F[:, 1])


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_soft_and_hard_gaps_are_what_they_say(kind, weighted):
    at = setting(kind, "dense", weighted)
    params = moved_params(at.problem)
    frame = pd.DataFrame(
        {"p": probabilities(at, params), "group": at.groups, "w": 1.0 if at.weight is None else at.weight}
    )
    positive = at.y_val == at.problem.fitted.classes[1]

    def gap(rows):
        means = [np.average(part.p, weights=part.w) for _, part in frame[rows].groupby("group")]
        return max(means) - min(means)

    model = at.problem.fitted.model.at(params)
    F = model.outputs(at.X_val)
    codes = (F[:, 0] > 0).astype(int) if F.shape[1] == 1 else F.argmax(axis=1)
    y_pred = at.problem.fitted.classes[codes]
    soft = {
        "demographic_parity": gap(positive | True),
        "equal_opportunity": gap(positive),
        "equalized_odds": max(gap(positive), gap(~positive)),
    }
    for name, expected in soft.items():
        bound, _ = bound_on(name, kind, "dense", weighted)
        assert_allclose(bound.value(model), expected, rtol=1e-12)
        hard = getattr(metrics, f"{name}_difference")(
            at.y_val,
            y_pred,
            sensitive_features=at.groups,
            sample_weight=at.weight,
            positive_label=at.problem.fitted.classes[1],
        )
        assert hard > 0
        assert_allclose(bound.hard_value(model), hard, rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_fairlearns_metric_frame_agrees_with_the_hard_value(weighted):
    fairlearn = pytest.importorskip("fairlearn.metrics")
    at = setting("binary", "dense", weighted)
    frame = fairlearn.MetricFrame(
        metrics={
            "demographic_parity": fairlearn.selection_rate,
            "equal_opportunity": fairlearn.true_positive_rate,
            "false": fairlearn.false_positive_rate,
        },
        y_true=at.y_val,
        y_pred=at.problem.fitted.estimator.predict(at.X_val),
        sensitive_features=at.groups,
        sample_params={
            name: {"sample_weight": at.weight} for name in ("demographic_parity", "equal_opportunity", "false")
        },
    )
    expected = frame.difference()
    expected["equalized_odds"] = max(expected["equal_opportunity"], expected["false"])
    for name in ("demographic_parity", "equal_opportunity", "equalized_odds"):
        bound, _ = bound_on(name, "binary", "dense", weighted)
        assert_allclose(bound.hard_value(at.problem.fitted.model), expected[name], rtol=1e-12)


@pytest.mark.parametrize("kind", REGRESSORS)
def test_the_gap_of_a_regressor_is_that_of_the_mean_predictions(kind):
    bound, at = bound_on("demographic_parity", kind, "dense", True)
    predicted = at.problem.fitted.estimator.predict(at.X_val).reshape(len(at.y_val), -1)
    gaps = [
        metrics.group_mean_difference(column, sensitive_features=at.groups, sample_weight=at.weight)
        for column in predicted.T
    ]
    model = at.problem.fitted.model
    assert_allclose(bound.value(model), max(gaps), rtol=1e-12)
    assert bound.hard_value(model) == bound.value(model)


def test_class_weights_do_not_enter_the_gap():
    plain, at = bound_on("demographic_parity", "no-intercept")
    assert at.rows.weight is not None
    assert at.rows.user_weight is None
    assert_allclose(
        plain.value(at.problem.fitted.model),
        metrics.group_mean_difference(probabilities(at, at.problem.params), sensitive_features=at.groups),
    )


def test_either_class_may_be_the_positive_one():
    at = setting("binary")
    model = at.problem.fitted.model

    def value(objective):
        return objective.bind(at.problem, at.rows, trusted=True, sensitive_features=at.groups).value(model)

    assert value(DemographicParity(0)) == value(DemographicParity(1)) == value(DemographicParity())
    assert value(EqualizedOdds(0)) == pytest.approx(value(EqualizedOdds()))
    assert value(EqualOpportunity(0)) != pytest.approx(value(EqualOpportunity()))
    assert value(EqualizedOdds()) == pytest.approx(max(value(EqualOpportunity(0)), value(EqualOpportunity(1))))


def test_no_gap_has_no_slope():
    at = setting("binary")
    bound = DemographicParity().bind(at.problem, at.rows, trusted=True, sensitive_features=at.groups)
    zero = np.zeros(at.problem.n_params)
    assert bound.value(at.problem.fitted.model.at(zero)) == 0.0
    assert_array_equal(bound.gradients([zero])[0], zero)


def test_fairness_through_the_front_doors():
    train, val = biased(0, 200), biased(1, 200)
    estimator = LogisticRegression().fit(train.X, train.y)
    by_name = influence_scores(
        estimator, train.X, train.y, val.X, val.y, objective="demographic_parity", sensitive_features_val=val.groups
    )
    groups = pd.Series(np.where(val.groups == 1, "one", "other")).to_frame()
    by_object = influence_scores(
        estimator, train.X, train.y, HeldOut(val.X, val.y, sensitive_features=groups), objective=DemographicParity()
    )
    assert_allclose(by_name, by_object)
    selector = InfluenceSelector(LogisticRegression(), objective="equalized_odds", method="exact", removal_rate=0.1)
    selector.fit(train.X, train.y, sensitive_features=train.groups)
    kept = clone(estimator).fit(train.X[selector.support_], train.y[selector.support_])
    gap = [
        metrics.equalized_odds_difference(val.y, model.predict(val.X), sensitive_features=val.groups)
        for model in (kept, estimator)
    ]
    assert gap[0] < gap[1]


@pytest.mark.parametrize(
    ("objective", "kind", "groups", "words"),
    [
        (DemographicParity(), "binary", None, "sensitive_features_val=.* for validation rows"),
        (DemographicParity(), "binary", ["a"] * N, "at least two of them"),
        (DemographicParity(), "binary", ["a", "b"], f"each of {N} rows, got 2"),
        (DemographicParity(), "binary", [None, *["a", "b"] * (N // 2)][:N], "1 of 120 are missing"),
        (DemographicParity("x"), "binary", ["a", "b"] * (N // 2), r"one of the classes \[0, 1\], got 'x'"),
        (DemographicParity(), "multinomial", ["a", "b"] * (N // 2), r"there are 3: \['a', 'b', 'c'\]. Say which: Dem"),
        (EqualOpportunity(), "ridge", ["a", "b"] * (N // 2), "Ridge is a regressor. Use DemographicParity"),
        (EqualizedOdds(), "ridge", ["a", "b"] * (N // 2), "Ridge is a regressor. Use DemographicParity"),
        (DemographicParity(1), "ridge", ["a", "b"] * (N // 2), "Ridge is a regressor. Use DemographicParity"),
    ],
)
def test_fairness_says_what_it_needs(objective, kind, groups, words):
    at = setting(kind)
    with pytest.raises(ValueError, match=words):
        objective.bind(at.problem, at.rows, trusted=True, sensitive_features=groups)


def test_empty_cells_are_named():
    at = setting("binary")
    groups = np.where(at.y_val == 1, "a", np.where(np.arange(N) % 2, "a", "b"))
    with pytest.raises(ValueError, match=r"EqualOpportunity needs rows with y == 1 .* group 'b' has none"):
        EqualOpportunity().bind(at.problem, at.rows, trusted=True, sensitive_features=groups)
    with pytest.raises(ValueError, match=r"EqualizedOdds needs rows with y != 0 .* group 'b' has none"):
        EqualizedOdds(0).bind(at.problem, at.rows, trusted=True, sensitive_features=groups)
    DemographicParity().bind(at.problem, at.rows, trusted=True, sensitive_features=groups)
    weightless = at.problem.other_rows(at.X_val, at.y_val, (groups == "a").astype(float))
    with pytest.raises(ValueError, match=r"DemographicParity needs rows of positive weight .* 'b' has none"):
        DemographicParity().bind(at.problem, weightless, trusted=True, sensitive_features=groups)


# --- robustness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "no-intercept"])
def test_rows_of_two_classes_cross_the_boundary_by_the_formula(kind):
    at = setting(kind)
    estimator = at.problem.fitted.estimator
    w, b = estimator.coef_[0], estimator.intercept_[0] if estimator.fit_intercept else 0.0
    expected = at.X_val - 1.3 * ((at.X_val @ w + b) / (w @ w))[:, None] * w
    moved = adversarial_rows(estimator, at.X_val)
    assert_allclose(moved, expected, rtol=1e-10, atol=1e-12)
    assert_allclose(estimator.decision_function(moved), -0.3 * estimator.decision_function(at.X_val))
    assert_allclose(adversarial_rows(estimator, sp.csc_array(at.X_val)), moved, rtol=1e-12)
    assert_array_equal(adversarial_rows(estimator, at.X_val, gamma=0), at.X_val)
    right = estimator.score(at.X_val, at.y_val)
    assert metrics.robust_accuracy(at.y_val, estimator.predict(moved)) == pytest.approx(1 - right)


@pytest.mark.parametrize("kind", ["multinomial", "one-vs-rest"])
def test_rows_of_several_classes_cross_the_nearest_boundary(kind):
    at = setting(kind)
    estimator = at.problem.fitted.estimator
    F, own = estimator.decision_function(at.X_val), estimator.predict(at.X_val)
    codes = np.searchsorted(estimator.classes_, own)
    distance = np.array(
        [
            min((f[c] - f[k]) / np.linalg.norm(estimator.coef_[c] - estimator.coef_[k]) for k in range(3) if k != c)
            for f, c in zip(F, codes, strict=True)
        ]
    )
    moved = adversarial_rows(estimator, at.X_val, gamma=1.001)
    assert_allclose(np.linalg.norm(moved - at.X_val, axis=1), 1.001 * distance)
    assert (estimator.predict(moved) != own).all()
    assert_array_equal(estimator.predict(adversarial_rows(estimator, at.X_val, gamma=0.999)), own)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize("trusted", [True, False])
def test_robustness_is_utility_on_rows_moved_once(kind, trusted):
    """On frozen rows, at any parameters; with the loss that Utility takes for such labels."""
    at = setting(kind, "dense", True)
    moved = adversarial_rows(at.problem.fitted.estimator, at.X_val)
    rows = at.problem.other_rows(moved, at.y_val, at.weight)
    bound = AdversarialRobustness().bind(at.problem, at.rows, trusted=trusted)
    plain = Utility().bind(at.problem, rows, trusted=trusted)
    points = [at.problem.params, moved_params(at.problem)]
    assert_allclose(bound.gradients(points), plain.gradients(points), rtol=1e-9, atol=1e-14)
    other = at.problem.fitted.model.at(points[1])
    assert_allclose(bound.value(other), plain.value(other))
    F = other.outputs(moved)
    wrong = (F.argmax(axis=1) if F.shape[1] > 1 else F[:, 0] > 0) != rows.y
    assert_allclose(bound.hard_value(other), np.average(wrong, weights=at.weight))


def test_ensembles_share_the_moved_rows():
    at = setting("binary")
    problem = at.problem
    args = (problem.fitted.estimator, problem.rows.X, problem.rows.y)
    moved = adversarial_rows(problem.fitted.estimator, at.X_val)
    for method in ("ip", IPEnsemble(4, 0.2), "exact"):
        scores = influence_scores(*args, at.X_val, at.y_val, method=method, objective="robustness", random_state=0)
        assert_allclose(scores, influence_scores(*args, moved, at.y_val, method=method, random_state=0), atol=1e-14)


def test_a_model_without_a_boundary_leaves_rows_where_they_are():
    at = setting("multinomial")
    estimator = clone(at.problem.fitted.estimator).fit(at.X_val, at.y_val)
    estimator.coef_ = np.zeros_like(estimator.coef_)
    assert_array_equal(adversarial_rows(estimator, at.X_val), at.X_val)
    estimator = clone(setting("binary").problem.fitted.estimator).fit(at.X_val, at.y_val == "a")
    estimator.coef_ = np.zeros_like(estimator.coef_)
    assert_array_equal(adversarial_rows(estimator, at.X_val), at.X_val)


def test_adversarial_rows_of_a_pipeline_are_those_of_its_last_step():
    at = setting("binary")
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(at.X_val, at.y_val)
    assert_allclose(adversarial_rows(pipe, at.X_val), adversarial_rows(pipe[-1], pipe[:-1].transform(at.X_val)))


def test_sparse_rows_are_never_dense_as_a_whole():
    rng = np.random.RandomState(0)
    n, d = 4000, 4000
    X = sp.csr_array(sp.random(n, d, density=0.002, random_state=rng))
    y = rng.randint(2, size=n)
    problem = TrainingProblem(as_model(LogisticRegression(C=0.1).fit(X[:500], y[:500])), X[:500], y[:500])
    rows = problem.other_rows(X, y)
    tracemalloc.start()
    bound = AdversarialRobustness().bind(problem, rows, trusted=True)
    bound.gradients([problem.params])
    bound.value(problem.fitted.model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n * d * 8 / 8, f"{peak / 2**20:.0f} MiB"


@pytest.mark.parametrize(
    ("objective", "kind", "error", "words"),
    [
        (AdversarialRobustness(), "ridge", TypeError, "Ridge is a regressor"),
        (AdversarialRobustness(gamma=-1), "binary", ValueError, "gamma"),
        (AdversarialRobustness(gamma=np.inf), "binary", ValueError, "gamma must be finite"),
        (AdversarialRobustness(gamma="far"), "binary", TypeError, "gamma"),
        (AdversarialRobustness(loss="huber"), "binary", ValueError, "'huber'"),
    ],
    ids=str,
)
def test_robustness_says_what_it_needs(objective, kind, error, words):
    at = setting(kind)
    with pytest.raises(error, match=words):
        objective.bind(at.problem, at.rows, trusted=True)
    if kind == "ridge":
        with pytest.raises(error, match=words):
            adversarial_rows(at.problem.fitted.estimator, at.X_val)


def test_rows_that_are_not_finite_are_refused():
    at = setting("multinomial")
    X = at.X_val.copy()
    X[3, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        adversarial_rows(at.problem.fitted.estimator, X)
    for objective in (AdversarialRobustness(), DemographicParity("a"), CustomObjective(squares)):
        bound = objective.bind(
            at.problem, at.problem.other_rows(X, at.y_val, name="X_val"), trusted=True, sensitive_features=at.groups
        )
        with pytest.raises(ValueError, match="Input X_val contains NaN"):
            bound.gradients([at.problem.params])
        with pytest.raises(ValueError, match="Input X_val contains NaN"):
            bound.value(at.problem.fitted.model)
    bound = Counterfactual((at.X_val, X)).bind(at.problem, at.rows, trusted=True)
    with pytest.raises(ValueError, match=r"pairs\[1\] contains NaN"):
        bound.gradients([at.problem.params])


# --- counterfactual ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binary", "multinomial", "ridge", "log-link"])
def test_twins_are_compared_by_what_is_predicted(kind):
    at = setting(kind)
    estimator = at.problem.fitted.estimator
    twins = at.X_val[::-1]
    bound = Counterfactual((at.X_val, twins)).bind(at.problem, at.rows, trusted=False)
    if kind in CLASSIFIERS:
        gap = estimator.predict_proba(at.X_val) - estimator.predict_proba(twins)
        gap = gap[:, 1:] if kind == "binary" else gap
        hard = metrics.fair_score(estimator.predict(at.X_val), estimator.predict(twins))
        assert 0 < hard < 1
    else:
        gap = (estimator.predict(at.X_val) - estimator.predict(twins)).reshape(len(twins), -1)
        hard = (gap**2).sum(axis=1).mean()
    assert_allclose(bound.value(at.problem.fitted.model), (gap**2).sum(axis=1).mean())
    assert_allclose(bound.hard_value(at.problem.fitted.model), hard)


def test_pairs_go_through_the_transformers_of_the_estimator():
    train, val = biased(0, 100), biased(1, 50)
    twins = val.X.copy()
    twins[:, 3] = 1 - twins[:, 3]
    pipe = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.X * 10, train.y)
    problem = TrainingProblem(as_model(pipe), train.X * 10, train.y)
    bound = Counterfactual((val.X * 10, twins * 10)).bind(problem, problem.rows, trusted=False)
    gap = pipe.predict_proba(val.X * 10)[:, 1] - pipe.predict_proba(twins * 10)[:, 1]
    assert_allclose(bound.value(problem.fitted.model), (gap**2).mean())


def test_counterfactual_is_cross_fitted_like_any_other():
    train, val = biased(0, 150), biased(1, 100)
    twins = val.X.copy()
    twins[:, 3] = 1 - twins[:, 3]
    selector = InfluenceSelector(LogisticRegression(), objective=Counterfactual((val.X, twins)), removal_rate=0.1)
    assert clone(selector).fit(train.X, train.y).support_.sum() == 135


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        (None, "pairs=.X, X_twin., two tables of the same shape; got None"),
        (np.zeros((4, D)), "got ndarray"),
        ((np.zeros((4, D)),), "got tuple of 1"),
        ((np.zeros((4, D)), np.zeros((3, D))), "inconsistent numbers of samples"),
        ((np.zeros((4, D)), np.zeros((4, D + 1))), f"{D + 1} features"),
        ((np.zeros((0, D)), np.zeros((0, D))), "0 sample"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs, words):
    at = setting("binary")
    with pytest.raises(ValueError, match=words):
        Counterfactual(pairs).bind(at.problem, at.rows, trusted=True)


# --- joint ------------------------------------------------------------------------------------------------------------

SCORES = np.array([[-4.0, 1.0], [0.0, 1.0], [1.0, -3.0], [3.0, 5.0]])


def test_ranks_are_averaged():
    ranks = np.array([[1, 2.5], [2, 2.5], [3, 1], [4, 4]]) / 4
    joint = Joint(["utility", "robustness"])
    assert_allclose(joint.combine_scores(SCORES), ranks.mean(axis=1))
    assert_allclose(Joint(["utility", "robustness"], [3, 1]).combine_scores(SCORES), ranks @ [0.75, 0.25])
    assert_allclose(Joint(["utility", "robustness"], [0, 2]).combine_scores(SCORES), ranks[:, 1])
    assert_allclose(joint.combine_scores(SCORES * [1e9, 1e-9]), joint.combine_scores(SCORES))
    assert not joint.calibrated


def test_scores_are_averaged_in_units_of_their_spread():
    joint = Joint(["utility", "robustness"], [3, 1], combine="score")
    assert_allclose(joint.combine_scores(SCORES), SCORES / SCORES.std(axis=0) @ [0.75, 0.25])
    assert_allclose(joint.combine_scores(SCORES * [1e9, 1e-9]), joint.combine_scores(SCORES))
    assert joint.calibrated
    constant = np.column_stack([SCORES[:, 0], np.zeros(4)])
    assert_allclose(joint.combine_scores(constant), 0.75 * SCORES[:, 0] / SCORES[:, 0].std())


@pytest.mark.parametrize("combine", ["rank", "score"])
def test_a_joint_of_one_keeps_the_order(combine):
    scores = np.random.RandomState(0).normal(size=(50, 1))
    combined = Joint(["utility"], combine=combine).combine_scores(scores)
    assert_array_equal(combined.argsort(), scores[:, 0].argsort())


def test_parts_and_their_names():
    joint = Joint(["utility", DemographicParity(1), Utility("mae"), Counterfactual(), Counterfactual(), "utility"])
    assert joint.names() == [
        "utility",
        "demographic_parity",
        "utility_2",
        "counterfactual",
        "counterfactual_2",
        "utility_3",
    ]
    assert str(joint.parts()[2]) == "Utility(loss='mae')"
    assert joint.uses_groups
    assert not Joint(["utility", "robustness"]).uses_groups
    again = clone(joint)
    assert again.names() == joint.names()
    assert again is not joint


@pytest.mark.parametrize("combine", ["rank", "score"])
def test_joint_scores_are_those_of_its_parts_combined(combine):
    train, val = biased(0, 150), biased(1, 150)
    estimator = LogisticRegression().fit(train.X, train.y)
    held_out = HeldOut(val.X, val.y, sensitive_features=val.groups)

    def scores(objective, held_out=held_out):
        return influence_scores(estimator, train.X, train.y, held_out, method="exact", objective=objective)

    joint = Joint(["utility", "equalized_odds", "robustness"], [2, 1, 1], combine)
    columns = [scores("utility", HeldOut(val.X, val.y)), scores("equalized_odds")]
    columns.append(scores("robustness", HeldOut(val.X, val.y)))
    assert_allclose(scores(joint), joint.combine_scores(np.column_stack(columns)), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    ("joint", "error", "words"),
    [
        (Joint("utility"), TypeError, "needs a list of objectives"),
        (Joint([]), ValueError, "at least one objective"),
        (Joint(["utility", "utilty"]), ValueError, "'utilty'"),
        (Joint(["utility", 3]), TypeError, "got 3"),
        (Joint([Joint(["utility"]), "utility"]), TypeError, "Joint in a Joint"),
        (Joint(["utility"], combine="mean"), ValueError, "combine must be 'rank' or 'score', got 'mean'"),
        (Joint(["utility"], weights=[1, 2]), ValueError, "weights must be 1 finite numbers"),
        (Joint(["utility", "robustness"], weights=[1, -2]), ValueError, "zero or more"),
        (Joint(["utility", "robustness"], weights=[0, 0]), ValueError, "not all zero"),
        (Joint(["utility", "robustness"], weights=[1, np.nan]), ValueError, "finite"),
    ],
    ids=str,
)
def test_a_joint_that_is_none_is_refused(joint, error, words):
    with pytest.raises(error, match=words):
        joint.parts()


def test_a_joint_is_bound_part_by_part():
    at = setting("binary")
    with pytest.raises(TypeError, match="bound part by part"):
        Joint(["utility"]).bind(at.problem, at.rows, trusted=True)
    with pytest.raises(ValueError, match=r"shape \(n_samples, 2\), got \(4, 3\)"):
        Joint(["utility", "robustness"]).combine_scores(np.zeros((4, 3)))


# --- custom -----------------------------------------------------------------------------------------------------------


def mean_log_loss(outputs, targets, sample_weight):
    z = (2 * targets[:, None] - 1) * outputs
    w = np.ones(len(z)) if sample_weight is None else sample_weight
    w = (w / w.sum())[:, None]
    return (w * np.logaddexp(0, -z)).sum(), -w * (2 * targets[:, None] - 1) * expit(-z)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_mean_over_rows_is_utility(weighted):
    at = setting("binary", "dense", weighted)
    points = [at.problem.params, moved_params(at.problem)]
    custom = CustomObjective(mean_log_loss, check_gradient=True).bind(at.problem, at.rows, trusted=True)
    utility = Utility("log_loss").bind(at.problem, at.rows, trusted=True)
    assert isinstance(utility, MeanLoss)
    assert_allclose(custom.value(at.problem.fitted.model), utility.value(at.problem.fitted.model))
    assert_allclose(custom.gradients(points), utility.gradients(points))


def test_targets_have_room_for_arithmetic():
    at = setting("multinomial")

    def function(outputs, targets):
        assert targets.dtype == np.intp
        assert outputs.dtype == np.float64
        return float((targets * 1000).sum()), np.zeros_like(outputs)

    bound = CustomObjective(function).bind(at.problem, at.rows, trusted=True)
    assert bound.value(at.problem.fitted.model) == 1000.0 * at.rows.y.astype(int).sum()


@pytest.mark.parametrize("kind", ["binary", "multinomial", "ridge"])
def test_wrong_gradients_are_found(kind):
    at = setting(kind)

    def one_entry(outputs, targets):
        value, gradient = squares(outputs, targets)
        gradient[7] *= 1.01
        return value, gradient

    for function in (one_entry, lambda F, y: (squares(F, y)[0], 2 * squares(F, y)[1])):
        CustomObjective(function).bind(at.problem, at.rows, trusted=True)
        with pytest.raises(ValueError, match=r"it says .*, and finite differences say"):
            CustomObjective(function, check_gradient=True).bind(at.problem, at.rows, trusted=True)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("squares", TypeError, "needs a function"),
        (lambda F, y: 1.0, ValueError, r"must return a tuple \(value, gradient\), got float"),
        (lambda F, y: (F, F), ValueError, r"a single number and a gradient of shape \(120, 1\)"),
        (lambda F, y: (1.0, F[:, 0]), ValueError, r"got shapes \(\) and \(120,\)"),
        (lambda F, y: (np.nan, F), ValueError, "finite"),
        (lambda F, y: (0.0, F * np.inf), ValueError, "finite"),
    ],
)
def test_functions_that_are_none_are_refused(function, error, words):
    at = setting("binary")
    with pytest.raises(error, match=words), np.errstate(invalid="ignore"):
        CustomObjective(function, check_gradient=True).bind(at.problem, at.rows, trusted=True)


def test_weights_that_a_function_would_miss_are_refused():
    at = setting("binary", "dense", True)
    with pytest.raises(ValueError, match="Give it a parameter sample_weight"):
        CustomObjective(lambda F, y: (0.0, 0 * F)).bind(at.problem, at.rows, trusted=True)


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_objectives_are_parameters_like_any_other(name):
    objective = resolve_objective(name)
    assert str(clone(objective)) == str(objective)
    assert resolve_objective(objective) is objective
    for key, value in objective.get_params().items():
        assert getattr(clone(objective).set_params(**{key: value}), key) == value


@pytest.mark.parametrize("objective", [Utility, squares, 3], ids=["class", "function", "number"])
def test_what_is_no_objective_is_refused(objective):
    with pytest.raises(TypeError, match=r"objective must be one of .* CustomObjective\(function\); got"):
        resolve_objective(objective)


def test_wrong_labels_do_not_break_robustness_without_validation_rows():
    """In-sample, labels are not trusted: the loss on the moved rows is the robust one."""
    X, y = make_classification(100, random_state=0)
    estimator = LogisticRegression().fit(X, y)
    auto = influence_scores(estimator, X, y, objective=AdversarialRobustness())
    assert_allclose(auto, influence_scores(estimator, X, y, objective=AdversarialRobustness(loss="mae")))
    assert np.abs(auto - influence_scores(estimator, X, y, objective=AdversarialRobustness(loss="log_loss"))).max() > 0
