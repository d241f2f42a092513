"""InfluenceSelector: what it removes, when it refuses, and how it composes."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    LeaveOneGroupOut,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_score,
    train_test_split,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline as StockPipeline
from sklearn.pipeline import make_pipeline as make_stock_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skinfluence import (
    CuratedClassifier,
    CuratedRegressor,
    HeldOut,
    InfluenceSelector,
    Pipeline,
    influence_scores,
    make_pipeline,
)
from skinfluence._crossfit import make_folds
from skinfluence._redraw import redraw
from skinfluence.methods import IPEnsemble


@pytest.fixture(scope="module")
def noisy():
    """Breast cancer, scaled, with a tenth of the labels flipped; the flips."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    flipped = np.random.RandomState(0).random_sample(len(y)) < 0.1
    return X, np.where(flipped, 1 - y, y), flipped


# --- what is removed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "exact", "cg", "self_tracin"])
def test_wrong_labels_score_lowest(noisy, method):
    X, y, flipped = noisy
    selector = InfluenceSelector(method=method, removal_rate=0.1, random_state=0).fit(X, y)
    assert roc_auc_score(flipped, -selector.scores_) > 0.9
    assert flipped[~selector.support_].mean() > 0.6


def test_the_lowest_scores_are_removed(noisy):
    X, y, _ = noisy
    selector = InfluenceSelector(removal_rate=0.05, random_state=0).fit(X, y)
    n_removed = int(0.05 * len(y))
    assert (~selector.support_).sum() == n_removed
    assert_array_equal(np.flatnonzero(~selector.support_), np.sort(np.argsort(selector.scores_)[:n_removed]))
    assert selector.scores_[~selector.support_].max() < selector.threshold_ == selector.scores_[selector.support_].min()
    assert_array_equal(selector.sample_indices_, selector.get_support(indices=True))
    assert_array_equal(selector.get_support(), selector.support_)
    assert selector.sample_weight_ is None
    assert selector.task_ == "classification"
    assert_array_equal(selector.classes_, [0, 1])


def test_auto_removes_negative_scores(noisy):
    X, y, flipped = noisy
    selector = InfluenceSelector(method="exact", removal_rate="auto", random_state=0).fit(X, y)
    assert_array_equal(selector.support_, selector.scores_ >= 0)
    assert selector.threshold_ == 0.0
    assert flipped[~selector.support_].sum() > 0.9 * flipped.sum()


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "self_tracin"])
def test_auto_is_refused_where_the_sign_means_nothing(noisy, method):
    with pytest.raises(ValueError, match="'exact', 'cg' or 'leave_one_out'"):
        InfluenceSelector(method=method, removal_rate="auto").fit(*noisy[:2])


def test_zero_removes_nothing(noisy):
    X, y, _ = noisy
    selector = InfluenceSelector(removal_rate=0.0, random_state=0)
    assert selector.fit_transform(X, y) is X
    assert selector.support_.all()


def test_a_class_is_never_emptied():
    X, y = make_classification(120, weights=[0.95], random_state=0)
    for rate in (0.5, 0.9, 0.99):
        selector = InfluenceSelector(removal_rate=rate, random_state=0).fit(X, y)
        assert set(y[selector.support_]) == {0, 1}
        for label in (0, 1):  # what a class keeps is its best
            kept = selector.scores_[(y == label) & selector.support_]
            assert kept.max() == selector.scores_[y == label].max()


@pytest.mark.parametrize("n", [2, 50, 1000])
def test_a_rate_just_below_one_keeps_a_row(n):
    rng = np.random.RandomState(0)
    X, y = rng.normal(size=(n, 2)), np.arange(n) % 2
    selector = InfluenceSelector(LogisticRegression(), method="ip", removal_rate=1 - 1e-12, cv=None).fit(X, y)
    assert selector.threshold_ == selector.scores_.max()
    assert set(y[selector.support_]) == {0, 1}
    assert selector.support_.sum() == 2
    regressor = InfluenceSelector(Ridge(), method="ip", removal_rate=1 - 1e-12, cv=None).fit(X, X[:, 0])
    assert_array_equal(regressor.sample_indices_, [regressor.scores_.argmax()])


def test_ties_are_broken_by_row_order():
    X, y = np.tile([[-1.0], [1.0]], (20, 1)), np.tile([0, 1], 20)
    selector = InfluenceSelector(LogisticRegression(), method="ip", cv=None, removal_rate=0.1).fit(X, y)
    assert_array_equal(
        np.flatnonzero(~selector.support_), [0, 2, 4, 6] if selector.scores_[0] < selector.scores_[1] else [0, 1, 2, 3]
    )


def test_rounds_refit_on_the_kept_rows(noisy):
    X, y, flipped = noisy
    one = InfluenceSelector(method="exact", removal_rate=0.1, random_state=0).fit(X, y)
    two = clone(one).set_params(n_rounds=2).fit(X, y)
    assert two.scores_.shape == one.scores_.shape
    assert not np.allclose(one.scores_, two.scores_)
    assert flipped[~two.support_].mean() >= flipped[~one.support_].mean()


# --- how rows are scored ----------------------------------------------------------------------------------------------


def test_validation_rows_mean_one_fit_scored_in_sample(noisy):
    X, y, _ = noisy
    estimator = LogisticRegression(C=0.1)
    selector = InfluenceSelector(estimator, method="exact").fit(X[100:], y[100:], X_val=X[:100], y_val=y[:100])
    fitted = LogisticRegression(C=0.1).fit(X[100:], y[100:])
    expected = influence_scores(fitted, X[100:], y[100:], X[:100], y[:100], method="exact")
    assert_allclose(selector.scores_, expected, rtol=1e-10)
    assert_array_equal(selector.estimator_.coef_, fitted.coef_)
    same = clone(selector).fit(X[100:], y[100:], X_val=HeldOut(X[:100], y[:100]))
    assert_array_equal(same.scores_, selector.scores_)


def test_without_folds_rows_are_scored_in_sample(noisy):
    X, y, _ = noisy
    selector = InfluenceSelector(LogisticRegression(), method="ip", cv=None).fit(X, y)
    assert_allclose(selector.scores_, influence_scores(LogisticRegression().fit(X, y), X, y), rtol=1e-10)


def test_a_frozen_estimator_is_never_refitted(noisy):
    X, y, _ = noisy
    fitted = LogisticRegression(C=0.01).fit(X[:300], y[:300])
    coef = fitted.coef_.copy()
    selector = InfluenceSelector(FrozenEstimator(fitted), method="ip").fit(X, y)
    assert_array_equal(fitted.coef_, coef)
    assert_allclose(selector.scores_, influence_scores(fitted, X, y), rtol=1e-10)
    with pytest.raises(ValueError, match="never refitted"):
        clone(selector).set_params(n_rounds=2).fit(X, y)


def test_cross_fitting_scores_a_row_by_a_model_that_never_saw_it(noisy):
    """By hand: fit on the other folds, add the row's gradient there to the robust loss's gradient."""
    X, y, _ = noisy
    folds = list(StratifiedKFold(3).split(X, y))
    selector = InfluenceSelector(LogisticRegression(tol=1e-8), method="ip", cv=StratifiedKFold(3)).fit(X, y)
    for train, test in folds:
        model = LogisticRegression(tol=1e-8).fit(X[train], y[train])
        P = model.predict_proba(X)[:, 1]
        A = np.column_stack([X, np.ones(len(y))])
        p_own = np.where(y == 1, P, 1 - P)
        mae = -(np.where(y == 1, 1, -1) * p_own * (1 - p_own))[:, None] * A
        log = (P - y)[:, None] * A
        expected = log[test] @ mae[train].mean(axis=0) / len(train)
        assert_allclose(selector.scores_[test], expected, rtol=1e-6, atol=1e-12)


def test_the_default_is_scaled_so_that_units_do_not_matter(noisy):
    X, y, _ = noisy
    units = 10.0 ** np.random.RandomState(0).randint(-3, 4, size=X.shape[1])
    one, two = (InfluenceSelector(random_state=0).fit(data, y) for data in (X, X * units))
    assert_allclose(one.scores_, two.scores_, rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("estimator", [None, LogisticRegression(), SGDClassifier(loss="log_loss")], ids=str)
def test_same_seed_same_scores_for_any_jobs(noisy, estimator):
    X, y, _ = noisy
    one, two = (InfluenceSelector(estimator, random_state=4, n_jobs=n).fit(X, y).scores_ for n in (None, 2))
    assert_allclose(one, two, rtol=1e-8, atol=1e-12)  # workers run fewer BLAS threads, which round otherwise
    other = InfluenceSelector(estimator, random_state=5).fit(X, y).scores_
    assert not np.allclose(one, other)


def test_fitting_changes_nothing_of_the_users(noisy):
    X, y, _ = noisy
    X, y = X.copy(), y.copy()
    X.flags.writeable = y.flags.writeable = False
    estimator = LogisticRegression()
    selector = InfluenceSelector(estimator, random_state=0).fit(X, y)
    assert not hasattr(estimator, "coef_")
    assert hasattr(selector.estimator_, "coef_")
    kept = LogisticRegression().fit(X[selector.support_], y[selector.support_])
    assert_array_equal(selector.estimator_.coef_, kept.coef_)


def test_sample_weight_enters_fits_and_objective(noisy):
    X, y, _ = noisy
    weight = np.ones(len(y))
    weight[:50] = 3.0
    selector = InfluenceSelector(LogisticRegression(tol=1e-8, max_iter=9999), method="exact", cv=None)
    weighted = clone(selector).fit(X, y, sample_weight=weight)
    repeated = clone(selector).fit(np.vstack([X, X[:50], X[:50]]), np.concatenate([y, y[:50], y[:50]]))
    n = len(y)
    together = repeated.scores_[:n].copy()
    together[:50] *= 3
    assert_allclose(weighted.scores_, together, rtol=1e-4, atol=1e-9)
    assert_array_equal(weighted.sample_weight_, weight[weighted.support_])


def test_folds_partition_the_rows_whatever_the_classes():
    from skinfluence._crossfit import Table

    for counts in ([30, 30], [50, 3], [50, 2, 1], [40, 1, 1, 7]):
        y = np.repeat(np.arange(len(counts)), counts)
        table = Table(np.zeros((len(y), 1)), y)
        folds = make_folds(5, None, table, None, "classification", 0)
        assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(y)))
        for train, _ in folds:
            assert set(y[train]) == set(y)


def test_a_class_of_one_row_is_scored_and_kept():
    X, y = make_classification(60, random_state=0)
    y = y.astype(object)
    y[:] = np.where(y == 0, "a", "b")
    y[7] = "rare"
    selector = InfluenceSelector(removal_rate=0.3, random_state=0).fit(X, y)
    assert selector.support_[7]
    assert np.isfinite(selector.scores_).all()


@pytest.mark.parametrize("cv", [ShuffleSplit(3, random_state=0), 1, True, 0])
def test_folds_that_are_no_partition_are_refused(noisy, cv):
    with pytest.raises(ValueError, match="cv must"):
        InfluenceSelector(cv=cv).fit(*noisy[:2])


# --- caching ----------------------------------------------------------------------------------------------------------


def test_a_grid_over_rates_scores_once_a_fold(noisy, tmp_path, monkeypatch):
    import skinfluence._crossfit as crossfit

    X, y, _ = noisy
    calls = []
    original = crossfit._score_one

    def counting(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(crossfit, "_score_one", counting)
    memory = joblib.Memory(tmp_path, verbose=0)
    pipe = Pipeline([("curate", InfluenceSelector(cv=3, memory=memory, random_state=0)), ("clf", LogisticRegression())])
    search = GridSearchCV(pipe, {"curate__removal_rate": [0.0, 0.02, 0.05, 0.1, 0.2]}, cv=2, refit=False).fit(X, y)
    assert len(calls) == 3 * 2  # three cross-fitting folds in each of the search's two
    plain = clone(search).set_params(estimator__curate__memory=None).fit(X, y)
    assert_array_equal(search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"])


# --- homes ------------------------------------------------------------------------------------------------------------


def test_pipeline_is_bit_equal_to_removing_by_hand(noisy):
    X, y, _ = noisy
    pipe = Pipeline(
        [("scale", StandardScaler()), ("curate", InfluenceSelector(random_state=0)), ("clf", LogisticRegression())]
    ).fit(X, y)
    scaled = StandardScaler().fit_transform(X)
    kept = InfluenceSelector(random_state=0).fit(scaled, y).support_
    assert_array_equal(pipe["clf"].coef_, LogisticRegression().fit(scaled[kept], y[kept]).coef_)
    assert_array_equal(pipe.predict(X), pipe["clf"].predict(scaled))
    curated = CuratedClassifier(LogisticRegression(), InfluenceSelector(random_state=0)).fit(scaled, y)
    assert_array_equal(curated.estimator_.coef_, pipe["clf"].coef_)


def test_any_final_model_follows(noisy):
    X, y, _ = noisy
    for final in (KNeighborsClassifier(), RandomForestClassifier(5, random_state=0)):
        assert make_pipeline(InfluenceSelector(random_state=0), final).fit(X, y).score(X, y) > 0.8


def test_final_stands_for_what_follows(noisy):
    X, y, _ = noisy
    final = LogisticRegression(C=0.01)
    pipe = Pipeline([("curate", InfluenceSelector("final", random_state=0)), ("clf", final)]).fit(X, y)
    given = InfluenceSelector(final, random_state=0).fit(X, y)
    assert_array_equal(pipe["curate"].scores_, given.scores_)
    several = make_pipeline(InfluenceSelector("final", random_state=0), StandardScaler(), final).fit(X, y)
    together = InfluenceSelector(make_stock_pipeline(StandardScaler(), final), random_state=0).fit(X, y)
    assert_array_equal(several[0].scores_, together.scores_)
    curated = CuratedClassifier(final, InfluenceSelector("final", random_state=0)).fit(X, y)
    assert_array_equal(curated.curator_.scores_, given.scores_)


def test_final_has_no_meaning_alone(noisy):
    with pytest.raises(ValueError, match="the step that follows"):
        InfluenceSelector("final").fit(*noisy[:2])
    with pytest.raises(TypeError, match="KNeighborsClassifier"):
        make_pipeline(InfluenceSelector("final"), KNeighborsClassifier()).fit(*noisy[:2])


def test_integer_targets_of_a_regressor_are_no_classes():
    X, y = load_diabetes(return_X_y=True)
    assert set(y % 1) == {0.0}
    y = y.astype(int)
    pipe = make_pipeline(InfluenceSelector(random_state=0), Ridge()).fit(X, y)
    assert pipe[0].task_ == "regression"
    assert (~pipe[0].support_).sum() == int(0.05 * len(y))
    assert CuratedRegressor(Ridge(), InfluenceSelector(random_state=0)).fit(X, y).curator_.task_ == "regression"


def test_regression_outliers_are_removed():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((300, 4))
    y = X @ [1.0, 2.0, 0.0, -1.0] + 0.1 * rng.standard_normal(300)
    bad = np.arange(300) < 15
    y[bad] += 10
    for method in ("ip_ensemble", "exact"):
        selector = InfluenceSelector(method=method, removal_rate=0.05, random_state=0).fit(X, y)
        assert roc_auc_score(bad, -selector.scores_) > 0.9


def test_a_stock_pipeline_redraws_within_classes(noisy):
    X, y, _ = noisy
    names = np.array(["no", "yes"])[y]
    frame = pd.DataFrame(X, index=np.arange(len(y))[::-1]).rename(columns=str)
    selector = InfluenceSelector(removal_rate=0.1, random_state=0)
    drawn = selector.fit_transform(frame, names)
    assert drawn.shape == frame.shape
    assert_array_equal(drawn.index, frame.index)
    assert_array_equal(frame.to_numpy(), X)
    kept = selector.support_
    assert_array_equal(drawn[kept].to_numpy(), X[kept])
    of_row = {tuple(row): i for i, row in enumerate(X)}
    sources = np.array([of_row[tuple(row)] for row in drawn.to_numpy()])
    assert kept[sources].all()
    assert_array_equal(names[sources], names)
    again = clone(selector).fit_transform(frame, names)
    pd.testing.assert_frame_equal(drawn, again)


def test_redraws_are_even():
    codes = np.repeat([0, 1], [100, 50])
    kept = np.random.RandomState(1).random_sample(150) < 0.3
    indices = redraw(codes, kept.astype(float), np.random.RandomState(0))
    assert_array_equal(indices[kept], np.flatnonzero(kept))
    assert_array_equal(codes[indices], codes)
    for code in (0, 1):
        times = np.bincount(indices[codes == code], minlength=150)[kept & (codes == code)]
        assert times.max() - times.min() <= 1
        assert times.sum() == (codes == code).sum()


@given(seed=st.integers(0, 10_000), n=st.integers(2, 60))
@settings(max_examples=60, deadline=None)
def test_redraws_follow_the_weights(seed, n):
    rng = np.random.RandomState(seed)
    codes, weights = rng.randint(2, size=n), rng.gamma(0.3, size=n) * (rng.random_sample(n) < 0.8)
    for code in (0, 1):
        weights[np.flatnonzero(codes == code)[:1]] += 0.1
    indices = redraw(codes, weights, rng)
    assert_array_equal(codes[indices], codes)
    for code in np.unique(codes):
        of_class = codes == code
        share = weights[of_class] / weights[of_class].sum() * of_class.sum()
        times = np.bincount(indices[of_class], minlength=n)[of_class]
        assert (np.abs(times - share) < 1 + 1e-9).all()
        assert (times[weights[of_class] == 0] == 0).all()


def test_a_stock_pipeline_cannot_redraw_a_continuous_target():
    X, y = load_diabetes(return_X_y=True)
    y = y + 0.5
    with pytest.raises(ValueError, match=r"skinfluence.Pipeline, CuratedRegressor, or as_sampler"):
        make_stock_pipeline(InfluenceSelector(), Ridge()).fit(X, y)
    with pytest.raises(ValueError, match="on_fit_transform"):
        InfluenceSelector(on_fit_transform="raise").fit_transform(X, y)


def test_redrawing_is_close_to_removing(noisy):
    X, y, _ = noisy
    removed = cross_val_score(make_pipeline(InfluenceSelector(random_state=0), LogisticRegression()), X, y, n_jobs=2)
    redrawn = cross_val_score(
        make_stock_pipeline(InfluenceSelector(random_state=0), LogisticRegression()), X, y, n_jobs=2
    )
    assert abs(removed.mean() - redrawn.mean()) < 0.01


@pytest.mark.parametrize("home", [Pipeline, StockPipeline])
def test_grids_reach_inside(noisy, home):
    X, y, _ = noisy
    pipe = home([("curate", InfluenceSelector(random_state=0)), ("clf", LogisticRegression())])
    grid = {"curate__removal_rate": [0.0, 0.1], "curate__method__n_members": [2, 3]}
    search = GridSearchCV(pipe, grid, cv=2, n_jobs=2).fit(X, y)
    assert search.best_estimator_["curate"].method.n_members in (2, 3)
    assert search.best_score_ >= search.cv_results_["mean_test_score"].min()


def test_parameters_of_named_methods_are_parameters():
    selector = InfluenceSelector()
    assert selector.get_params()["method__n_members"] == 5
    assert "method__n_members" not in selector.get_params(deep=False)
    selector.set_params(method__n_members=9, removal_rate=0.2)
    assert isinstance(selector.method, IPEnsemble)
    assert selector.method.n_members == 9
    assert clone(selector).method.n_members == 9
    assert InfluenceSelector().set_params(objective__loss="gce").objective.loss == "gce"
    with pytest.raises(ValueError, match="Invalid parameter"):
        InfluenceSelector().set_params(method__members=9)


# --- containers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: pd.DataFrame(X).rename(columns=str),
        lambda X: pl.DataFrame(X, schema=[f"c{i}" for i in range(X.shape[1])]),
        lambda X: X.tolist(),
        np.asfortranarray,
        sp.csr_array,
        sp.csc_matrix,
        sp.coo_array,
    ],
    ids=["pandas", "polars", "list", "fortran", "csr", "csc", "coo"],
)
def test_containers_give_the_same_rows(noisy, convert):
    X, y, _ = noisy
    # Without centring, which sparse input cannot have.
    estimator = LogisticRegression(max_iter=300)
    expected = InfluenceSelector(estimator, random_state=0).fit(X, y)
    data = convert(X)
    selector = InfluenceSelector(estimator, random_state=0)
    X_kept, y_kept, factor = selector.fit_curate(data, y)
    assert_array_equal(selector.support_, expected.support_)
    assert factor is None
    assert_array_equal(y_kept, y[expected.support_])
    if isinstance(data, (pd.DataFrame, pl.DataFrame)):
        assert type(X_kept) is type(data)
        assert list(selector.feature_names_in_) == list(data.columns)
    dense = X_kept.toarray() if sp.issparse(X_kept) else np.asarray(X_kept)
    assert_array_equal(dense, X[expected.support_])


def test_frames_of_mixed_columns_with_a_pipeline_as_estimator():
    rng = np.random.RandomState(0)
    frame = pd.DataFrame({"n": rng.standard_normal(80), "c": rng.choice(["x", "y", "z"], 80)})
    y = pd.Series((frame["n"] + (frame["c"] == "x") > 0.3).map({True: "good", False: "bad"}))
    encode = make_column_transformer((OneHotEncoder(), ["c"]), (StandardScaler(), ["n"]))
    selector = InfluenceSelector(make_stock_pipeline(encode, LogisticRegression()), removal_rate=0.1, random_state=0)
    X_kept, y_kept, _ = selector.fit_curate(frame, y)
    assert list(X_kept.columns) == ["n", "c"]
    assert isinstance(y_kept, pd.Series)
    assert len(X_kept) == 72
    assert selector.transform(frame) is frame


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output(noisy, kind):
    X, y, _ = noisy
    frame = pd.DataFrame(X).rename(columns=str)
    pipe = Pipeline(
        [("scale", StandardScaler()), ("curate", InfluenceSelector(random_state=0)), ("clf", LogisticRegression())]
    )
    pipe.set_output(transform=kind).fit(frame, y)
    out = pipe[:-1].transform(frame)
    assert type(out).__module__.startswith(kind)
    assert list(out.columns) == list(frame.columns)
    assert list(pipe[:-1].get_feature_names_out()) == list(frame.columns)


def test_transform_is_the_identity(noisy):
    X, y, _ = noisy
    selector = InfluenceSelector(random_state=0).fit(X, y)
    assert selector.transform(X[:5]) is not None
    assert_array_equal(selector.transform(X[:5]), X[:5])
    with pytest.raises(ValueError, match="features"):
        selector.transform(X[:, :3])


def test_pickle_and_joblib(noisy, tmp_path):
    X, y, _ = noisy
    selector = InfluenceSelector(method="exact", random_state=0).fit(X, y)
    joblib.dump(selector, tmp_path / "s.joblib")
    for again in (pickle.loads(pickle.dumps(selector)), joblib.load(tmp_path / "s.joblib")):
        assert_array_equal(again.scores_, selector.scores_)
        assert_array_equal(again.get_support(), selector.get_support())


def test_metadata_routing(noisy):
    X, y, _ = noisy
    weight = np.linspace(0.5, 2, len(y))
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(
            InfluenceSelector(random_state=0).set_fit_request(sample_weight=True),
            LogisticRegression().set_fit_request(sample_weight=True),
        ).fit(X, y, sample_weight=weight)
    alone = InfluenceSelector(random_state=0).fit(X, y, sample_weight=weight)
    assert_array_equal(pipe[0].scores_, alone.scores_)
    by_hand = LogisticRegression().fit(X[alone.support_], y[alone.support_], sample_weight=weight[alone.support_])
    assert_array_equal(pipe[1].coef_, by_hand.coef_)


# --- what is refused --------------------------------------------------------------------------------------------------


def bad(X, y, **changes):
    return {"X": X, "y": y, **changes}


@pytest.mark.parametrize(
    ("selector", "change", "error", "words"),
    [
        (InfluenceSelector(removal_rate=1.0), {}, ValueError, "removal_rate"),
        (InfluenceSelector(removal_rate=-0.1), {}, ValueError, "removal_rate"),
        (InfluenceSelector(removal_rate="most"), {}, ValueError, "removal_rate must be a number in"),
        (InfluenceSelector(n_rounds=0), {}, ValueError, "n_rounds"),
        (InfluenceSelector(method="ipp"), {}, ValueError, "method must be one of"),
        (InfluenceSelector(objective="usefulness"), {}, ValueError, "objective must be one of"),
        (InfluenceSelector(objective=3), {}, TypeError, "objective must be one of"),
        (InfluenceSelector(on_fit_transform="drop"), {}, ValueError, "on_fit_transform must be"),
        (InfluenceSelector("last"), {}, ValueError, "estimator must be"),
        (InfluenceSelector(RandomForestClassifier()), {}, TypeError, "RandomForestClassifier is none"),
        (InfluenceSelector(), {"y": "one class"}, ValueError, "at least two classes"),
        (InfluenceSelector(), {"y": "short"}, ValueError, "inconsistent numbers of samples"),
        (InfluenceSelector(), {"y": "nan"}, ValueError, "NaN"),
        (InfluenceSelector(), {"X": "nan"}, ValueError, "NaN"),
        (InfluenceSelector(), {"X": "inf"}, ValueError, "infinity"),
        (InfluenceSelector(), {"X": "one row"}, ValueError, "n_samples = 1"),
        (InfluenceSelector(), {"X": "no rows"}, ValueError, "0 sample"),
        (InfluenceSelector(), {"sample_weight": "short"}, ValueError, "inconsistent numbers of samples"),
        (InfluenceSelector(), {"sample_weight": "negative"}, ValueError, "[Nn]egative"),
        (InfluenceSelector(), {"sample_weight": "zero"}, ValueError, "positive|non-zero"),
        (InfluenceSelector(), {"X_val": "only"}, ValueError, "X_val and y_val go together"),
        (InfluenceSelector(), {"X_val": "narrow"}, ValueError, "features"),
        (InfluenceSelector(), {"X_val": "strange label"}, ValueError, "not fitted with"),
        (InfluenceSelector(), {"X_val": "nan"}, ValueError, "NaN"),
        (InfluenceSelector(), {"sensitive_features": "any"}, ValueError, "uses no sensitive features"),
        (
            InfluenceSelector(KNeighborsClassifier()),
            {"sample_weight": "short"},
            TypeError,
            "KNeighborsClassifier is none",
        ),
    ],
)
def test_bad_input_is_refused_with_a_reason(noisy, selector, change, error, words):
    X, y, _ = noisy
    X, y = X.copy(), y.astype(float)
    arguments: dict = {}
    for what, how in change.items():
        if what == "y":
            y = {"one class": np.zeros(len(y)), "short": y[:-1], "nan": np.where(np.arange(len(y)) == 3, np.nan, y)}[
                how
            ]
        elif what == "X" and how in ("nan", "inf"):
            X[3, 2] = float(how)
        elif what == "X":
            rows = 1 if how == "one row" else 0
            X, y = X[:rows], y[:rows]
        elif what == "sample_weight":
            n = len(y)
            arguments[what] = {"short": np.ones(n - 1), "negative": -np.ones(n), "zero": np.zeros(n)}[how]
        elif what == "X_val":
            X_val, y_val = X[:9].copy(), y[:9].copy()
            if how == "narrow":
                X_val = X_val[:, :4]
            if how == "nan":
                X_val[1, 1] = np.nan
            if how == "strange label":
                y_val[2] = 7
            arguments = {"X_val": X_val} if how == "only" else {"X_val": X_val, "y_val": y_val}
        else:
            arguments[what] = np.zeros(len(y))
    with pytest.raises(error, match=words):
        selector.fit(X, y, **arguments)


def test_weights_that_the_estimator_cannot_take_are_refused(noisy):
    from sklearn.linear_model import ARDRegression

    X, y = load_diabetes(return_X_y=True)
    with pytest.raises(TypeError, match="ARDRegression takes none"):
        InfluenceSelector(ARDRegression()).fit(X, y, sample_weight=np.ones(len(y)))


def test_unknown_fit_parameters_are_refused(noisy):
    with pytest.raises(TypeError, match="no parameter named"):
        InfluenceSelector().fit_curate(*noisy[:2], weights=None)


def test_a_splitter_sets_the_folds(noisy):
    X, y, _ = noisy
    selector = InfluenceSelector(cv=KFold(4), method="ip").fit(X, y)
    assert len(selector.diagnostics_) == 4
    with pytest.raises(ValueError, match="groups"):
        InfluenceSelector(cv=LeaveOneGroupOut()).fit(X, y)


def test_verbose_prints_a_line_a_round(noisy, capsys):
    InfluenceSelector(method="ip", n_rounds=2, verbose=1, random_state=0).fit(*noisy[:2])
    assert capsys.readouterr().out.count("scored 569 rows") == 2


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_calibrated_curation_does_no_harm_on_clean_data(load):
    X, y = load(return_X_y=True)
    folds = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
    base = cross_val_score(make_stock_pipeline(StandardScaler(), LogisticRegression()), X, y, cv=folds)
    selector = InfluenceSelector(method="exact", removal_rate="auto", random_state=0)
    curated = cross_val_score(make_pipeline(StandardScaler(), selector, LogisticRegression()), X, y, cv=folds)
    assert curated.mean() > base.mean() - 0.01


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_default_does_no_harm_on_a_real_table(data_home, share):
    table = pd.read_csv(data_home / "tabular" / "spambase.csv.gz")
    X, y = table.drop(columns="target").to_numpy(dtype=float), table["target"].to_numpy()
    X, X_test, y, y_test = train_test_split(X, y, random_state=0)
    y = np.where(np.random.RandomState(0).random_sample(len(y)) < share, 1 - y, y)
    clf = LogisticRegression(max_iter=500)
    plain = make_stock_pipeline(StandardScaler(), clf).fit(X, y).score(X_test, y_test)
    curated = make_pipeline(StandardScaler(), InfluenceSelector(random_state=0), clf).fit(X, y).score(X_test, y_test)
    assert curated > plain - 0.01
