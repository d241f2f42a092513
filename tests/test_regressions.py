"""Mistakes that were once made, each held by the smallest case that showed it."""

from __future__ import annotations

import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    SGDClassifier,
)
from sklearn.pipeline import make_pipeline as make_stock_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skinfluence import (
    CuratedClassifier,
    CuratedRegressor,
    InfluenceSelector,
    Pipeline,
    influence_scores,
    make_pipeline,
)
from skinfluence.methods import CG, IP, Exact
from skinfluence.models import as_model
from skinfluence.objectives import Utility


@pytest.fixture(scope="module")
def cancer():
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


@pytest.fixture(scope="module")
def diabetes():
    return load_diabetes(return_X_y=True)


def test_a_gradient_outside_the_range_of_a_singular_hessian():
    """Unpenalised one-hot columns, some of them empty: conjugate gradients diverge there."""
    rng = np.random.RandomState(0)
    X = np.hstack([np.eye(40)[rng.randint(30, size=200)] for _ in range(3)])
    X_val = np.hstack([np.eye(40)[rng.randint(40, size=80)] for _ in range(3)])
    y, y_val = rng.standard_normal(200), rng.standard_normal(80)
    estimator = LinearRegression().fit(X, y)
    exact = influence_scores(estimator, X, y, X_val, y_val, method="exact")
    by_cg = influence_scores(estimator, sp.csr_array(X), y, sp.csr_array(X_val), y_val, method=CG())
    assert_allclose(by_cg, exact, atol=1e-3 * np.abs(exact).max())


def test_a_hessian_of_zeros_ends():
    """Every margin above one: the squared hinge is flat, and there is nothing to solve."""
    X = np.array([[-9.0], [-8.0], [8.0], [9.0]])
    y = np.array([0, 0, 1, 1])
    estimator = SGDClassifier(loss="squared_hinge", penalty=None, random_state=0).fit(X, y)
    estimator.coef_, estimator.intercept_ = np.array([[1.0]]), np.array([0.0])
    scores = influence_scores(estimator, X, y, np.array([[0.1]]), np.array([1]), method="cg")
    assert_allclose(scores, 0)


def test_rounds_protect_float_classes_and_no_float_targets(cancer, diabetes):
    X, y = cancer
    three = y.astype(float)
    three[:3] = 2.0
    settings = {"n_rounds": 3, "removal_rate": 0.5, "estimator": LogisticRegression(), "random_state": 0}
    as_float = InfluenceSelector(**settings).fit(X, three)
    assert_array_equal(as_float.support_, InfluenceSelector(**settings).fit(X, three.astype(int)).support_)
    X, y = diabetes
    settings |= {"estimator": Ridge(), "removal_rate": 0.2}
    as_int = InfluenceSelector(**settings).fit(X, y.astype(int))
    assert_array_equal(as_int.support_, InfluenceSelector(**settings).fit(X, y.astype(float)).support_)


def test_a_splitter_with_unsorted_rows(cancer):
    X, y = cancer
    half = np.random.RandomState(0).permutation(len(y))
    folds = [(half[:300], half[300:]), (half[300:], half[:300])]
    tidy = [(np.sort(a), np.sort(b)) for a, b in folds]
    one, two = (InfluenceSelector(LogisticRegression(), method="ip", cv=cv).fit(X, y).scores_ for cv in (folds, tidy))
    assert_allclose(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("routing", [False, True])
def test_weights_reach_a_curator_inside_a_pipeline(cancer, routing):
    X, y = cancer
    weight = np.linspace(0.2, 3, len(y))
    with config_context(enable_metadata_routing=routing):
        selector, final = InfluenceSelector(random_state=0), LogisticRegression()
        if routing:
            selector, final = (step.set_fit_request(sample_weight=True) for step in (selector, final))
        inner = Pipeline([("scale", StandardScaler()), ("select", selector)])
        if routing:
            inner["scale"].set_fit_request(sample_weight=False)
        model = CuratedClassifier(final, inner).fit(X, y, sample_weight=weight)
    alone = InfluenceSelector(random_state=0).fit(StandardScaler().fit_transform(X), y, sample_weight=weight)
    assert_allclose(model.curator_["select"].scores_, alone.scores_, rtol=1e-9)


def test_validation_rows_reach_a_curator_inside_a_pipeline(cancer):
    X, y = cancer
    inner = Pipeline([("scale", StandardScaler()), ("select", InfluenceSelector(method="ip"))])
    model = CuratedClassifier(LogisticRegression(), inner).fit(X[50:], y[50:], X_val=X[:50], y_val=y[:50])
    assert len(model.curator_["select"].diagnostics_) == 1


@pytest.mark.parametrize("method", ["ip", "exact"])
def test_validation_rows_that_are_not_finite_are_named(cancer, method):
    X, y = cancer
    estimator = LogisticRegression().fit(X, y)
    X_val = X[:9].copy()
    X_val[2, 3] = np.nan
    with pytest.raises(ValueError, match="X_val contains NaN"):
        influence_scores(estimator, X, y, X_val, y[:9], method=method)
    with pytest.raises(ValueError, match="not finite"):
        list(influence_scores(estimator, X, y, X_val, y[:9], method=method, per_validation_row=True))
    with pytest.raises(ValueError, match="In the validation rows: y holds labels"):
        influence_scores(estimator, X, y, X[:9], np.full(9, 7), method=method)


def test_blocks_may_be_asked_for_under_another_memory_budget(cancer):
    X, y = cancer
    X, y = np.tile(X, (40, 1)), np.tile(y, 40)
    estimator = LogisticRegression().fit(X, y)
    with config_context(working_memory=1):
        blocks = influence_scores(estimator, X, y, X[:3], y[:3], method="cg", per_validation_row=True)
    assert np.vstack(list(blocks)).shape == (3, len(y))


def test_workers_know_scikit_learns_configuration():
    frame = pd.DataFrame(np.random.RandomState(0).standard_normal((60, 3)), columns=["a", "b", "c"])
    y = (frame["a"] > 0).astype(int)
    by_name = make_column_transformer((StandardScaler(), ["standardscaler__a"]))
    estimator = make_stock_pipeline(
        make_column_transformer((StandardScaler(), make_column_selector(dtype_include=float))),
        by_name,
        LogisticRegression(),
    )
    with config_context(transform_output="pandas"):
        one, two = (InfluenceSelector(estimator, random_state=0, n_jobs=n).fit(frame, y).scores_ for n in (1, 2))
    assert_allclose(one, two)


def test_a_frozen_pipeline_takes_mixed_frames():
    frame = pd.DataFrame({"n": np.arange(20.0), "c": list("xy") * 10})
    y = np.arange(20) % 4 // 2
    encode = make_column_transformer((OneHotEncoder(), ["c"]), (StandardScaler(), ["n"]))
    fitted = make_stock_pipeline(encode, LogisticRegression()).fit(frame, y)
    assert InfluenceSelector(FrozenEstimator(fitted), method="ip").fit(frame, y).scores_.shape == (20,)


def test_rounds_with_a_frozen_final_step_are_refused(cancer):
    X, y = cancer
    pipe = make_pipeline(InfluenceSelector("final", n_rounds=2), FrozenEstimator(LogisticRegression().fit(X, y)))
    with pytest.raises(ValueError, match="never refitted"):
        pipe.fit(X, y)


def test_a_curating_pipeline_is_no_model_of_the_rows_it_was_given(cancer):
    X, y = cancer
    pipe = make_pipeline(InfluenceSelector(random_state=0), LogisticRegression()).fit(X, y)
    with pytest.raises(TypeError, match="This Pipeline curates"):
        influence_scores(pipe, X, y)


def test_each_target_has_its_own_threshold():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((80, 3))
    Y = np.column_stack([X @ [1, 2, 3], 1000 * X @ [3, 2, 1]]) + rng.standard_normal((80, 2)) * [1, 1000]
    from skinfluence.objectives.utility import _residuals
    from skinfluence.operators import TrainingProblem

    problem = TrainingProblem(as_model(Ridge().fit(X, Y)), X, Y)
    _, (small, large) = _residuals(problem, problem.rows, log_link=False)
    assert 300 < large / small < 3000


def test_groups_without_validation_rows_are_refused(cancer):
    X, y = cancer
    for call in (
        lambda: InfluenceSelector().fit(X, y, sensitive_features_val=[1, 2]),
        lambda: influence_scores(LogisticRegression().fit(X, y), X, y, sensitive_features_val=[1]),
    ):
        with pytest.raises(ValueError, match="no X_val was given"):
            call()


def test_nothing_of_an_earlier_fit_stays(cancer, diabetes):
    selector = InfluenceSelector(random_state=0).fit(*cancer)
    assert hasattr(selector, "estimator_")
    selector.fit_transform(*cancer)
    assert not hasattr(selector, "estimator_")
    selector.set_params(estimator=Ridge()).fit(*diabetes)
    assert not hasattr(selector, "classes_")


def test_a_cache_without_a_seed_says_that_it_is_none(cancer, tmp_path):
    with pytest.warns(UserWarning, match="caches nothing"):
        InfluenceSelector(memory=joblib.Memory(tmp_path, verbose=0)).fit(*cancer)


def test_leave_one_out_is_the_same_for_the_same_seed(cancer):
    X, y = cancer[0][:30], cancer[1][:30]
    estimator = SGDClassifier(loss="log_loss").fit(X, y)
    one, two = (influence_scores(estimator, X, y, method="leave_one_out", random_state=0) for _ in range(2))
    assert_array_equal(one, two)


def test_infinite_damping_and_hessians_are_refused(cancer):
    X, y = cancer
    estimator = LogisticRegression().fit(X, y)
    for method in (Exact(np.nan), Exact(np.inf), CG(np.inf)):
        with pytest.raises(ValueError, match=r"damping|finite"):
            influence_scores(estimator, X, y, method=method)
    huge = X.copy()
    huge[:, 0] *= 1e200
    estimator.coef_ = np.zeros_like(estimator.coef_)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"[Ss]cale the features"):
            influence_scores(estimator, huge, y, method="exact")


@pytest.mark.parametrize(("estimator", "bad"), [(PoissonRegressor(), -1.0), (GammaRegressor(), 0.0)])
def test_targets_outside_the_domain_of_a_deviance_are_refused(diabetes, estimator, bad):
    X, y = diabetes
    estimator.fit(X, y)
    with pytest.raises(ValueError, match="In the validation rows: y must be >"):
        influence_scores(estimator, X, y, X[:5], np.full(5, bad))


def test_a_curators_estimator_must_suit_the_task(cancer, diabetes):
    with pytest.raises(TypeError, match="is for regression, and what follows it for classification"):
        CuratedClassifier(LogisticRegression(), InfluenceSelector(Ridge())).fit(*cancer)
    with pytest.raises(TypeError, match="is for classification, and what follows it for regression"):
        CuratedRegressor(Ridge(), InfluenceSelector(LogisticRegression())).fit(*diabetes)


def test_many_whole_numbers_are_not_taken_for_classes(diabetes):
    with pytest.raises(ValueError, match="classes, or a regression target"):
        InfluenceSelector().fit(*diabetes)
    assert InfluenceSelector(Ridge()).fit(*diabetes).task_ == "regression"


def test_auto_is_refused_where_it_would_ruin_the_model(cancer, diabetes):
    X, y = cancer
    auto = InfluenceSelector(method="exact", removal_rate="auto")
    with pytest.raises(ValueError, match="without validation rows"):
        auto.fit(X[50:], y[50:], X_val=X[:50], y_val=y[:50])
    with pytest.raises(ValueError, match="For a regression target"):
        make_pipeline(auto, Ridge()).fit(*diabetes)


def test_classes_in_place_of_objects_are_refused(cancer):
    for selector in (InfluenceSelector(method=IP), InfluenceSelector(objective=Utility)):
        with pytest.raises(TypeError, match="must be one of"):
            selector.fit(*cancer)


def test_a_column_of_labels_warns_once(cancer):
    X, y = cancer
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        InfluenceSelector(method="ip", random_state=0).fit(X, y.reshape(-1, 1))
    assert 1 <= len([w for w in caught if "column-vector" in str(w.message)]) <= 2


def test_sparse_coefficients(cancer):
    X, y = cancer
    estimator = LogisticRegression().fit(X, y)
    dense = influence_scores(estimator, X, y)
    assert_allclose(influence_scores(estimator.sparsify(), X, y), dense)


def test_labels_of_several_kinds_are_refused():
    X, y = load_iris(return_X_y=True)
    y = y.astype(object)
    y[:3] = "a"
    with pytest.raises((ValueError, TypeError), match=r"one kind|str|mix"):
        InfluenceSelector().fit(X, y)
