"""Regressors that are robust themselves, judged by rows whose targets may be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import HuberRegressor, PoissonRegressor, QuantileRegressor, Ridge, SGDRegressor
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVR

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.losses import CappedLoss, ResidualLoss
from skinfluence.models import as_model
from skinfluence.objectives import Utility
from skinfluence.operators import TrainingProblem

ROBUST: dict[str, Any] = {
    "huber": HuberRegressor(max_iter=2000),
    "sgd, huber": SGDRegressor(loss="huber", epsilon=0.1, max_iter=3000, tol=1e-5, random_state=0),
    "svr": LinearSVR(epsilon=0.3, max_iter=20_000, random_state=0),
    "svr, absolute": LinearSVR(epsilon=0.0, max_iter=20_000, random_state=0),
    "median": QuantileRegressor(alpha=1e-3, solver="highs"),
    "upper quantile": QuantileRegressor(quantile=0.8, alpha=1e-3, solver="highs"),
}
SQUARED: dict[str, Any] = {
    "ridge": Ridge(),
    "svr": LinearSVR(loss="squared_epsilon_insensitive", max_iter=20_000, random_state=0),
}


def table(seed: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diabetes in units of its spread, a share of its targets 5 to 15 of them too high; and which."""
    X, y = load_diabetes(return_X_y=True)
    X, y = StandardScaler().fit_transform(X), (y - y.mean()) / y.std()
    rng = np.random.default_rng(seed)
    shifted = np.zeros(len(y), dtype=bool)
    shifted[rng.choice(len(y), round(share * len(y)), replace=False)] = True
    return X, y + shifted * rng.uniform(5, 15, len(y)), shifted


def found(estimator: Any, objective: Any, method: Any = "ip", share: float = 0.1) -> np.ndarray:
    """AUROC of the shifted rows, over five seeds."""
    made = []
    for seed in range(5):
        X, y, shifted = table(seed, share)
        curator = InfluenceSelector(clone(estimator), method=method, objective=objective, random_state=seed)
        made.append(roc_auc_score(shifted, -curator.fit(X, y).scores_))
    return np.array(made)


def own_problem(estimator: Any) -> TrainingProblem:
    X, y, _ = table(0)
    return TrainingProblem(as_model(clone(estimator).fit(X, y)), X, y)


@pytest.mark.parametrize("name", ROBUST)
def test_rows_with_gross_targets_are_found_through_a_robust_model(name):
    """Under Huber's loss, which is no more robust than these models, good rows were taken for the harmful ones."""
    assert found(ROBUST[name], "utility").mean() > 0.63


@pytest.mark.parametrize("method", ["ip", "exact", "ip_ensemble"])
def test_of_which_the_more_the_better_they_are_found(method):
    assert found(ROBUST["huber"], "utility", method, share=0.2).min() > 0.85
    assert found(ROBUST["huber"], Utility("huber"), method, share=0.2).max() < 0.5  # what it was


@pytest.mark.parametrize("name", ROBUST)
def test_the_loss_chosen_pulls_nowhere_harder_than_the_models_own(name):
    problem = own_problem(ROBUST[name])
    loss = Utility().bind(problem, problem.rows, trusted=False).loss
    assert isinstance(loss, CappedLoss)
    y = np.zeros((2001, 1))
    F = np.linspace(-30, 30, len(y))[:, None]
    own, chosen = problem.loss.gradient(F, y), loss.gradient(F, y)
    assert_array_equal(chosen[chosen != 0], own[chosen != 0])
    assert_array_equal(chosen[np.abs(F) > 10], 0)
    at = problem.fitted.model.outputs(problem.rows.X)
    assert (loss.gradient(at, problem.rows.y) != 0).sum() >= 0.75 * (
        problem.loss.gradient(at, problem.rows.y) != 0
    ).sum()


@pytest.mark.parametrize("name", SQUARED)
def test_models_with_an_unbounded_loss_are_judged_by_hubers(name):
    problem = own_problem(SQUARED[name])
    assert isinstance(Utility().bind(problem, problem.rows, trusted=False).loss, ResidualLoss)
    X, y, _ = table(0)
    kept = {"removal_rate": 0.1, "method": "ip"}
    auto, huber = (
        InfluenceSelector(clone(SQUARED[name]), objective=goal, random_state=0, **kept).fit(X, y)
        for goal in ("utility", Utility("huber"))
    )
    assert_array_equal(auto.scores_, huber.scores_)


def test_trusted_rows_are_judged_by_the_models_own_loss():
    X, y, _ = table(0)
    model = clone(ROBUST["huber"]).fit(X, y)
    auto, own = (
        influence_scores(model, X, y, X[:50], y[:50], objective=Utility(loss)) for loss in ("auto", "training")
    )
    assert_array_equal(auto, own)


def test_the_cap_can_be_asked_for_by_name():
    problem = own_problem(SQUARED["ridge"])
    loss = Utility("capped").bind(problem, problem.rows, trusted=True).loss
    residuals = problem.fitted.model.outputs(problem.rows.X) - problem.rows.y
    middle = np.median(residuals)
    far = np.abs(residuals - middle) > 2.795 * 1.4826 * np.median(np.abs(residuals - middle))
    assert 0.05 < far.mean() < 0.2
    assert_allclose(loss.gradient(residuals, np.zeros_like(residuals)), np.where(far, 0.0, residuals))
    assert found(SQUARED["ridge"], Utility("capped")).min() > 0.85


def test_but_not_of_logarithms():
    X, y, _ = table(0)
    model = PoissonRegressor().fit(X, np.exp(y / 5))
    with pytest.raises(ValueError, match="raw outputs are their predictions; those of PoissonRegressor"):
        influence_scores(model, X, np.exp(y / 5), objective=Utility("capped"))
    problem = TrainingProblem(as_model(model), X, np.exp(y / 5))
    assert isinstance(Utility().bind(problem, problem.rows, trusted=False).loss, ResidualLoss)


def test_nets_are_judged_as_their_criterion_asks():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    X, y, _ = table(0)
    X, y = X.astype(np.float32), np.exp(y[:, None] / 5).astype(np.float32)
    for criterion, bounded in [
        (nn.MSELoss(), False),
        (nn.L1Loss(), True),
        (nn.SmoothL1Loss(), True),
        (nn.HuberLoss(delta=0.5), True),
        (nn.PoissonNLLLoss(log_input=False), False),
    ]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(10, 4), nn.Tanh(), nn.Linear(4, 1), nn.Softplus())
        problem = TrainingProblem(as_model((module, criterion)), X, y)
        loss = Utility().bind(problem, problem.rows, trusted=False).loss
        assert isinstance(loss, CappedLoss if bounded else ResidualLoss), criterion
        assert loss.gradient(y + 1, y).dtype == np.float32
