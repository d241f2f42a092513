"""CuratedClassifier and CuratedRegressor: an estimator that curates its own training rows."""

import pickle

import joblib
import numpy as np
import pytest
import sklearn
from _curators import RandomCurator, SecretWeightCurator, SignCurator, Stub, WeightCurator
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import StackingClassifier
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline as make_stock_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from skinfluence._curated import CuratedClassifier, CuratedRegressor
from skinfluence._curation import InfluenceSelector
from skinfluence._held_out import HeldOut
from skinfluence._pipeline import Pipeline, make_pipeline

N = 120


@pytest.fixture
def data():
    return make_classification(N, 6, n_informative=4, flip_y=0.15, random_state=0)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


class UpperHalf(SignCurator):
    """SignCurator by the sign of a regression target."""

    def _decide(self, X, y):
        return super()._decide(X, np.asarray(y > np.median(y)).reshape(len(y), -1)[:, 0])


@parametrize_with_checks(
    [
        CuratedClassifier(LogisticRegression(), SignCurator()),
        CuratedRegressor(Ridge(), UpperHalf()),
        CuratedClassifier(LogisticRegression(), InfluenceSelector(method="ip", removal_rate=0.0, cv=2, random_state=0)),
        CuratedRegressor(Ridge(), InfluenceSelector(method="ip", removal_rate=0.0, cv=2, random_state=0)),
    ]
)
def test_estimator_checks(estimator, check):
    check(estimator)


CURATORS = [
    pytest.param(SignCurator(), id="sign"),
    pytest.param(RandomCurator(), id="random"),
    pytest.param(InfluenceSelector(method="ip", removal_rate=0.1, cv=3, random_state=0), id="influence"),
]


@pytest.mark.parametrize("curator", CURATORS)
def test_the_same_as_removing_rows_by_hand(data, curator):
    X, y = data
    estimator = LogisticRegression()
    model = CuratedClassifier(estimator, curator).fit(X, y)
    kept = clone(curator).fit(X, y).get_support(indices=True)
    assert 0 < len(kept) < N
    by_hand = LogisticRegression().fit(X[kept], y[kept])
    assert_array_equal(model.curator_.sample_indices_, kept)
    assert_array_equal(model.estimator_.coef_, by_hand.coef_)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        assert_array_equal(getattr(model, method)(X), getattr(by_hand, method)(X))
    assert model.score(X, y) == by_hand.score(X, y)
    assert model.score(X, y, y + 1) == by_hand.score(X, y, y + 1)
    assert_array_equal(model.classes_, [0, 1])
    assert not hasattr(estimator, "coef_")
    assert not hasattr(curator, "sample_indices_")


def test_default_curator(data):
    X, y = data
    model = CuratedClassifier(LogisticRegression()).fit(X, y)
    assert isinstance(model.curator_, InfluenceSelector)
    assert model.curator is None
    assert len(model.curator_.sample_indices_) == N - N // 20
    assert isinstance(CuratedRegressor(Ridge()).fit(X, X[:, 0]).curator_, InfluenceSelector)


@pytest.mark.usefixtures("routing")
def test_default_curator_with_routing(data):
    X, y = data
    assert isinstance(CuratedClassifier(LogisticRegression()).fit(X, y).curator_, InfluenceSelector)
    with pytest.raises(UnsetMetadataPassedError, match=r"InfluenceSelector"):
        CuratedClassifier(LogisticRegression()).fit(X, y, sample_weight=np.ones(N))


def test_the_curator_knows_task_and_estimator(data):
    X, y = data
    model = CuratedClassifier(LogisticRegression(C=0.2), RandomCurator()).fit(X, y)
    assert model.curator_.seen_["task"] == "classification"
    assert model.curator_.seen_["following"].C == 0.2
    assert CuratedRegressor(Ridge(), RandomCurator()).fit(X, y).curator_.seen_["task"] == "regression"
    selector = InfluenceSelector("final", method="exact", removal_rate=0.1, cv=3, random_state=0)
    given = clone(selector).set_params(estimator=LogisticRegression(C=0.2)).fit(X, y)
    assert_array_equal(CuratedClassifier(LogisticRegression(C=0.2), selector).fit(X, y).curator_.scores_, given.scores_)


def test_integer_targets_of_a_regressor_are_no_classes():
    X, y = make_regression(N, 4, noise=5.0, random_state=0)
    y = np.round(y / 10).astype(int)
    curator = InfluenceSelector(method="ip", removal_rate=0.1, cv=3, random_state=0)
    model = CuratedRegressor(Ridge(), curator).fit(X, y)
    assert model.curator_.task_ == "regression"
    assert model.score(X, y) > 0.9


def test_weights(data):
    X, y = data
    weight = np.linspace(0.1, 3, N)
    model = CuratedClassifier(LogisticRegression(), RandomCurator()).fit(X, y, weight)
    kept = model.curator_.sample_indices_
    assert model.curator_.seen_["sample_weight"] is weight
    assert_array_equal(model.estimator_.coef_, LogisticRegression().fit(X[kept], y[kept], weight[kept]).coef_)
    factor = (1 + np.abs(X[:, 0]))[kept]
    for curator in (WeightCurator(), SecretWeightCurator()):
        model = CuratedClassifier(LogisticRegression(), curator).fit(X, y)
        assert_array_equal(model.estimator_.coef_, LogisticRegression().fit(X[kept], y[kept], factor).coef_)
        model.fit(X, y, list(weight))
        by_hand = LogisticRegression().fit(X[kept], y[kept], weight[kept] * factor)
        assert_array_equal(model.estimator_.coef_, by_hand.coef_)


def test_curator_that_takes_no_weights(data):
    X, y = data

    class Unweighted(Stub):
        def fit(self, X, y):
            self.fit_curate(X, y)
            return self

    model = CuratedClassifier(LogisticRegression(), Unweighted()).fit(X, y, np.ones(N))
    assert "sample_weight" not in model.curator_.seen_


def test_further_parameters_follow_the_rows(data):
    X, y = data

    class Recorder(LogisticRegression):
        def fit(self, X, y, groups=None, eval_val=None, names=None):
            self.seen_ = {"groups": groups, "eval_val": eval_val, "names": names}
            return super().fit(X, y)

    groups = np.arange(N)
    model = CuratedClassifier(Recorder(), RandomCurator()).fit(X, y, groups=groups, eval_val=groups, names="x" * N)
    kept = model.curator_.sample_indices_
    assert_array_equal(model.estimator_.seen_["groups"], kept)
    assert model.estimator_.seen_["eval_val"] is groups
    assert model.estimator_.seen_["names"] == "x" * N


def test_validation_rows(data):
    X, y = data
    Xv, yv = X[80:], y[80:]
    groups, groups_val = np.arange(80), np.arange(40)
    model = CuratedClassifier(LogisticRegression(), RandomCurator())
    model.fit(X[:80], y[:80], X_val=Xv, y_val=yv, sensitive_features=groups, sensitive_features_val=groups_val)
    seen = model.curator_.seen_
    assert seen["X_val"] is Xv
    assert seen["y_val"] is yv
    assert seen["sensitive_features"] is groups
    assert seen["sensitive_features_val"] is groups_val
    assert "sample_weight" not in seen
    selector = InfluenceSelector(method="ip", removal_rate=0.1, random_state=0)
    by_hand = clone(selector).fit(X[:80], y[:80], X_val=Xv, y_val=yv).scores_
    for given in ({"X_val": HeldOut(Xv, yv)}, {"X_val": Xv, "y_val": yv}):
        model = CuratedClassifier(LogisticRegression(), selector).fit(X[:80], y[:80], **given)
        assert_array_equal(model.curator_.scores_, by_hand)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (
            CuratedClassifier(Ridge(), SignCurator()),
            r"CuratedClassifier wants a classifier, got Ridge\(\). Try Curated",
        ),
        (
            CuratedRegressor(LogisticRegression(), SignCurator()),
            r"wants a regressor, got Logistic.*Try CuratedClassifier",
        ),
        (CuratedClassifier(LogisticRegression(), StandardScaler()), r"fit_curate method.*got StandardScaler\(\)"),
        (CuratedClassifier(KNeighborsClassifier(), WeightCurator()), "KNeighborsClassifier takes no sample_weight"),
        (CuratedRegressor(KNeighborsRegressor(), WeightCurator()), "curator puts weights on rows, but"),
    ],
)
def test_errors_before_any_work(data, model, match):
    with pytest.raises(TypeError, match=match):
        model.fit(*data)
    assert not hasattr(model.curator, "support_")
    assert not hasattr(model, "curator_")


def test_weights_for_an_estimator_that_takes_none(data):
    with pytest.raises(
        TypeError, match="Row weights were given, but the fit of KNeighborsClassifier takes no sample_w"
    ):
        CuratedClassifier(KNeighborsClassifier(), SignCurator()).fit(*data, np.ones(N))
    with pytest.raises(TypeError, match="curator puts weights on rows, but"):
        CuratedClassifier(KNeighborsClassifier(), SecretWeightCurator()).fit(*data)


def test_methods_are_those_of_the_estimator(data):
    model = CuratedClassifier(LinearSVC(), SignCurator())
    assert hasattr(model, "decision_function")
    assert not hasattr(model, "predict_proba")
    assert not hasattr(model, "classes_")
    assert not hasattr(model, "n_features_in_")
    assert not hasattr(CuratedRegressor(Ridge()), "predict_proba")
    with pytest.raises(NotFittedError, match="CuratedClassifier instance is not fitted"):
        model.predict(data[0])
    model.fit(*data)
    assert model.n_features_in_ == 6
    assert not hasattr(model, "feature_names_in_")
    with pytest.raises(AttributeError, match="has no attribute 'predict_proba'"):
        _ = model.predict_proba


def test_tags():
    model = CuratedClassifier(LogisticRegression(), SignCurator())
    assert is_classifier(model)
    assert is_regressor(CuratedRegressor(Ridge()))
    assert get_tags(model).input_tags.sparse == get_tags(LogisticRegression()).input_tags.sparse
    assert get_tags(model).classifier_tags == get_tags(LogisticRegression()).classifier_tags
    assert get_tags(CuratedRegressor(Ridge())).target_tags.multi_output
    assert not get_tags(CuratedClassifier(KNeighborsClassifier())).classifier_tags.multi_label


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("curator", CURATORS)
def test_frames(data, curator, library):
    frames = pytest.importorskip(library)
    X, y = data
    frame = frames.DataFrame(dict(zip("abcdef", X.T, strict=True)))
    labels = frames.Series(np.where(y == 1, "yes", "no").tolist())
    model = CuratedClassifier(LogisticRegression(), curator).fit(frame, labels)
    if hasattr(
        LogisticRegression().fit(frame, y), "feature_names_in_"
    ):  # scikit-learn before 1.9 reads none of polars 2
        assert list(model.feature_names_in_) == list("abcdef")
    assert_array_equal(model.classes_, ["no", "yes"])
    plain = CuratedClassifier(LogisticRegression(), curator).fit(X, y)
    assert_array_equal(model.curator_.sample_indices_, plain.curator_.sample_indices_)
    assert_allclose(model.estimator_.coef_, plain.estimator_.coef_, rtol=1e-10)
    assert_array_equal(model.predict(frame) == "yes", plain.predict(X) == 1)


@pytest.mark.parametrize("curator", CURATORS)
def test_sparse_and_lists(data, curator):
    X, y = data
    for make in (sparse.csr_matrix, sparse.csc_array, np.ndarray.tolist):
        model = CuratedClassifier(LogisticRegression(), curator).fit(make(X), y)
        kept = clone(curator).fit(make(X), y).get_support(indices=True)
        assert_array_equal(model.curator_.sample_indices_, kept)
        assert_allclose(model.estimator_.coef_, LogisticRegression().fit(X[kept], y[kept]).coef_, rtol=1e-5)


def test_a_pipeline_as_curator_prepares_for_itself_alone(data):
    X, y = data
    curator = make_pipeline(StandardScaler(), SignCurator())
    model = CuratedClassifier(LogisticRegression(), curator).fit(X, y)
    kept = SignCurator().fit(StandardScaler().fit_transform(X), y).sample_indices_
    assert_array_equal(model.estimator_.coef_, LogisticRegression().fit(X[kept], y[kept]).coef_)


def test_in_other_estimators(data):
    X, y = data
    curated = CuratedClassifier(LogisticRegression(), SignCurator())
    stock = make_stock_pipeline(StandardScaler(), curated).fit(X, y)
    ours = Pipeline([("s", StandardScaler()), ("c", SignCurator()), ("m", LogisticRegression())]).fit(X, y)
    assert_array_equal(stock[-1].estimator_.coef_, ours["m"].coef_)
    StackingClassifier([("curated", curated)], cv=2).fit(X, y).predict(X)
    CalibratedClassifierCV(curated, cv=2).fit(X, y, sample_weight=np.ones(N)).predict_proba(X)


def test_search_in_parallel(data):
    X, y = data
    model = CuratedClassifier(LogisticRegression(), InfluenceSelector(method="ip", cv=3, random_state=0))
    grid = {"curator__removal_rate": [0.0, 0.2], "estimator__C": [0.1, 1]}
    search = GridSearchCV(model, grid, cv=3, n_jobs=2, error_score="raise").fit(X, y)
    assert_array_equal(
        search.cv_results_["mean_test_score"],
        GridSearchCV(model, grid, cv=3, error_score="raise").fit(X, y).cv_results_["mean_test_score"],
    )
    search.fit(X, y, X_val=HeldOut(X, y))  # as many rows as X: not cut
    assert cross_val_score(model, X, y, cv=3, n_jobs=2, error_score="raise").shape == (3,)


def test_copies_and_looks(data, tmp_path):
    X, y = data
    model = CuratedClassifier(LogisticRegression(), SignCurator())
    assert repr(model) == "CuratedClassifier(curator=SignCurator(), estimator=LogisticRegression())"
    model.fit(X, y)
    html = model._repr_html_()
    assert all(name in html for name in ("CuratedClassifier", "LogisticRegression", "SignCurator"))
    joblib.dump(model, tmp_path / "model.joblib")
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
    assert not hasattr(clone(model), "estimator_")


# --- metadata routing ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("routing")
def test_metadata_is_routed_as_requested(data):
    X, y = data
    weight, other = np.linspace(0.1, 3, N), np.linspace(3, 0.1, N)
    model = CuratedClassifier(
        LogisticRegression().set_fit_request(sample_weight="other").set_score_request(sample_weight=True),
        RandomCurator().set_fit_request(sample_weight=True, X_val=True, y_val=True),
    )
    model.fit(X, y, sample_weight=weight, other=other, X_val=X[:30], y_val=y[:30])
    seen, kept = model.curator_.seen_, model.curator_.sample_indices_
    assert seen["sample_weight"] is weight
    assert_array_equal(seen["X_val"], X[:30])
    by_hand = LogisticRegression().fit(X[kept], y[kept], other[kept])
    assert_array_equal(model.estimator_.coef_, by_hand.coef_)
    assert model.score(X, y, sample_weight=weight) == by_hand.score(X, y, weight)
    assert_array_equal(model.predict(X), by_hand.predict(X))


@pytest.mark.usefixtures("routing")
def test_metadata_that_was_not_requested_raises(data):
    X, y = data
    model = CuratedClassifier(LogisticRegression(), RandomCurator())
    with pytest.raises(UnsetMetadataPassedError, match=r"\[sample_weight\] are passed but are not"):
        model.fit(X, y, sample_weight=np.ones(N))
    with pytest.raises(UnsetMetadataPassedError, match=r"\[X_val\] are passed but are not"):
        model.fit(X, y, X_val=X)
    with pytest.raises(TypeError, match="unexpected argument"):
        model.fit(X, y, unheard_of=1)
    assert not hasattr(model, "curator_")


@pytest.mark.usefixtures("routing")
def test_routing_through_a_search_and_a_pipeline(data):
    X, y = data
    weight = np.linspace(0.1, 3, N)
    curated = CuratedClassifier(
        LogisticRegression().set_fit_request(sample_weight=True),
        RandomCurator().set_fit_request(sample_weight=True, X_val=True),
    )
    model = make_stock_pipeline(StandardScaler().set_fit_request(sample_weight=False), curated)
    scoring = make_scorer(accuracy_score).set_score_request(sample_weight=False)
    grid = {"curatedclassifier__curator__rate": [0.1]}
    search = GridSearchCV(model, grid, scoring=scoring, cv=3, error_score="raise")
    search.fit(X, y, sample_weight=weight, X_val=HeldOut(X, y))
    best, Z = search.best_estimator_[-1], StandardScaler().fit_transform(X)
    kept = best.curator_.sample_indices_
    assert_array_equal(best.estimator_.coef_, LogisticRegression().fit(Z[kept], y[kept], weight[kept]).coef_)
    assert best.curator_.seen_["X_val"].X.shape == X.shape


@pytest.mark.usefixtures("routing")
def test_weights_made_by_curation_need_no_request(data):
    X, y = data
    model = CuratedClassifier(LogisticRegression(), WeightCurator()).fit(X, y)
    kept = model.curator_.sample_indices_
    by_hand = LogisticRegression().fit(X[kept], y[kept], 1 + np.abs(X[kept, 0]))
    assert_array_equal(model.estimator_.coef_, by_hand.coef_)


def test_no_requests_of_its_own():
    """They would have no say, as everything is routed on: scikit-learn's generated methods would mislead."""
    model = CuratedClassifier(LogisticRegression(), SignCurator())
    assert isinstance(model, BaseEstimator)
    assert not hasattr(model, "set_fit_request")
    assert not hasattr(model, "set_score_request")
