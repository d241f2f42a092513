"""InfluenceReweighter and InfluenceRelabeler: what they do with the scores, and where."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline as make_stock_pipeline
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    CuratedClassifier,
    CuratedRegressor,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    make_pipeline,
)
from skinfluence.methods import Exact, LeaveOneOut
from skinfluence.models import as_model
from skinfluence.objectives import Utility
from skinfluence.operators import TrainingProblem


@pytest.fixture(scope="module")
def noisy():
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    flipped = np.random.RandomState(0).random_sample(len(y)) < 0.1
    return X, np.where(flipped, 1 - y, y), flipped


@pytest.fixture(scope="module")
def three():
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    flipped = np.random.RandomState(0).random_sample(len(y)) < 0.1
    return X, np.where(flipped, (y + 1) % 3, y), flipped, y


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["standard", "raw"])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_weights_are_the_softmax_of_the_scores(noisy, scale, temperature):
    X, y, _ = noisy
    reweighter = InfluenceReweighter(scale=scale, temperature=temperature, random_state=0).fit(X, y)
    s = np.clip(reweighter.scores_ / reweighter.scores_.std(), -2, 2) if scale == "standard" else reweighter.scores_
    expected = np.exp(s / temperature)
    assert_allclose(reweighter.sample_weight_, expected / expected.mean())
    w = reweighter.sample_weight_
    assert_allclose(reweighter.effective_sample_size_, w.sum() ** 2 / (w**2).sum())
    assert_allclose(w.mean(), 1)
    assert reweighter.support_.all()


def test_raw_weights_depend_on_the_unit_and_standard_ones_do_not(noisy):
    """The paper's softmax of raw scores leaves nearly all rows as they are: their unit is 1/n."""
    X, y, _ = noisy
    raw, standard = (
        InfluenceReweighter(scale=s, random_state=0).fit(X, y).effective_sample_size_ for s in ("raw", "standard")
    )
    assert raw > 0.999 * len(y)
    assert standard < 0.95 * len(y)


def test_wrong_labels_weigh_less(noisy):
    X, y, flipped = noisy
    weight = InfluenceReweighter(method="exact", random_state=0).fit(X, y).sample_weight_
    assert weight[flipped].mean() < 0.3 * weight[~flipped].mean()


def test_weights_multiply_the_users_and_reach_the_final_step(noisy):
    X, y, _ = noisy
    mine = np.linspace(0.5, 2, len(y))
    alone = InfluenceReweighter(random_state=0).fit(X, y, sample_weight=mine)
    factor = alone.sample_weight_ / mine
    pipe = make_pipeline(InfluenceReweighter(random_state=0), LogisticRegression())
    pipe.fit(X, y, influencereweighter__sample_weight=mine, logisticregression__sample_weight=mine)
    by_hand = LogisticRegression().fit(X, y, sample_weight=mine * factor)
    assert_allclose(pipe[1].coef_, by_hand.coef_, rtol=1e-6)
    curated = CuratedClassifier(LogisticRegression(), InfluenceReweighter(random_state=0)).fit(X, y, sample_weight=mine)
    assert_allclose(curated.estimator_.coef_, by_hand.coef_, rtol=1e-6)


def test_a_final_step_without_weights_is_refused_before_any_fitting(noisy):
    X, y, _ = noisy
    pipe = make_pipeline(StandardScaler(), InfluenceReweighter(), KNeighborsClassifier())
    with pytest.raises(TypeError, match="InfluenceSelector"):
        pipe.fit(X, y)
    assert not hasattr(pipe[0], "mean_")
    with pytest.raises(TypeError, match="sample_weight"):
        CuratedClassifier(KNeighborsClassifier(), InfluenceReweighter()).fit(X, y)
    with pytest.raises(TypeError, match="weight"):
        InfluenceReweighter().as_sampler().fit_resample(X, y)


def test_a_stock_pipeline_redraws_in_proportion_to_weight(noisy):
    X, y, _ = noisy
    reweighter = InfluenceReweighter(random_state=0)
    drawn = reweighter.fit_transform(X, y)
    of_row = {tuple(row): i for i, row in enumerate(X)}
    times = np.bincount([of_row[tuple(row)] for row in drawn], minlength=len(y))
    for label in (0, 1):
        weight = reweighter.sample_weight_[y == label]
        assert (np.abs(times[y == label] - weight / weight.mean()) < 1).all()
    assert make_stock_pipeline(InfluenceReweighter(random_state=0), LogisticRegression()).fit(X, y).score(X, y) > 0.8


def test_reweighting_a_regression(rng):
    X, y = load_diabetes(return_X_y=True)
    model = CuratedRegressor(Ridge(), InfluenceReweighter(random_state=0)).fit(X, y)
    assert model.curator_.task_ == "regression"
    with pytest.raises(ValueError, match="CuratedRegressor"):
        InfluenceReweighter(random_state=0).fit_transform(X, y + 0.5)


def test_rows_that_are_all_alike_weigh_alike():
    X, y = np.tile([[-1.0], [1.0]], (10, 1)), np.tile([0, 1], 10)
    reweighter = InfluenceReweighter(LogisticRegression(), method="ip", cv=None).fit(X, y)
    assert_allclose(reweighter.sample_weight_, 1, rtol=0.5)
    assert_allclose(
        InfluenceReweighter(LogisticRegression(), cv=None, scale="raw").fit(X, y).sample_weight_, 1, rtol=0.1
    )


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("temperature", -1), ("scale", "spread")])
def test_bad_parameters_of_the_reweighter(noisy, name, value):
    with pytest.raises(ValueError, match=name):
        InfluenceReweighter(**{name: value}).fit(*noisy[:2])


# --- labels -----------------------------------------------------------------------------------------------------------


def test_two_classes_are_flipped(noisy):
    X, y, flipped = noisy
    relabeler = InfluenceRelabeler(method="exact", relabel_rate=0.1, random_state=0)
    X_out, y_out, factor = relabeler.fit_curate(X, y)
    assert factor is None
    assert_array_equal(X_out, X)
    assert_array_equal(y_out, relabeler.y_)
    assert_array_equal(relabeler.relabeled_, y_out != y)
    chosen = np.argsort(relabeler.scores_)[: int(0.1 * len(y))]
    assert_array_equal(np.flatnonzero(relabeler.relabeled_), np.sort(chosen[relabeler.scores_[chosen] < 0]))
    truth = np.where(flipped, 1 - y, y)
    assert (y_out == truth).mean() > (y == truth).mean() + 0.05


def test_three_classes_get_the_right_label_back(three):
    X, y, _, truth = three
    relabeler = InfluenceRelabeler(method="exact", relabel_rate=0.1, random_state=0).fit(X, y)
    assert relabeler.label_scores_.shape == (len(y), 3)
    assert_array_equal(relabeler.scores_, relabeler.label_scores_[np.arange(len(y)), y])
    assert (relabeler.y_ == truth).mean() > (y == truth).mean() + 0.03
    selector = InfluenceSelector(method="exact", random_state=0).fit(X, y)
    assert_allclose(relabeler.scores_, selector.scores_, rtol=1e-9, atol=1e-15)


def test_label_scores_are_the_formula(three):
    """``Σ_k p_k D_k - D_c`` for the log-loss, with D the derivative of the outputs along the direction."""
    X, y, *_ = three
    problem = TrainingProblem(as_model(LogisticRegression().fit(X, y)), X, y)
    v = np.random.RandomState(0).standard_normal(problem.n_params)
    scores = problem.label_scores([(1.0, problem.params, v)])
    D = problem.fitted.model.jvp(X, v)
    P = problem.fitted.estimator.predict_proba(X)
    assert_allclose(scores, ((P * D).sum(axis=1, keepdims=True) - D) / len(y), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("weighted", [False, True])
def test_label_scores_foretell_refits(three, weighted):
    """Refit with the other label: the objective changes by the difference of two label scores."""
    X, y, *_ = three
    X_val, y_val, X, y = X[::3], y[::3], X[1::3], y[1::3]
    weight = np.linspace(0.5, 1.5, len(y)) if weighted else None
    estimator = LogisticRegression(C=0.3, tol=1e-9, max_iter=5000)
    fitted = clone(estimator).fit(X, y, sample_weight=weight)
    problem = TrainingProblem(as_model(fitted), X, y, weight)
    bound = Utility("log_loss").bind(problem, problem.other_rows(X_val, y_val), trusted=True)
    scores, _ = Exact().score_labels(problem, bound, None, np.random.RandomState(0), None)
    base = log_loss(y_val, fitted.predict_proba(X_val))
    foretold, found = [], []
    for i in range(0, len(y), 4):
        for label in set(range(3)) - {y[i]}:
            other = y.copy()
            other[i] = label
            refit = clone(estimator).fit(X, other, sample_weight=weight)
            found.append(log_loss(y_val, refit.predict_proba(X_val)) - base)
            foretold.append(scores[i, y[i]] - scores[i, label])
    assert np.corrcoef(foretold, found)[0, 1] > 0.95
    assert 0.8 < np.polyfit(foretold, found, 1)[0] < 1.3


def test_pipelines_train_on_the_new_labels(noisy):
    X, y, _ = noisy
    relabeler = InfluenceRelabeler(method="exact", relabel_rate=0.1, random_state=0)
    pipe = make_pipeline(clone(relabeler), LogisticRegression()).fit(X, y)
    expected = LogisticRegression().fit(X, clone(relabeler).fit(X, y).y_)
    assert_array_equal(pipe[1].coef_, expected.coef_)
    curated = CuratedClassifier(LogisticRegression(), clone(relabeler)).fit(X, y)
    assert_array_equal(curated.estimator_.coef_, expected.coef_)
    _, y_out = clone(relabeler).as_sampler().fit_resample(X, y)
    assert_array_equal(y_out, pipe[0].y_)
    search = GridSearchCV(pipe, {"influencerelabeler__relabel_rate": [0.0, 0.1]}, cv=3, n_jobs=2).fit(X, y)
    assert search.best_params_["influencerelabeler__relabel_rate"] == 0.1


def test_a_stock_pipeline_has_no_place_for_labels(noisy):
    with pytest.raises(TypeError, match="stock scikit-learn Pipeline"):
        make_stock_pipeline(InfluenceRelabeler(), LogisticRegression()).fit(*noisy[:2])


@pytest.mark.parametrize("kind", [pd.Series, pl.Series, list, np.asarray], ids=["pandas", "polars", "list", "numpy"])
def test_labels_keep_their_container_and_their_kind(noisy, kind):
    X, y, _ = noisy
    names = np.array(["benign", "malignant"])[y]
    given = pd.Series(names, index=np.arange(len(y)) + 7, name="label") if kind is pd.Series else kind(names.tolist())
    relabeler = InfluenceRelabeler(relabel_rate=0.05, random_state=0).fit(X, given)
    assert set(np.asarray(relabeler.y_)) == {"benign", "malignant"}
    assert relabeler.relabeled_.sum() == (np.asarray(relabeler.y_) != names).sum() > 0
    if kind is pd.Series:
        assert_array_equal(relabeler.y_.index, given.index)
        assert relabeler.y_.name == "label"
    elif kind is pl.Series:
        assert isinstance(relabeler.y_, pl.Series)
    assert_array_equal(np.asarray(given), names)


def test_a_class_is_never_emptied_by_relabelling():
    X, y = np.arange(40.0).reshape(-1, 1), np.array([0] * 37 + [1] * 3)
    y[[2, 3]] = 1
    relabeler = InfluenceRelabeler(relabel_rate=0.9, random_state=0).fit(X, y)
    assert set(relabeler.y_) == {0, 1}


@pytest.mark.parametrize(
    ("relabeler", "error", "words"),
    [
        (InfluenceRelabeler(method="self_tracin"), TypeError, "under every label"),
        (InfluenceRelabeler(method=LeaveOneOut()), TypeError, "under every label"),
        (InfluenceRelabeler(relabel_rate="auto"), ValueError, "relabel_rate='auto'"),
        (InfluenceRelabeler(relabel_rate=1.0), ValueError, "relabel_rate"),
        (InfluenceRelabeler(relabel_rate="half"), ValueError, "relabel_rate must be"),
        (InfluenceRelabeler(Ridge()), ValueError, "regression target"),
    ],
)
def test_bad_parameters_of_the_relabeler(noisy, relabeler, error, words):
    with pytest.raises(error, match=words):
        relabeler.fit(*noisy[:2])
