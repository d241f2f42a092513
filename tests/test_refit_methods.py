"""Values by refits and by neighbours: against every subset, by hand; checkpoints, against runs that were killed."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import beta as beta_function
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_breast_cancer, make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    LassoCV,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import scale

from skinfluence import HeldOut, InfluenceSelector, influence_scores
from skinfluence._checkpoint import Checkpoint, digest
from skinfluence._scores import bind
from skinfluence.methods._game import Game, size_shares
from skinfluence.methods._neighbours import KNNShapley
from skinfluence.methods._refit import LeaveOneOut, Refit, constant_model, stand_in
from skinfluence.methods._shapley import BetaShapley, DataShapley
from skinfluence.models import as_model
from skinfluence.objectives import AdversarialRobustness, CustomObjective, DemographicParity, Utility
from skinfluence.operators import TrainingProblem

try:
    import cloudpickle  # what joblib's workers are sent things with
except ImportError:
    from joblib.externals import cloudpickle  # older releases bring their own

# --- the slow truth ---------------------------------------------------------------------------------------------------


class ByHand:
    """The objective of every subset of the rows, each fitted with scikit-learn alone."""

    def __init__(self, estimator, X, y, X_val, y_val, weight=None, min_rows=1):
        self.estimator, self.X, self.y, self.X_val, self.y_val = estimator, X, y, X_val, y_val
        self.weight = np.ones(len(y)) if weight is None else weight
        self.weighted, self.min_rows = weight is not None, min_rows
        self.classes = np.unique(y) if is_classifier(estimator) else None
        self.n_training = len(y)  # the constant prediction is that of these rows, whatever comes to them
        self.known = {}

    def __call__(self, subset):
        key = frozenset(i for i in subset if self.weight[i] > 0)
        if key not in self.known:
            self.known[key] = self.value(np.array(sorted(key), dtype=int))
        return self.known[key]

    def value(self, S):
        if self.classes is None:
            enough = len(S) >= self.min_rows
        else:
            enough = all((self.y[S] == c).sum() >= self.min_rows for c in self.classes)
        rows = np.arange(self.n_training)
        if self.classes is None:
            if enough:
                F = self.fit(S).predict(self.X_val)
            else:
                F = np.full(len(self.y_val), np.average(self.y[rows], weights=self.weight[rows]))
            return np.mean((F - self.y_val) ** 2) / 2
        if enough:
            P = self.fit(S).predict_proba(self.X_val)
        else:
            shares = [self.weight[rows][self.y[rows] == c].sum() for c in self.classes]
            P = np.tile(np.array(shares) / np.sum(shares), (len(self.y_val), 1))
        return log_loss(self.y_val, P, labels=self.classes)

    def fit(self, S):
        weight = {"sample_weight": self.weight[S]} if self.weighted else {}
        return clone(self.estimator).fit(self.X[S], self.y[S], **weight)


def semivalue(value, n, alpha=1.0, beta=1.0, player=None):
    """The definition: a sum over all subsets of the others."""
    found = np.zeros(n)
    for i in range(n) if player is None else [player]:
        others = [j for j in range(n) if j != i]
        for size in range(n):
            share = beta_function(size + beta, n - 1 - size + alpha) / beta_function(alpha, beta)
            for S in itertools.combinations(others, size):
                found[i] += share * (value(S) - value((*S, i)))
    return found if player is None else found[player]


class AllOrders:
    """Stands in for the random numbers of a game: order after order, and for each of them size after size."""

    def __init__(self, number, n_sizes=1):
        self.number, self.n_sizes = number, n_sizes

    def permutation(self, players):
        return np.array(list(itertools.permutations(players))[self.number // self.n_sizes])

    def random_sample(self):
        return (self.number % self.n_sizes + 0.5) / self.n_sizes


@pytest.fixture
def all_orders(monkeypatch):
    """A function that has all orders drawn, with so many sizes of subsets each, and no subset fitted twice."""
    known, value = {}, Refit.value

    def once(self, keep=None, added=None):
        key = (id(self), None if keep is None else keep.tobytes(), None if added is None else added.X.tobytes())
        if key not in known:
            known[key] = value(self, keep, added)
        return known[key]

    monkeypatch.setattr(Refit, "value", once)

    def draw(n_sizes=1):
        monkeypatch.setattr(Game, "_rng", lambda self, number: AllOrders(number, n_sizes))

    draw()
    return draw


def data(kind, n, seed=0, n_val=20):
    rng = np.random.RandomState(seed)
    X = rng.standard_normal((n + n_val, 3))
    if kind == "numbers":
        y = X @ [1.0, -2.0, 0.5] + rng.standard_normal(n + n_val) + 3
    else:
        n_classes = 3 if kind == "three" else 2
        y = (X[:, 0] + rng.standard_normal(n + n_val)).argsort().argsort() * n_classes // (n + n_val)
        y[:n] = np.arange(n) % n_classes  # so that small subsets may have them all
    return X[:n], y[:n], X[n:], y[n:]


def reported(estimator, X, y, X_val, y_val, method, weight=None, seed=0, n_jobs=None, objective=None):
    """Scores, and the report that goes with them."""
    problem = TrainingProblem(as_model(estimator), X, y, weight)
    bound = bind(objective or Utility(), problem, HeldOut(X_val, y_val), None)
    return method.score_rows(problem, bound, None, np.random.RandomState(seed), n_jobs)


GAMES = {
    "two classes": (LogisticRegression(), "two", None, 1),
    "three classes": (LogisticRegression(), "three", None, 1),
    "two classes, weights": (LogisticRegression(), "two", [1.0, 2.0, 0.0, 1.0, 3.0], 1),
    "numbers": (Ridge(), "numbers", None, 1),
    "numbers, weights, two rows": (Ridge(), "numbers", [1.0, 0.0, 0.5, 2.0, 1.0], 2),
}


@pytest.fixture(params=sorted(GAMES), ids=str)
def game(request):
    """A fitted estimator on five rows, its data, weights and ``min_rows``, and the game by hand."""
    estimator, kind, weight, min_rows = GAMES[request.param]
    X, y, X_val, y_val = data(kind, 5)
    weight = None if weight is None else np.array(weight)
    by_hand = ByHand(estimator, X, y, X_val, y_val, weight, min_rows)
    return clone(estimator).fit(X, y, sample_weight=weight), (X, y, X_val, y_val), weight, min_rows, by_hand


# --- Shapley values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (4.0, 1.0), (1.0, 16.0), (2.5, 0.5)])
def test_all_orders_together_give_the_definition(game, all_orders, alpha, beta):
    estimator, (X, y, X_val, y_val), weight, min_rows, by_hand = game
    players = np.arange(5) if weight is None else np.flatnonzero(weight)
    options = {"n_permutations": math.factorial(len(players)), "truncation": 0.0, "min_rows": min_rows}
    method = DataShapley(**options) if alpha == beta else BetaShapley(alpha, beta, **options)
    values, report = reported(estimator, X, y, X_val, y_val, method, weight)
    expected = np.zeros(5)
    expected[players] = semivalue(lambda S: by_hand(players[list(S)]), len(players), alpha, beta)
    assert_allclose(values, expected, rtol=1e-5, atol=1e-7)
    assert_allclose(report["objective_empty"], by_hand(()), rtol=1e-12)
    assert_allclose(report["objective_all"], by_hand(range(5)), rtol=1e-6)
    if alpha == beta:
        assert_allclose(values.sum(), by_hand(()) - by_hand(range(5)), rtol=1e-6)


@pytest.mark.parametrize("kind", ["two", "numbers"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (3.0, 1.0)])
def test_rows_from_elsewhere_are_valued_in_the_game_of_the_training_rows_and_them(all_orders, kind, alpha, beta):
    X, y, X_val, y_val = data(kind, 6)
    estimator = (Ridge() if kind == "numbers" else LogisticRegression()).fit(X[:4], y[:4])
    problem = TrainingProblem(as_model(estimator), X[:4], y[:4])
    bound = bind(Utility(), problem, HeldOut(X_val, y_val), None)
    all_orders(n_sizes=5)
    others = problem.other_rows(X[4:], y[4:])
    if alpha == beta:
        values, _ = DataShapley(120).score_rows(problem, bound, others, np.random.RandomState(0), None)
    else:  # sizes are drawn by their shares: as many of each as these make of a hundred, in all orders
        shares = size_shares(4, alpha, beta)
        assert_allclose(shares, [beta_function(s + beta, 4 - s + alpha) * math.comb(4, s) * 3 for s in range(5)])
        all_orders(n_sizes=35)
        assert_allclose(shares * 35, np.round(shares * 35), atol=1e-9)
        method = BetaShapley(alpha, beta, 24 * 35)
        values, _ = method.score_rows(problem, bound, others, np.random.RandomState(0), None)
    for i in range(2):
        rows = [0, 1, 2, 3, 4 + i]
        by_hand = ByHand(estimator, X[rows], y[rows], X_val, y_val)
        by_hand.n_training = 4
        assert_allclose(values[i], semivalue(by_hand, 5, alpha, beta, player=4), rtol=1e-5, atol=1e-7)


def test_drawn_orders_come_near_and_say_how_near():
    X, y, X_val, y_val = data("numbers", 7)
    estimator = Ridge().fit(X, y)
    values, report = reported(estimator, X, y, X_val, y_val, DataShapley(200, truncation=0.0))
    expected = semivalue(ByHand(estimator, X, y, X_val, y_val), 7)
    error = report["standard_error"]
    assert report["n_permutations"] == 200
    assert (np.abs(values - expected) < 4 * error).all()
    assert (error < 0.3 * np.abs(expected).max()).all()
    # The error falls with the root of the number of orders.
    _, few = reported(estimator, X, y, X_val, y_val, DataShapley(50, truncation=0.0))
    assert_allclose(few["standard_error"].mean() / error.mean(), 2.0, rtol=0.3)


def slow_orders(game, number, truncation, patience=5):
    """What the rows of one order are given, refit by refit; the loop of Algorithm 1, with its rule for the rest."""
    order = game._rng(number).permutation(game.players)
    values = [game.of_none if not game._can_be_fitted(order[:j]) else game.refit.value(np.sort(order[:j])) for j in
              range(len(order) + 1)]  # fmt: skip
    falls = np.zeros(len(order))
    for j in range(len(order)):
        falls[order[j]] = values[j] - values[j + 1]
        last = values[max(j + 2 - patience, 0) : j + 2]
        gap = truncation * abs(values[0] - values[-1])
        if len(last) == patience and j + 1 < len(order) and all(abs(v - values[-1]) < gap for v in last):
            falls[order[j + 1 :]] = (values[j + 1] - values[-1]) / (len(order) - j - 1)
            break
    return falls


def test_truncation_shares_what_is_left_among_the_rest():
    X, y, X_val, y_val = data("numbers", 30)
    estimator = Ridge().fit(X, y)
    exact, full = reported(estimator, X, y, X_val, y_val, DataShapley(4, truncation=0.0))
    cut, report = reported(estimator, X, y, X_val, y_val, DataShapley(4, truncation=0.2))
    # The last prefix of an order, and the empty one, are known without a refit of their own.
    assert full["n_refits"] == 1 + 4 * 29
    assert 1 + 4 * 5 < report["n_refits"] < full["n_refits"]
    assert_allclose(cut.sum(), report["objective_empty"] - report["objective_all"], rtol=1e-12)
    assert_allclose(exact.sum(), cut.sum(), rtol=1e-12)
    assert np.abs(exact - cut).max() > 0
    problem = TrainingProblem(as_model(estimator), X, y)
    refit = Refit(problem, bind(Utility(), problem, HeldOut(X_val, y_val), None), 0)
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=2)[1]
    game = Game(refit, 1, 0.2, 1.0, 1.0, int(seed))
    assert_allclose(cut, np.mean([slow_orders(game, p, 0.2) for p in range(4)], axis=0), rtol=1e-9, atol=1e-12)


def test_weights_of_sizes():
    assert_allclose(size_shares(9, 1.0, 1.0), np.full(10, 0.1))
    for alpha, beta in [(16.0, 1.0), (1.0, 4.0), (0.5, 2.0)]:
        shares = size_shares(20, alpha, beta)
        assert_allclose(shares.sum(), 1.0)
        assert_allclose(shares @ np.arange(21), 20 * beta / (alpha + beta))
    assert np.isfinite(size_shares(100_000, 16.0, 1.0)).all()


def test_a_large_beta_is_leave_one_out(all_orders):
    X, y, X_val, y_val = data("numbers", 5)
    estimator = Ridge().fit(X, y)
    last, report = reported(estimator, X, y, X_val, y_val, BetaShapley(1.0, 1e9, n_permutations=120))
    assert report["n_refits"] == 1 + 120  # the only prefix that counts is that of all rows but one
    assert_allclose(last, reported(estimator, X, y, X_val, y_val, LeaveOneOut())[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", [DataShapley(5), BetaShapley(n_permutations=5), LeaveOneOut()], ids=str)
def test_same_values_for_any_number_of_jobs(method):
    X, y, X_val, y_val = data("two", 16)
    estimator = SGDClassifier(loss="log_loss", max_iter=20, tol=None).fit(X, y)  # without a seed of its own
    one, report = reported(estimator, X, y, X_val, y_val, method)
    two, again = reported(estimator, X, y, X_val, y_val, method, n_jobs=2)
    assert_array_equal(one, two)
    assert report["n_refits"] == again["n_refits"]
    other, _ = reported(estimator, X, y, X_val, y_val, method, seed=1)
    assert np.abs(one - other).max() > 0


def test_it_stops_where_the_errors_are_small_enough():
    X, y, X_val, y_val = data("numbers", 8)
    estimator = Ridge().fit(X, y)
    _, fixed = reported(estimator, X, y, X_val, y_val, DataShapley(64))
    assert fixed["converged"] is None
    values, report = reported(estimator, X, y, X_val, y_val, DataShapley(640, tol=0.5))
    assert report["converged"] is True
    assert report["n_permutations"] in range(16, 640, 16)
    noise = np.sqrt(np.mean(report["standard_error"] ** 2)) / values.std()
    assert noise <= 0.5
    fewer = report["n_permutations"] - 16
    if fewer:
        before, report = reported(estimator, X, y, X_val, y_val, DataShapley(fewer))
        assert np.sqrt(np.mean(report["standard_error"] ** 2)) / before.std() > 0.5
    with pytest.warns(ConvergenceWarning, match="After 16 permutations"):
        _, report = reported(estimator, X, y, X_val, y_val, DataShapley(16, tol=1e-3))
    assert report["converged"] is False


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (LogisticRegression(), "two"),
        (LogisticRegression(), "three"),
        (RidgeClassifier(), "three"),
        (Ridge(), "numbers"),
        (PoissonRegressor(), "counts"),
    ],
    ids=str,
)
def test_the_prediction_without_features_is_the_prior_or_the_mean(estimator, kind):
    X, y, *_ = data("numbers" if kind == "counts" else kind, 30)
    y = np.round(np.exp(y / 3)) if kind == "counts" else y
    weight = np.linspace(0.5, 2.0, 30)
    estimator.fit(X, y, sample_weight=weight)
    problem = TrainingProblem(as_model(estimator), X, y, weight)
    model = constant_model(problem)
    (F,), _ = model.outputs_and_jvps(problem.rows.X, [model.params], [])
    assert_array_equal(F, model.outputs(problem.rows.X))
    assert F.shape == (30, problem.fitted.model.n_outputs)
    assert np.ptp(F, axis=0).max() == 0
    if kind in ("numbers", "counts"):
        mean = np.average(y, weights=weight)
        assert_allclose(np.exp(F[0]) if kind == "counts" else F[0], mean)
        return
    shares = np.bincount(y, weight) / weight.sum()
    if isinstance(estimator, RidgeClassifier):
        assert_allclose(1 / (1 + np.exp(-F[0])), shares)
    else:
        assert_allclose(np.exp(F[0]) / (1 + np.exp(F[0])) if kind == "two" else np.exp(F[0]), shares[-len(F[0]) :])


def test_any_objective_has_shapley_values():
    X, y, X_val, y_val = data("two", 20, n_val=40)
    estimator = LogisticRegression().fit(X, y)
    groups = np.where(X_val[:, 1] > 0, "a", "b")
    values = influence_scores(
        estimator, X, y, X_val, y_val, method=DataShapley(3), objective="demographic_parity",
        sensitive_features_val=groups, random_state=0,
    )  # fmt: skip
    # The prediction that knows no features treats all groups alike: what is shared out is the whole gap.
    P = estimator.predict_proba(X_val)[:, 1]
    assert_allclose(values.sum(), -abs(P[groups == "a"].mean() - P[groups == "b"].mean()), rtol=1e-4)
    custom = CustomObjective(lambda F, y: (float((F**2).sum()), 2 * F))
    for objective in (AdversarialRobustness(), custom, Utility("gce")):
        _, report = reported(estimator, X, y, X_val, y_val, DataShapley(2), objective=objective)
        assert report["objective_empty"] != report["objective_all"]


def test_a_subset_has_one_value_in_whichever_order_its_rows_come():
    X, y, X_val, y_val = data("two", 20)
    problem = TrainingProblem(as_model(SGDClassifier(loss="log_loss").fit(X, y)), X, y)
    refit = Refit(problem, bind(Utility(), problem, HeldOut(X_val, y_val), None), 0)
    game = Game(refit, 1, 0.0, 1.0, 1.0, 0)
    subset = np.arange(12)
    assert game._value(subset) == game._value(subset[::-1])
    assert refit.value(subset) != refit.value(subset[::-1])


def test_estimators_that_split_their_rows_need_more_of_them():
    X, y, X_val, y_val = data("numbers", 12)
    estimator = LassoCV(alphas=[0.1, 0.01], cv=3).fit(X, y)
    _, report = reported(estimator, X, y, X_val, y_val, DataShapley(2, truncation=0.0, min_rows=3))
    assert report["n_refits"] == 1 + 2 * (12 - 3)
    with pytest.raises(ValueError, match=r"n_splits=3"):
        reported(estimator, X, y, X_val, y_val, DataShapley(2))


@pytest.mark.parametrize("method", [DataShapley(8), BetaShapley(n_permutations=8), KNNShapley(3)], ids=str)
def test_curators_cross_fit_them(method):
    X, y = make_classification(40, 4, class_sep=2.0, flip_y=0, random_state=3)
    y[:4] = 1 - y[:4]
    selector = InfluenceSelector(LogisticRegression(), method=method, removal_rate=0.1, cv=2, random_state=0).fit(X, y)
    assert roc_auc_score(np.arange(40) < 4, -selector.scores_) > 0.9
    assert len(selector.diagnostics_) == 2


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        (DataShapley(1), ValueError, "n_permutations"),
        (DataShapley(2.5), TypeError, "n_permutations"),
        (DataShapley(truncation=1.0), ValueError, "truncation"),
        (DataShapley(truncation=-0.1), ValueError, "truncation"),
        (DataShapley(tol=0.0), ValueError, "tol"),
        (DataShapley(min_rows=0), ValueError, "min_rows"),
        (DataShapley(min_rows=20), ValueError, "min_rows=20 training rows of positive weight of each class"),
        (BetaShapley(alpha=0.0), ValueError, "alpha"),
        (BetaShapley(beta=np.inf), ValueError, "beta must be finite"),
        (BetaShapley(beta=np.nan), ValueError, "beta"),
        (DataShapley(checkpoint_dir=3), TypeError, "checkpoint_dir"),
        (LeaveOneOut(checkpoint_dir=b"here"), TypeError, "checkpoint_dir"),
        (KNNShapley(0), ValueError, "n_neighbors"),
        (KNNShapley("five"), TypeError, "n_neighbors"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(method, error, words):
    X, y, X_val, y_val = data("two", 20)
    with pytest.raises(error, match=words):
        influence_scores(LogisticRegression().fit(X, y), X, y, X_val, y_val, method=method, random_state=0)


@pytest.mark.parametrize("method", [DataShapley(), BetaShapley(), KNNShapley(), LeaveOneOut()], ids=str)
def test_methods_are_parameters_like_any_other(method):
    assert str(clone(method)) == str(method)
    for name, value in method.get_params().items():
        assert getattr(clone(method).set_params(**{name: value}), name) == value


# --- neighbours -------------------------------------------------------------------------------------------------------


def knn_objective(X, y, X_val, y_val, k, classes, centre=0.0, weight=None, itself=False):
    """The loss of k neighbours on the validation rows, of any subset of the rows, row by row."""
    weight = np.ones(len(y_val)) if weight is None else weight

    def value(S):
        losses = []
        for v in range(len(y_val)):
            S_v = [i for i in S if not (itself and i == v)]
            near = sorted(S_v, key=lambda i: (((X[i] - X_val[v]) ** 2).sum(), i))[:k]
            if classes:
                losses.append(1 - sum(y[i] == y_val[v] for i in near) / k)
            else:
                losses.append(np.sum((sum(y[i] - centre for i in near) / k - (y_val[v] - centre)) ** 2) / 2)
        return np.average(losses, weights=weight)

    return value


def knn_data(classes, n=7, n_val=4, targets=1, seed=0):
    rng = np.random.RandomState(seed)
    X, X_val = rng.standard_normal((n, 2)), rng.standard_normal((n_val, 2))
    if classes:
        y, y_val = np.arange(n) % 3, rng.randint(3, size=n_val)
        return LogisticRegression().fit(X, y), X, y, X_val, y_val
    y, y_val = rng.standard_normal((n, targets)) + 5, rng.standard_normal((n_val, targets)) + 5
    if targets == 1:
        y, y_val = y.ravel(), y_val.ravel()
    return Ridge().fit(X, y), X, y, X_val, y_val


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("classes", [True, False])
def test_neighbours_give_the_definition(classes, k):
    estimator, X, y, X_val, y_val = knn_data(classes, targets=2)
    weight = np.array([1.0, 0.0, 0.5, 2.0])
    by_hand = knn_objective(X, y, X_val, y_val, k, classes, 0.0 if classes else y.mean(axis=0), weight)
    held_out = HeldOut(X_val, y_val, sample_weight=weight)
    values = influence_scores(estimator, X, y, held_out, method=KNNShapley(k))
    assert_allclose(values, semivalue(by_hand, 7), rtol=1e-10, atol=1e-14)
    assert_allclose(values.sum(), by_hand(()) - by_hand(range(7)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("k", [1, 3, 9])
@pytest.mark.parametrize("classes", [True, False])
def test_training_rows_are_no_neighbours_of_their_own(classes, k):
    estimator, X, y, *_ = knn_data(classes, 6)
    by_hand = knn_objective(X, y, X, y, k, classes, 0.0 if classes else y.mean(), itself=True)
    values = influence_scores(estimator, X, y, method=KNNShapley(k))
    assert_allclose(values, semivalue(by_hand, 6), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("against_training_rows", [True, False])
def test_neighbours_from_elsewhere_come_one_by_one(classes, k, against_training_rows):
    estimator, X, y, X_val, y_val = knn_data(classes, 8)
    n = 6
    estimator.fit(X[:n], y[:n])
    problem = TrainingProblem(as_model(estimator), X[:n], y[:n])
    bound = bind(Utility(), problem, None if against_training_rows else HeldOut(X_val, y_val), None)
    others = problem.other_rows(X[n:], y[n:])
    values, _ = KNNShapley(k).score_rows(problem, bound, others, np.random.RandomState(0), None)
    centre = 0.0 if classes else y[:n].mean()
    if against_training_rows:
        X_val, y_val = X[:n], y[:n]
    for i in range(2):
        rows = [*range(n), n + i]
        by_hand = knn_objective(X[rows], y[rows], X_val, y_val, k, classes, centre, itself=against_training_rows)
        assert_allclose(values[i], semivalue(by_hand, n + 1, player=n), rtol=1e-10, atol=1e-14)


def test_the_whole_is_scikit_learns_nearest_neighbours():
    X, y = scale(load_breast_cancer().data), load_breast_cancer().target
    values = influence_scores(LogisticRegression().fit(X[:300], y[:300]), X[:300], y[:300], X[300:], y[300:],
                              method=KNNShapley(7))  # fmt: skip
    P = KNeighborsClassifier(7).fit(X[:300], y[:300]).predict_proba(X[300:])
    assert_allclose(values.sum(), P[np.arange(len(P)), y[300:]].mean(), rtol=1e-10)
    X, y = make_regression(200, 5, random_state=0)
    values = influence_scores(Ridge().fit(X[:100], y[:100]), X[:100], y[:100], X[100:], y[100:], method=KNNShapley(7))
    F = KNeighborsRegressor(7).fit(X[:100], y[:100]).predict(X[100:])
    empty = np.mean((y[:100].mean() - y[100:]) ** 2) / 2
    assert_allclose(values.sum(), empty - np.mean((F - y[100:]) ** 2) / 2, rtol=1e-10)


def test_neighbours_find_wrong_labels():
    X, y = scale(load_breast_cancer().data), load_breast_cancer().target.copy()
    wrong = np.random.RandomState(0).permutation(len(y))[:57]
    y[wrong] = 1 - y[wrong]
    values = influence_scores(LogisticRegression().fit(X, y), X, y, method=KNNShapley(10))
    assert roc_auc_score(np.isin(np.arange(len(y)), wrong), -values) > 0.95


def test_neighbours_in_any_container_memory_and_number_of_jobs():
    rng = np.random.RandomState(0)
    X = rng.randint(3, size=(300, 4)).astype(float)  # many rows alike, and many zeros
    y = rng.randint(2, size=300)
    data = (X[:200], y[:200], X[200:], y[200:])
    estimator = LogisticRegression().fit(*data[:2])
    values = influence_scores(estimator, *data, method=KNNShapley(4))
    by_hand = [sum(y[i] == y[200 + v] for i in np.argsort(((X[:200] - X[200 + v]) ** 2).sum(axis=1), kind="stable")[:4])
               for v in range(100)]  # fmt: skip
    assert_allclose(values.sum(), np.mean(by_hand) / 4)
    for hold in (sp.csr_array, sp.csc_array, lambda X: X.astype(np.float32)):
        held = (hold(data[0]), data[1], hold(data[2]), data[3])
        assert_allclose(influence_scores(estimator, *held, method=KNNShapley(4)), values, rtol=1e-12)
    mixed = (sp.csr_array(data[0]), *data[1:])
    assert_allclose(influence_scores(estimator, *mixed, method=KNNShapley(4)), values, rtol=1e-12)
    assert_array_equal(influence_scores(estimator, *data, method=KNNShapley(4), n_jobs=2), values)
    with config_context(working_memory=0.05):
        tight = influence_scores(estimator, *data, method=KNNShapley(4))
        assert_allclose(tight, values, rtol=1e-9, atol=1e-15)
        assert_array_equal(influence_scores(estimator, *data, method=KNNShapley(4), n_jobs=2), tight)


def test_neighbours_count_alike_or_not_at_all():
    estimator, X, y, X_val, y_val = knn_data(True, 9)
    weight = np.array([2.0, 0.0, 2.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0])
    kept = weight > 0
    some = influence_scores(estimator, X, y, X_val, y_val, method=KNNShapley(3), sample_weight=weight)
    assert_array_equal(some[~kept], 0)
    fewer = influence_scores(clone(estimator).fit(X[kept], y[kept]), X[kept], y[kept], X_val, y_val,
                             method=KNNShapley(3))  # fmt: skip
    assert_allclose(some[kept], fewer)
    in_sample = influence_scores(estimator, X, y, method=KNNShapley(3), sample_weight=weight)
    assert_allclose(in_sample[kept], influence_scores(estimator, X[kept], y[kept], method=KNNShapley(3)))
    with pytest.raises(ValueError, match="counts all rows alike"):
        influence_scores(estimator, X, y, X_val, y_val, method=KNNShapley(3), sample_weight=np.arange(1.0, 10))


def test_neighbours_have_a_loss_of_their_own():
    estimator, X, y, X_val, y_val = knn_data(True)
    own = Utility(loss=lambda F, y: (F.sum(axis=1), np.ones_like(F)))
    for objective in (AdversarialRobustness(), own):
        with pytest.raises(TypeError, match="a mean over rows under a loss of the package"):
            influence_scores(estimator, X, y, X_val, y_val, method=KNNShapley(), objective=objective)
    for part, value in ((X, np.nan), (X_val, np.inf)):
        part[1, 1] = value
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            influence_scores(estimator, X, y, X_val, y_val, method=KNNShapley())
        part[1, 1] = 0.0


# --- nets -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nets():
    """A skorch net of each kind with its targets, on the same rows."""
    torch, skorch = pytest.importorskip("torch"), pytest.importorskip("skorch")
    X, y = make_classification(40, 4, random_state=0)
    X = X.astype(np.float32)
    options = {"train_split": None, "verbose": 0, "max_epochs": 3, "lr": 0.1}
    return torch, X, {
        "classes": (skorch.NeuralNetClassifier(torch.nn.Linear, module__in_features=4, module__out_features=2,
                                               criterion=torch.nn.CrossEntropyLoss, **options), y),
        "numbers": (skorch.NeuralNetRegressor(torch.nn.Linear, module__in_features=4, module__out_features=1,
                                              **options), X[:, :1] * 2 + y[:, None].astype(np.float32)),
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_refits_of_nets_share_one_seed(nets, kind):
    torch, X, kinds = nets
    net, y = kinds[kind]
    torch.manual_seed(3)
    net = clone(net).fit(X[:20], y[:20])
    before = torch.random.get_rng_state()
    one, _ = reported(net, X[:20], y[:20], X[20:], y[20:], LeaveOneOut())
    assert_array_equal(torch.random.get_rng_state(), before)  # the user's own numbers go on as if nothing had been
    seed = int(np.random.RandomState(0).randint(np.iinfo(np.int32).max))

    def by_hand(rows):
        torch.manual_seed(seed)
        F = clone(net).fit(X[rows], y[rows]).predict_proba(X[20:]).astype(float)
        if kind == "classes":
            return -np.log(F[np.arange(20), y[20:]]).mean()
        return np.mean((F - y[20:]) ** 2)

    everything = np.arange(20)
    expected = [by_hand(np.delete(everything, i)) - by_hand(everything) for i in (0, 7, 19)]
    assert_allclose(one[[0, 7, 19]], expected, rtol=1e-3, atol=1e-6)
    values, report = reported(net, X[:20], y[:20], X[20:], y[20:], DataShapley(2))
    assert_allclose(values.sum(), report["objective_empty"] - by_hand(everything), rtol=1e-4)


def test_refits_of_nets_travel_to_other_processes(nets):
    _, X, kinds = nets
    net, y = kinds["classes"]
    problem = TrainingProblem(as_model(clone(net).fit(X[:20], y[:20])), X[:20], y[:20])
    refit = Refit(problem, bind(Utility(), problem, HeldOut(X[20:], y[20:]), None), 0)
    there = cloudpickle.loads(cloudpickle.dumps(refit.objectives))
    assert_array_equal(there(np.arange(3), None)["objective"], refit.objectives(np.arange(3), None)["objective"])


class Elsewhere:
    """Rows that are read when they are asked for."""

    def __init__(self, X):
        self.X, self.shape, self.dtype = X, X.shape, X.dtype

    def __getitem__(self, rows):
        return self.X[rows]


def test_rows_that_are_not_in_memory_are_refused():
    X, y, X_val, y_val = data("two", 20)
    problem = TrainingProblem(as_model(LogisticRegression().fit(X, y)), X, y)
    bound = bind(Utility(), problem, HeldOut(X_val, y_val), None)
    problem.rows = replace(problem.rows, X=Elsewhere(X))
    for method in (LeaveOneOut(), DataShapley()):
        with pytest.raises(TypeError, match="rows in memory, got Elsewhere"):
            method.score_rows(problem, bound, None, np.random.RandomState(0), None)
    with pytest.raises(TypeError, match="in one array, got Elsewhere"):
        KNNShapley().score_rows(problem, bound, None, np.random.RandomState(0), None)


def test_what_cannot_be_refitted_says_so(nets):
    torch, X, kinds = nets
    net, y = kinds["classes"]
    net = clone(net).fit(X[:20], y[:20])
    with pytest.raises(TypeError, match=r"takes none in fit, and cannot be refitted"):
        influence_scores(net, X[:20], y[:20], X[20:], y[20:], method=LeaveOneOut(), sample_weight=np.ones(20))
    module = torch.nn.Linear(4, 2)
    with pytest.raises(TypeError, match=r"can be cloned and fitted, got Linear"):
        influence_scores((module, torch.nn.CrossEntropyLoss()), X[:20], y[:20], X[20:], y[20:], method=LeaveOneOut())
    odd = clone(net).set_params(criterion=torch.nn.MultiMarginLoss).fit(X[:20], y[:20])
    with pytest.raises(TypeError, match="of a constant prediction"):
        influence_scores(odd, X[:20], y[:20], X[20:], y[20:], method=DataShapley(2))


# --- checkpoints ------------------------------------------------------------------------------------------------------


def _twice(x):
    return {"twice": np.asarray(x) * 2}


def test_parts_are_made_once_and_kept_whole(tmp_path):
    made = []

    def part(x):
        made.append(x)
        return {"twice": np.array(2 * x), "none": np.empty(0)}

    for _ in range(2):
        found = Checkpoint(tmp_path / "new", "twice", (1, "a")).compute([(f"part-{x}", part, (x,)) for x in range(3)])
        assert [int(p["twice"]) for p in found] == [0, 2, 4]
        assert found[0]["none"].shape == (0,)
    assert made == [0, 1, 2]
    (folder,) = (tmp_path / "new").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["part-0.npz", "part-1.npz", "part-2.npz"]
    with np.load(folder / "part-1.npz", allow_pickle=False) as kept:
        assert_array_equal(kept["twice"], 2)
    # Without a folder nothing is kept.
    Checkpoint(None, "twice", (object(),)).compute([("part-0", part, (0,))])
    assert made == [0, 1, 2, 0]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def half(file, **arrays):
        file.write(b"PK\x03\x04")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="no space left"):
        Checkpoint(tmp_path, "twice", ()).compute([("part", _twice, (1,))])
    (folder,) = tmp_path.iterdir()
    assert list(folder.iterdir()) == []


def test_parts_that_were_spoiled_are_named(tmp_path):
    checkpoint = Checkpoint(tmp_path, "twice", ())
    checkpoint.compute([("part", _twice, (1,))])
    (folder,) = tmp_path.iterdir()
    for content in (b"", b"PK\x03\x04 and so on", b"no archive"):
        (folder / "part.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"part\.npz.*delete it"):
            checkpoint.compute([("part", _twice, (1,))])
    # Pickles are not read.
    with open(folder / "part.npz", "wb") as file:
        np.savez(file, twice=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match="delete it"):
        checkpoint.compute([("part", _twice, (1,))])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        Checkpoint(tmp_path / "file", "twice", ())


def _scaled(by):
    def scaled(x):
        return by * x

    return scaled


def _counts_down(x):
    def down(x):
        return down(x - 1) if x else 0

    return down


DIGESTED = [
    None, True, 1, 1.0, "1", b"1", 2, [1], [1, 1], (1, (1,)), {"a": 1}, {"a": 2}, {1, 2}, {1, 3},
    np.arange(3), np.arange(4), np.arange(3.0), np.arange(3)[:, None], np.array(["a", "b"]), np.array([1, "a"], object),
    np.array(["2020-01-01"], "M8[D]"), sp.csr_array(np.eye(3)), sp.csc_array(np.eye(3)), sp.csr_array(2 * np.eye(3)),
    Ridge(), Ridge(2.0), LogisticRegression(), Ridge, LogisticRegression, HeldOut, np.ones, _scaled(1), _scaled(2),
    _twice, Utility("mae"), Utility(), DemographicParity(), _counts_down(3), np.random.RandomState(0),
    np.random.RandomState(1), lambda x: x, lambda x: x + 1, Ridge().fit, Ridge(2.0).fit,
]  # fmt: skip


def test_digests_tell_contents_apart():
    assert len({digest(thing) for thing in DIGESTED}) == len(DIGESTED)
    with pytest.raises(TypeError, match="cannot be pickled"):
        digest(iter([1]) if sys.version_info < (3, 0) else (x for x in [1]))


def test_digests_see_contents_alone():
    X = np.random.RandomState(0).standard_normal((6, 4))
    assert digest(X) == digest(np.asfortranarray(X)) == digest(np.hstack([X, X])[:, :4])
    asked = sp.csr_array(X)
    asked.has_sorted_indices  # noqa: B018 - SciPy remembers that it was asked
    assert digest(asked) == digest(sp.csr_array(X))
    assert digest(Ridge().fit(X, X[:, 0])) == digest(Ridge())
    assert digest(_scaled(3)) == digest(_scaled(3))
    assert digest({"b", "a"}, {"b": 1, "a": 2}) == digest({"a", "b"}, {"a": 2, "b": 1})


def folders(path):
    return sorted(p.name for p in path.iterdir())


def test_other_inputs_have_other_folders(tmp_path):
    X, y, X_val, y_val = data("two", 8)
    estimator = LogisticRegression().fit(X, y)
    weight = np.ones(8)

    def run(estimator=estimator, X=X, y=y, X_val=X_val, y_val=y_val, method=DataShapley, seed=0, objective=None,
            weight=None, **options):  # fmt: skip
        method = method(n_permutations=2, checkpoint_dir=tmp_path, **options)
        reported(estimator, X, y, X_val, y_val, method, weight, seed, objective=objective)
        return len(folders(tmp_path))

    assert run() == run() == run(tol=1e6) == 1
    changes = [
        {"estimator": LogisticRegression(C=2.0).fit(X, y)}, {"X": X + 1e-9}, {"y": np.roll(y, 1)}, {"X_val": X_val + 1},
        {"y_val": 1 - y_val}, {"seed": 1}, {"weight": weight}, {"weight": 2 * weight}, {"truncation": 0.0},
        {"min_rows": 2}, {"objective": Utility("mae")}, {"objective": AdversarialRobustness()},
        {"objective": AdversarialRobustness(gamma=2.0)}, {"method": BetaShapley}, {"method": BetaShapley, "alpha": 5.0},
    ]  # fmt: skip
    for number, change in enumerate(changes, start=2):
        assert run(**change) == number, change
        assert run(**change) == number, change


def test_attacked_rows_are_those_of_the_fitted_model(tmp_path):
    X, y, X_val, y_val = data("two", 12)
    for C in (1.0, 2.0):
        estimator = LogisticRegression(C=C).fit(X, y)
        estimator.C = 1.0  # all that differs is where the rows are moved to
        reported(estimator, X, y, X_val, y_val, LeaveOneOut(tmp_path), objective=AdversarialRobustness())
    assert len(folders(tmp_path)) == 2


class Stopping(Ridge):
    """Stops after some fits, as Ctrl-C does."""

    left = math.inf

    def fit(self, X, y, sample_weight=None):
        if Stopping.left <= 0:
            raise KeyboardInterrupt
        Stopping.left -= 1
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("make", [LeaveOneOut, lambda folder: DataShapley(4, truncation=0.0, checkpoint_dir=folder)])
def test_an_interrupt_leaves_the_finished_parts(tmp_path, monkeypatch, make):
    X, y, X_val, y_val = data("numbers", 20)
    estimator = Stopping().fit(X, y)
    expected, report = reported(estimator, X, y, X_val, y_val, make(None))
    monkeypatch.setattr(Stopping, "left", 50 if "Shapley" in repr(make(None)) else 12)
    with pytest.raises(KeyboardInterrupt):
        reported(estimator, X, y, X_val, y_val, make(tmp_path))
    (folder,) = tmp_path.iterdir()
    n_kept = len(list(folder.iterdir()))
    assert n_kept > 0
    budget = 1000
    monkeypatch.setattr(Stopping, "left", budget)
    values, again = reported(estimator, X, y, X_val, y_val, make(tmp_path))
    assert_array_equal(values, expected)
    assert again["n_refits"] == report["n_refits"]
    assert budget - Stopping.left <= report["n_refits"] - 7  # the kept ones are not made again
    monkeypatch.setattr(Stopping, "left", 0)
    assert_array_equal(reported(estimator, X, y, X_val, y_val, make(tmp_path))[0], expected)


def test_more_orders_go_on_from_fewer(tmp_path, monkeypatch):
    X, y, X_val, y_val = data("numbers", 10)
    estimator = Stopping().fit(X, y)
    expected, _ = reported(estimator, X, y, X_val, y_val, DataShapley(20, truncation=0.0))
    reported(estimator, X, y, X_val, y_val, DataShapley(15, truncation=0.0, checkpoint_dir=tmp_path))
    monkeypatch.setattr(Stopping, "left", 5 * 9)
    method = DataShapley(20, truncation=0.0, checkpoint_dir=tmp_path)
    assert_array_equal(reported(estimator, X, y, X_val, y_val, method)[0], expected)
    assert Stopping.left == 0


def test_checkpoints_of_rows_from_elsewhere(tmp_path):
    X, y = make_classification(40, 4, random_state=0)
    for method in (LeaveOneOut, lambda folder: DataShapley(2, checkpoint_dir=folder)):
        scores = [
            InfluenceSelector(LogisticRegression(), method=method(folder), cv=2, random_state=0).fit(X, y).scores_
            for folder in (None, tmp_path, tmp_path)
        ]
        assert_array_equal(scores[0], scores[1])
        assert_array_equal(scores[0], scores[2])
    assert len(folders(tmp_path)) == 4  # a folder for each of two folds and methods


def test_without_a_seed_there_is_nothing_to_go_on_from(tmp_path):
    X, y, X_val, y_val = data("two", 12)
    estimator = LogisticRegression().fit(X, y)
    with pytest.warns(UserWarning, match="resumes nothing"):
        influence_scores(estimator, X, y, X_val, y_val, method=DataShapley(2, checkpoint_dir=tmp_path))
    with pytest.warns(UserWarning, match="resumes nothing"):
        influence_scores(estimator, X, y, X_val, y_val, method=LeaveOneOut(tmp_path))
    # What draws nothing needs no seed.
    influence_scores(LinearRegression().fit(X, y), X, y, X_val, y_val, method=LeaveOneOut(tmp_path))
    influence_scores(LinearRegression().fit(X, y), X, y, X_val, y_val, method=LeaveOneOut(tmp_path))
    assert len(folders(tmp_path)) == 3


SLOW_RUN = """
import os, sys, time
from sklearn.datasets import make_regression
from sklearn.linear_model import Ridge
from skinfluence import influence_scores
from skinfluence.methods._refit import LeaveOneOut
from skinfluence.methods._shapley import DataShapley

class Slow(Ridge):
    def fit(self, X, y, sample_weight=None):
        time.sleep(float(os.environ.get("SECONDS_A_FIT", 0)))
        return super().fit(X, y, sample_weight)

def scores(kind, folder, n_jobs=1):
    X, y = make_regression(50, 4, noise=3.0, random_state=0)
    method = LeaveOneOut(folder) if kind == "loo" else DataShapley(10, truncation=0.0, checkpoint_dir=folder)
    data = (X[:30], y[:30], X[30:], y[30:])
    return influence_scores(Slow().fit(*data[:2]), *data, method=method, random_state=0, n_jobs=n_jobs)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(("kind", "n_jobs", "n_parts"), [("loo", 1, 5), ("shapley", 2, 11)])
def test_a_killed_run_goes_on_to_the_same_answer(tmp_path, monkeypatch, kind, n_jobs, n_parts):
    module, folder = f"slow_{kind}", tmp_path / "kept"
    (tmp_path / f"{module}.py").write_text(SLOW_RUN)
    paths = [str(tmp_path), str(Path(__file__).parents[1]), *sys.path]
    code = f"import {module}; {module}.scores({kind!r}, {str(folder)!r}, {n_jobs})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "SECONDS_A_FIT": "0.02"}
    run = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 100
        while len(list(folder.glob("*/*.npz"))) < 3 and time.monotonic() < until and run.poll() is None:
            time.sleep(0.01)
        assert run.poll() is None
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    parts = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npz")}
    assert 3 <= len(parts) < n_parts
    monkeypatch.syspath_prepend(tmp_path)
    slow = importlib.import_module(module)
    assert_allclose(slow.scores(kind, folder), slow.scores(kind, None), rtol=1e-12)
    after = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.npz")}
    assert len(after) == n_parts
    assert {p: after[p] for p in parts} == parts  # what was there is read, not made again


def test_stand_ins_leave_the_fitted_state_out():
    X, y, X_val, y_val = data("two", 12)
    keys = []
    for C in (1.0, 2.0):
        estimator = LogisticRegression(C=C).fit(X, y)
        estimator.C = 1.0
        problem = TrainingProblem(as_model(estimator), X, y)
        refit = Refit(problem, bind(Utility(), problem, HeldOut(X_val, y_val), None), 0)
        keys.append(digest(*refit.identity(), stand_in=stand_in))
    assert keys[0] == keys[1]
