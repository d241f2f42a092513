"""What `influence_scores` takes and refuses: laws between its answers on related inputs, and errors that explain."""

from __future__ import annotations

import itertools

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, LinearSVC

from skinfluence import HeldOut, influence_scores
from skinfluence.models import as_model
from skinfluence.objectives import Utility

from .cases import make_data

METHODS = ["ip", "ip_ensemble", "exact", "cg", "self_tracin"]
NEWTON = {"solver": "newton-cholesky", "tol": 1e-9}
few = settings(max_examples=20, deadline=None)


def scores_of(estimator, data, method="exact", *, X=None, y=None, X_val=None, y_val=None, **options):
    """Scores of `data`, parts of it replaced."""
    given_parts = zip((X, y, X_val, y_val), data, strict=False)
    parts = [theirs if ours is None else ours for ours, theirs in given_parts]
    return influence_scores(estimator, *parts, method=method, random_state=0, **options)


def assert_same(actual, desired, rtol=1e-7):
    """Equal to `rtol` of the largest score."""
    assert np.abs(desired).max() > 0
    assert_allclose(actual, desired, rtol=0, atol=rtol * np.abs(desired).max())


@pytest.fixture(scope="module")
def two():
    return make_data("two")


@pytest.fixture(scope="module")
def three():
    return make_data("three")


@pytest.fixture(scope="module")
def real():
    return make_data("real")


@pytest.fixture(scope="module")
def logistic(two):
    return LogisticRegression(**NEWTON).fit(two.X, two.y)


# --- rows -----------------------------------------------------------------------------------------

TWO, THREE = make_data("two"), make_data("three")
FITTED = {
    "two": (LogisticRegression(**NEWTON).fit(TWO.X, TWO.y), TWO),
    "three": (LogisticRegression(**NEWTON).fit(THREE.X, THREE.y), THREE),
    "one-vs-rest": (LinearSVC(dual=False, tol=1e-9).fit(THREE.X, THREE.y), THREE),
}
kinds = st.sampled_from(sorted(FITTED))
permutations = st.permutations(range(90)).map(np.array)


@few
@given(kinds, st.sampled_from(METHODS), permutations)
def test_permuting_the_rows_permutes_the_scores(kind, method, order):
    estimator, data = FITTED[kind]
    scores = scores_of(estimator, data, method)
    assert_same(scores_of(estimator, data, method, X=data.X[order], y=data.y[order]), scores[order], rtol=1e-5)


@few
@given(kinds, st.sampled_from(METHODS), st.permutations(range(60)).map(np.array))
def test_the_order_of_validation_rows_is_nothing(kind, method, order):
    estimator, data = FITTED[kind]
    reordered = scores_of(estimator, data, method, X_val=data.X_val[order], y_val=data.y_val[order])
    assert_same(reordered, scores_of(estimator, data, method), rtol=1e-5)


@few
@given(kinds, st.sampled_from(["ip", "exact", "cg"]), st.integers(1, 59))
def test_the_scores_of_all_validation_rows_are_the_mean_of_those_of_two_parts(kind, method, cut):
    estimator, data = FITTED[kind]
    first = scores_of(estimator, data, method, X_val=data.X_val[:cut], y_val=data.y_val[:cut])
    second = scores_of(estimator, data, method, X_val=data.X_val[cut:], y_val=data.y_val[cut:])
    assert_same((cut * first + (60 - cut) * second) / 60, scores_of(estimator, data, method), rtol=1e-5)


# --- labels ---------------------------------------------------------------------------------------

TWO_NAMES = [
    np.array(["no", "yes"]),
    np.array(["yes", "no"]),
    np.array(["yes", "no"], dtype=object),
    np.array([-1, 1]),
    np.array([1, -1]),
    np.array([False, True]),
    np.array([True, False]),
    np.array([1.0, 0.0]),
    np.array([700, 3], dtype=np.int16),
]
CLASSIFIERS = {
    "logistic": lambda: LogisticRegression(**NEWTON),
    "linear-svc": lambda: LinearSVC(dual=False, tol=1e-10),
    "ridge-classifier": lambda: RidgeClassifier(),
}


@pytest.mark.parametrize("names", TWO_NAMES, ids=lambda names: f"{names.dtype}-{names[0]}-{names[1]}")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_names_of_two_classes_are_nothing(two, make, method, names):
    plain = scores_of(make().fit(two.X, two.y), two, method)
    y, y_val = names[two.y], names[two.y_val]
    assert_same(scores_of(make().fit(two.X, y), two, method, y=y, y_val=y_val), plain, rtol=1e-5)


@few
@given(st.sampled_from(list(itertools.permutations(["a", "bb", "ccc"]))), st.sampled_from(sorted(CLASSIFIERS)))
def test_names_of_three_classes_are_nothing(names, which):
    make, names = CLASSIFIERS[which], np.array(names)
    plain = scores_of(make().fit(THREE.X, THREE.y), THREE)
    y, y_val = names[THREE.y], names[THREE.y_val]
    assert_same(scores_of(make().fit(THREE.X, y), THREE, y=y, y_val=y_val), plain, rtol=1e-5)


@pytest.mark.parametrize("hold", [list, pd.Series, pl.Series, lambda y: pd.Series(y, dtype="category"), np.ma.asarray])
def test_containers_of_labels_are_nothing(two, hold):
    names = np.array(["no", "yes"])
    y, y_val = names[two.y], names[two.y_val]
    estimator = LogisticRegression(**NEWTON).fit(two.X, y)
    assert_same(scores_of(estimator, two, y=hold(y), y_val=hold(y_val)), scores_of(estimator, two, y=y, y_val=y_val))


def test_validation_rows_may_be_of_one_class(logistic, two):
    only = two.y_val == 1
    found = scores_of(logistic, two, X_val=two.X_val[only], y_val=two.y_val[only])
    assert np.all(np.isfinite(found))


# --- containers of X ------------------------------------------------------------------------------


def _memmap(array, folder):
    path = folder / f"{id(array)}.dat"
    np.asarray(array).tofile(path)
    return np.memmap(path, dtype=array.dtype, mode="r", shape=array.shape)


HOLDERS = {
    "csr-array": lambda X, folder: sp.csr_array(X),
    "csc-array": lambda X, folder: sp.csc_array(X),
    "csr-matrix": lambda X, folder: sp.csr_matrix(X),
    "csc-matrix": lambda X, folder: sp.csc_matrix(X),
    "fortran": lambda X, folder: np.asfortranarray(X),
    "strided": lambda X, folder: np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2],
    "reversed-view": lambda X, folder: np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "list": lambda X, folder: X.tolist(),
    "memmap": _memmap,
    "read-only": lambda X, folder: X,
}


@pytest.mark.parametrize("kind", ["two", "three"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_containers_are_nothing(kind, method, hold, tmp_path):
    estimator, data = FITTED[kind]
    held = scores_of(estimator, data, method, X=hold(data.X, tmp_path), X_val=hold(data.X_val, tmp_path))
    assert_same(held, scores_of(estimator, data, method), rtol=1e-6)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
@pytest.mark.parametrize("method", METHODS)
def test_data_frames_are_nothing(two, logistic, method, frame):
    X, X_val = (frame(dict(zip("abcd", part.T, strict=True))) for part in (two.X, two.X_val))
    estimator = LogisticRegression(**NEWTON).fit(X, two.y)
    assert_same(scores_of(estimator, two, method, X=X, X_val=X_val), scores_of(logistic, two, method), rtol=1e-6)


def test_a_mix_of_containers_is_nothing(logistic, two):
    assert_same(scores_of(logistic, two, X=sp.csc_array(two.X), X_val=two.X_val.tolist()), scores_of(logistic, two))


@pytest.mark.parametrize("hold", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_matrix])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["two", "three"])
def test_float32_is_float64_roughly(kind, method, hold):
    estimator, data = FITTED[kind]
    single = scores_of(
        estimator, data, method, X=hold(data.X.astype(np.float32)), X_val=hold(data.X_val.astype(np.float32))
    )
    assert single.dtype == np.float64
    assert_same(single, scores_of(estimator, data, method), rtol=1e-3)


def test_integer_features_are_floats(two):
    X, X_val = np.round(3 * two.X).astype(int), np.round(3 * two.X_val).astype(int)
    estimator = LogisticRegression(**NEWTON).fit(X, two.y)
    as_floats = scores_of(estimator, two, X=X.astype(float), X_val=X_val.astype(float))
    assert_same(scores_of(estimator, two, X=X, X_val=X_val), as_floats)


# --- weights --------------------------------------------------------------------------------------

integer_weights = arrays(np.int64, 90, elements=st.integers(0, 3)).filter(lambda weights: np.all(weights[:12] > 0))
WEIGHTED = {
    "logistic": (lambda: LogisticRegression(**NEWTON), TWO),
    "three": (lambda: LogisticRegression(**NEWTON), THREE),
    "one-vs-rest": (lambda: LinearSVC(dual=False, tol=1e-10), THREE),
    "ridge": (Ridge, make_data("real")),
    "elastic-net": (lambda: ElasticNet(alpha=0.1, tol=1e-12, max_iter=10**6), make_data("real")),
    "poisson": (lambda: PoissonRegressor(solver="newton-cholesky", tol=1e-10), make_data("counts")),
}


@pytest.mark.parametrize("method", ["ip", "exact", "cg", "self_tracin"])
@pytest.mark.parametrize("family", WEIGHTED)
@few
@given(weights=integer_weights)
def test_a_row_of_weight_k_is_k_rows(family, method, weights):
    """Its score is the sum of theirs; a row of weight zero counts for nothing."""
    make, data = WEIGHTED[family]
    rows = np.repeat(np.arange(90), weights)
    weighted = make().fit(data.X, data.y, sample_weight=weights)
    repeated = make().fit(data.X[rows], data.y[rows])
    each = scores_of(repeated, data, method, X=data.X[rows], y=data.y[rows])
    together = scores_of(weighted, data, method, sample_weight=weights)
    assert_same(together, np.bincount(rows, weights=each, minlength=90), rtol=1e-4)
    assert np.all(together[weights == 0] == 0)


@few
@given(st.floats(0.01, 100), st.sampled_from(METHODS))
def test_the_unit_of_the_weights_is_nothing_if_C_follows(unit, method):
    weights = TWO.sample_weight
    plain = LogisticRegression(C=0.7, **NEWTON).fit(TWO.X, TWO.y, sample_weight=weights)
    scaled = LogisticRegression(C=0.7 / unit, **NEWTON).fit(TWO.X, TWO.y, sample_weight=unit * weights)
    expected = scores_of(plain, TWO, method, sample_weight=weights)
    assert_same(scores_of(scaled, TWO, method, sample_weight=unit * weights), expected, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_one_are_no_weights(logistic, two, method):
    assert_same(scores_of(logistic, two, method, sample_weight=np.ones(90)), scores_of(logistic, two, method))


def test_class_weight_is_a_weight_on_each_row(two):
    """For the rows they train on; validation rows of unlike classes weigh alike, so one class alone is looked at."""
    only = two.y_val == 1
    by_class = LogisticRegression(class_weight={0: 2.0, 1: 0.5}, **NEWTON).fit(two.X, two.y)
    weights = np.where(two.y == 0, 2.0, 0.5)
    by_row = LogisticRegression(**NEWTON).fit(two.X, two.y, sample_weight=weights)
    held_out = {"X_val": two.X_val[only], "y_val": two.y_val[only]}
    assert_same(
        scores_of(by_class, two, **held_out), scores_of(by_row, two, sample_weight=weights, **held_out), rtol=1e-5
    )


# --- units of features and targets ----------------------------------------------------------------


@few
@given(arrays(np.float64, (5, 5), elements=st.floats(-1, 1)))
def test_exact_scores_of_least_squares_do_not_see_the_basis_of_the_features(mixing):
    """Any invertible recombination of the columns spans the same model."""
    data = make_data("real")
    mixing = mixing + 4 * np.eye(5)
    plain = scores_of(LinearRegression().fit(data.X, data.y), data)
    mixed = LinearRegression().fit(data.X @ mixing, data.y)
    assert_same(scores_of(mixed, data, X=data.X @ mixing, X_val=data.X_val @ mixing), plain, rtol=1e-6)


@few
@given(st.floats(0.01, 100), st.floats(-100, 100), st.sampled_from(["ip", "exact", "cg", "self_tracin"]))
def test_squared_error_scores_go_with_the_square_of_the_targets_unit(unit, shift, method):
    data = make_data("real")
    plain = scores_of(LinearRegression().fit(data.X, data.y), data, method)
    y, y_val = unit * data.y + shift, unit * data.y_val + shift
    assert_same(
        scores_of(LinearRegression().fit(data.X, y), data, method, y=y, y_val=y_val), unit**2 * plain, rtol=1e-6
    )


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_a_repeated_column_changes_no_score_of_least_squares(real, method):
    """The Hessian is singular then; the minimum-norm direction predicts the same."""
    twice = [np.column_stack([X, X[:, :2]]) for X in (real.X, real.X_val)]
    plain = scores_of(LinearRegression().fit(real.X, real.y), real)
    repeated = LinearRegression().fit(twice[0], real.y)
    assert_same(scores_of(repeated, real, method, X=twice[0], X_val=twice[1]), plain, rtol=1e-4)


def _ridge_influence(X, y, X_val, y_val, alpha):
    """Row gradients · inverse Hessian · validation gradient of a ridge without intercept, in closed form."""
    coef = np.linalg.solve(X.T @ X + alpha * np.eye(X.shape[1]), X.T @ y)
    direction = np.linalg.solve(X.T @ X + alpha * np.eye(X.shape[1]), X_val.T @ (X_val @ coef - y_val) / len(y_val))
    return (X @ coef - y) * (X @ direction)


@pytest.mark.parametrize("method", ["exact", "cg"])
@pytest.mark.parametrize("hold", [np.asarray, sp.csr_array])
def test_more_features_than_rows(method, hold):
    rng = np.random.default_rng(3)
    X, X_val, y, y_val = rng.normal(size=(30, 80)), rng.normal(size=(20, 80)), rng.normal(size=30), rng.normal(size=20)
    estimator = Ridge(alpha=5.0, fit_intercept=False).fit(X, y)
    found = influence_scores(estimator, hold(X), y, hold(X_val), y_val, method=method)
    assert_same(found, _ridge_influence(X, y, X_val, y_val, 5.0), rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_nothing_but_an_intercept_is_scored(real, method):
    """Every coefficient is held at zero by the penalty."""
    estimator = ElasticNet(alpha=100.0, l1_ratio=1.0).fit(real.X, real.y)
    found = scores_of(estimator, real, method)
    assert not estimator.coef_.any()
    assert np.ptp(found) > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_model_of_nothing_at_all_scores_zero(real, method):
    estimator = ElasticNet(alpha=100.0, l1_ratio=1.0, fit_intercept=False).fit(real.X, real.y)
    assert_array_equal(scores_of(estimator, real, method), np.zeros(90))


# --- several targets ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ip", "exact", "cg", "self_tracin"])
def test_the_scores_of_several_targets_are_the_sum_over_them(method):
    data = make_data("targets")
    together = scores_of(Ridge().fit(data.X, data.y), data, method)
    apart = [
        scores_of(Ridge().fit(data.X, data.y[:, k]), data, method, y=data.y[:, k], y_val=data.y_val[:, k])
        for k in (0, 1)
    ]
    assert_same(together, sum(apart))


def test_a_target_column_is_a_target(real):
    plain = scores_of(Ridge().fit(real.X, real.y), real)
    column, column_val = real.y[:, None], real.y_val[:, None]
    assert_same(scores_of(Ridge().fit(real.X, column), real, y=column, y_val=column_val), plain)
    assert_same(scores_of(Ridge().fit(real.X, real.y), real, y=column, y_val=column_val), plain)


# --- Pipelines ------------------------------------------------------------------------------------

PIPELINES = {
    "scaler": lambda: make_pipeline(StandardScaler()),
    "polynomial": lambda: make_pipeline(PolynomialFeatures(2, include_bias=False), StandardScaler()),
    "pca": lambda: make_pipeline(StandardScaler(), PCA(2)),
    "passthrough": lambda: Pipeline([("scale", StandardScaler()), ("nothing", "passthrough")]),
    "nested": lambda: make_pipeline(make_pipeline(StandardScaler()), PCA(3)),
    "frames": lambda: make_pipeline(StandardScaler()).set_output(transform="pandas"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)
def test_a_pipeline_is_its_fitted_transformers_and_its_last_step(two, make, method):
    whole = Pipeline([*make().steps, ("last", LogisticRegression(**NEWTON))]).fit(two.X, two.y)
    X, X_val = whole[:-1].transform(two.X), whole[:-1].transform(two.X_val)
    by_hand = scores_of(whole[-1], two, method, X=X, X_val=X_val)
    assert_same(scores_of(whole, two, method), by_hand)


def test_a_pipeline_of_one_step_is_that_step(two, logistic):
    assert_same(scores_of(make_pipeline(logistic), two), scores_of(logistic, two))


def test_a_pipeline_takes_a_frame_of_mixed_columns_to_sparse_rows(two):
    frames = [
        pd.DataFrame({"number": X[:, 0], "other": X[:, 1], "kind": np.where(X[:, 2] > 0, "up", "down")})
        for X in (two.X, two.X_val)
    ]
    columns = make_column_transformer((OneHotEncoder(), ["kind"]), remainder=StandardScaler(), sparse_threshold=1.0)
    whole = make_pipeline(columns, LogisticRegression(**NEWTON)).fit(frames[0], two.y)
    X, X_val = (columns.transform(frame) for frame in frames)
    assert sp.issparse(X)
    assert_same(
        scores_of(whole, two, X=frames[0], X_val=frames[1]), scores_of(whole[-1], two, X=X.toarray(), X_val=X_val)
    )


# --- one score for each validation row ------------------------------------------------------------


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "exact", "cg"])
@pytest.mark.parametrize("kind", sorted(FITTED))
@pytest.mark.parametrize("hold", [np.asarray, sp.csr_array])
def test_the_mean_over_validation_rows_is_the_score(kind, method, hold):
    estimator, data = FITTED[kind]
    parts = {"X": hold(data.X), "X_val": hold(data.X_val)}
    matrix = np.concatenate(list(scores_of(estimator, data, method, per_validation_row=True, **parts)))
    assert matrix.shape == (60, 90)
    assert_same(matrix.mean(axis=0), scores_of(estimator, data, method), rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.*not at a minimum")  # the weights are not those of the fit
@pytest.mark.parametrize("method", ["ip", "exact"])
def test_a_row_of_the_matrix_is_the_scores_of_that_validation_row(logistic, two, method):
    matrix = np.concatenate(
        list(scores_of(logistic, two, method, per_validation_row=True, sample_weight=two.sample_weight))
    )
    for row in (0, 31, 59):
        at = slice(row, row + 1)
        alone = scores_of(
            logistic, two, method, X_val=two.X_val[at], y_val=two.y_val[at], sample_weight=two.sample_weight
        )
        assert_same(matrix[row], alone, rtol=1e-6)


@pytest.mark.parametrize("method", ["ip", "exact"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
@pytest.mark.parametrize("weigh", [False, True])
def test_the_mean_is_the_score_under_weights_too(two, method, class_weight, weigh):
    estimator = LogisticRegression(class_weight=class_weight, **NEWTON).fit(
        two.X, two.y, sample_weight=two.sample_weight
    )
    held_out = HeldOut(two.X_val, two.y_val, sample_weight=two.sample_weight[:60] if weigh else None)
    given_parts = {"method": method, "sample_weight": two.sample_weight}
    scores = influence_scores(estimator, two.X, two.y, held_out, **given_parts)
    blocks = influence_scores(estimator, two.X, two.y, held_out, per_validation_row=True, **given_parts)
    assert_same(np.concatenate(list(blocks)).mean(axis=0), scores, rtol=1e-6)


@pytest.mark.parametrize("method", ["ip", "exact"])
def test_a_validation_row_of_weight_k_is_k_rows(logistic, two, method):
    weights = np.resize([1, 2, 0, 3], 60)
    rows = np.repeat(np.arange(60), weights)
    repeated = scores_of(logistic, two, method, X_val=two.X_val[rows], y_val=two.y_val[rows])
    held_out = HeldOut(two.X_val, two.y_val, sample_weight=weights)
    assert_same(influence_scores(logistic, two.X, two.y, held_out, method=method), repeated)


@pytest.mark.filterwarnings("ignore:.*not at a minimum")  # the weights are not those of the fit
@pytest.mark.parametrize(
    "hold", [np.asarray, np.asfortranarray, sp.csr_array, sp.csc_array, sp.csr_matrix, sp.csc_matrix]
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", sorted(FITTED))
def test_little_memory_is_enough(kind, method, hold):
    """Rows go through in blocks; how many is nothing to the scores."""
    estimator, data = FITTED[kind]
    parts = {"X": hold(data.X), "X_val": hold(data.X_val), "sample_weight": data.sample_weight}
    scores = scores_of(estimator, data, method, **parts)
    with config_context(working_memory=0.002):
        assert_same(scores_of(estimator, data, method, **parts), scores, rtol=1e-5)
    if method != "self_tracin":
        with config_context(working_memory=0.1):
            blocks = list(scores_of(estimator, data, method, per_validation_row=True, **parts))
        assert len(blocks) > 1
        assert_same(np.concatenate(blocks).mean(axis=0), scores, rtol=1e-5)


def test_methods_without_a_validation_gradient_have_no_matrix(logistic, two):
    with pytest.raises(TypeError, match="per_validation_row"):
        scores_of(logistic, two, "self_tracin", per_validation_row=True)


# --- no validation rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ip", "exact"])
@pytest.mark.parametrize(("kind", "loss"), [("two", "mae"), ("three", "mae"), ("real", "huber")])
def test_without_validation_rows_the_objective_is_robust_and_on_the_training_rows(kind, loss, method):
    data = make_data(kind)
    estimator = (Ridge() if kind == "real" else LogisticRegression(**NEWTON)).fit(data.X, data.y)
    alone = influence_scores(estimator, data.X, data.y, method=method)
    said = influence_scores(estimator, data.X, data.y, data.X, data.y, method=method, objective=Utility(loss=loss))
    assert_same(alone, said)


# --- nothing of the user's is changed -------------------------------------------------------------


def _contents(thing):
    """A sparse array's numbers, without the properties SciPy remembers of it once it was asked."""
    return (thing.data, thing.indices, thing.indptr) if sp.issparse(thing) else thing


def _everything(*things):
    return joblib.hash([_contents(thing) for thing in things])


def _unsorted(X):
    """CSR whose columns are in descending order in each row, as a user may well have it."""
    flipped = sp.csr_array(X[:, ::-1])
    return sp.csr_array((flipped.data, X.shape[1] - 1 - flipped.indices, flipped.indptr), shape=X.shape)


@pytest.mark.parametrize("method", [*METHODS, "leave_one_out"])
@pytest.mark.parametrize("hold", [np.array, sp.csr_array, sp.csc_array, _unsorted, lambda X: X.astype(np.float32)])
def test_neither_the_arrays_nor_the_estimator_change(two, method, hold):
    X, X_val = hold(two.X[:40]), hold(two.X_val[:20])
    y, y_val, weights = two.y[:40].copy(), two.y_val[:20].copy(), two.sample_weight[:40].copy()
    estimator = LogisticRegression(class_weight="balanced").fit(X.copy(), y, sample_weight=weights)
    before = _everything(estimator, X, y, X_val, y_val, weights)
    influence_scores(estimator, X, y, X_val, y_val, method=method, sample_weight=weights, random_state=0)
    assert _everything(estimator, X, y, X_val, y_val, weights) == before


@pytest.mark.parametrize("method", ["ip", "exact", "leave_one_out"])
def test_neither_a_pipeline_nor_its_steps_change(two, method):
    whole = make_pipeline(StandardScaler(), LogisticRegression(**NEWTON)).fit(two.X, two.y)
    before = joblib.hash(whole)
    scores_of(whole, two, method)
    assert joblib.hash(whole) == before


# --- errors ---------------------------------------------------------------------------------------


def _spoiled(X, value):
    X = X.copy()
    X[3, 1] = value
    return X


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("hold", [np.asarray, sp.csr_array, sp.csc_array, lambda X: X.astype(np.float32), pd.DataFrame])
@pytest.mark.parametrize(
    ("which", "method"),
    # self_tracin looks at no validation row.
    [(w, m) for w in ("X", "X_val") for m in METHODS if (w, m) != ("X_val", "self_tracin")],
)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_features_that_are_not_finite_are_refused(logistic, two, which, hold, value, method):
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        scores_of(logistic, two, method, **{which: hold(_spoiled(getattr(two, which), value))})


@pytest.mark.parametrize("which", ["y", "y_val"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_targets_that_are_not_finite_are_refused(real, which, value):
    targets = getattr(real, which).copy()
    targets[2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        scores_of(Ridge().fit(real.X, real.y), real, **{which: targets})


def test_one_class_is_refused(logistic, two):
    with pytest.raises(ValueError, match="class"):
        scores_of(logistic, two, y=np.ones(90, dtype=int))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "change",
    [
        {"X": TWO.X[:-1]},
        {"y": TWO.y[:-1]},
        {"X_val": TWO.X_val[:-1]},
        {"y_val": TWO.y_val[:-1]},
        {"sample_weight": np.ones(89)},
        {"X": TWO.X[:0], "y": TWO.y[:0]},
        {"X_val": TWO.X_val[:0], "y_val": TWO.y_val[:0]},
    ],
    ids=["X", "y", "X_val", "y_val", "sample_weight", "no-rows", "no-validation-rows"],
)
def test_lengths_that_do_not_match_are_refused(logistic, two, method, change):
    with pytest.raises(ValueError, match=r"inconsistent|sample_weight|0 sample|at least one|minimum"):
        scores_of(logistic, two, method, **change)


@pytest.mark.parametrize("parts", [{"X_val": TWO.X_val}, {"y_val": TWO.y_val}], ids=["X_val", "y_val"])
def test_half_of_a_validation_set_is_refused(logistic, two, parts):
    with pytest.raises(ValueError, match=r"X_val.*y_val|y_val.*X_val"):
        influence_scores(logistic, two.X, two.y, **parts)


@pytest.mark.parametrize("which", ["y", "y_val"])
@pytest.mark.parametrize("strange", [2, -1, "yes", 0.5, np.nan])
def test_labels_the_estimator_never_saw_are_refused(logistic, two, which, strange):
    labels = getattr(two, which).astype(object if isinstance(strange, str) else type(strange))
    labels[5] = strange
    with pytest.raises(ValueError, match=r"label|NaN"):
        scores_of(logistic, two, **{which: labels})


@pytest.mark.parametrize("which", ["X", "X_val"])
@pytest.mark.parametrize("change", [lambda X: X[:, :3], lambda X: np.column_stack([X, X])])
@pytest.mark.parametrize("hold", [np.asarray, sp.csr_array])
def test_a_wrong_number_of_features_is_refused(logistic, two, which, change, hold):
    with pytest.raises(ValueError, match="features"):
        scores_of(logistic, two, **{which: hold(change(getattr(two, which)))})


def test_a_wrong_number_of_targets_is_refused(real):
    with pytest.raises(ValueError, match="target"):
        scores_of(Ridge().fit(real.X, real.y), real, y=np.column_stack([real.y, real.y]))


def test_columns_in_another_order_are_refused(two):
    frame = pd.DataFrame(two.X, columns=list("abcd"))
    estimator = LogisticRegression(**NEWTON).fit(frame, two.y)
    with pytest.raises(ValueError, match="feature names"):
        scores_of(estimator, two, X=frame[list("dcba")], X_val=pd.DataFrame(two.X_val, columns=list("abcd")))


@pytest.mark.parametrize("estimator", [LogisticRegression(), make_pipeline(StandardScaler(), Ridge())])
def test_an_unfitted_estimator_is_refused(two, estimator):
    with pytest.raises(NotFittedError):
        scores_of(estimator, two)


UNSUPPORTED = {
    "RandomForestClassifier": lambda: RandomForestClassifier(n_estimators=2, random_state=0),
    "KNeighborsClassifier": KNeighborsClassifier,
    "SVC": lambda: SVC(kernel="linear"),
    "LinearSVC": lambda: LinearSVC(multi_class="crammer_singer", random_state=0),
}


@pytest.mark.parametrize(
    "wrap", [lambda estimator: estimator, lambda estimator: make_pipeline(StandardScaler(), estimator)]
)
@pytest.mark.parametrize("name", UNSUPPORTED)
@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_an_unsupported_estimator_is_named(three, name, wrap):
    estimator = wrap(UNSUPPORTED[name]()).fit(three.X, three.y)
    with pytest.raises(TypeError, match=name):
        scores_of(estimator, three)


@pytest.mark.parametrize("strange", [None, 3, "LogisticRegression", LogisticRegression, StandardScaler()])
def test_what_is_no_estimator_is_refused(two, strange):
    with pytest.raises(TypeError):
        scores_of(strange, two)


def test_several_labels_a_row_are_refused(two):
    labels = np.column_stack([two.y, 1 - two.y, two.y])
    estimator = RidgeClassifier().fit(two.X, labels)
    with pytest.raises((TypeError, ValueError)):
        influence_scores(estimator, two.X, labels, two.X, labels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "weights",
    [np.r_[-0.1, np.ones(89)], np.zeros(90), np.r_[np.nan, np.ones(89)], np.r_[np.inf, np.ones(89)]],
    ids=["negative", "all-zero", "nan", "infinite"],
)
def test_weights_that_weigh_nothing_sensible_are_refused(logistic, two, method, weights):
    with pytest.raises(ValueError, match=r"(?i)weight"):
        scores_of(logistic, two, method, sample_weight=weights)


@pytest.mark.parametrize("method", ["IP", "newton", "", None, 3, "ip "])
def test_an_unknown_method_is_refused(logistic, two, method):
    with pytest.raises((ValueError, TypeError), match="method"):
        scores_of(logistic, two, method)


@pytest.mark.parametrize("objective", ["loss", None, 3])
def test_an_unknown_objective_is_refused(logistic, two, objective):
    with pytest.raises((ValueError, TypeError), match="objective"):
        scores_of(logistic, two, objective=objective)


def test_groups_that_no_objective_uses_are_refused(logistic, two):
    with pytest.raises(ValueError, match="sensitive"):
        scores_of(logistic, two, sensitive_features=np.zeros(90))


# --- the same twice -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bits(logistic, two, method):
    assert_array_equal(scores_of(logistic, two, method), scores_of(logistic, two, method))
    assert_array_equal(scores_of(logistic, two, method, n_jobs=2), scores_of(logistic, two, method))


@pytest.mark.filterwarnings("ignore:.*not at a minimum")  # four rows do not settle SGD
def test_a_model_of_one_feature_and_few_rows_is_scored():
    X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 1, 0, 1])
    estimator = SGDClassifier(loss="log_loss", random_state=0, max_iter=50, tol=None).fit(X, y)
    assert np.all(np.isfinite(influence_scores(estimator, X, y, X, y, method="exact")))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_that_need_nothing_are_taken_as_they_are(two, dtype):
    X = two.X.astype(dtype)
    estimator = LogisticRegression().fit(X, two.y)
    assert as_model(estimator).prepare(X) is X
    for wrong in (X[:, 1:], X[:0], X[0]):
        with pytest.raises(ValueError, match=r"features|sample\(s\)|Expected 2D"):
            as_model(estimator).prepare(wrong)
    estimator.feature_names_in_ = np.array([f"x{j}" for j in range(X.shape[1])], dtype=object)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        as_model(estimator).prepare(X)
