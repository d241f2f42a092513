"""Real refits: what a validation loss does when a row loses weight or is left out, and the score that foretells it.

A score is the first-order change at a penalty of unchanged total weight. Where scikit-learn adds its penalty to a sum
of losses, the same C or alpha keeps it; where to a mean, a refit on n - 1 rows needs alpha · n / (n - 1).
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from sklearn.base import clone

from skinfluence import influence_scores

from . import reference as ref
from .cases import BY_ID, CASES, PLAIN, fit, make_data

DIFFERENTIABLE = [case for case in CASES if case.minimum == "exact" and case.smooth != "kinked"]
# The same minimum by another solver tells nothing new here.
OTHER_SOLVERS = {"lbfgs", "newton-cg", "sag", "liblinear-dual", "hinge-dual", "new-attributes"}
FAMILIES = [
    case for case in DIFFERENTIABLE if not case.deprecated and not any(case.id.endswith(end) for end in OTHER_SOLVERS)
]
# HuberRegressor fits its scale together with its coefficients; the score holds the scale.
HELD_SCALE = [case for case in FAMILIES if case.id.startswith("huber")]


def score(fitted, method="exact"):
    data = fitted.data
    return influence_scores(
        fitted.estimator, data.X, data.y, data.X_val, data.y_val, method=method, sample_weight=fitted.sample_weight
    )


def validation_loss(fitted, estimator) -> float:
    """The validation loss of another fit of the same case."""
    return float(fitted.validation.rows(ref.parameters(estimator)).sum())


def left_out(fitted, i: int) -> float:
    """The validation loss of the estimator refitted without row i."""
    data, weight = fitted.data, fitted.sample_weight
    keep = np.arange(len(data.y)) != i
    before = np.ones(len(data.y)) if weight is None else weight
    estimator = fitted.case.refitted(
        fitted.estimator,
        data.X[keep],
        data.y[keep],
        None if weight is None else weight[keep],
        factor=before.sum() / before[keep].sum(),
    )
    return validation_loss(fitted, estimator)


def leave_one_out_changes(fitted) -> np.ndarray:
    base = validation_loss(fitted, fitted.estimator)
    return np.array([left_out(fitted, i) - base for i in range(len(fitted.data.y))])


def slope_and_rank(scores: np.ndarray, changes: np.ndarray) -> tuple[float, float]:
    """Slope of the changes regressed on the scores, and Spearman's correlation."""
    return float(np.polyfit(scores, changes, 1)[0]), float(spearmanr(scores, changes).statistic)


def _ids(pairs):
    return [pytest.param(*pair, id="-".join(map(str, pair))) for pair in pairs]


# --- a little weight ------------------------------------------------------------------------------


def _fixed_weightings(case):
    """Weightings whose class weights do not move with the row weights."""
    return [weighting for weighting in case.weightings if weighting.class_weight != "balanced"]


def _reweighted(fitted, i: int, change: float) -> float:
    """The validation loss when the weight of row i is changed."""
    data = fitted.data
    before = np.ones(len(data.y)) if fitted.sample_weight is None else fitted.sample_weight
    after = before.copy()
    after[i] += change
    factor = before.sum() / after.sum()
    return validation_loss(fitted, fitted.case.refitted(fitted.estimator, data.X, data.y, after, factor=factor))


@pytest.mark.parametrize(
    ("case", "weighting"),
    _ids(
        (case, w) for case in FAMILIES if case.sample_weight and case not in HELD_SCALE for w in _fixed_weightings(case)
    ),
)
def test_the_score_is_the_slope_in_the_weight_of_a_row(case, weighting):
    """Two refits, with a little more and a little less of a row, give the derivative that its score is."""
    fitted = fit(case, weighting)
    scores = score(fitted)
    weight = np.ones(len(scores)) if fitted.sample_weight is None else fitted.sample_weight
    for i in (np.argmin(scores), np.argmax(scores), 3, 17):
        # Short where a row that lies near a kink of the loss would cross it.
        step = (0.02 if case.smooth == "twice" else 5e-4) * weight[i]
        slope = (_reweighted(fitted, i, step) - _reweighted(fitted, i, -step)) / (2 * step)
        assert -slope * weight[i] == pytest.approx(scores[i], rel=1e-2, abs=3e-3 * np.abs(scores).max())


# --- a whole row ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in FAMILIES])
def test_the_score_foretells_leaving_a_row_out(case):
    """Rank and size. A row is no small change: a refit moves 1 / (1 - leverage) as far: slopes exceed one."""
    fitted = fit(case)
    slope, rank = slope_and_rank(score(fitted), leave_one_out_changes(fitted))
    assert rank > 0.9
    assert 0.85 < slope < 1.35


@pytest.mark.parametrize(
    ("case", "weighting"),
    _ids(
        (BY_ID[name], weighting)
        for name in (
            "logistic-newton",
            "linear-svc-three-squared-hinge",
            "ridge-classifier-three",
            "ridge",
            "elastic-net",
        )
        for weighting in _fixed_weightings(BY_ID[name])
        if weighting != PLAIN
    ),
)
def test_the_score_foretells_leaving_a_weighted_row_out(case, weighting):
    fitted = fit(case, weighting)
    slope, rank = slope_and_rank(score(fitted), leave_one_out_changes(fitted))
    assert rank > 0.9
    assert 0.85 < slope < 1.35


# --- the method that refits ----------------------------------------------------------------------------


def _refits_by_hand(fitted) -> np.ndarray:
    """The change of the validation loss when the estimator, as it is configured, is fitted without each row."""
    data, weight = fitted.data, fitted.sample_weight
    kept = [np.arange(len(data.y)) != i for i in range(len(data.y))]
    refits = [
        fitted.case.fit(clone(fitted.estimator), data.X[keep], data.y[keep], None if weight is None else weight[keep])
        for keep in kept
    ]
    return np.array([validation_loss(fitted, refit) for refit in refits]) - validation_loss(fitted, fitted.estimator)


@pytest.mark.parametrize(
    ("case", "weighting"),
    _ids(
        (BY_ID[name], weighting)
        for name in (
            "logistic-newton",
            "logistic-three-newton",
            "linear-svc-three-hinge",
            "ridge-targets",
            "lasso",
            "poisson",
        )
        for weighting in _fixed_weightings(BY_ID[name])
    ),
)
def test_leave_one_out_is_what_refits_by_hand_give(case, weighting):
    """With the estimator's own alpha, also where scikit-learn's penalty is on a mean."""
    fitted = fit(case, weighting)
    assert_allclose(score(fitted, "leave_one_out"), _refits_by_hand(fitted), rtol=1e-6, atol=1e-9)


# --- many rows ------------------------------------------------------------------------------------


def _spoiled(case, share: float = 0.12):
    """The case's training rows with a share of the targets made wrong."""
    data = make_data(case.data)
    rng = np.random.default_rng(11)
    wrong = rng.choice(len(data.y), size=round(share * len(data.y)), replace=False)
    y = data.y.copy()
    if case.classifies:
        y[wrong] = (y[wrong] + 1) % case.n_classes
    elif case.data in ("counts", "positive"):
        y[wrong] = 4 * y[wrong] + 5
    else:
        y[wrong] += rng.choice([-6.0, 6.0], size=y[wrong].shape)
    return data, y


SPOILED = [
    "logistic-newton",
    "logistic-l1-liblinear",
    "logistic-three-newton",
    "linear-svc-three-squared-hinge",
    "ridge-classifier-two",
    "ridge",
    "ridge-targets",
    "elastic-net",
    "poisson",
    "gamma",
    "huber",
]


class Removal:
    """A case fitted on spoiled rows, and what becomes of its validation loss without some of them."""

    def __init__(self, name: str, method: str) -> None:
        self.case = BY_ID[name]
        data, self.y = _spoiled(self.case)
        self.X = data.X
        self.estimator = self.case.fit(self.case.estimator(), self.X, self.y)
        scores = influence_scores(self.estimator, self.X, self.y, data.X_val, data.y_val, method=method, random_state=0)
        self.order, self.n_removed = np.argsort(scores), len(self.y) // 8

    def loss_without(self, removed: np.ndarray) -> float:
        kept = np.setdiff1d(np.arange(len(self.y)), removed)
        refitted = self.case.refitted(self.estimator, self.X[kept], self.y[kept], factor=len(self.y) / len(kept))
        return validation_loss(fit(self.case), refitted)

    def without_lowest(self) -> float:
        return self.loss_without(self.order[: self.n_removed])

    def without_highest(self) -> float:
        return self.loss_without(self.order[-self.n_removed :])


@pytest.mark.parametrize("name", SPOILED)
def test_removing_the_lowest_rows_lowers_the_objective_and_the_highest_raises_it(name):
    """More than any of twenty removals of as many rows at random."""
    removal, rng = Removal(name, "exact"), np.random.default_rng(0)
    at_random = [removal.loss_without(rng.choice(len(removal.y), removal.n_removed, replace=False)) for _ in range(20)]
    assert removal.without_lowest() < min(at_random)
    assert removal.without_highest() > max(at_random)


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "cg"])
@pytest.mark.parametrize("name", SPOILED)
def test_every_method_with_a_sign_has_the_same_sign(name, method):
    """Removing the lowest rows leaves a better model than removing the highest."""
    removal = Removal(name, method)
    assert removal.without_lowest() < removal.without_highest()
