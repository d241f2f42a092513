"""skinfluence.Pipeline: like scikit-learn's where nothing is curated, like removing rows by hand where something is."""

import io
import pickle
from contextlib import redirect_stdout

import joblib
import numpy as np
import pytest
import sklearn
import sklearn.pipeline
from _curators import RandomCurator, SecretWeightCurator, SignCurator, WeightCurator
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import make_classification, make_regression
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from skinfluence._curation import InfluenceSelector
from skinfluence._held_out import HeldOut
from skinfluence._pipeline import Pipeline, make_pipeline
from skinfluence._rows import take_rows

N = 120


@pytest.fixture
def data():
    X, y = make_classification(N, 6, n_informative=4, flip_y=0.15, random_state=0)
    return X, y


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


CURATORS = [
    pytest.param(SignCurator(), id="sign"),
    pytest.param(RandomCurator(), id="random"),
    pytest.param(InfluenceSelector(method="ip", removal_rate=0.1, cv=3, random_state=0), id="influence"),
]


class Passing(BaseEstimator):
    """Adds one to its rows and counts its fits; has no fit_transform of its own."""

    fits = 0

    def fit(self, X, y=None, sample_weight=None):
        type(self).fits += 1
        self.fitted_ = True
        self.weight_ = sample_weight
        return self

    def transform(self, X, shift=0):
        return X + 1 + shift


class Recorder(ClassifierMixin, BaseEstimator):
    """A classifier that remembers what it was fitted on."""

    def fit(self, X, y, sample_weight=None, groups=None, X_val=None, y_val=None, extra=None):
        self.classes_ = np.unique(y)
        self.seen_ = {
            "X": X,
            "y": y,
            "sample_weight": sample_weight,
            "groups": groups,
            "X_val": X_val,
            "y_val": y_val,
            "extra": extra,
        }
        return self

    def predict(self, X):
        return np.full(X.shape[0], self.classes_[0])


# --- without curation: scikit-learn's Pipeline --------------------------------------------------------------


def test_without_a_curator_everything_is_scikit_learns(data):
    X, y = data
    steps = [("scale", StandardScaler()), ("skip", "passthrough"), ("pca", PCA(3)), ("clf", LogisticRegression())]
    ours, stock = Pipeline(steps), sklearn.pipeline.Pipeline(clone(Pipeline(steps)).steps)
    weight = np.linspace(0.5, 2, N)
    for pipeline in (ours, stock):
        pipeline.fit(X, y, clf__sample_weight=weight)
    assert_array_equal(ours[-1].coef_, stock[-1].coef_)
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        assert_array_equal(getattr(ours, method)(X), getattr(stock, method)(X))
    assert ours.score(X, y) == stock.score(X, y)
    assert_array_equal(ours[:-1].transform(X), stock[:-1].transform(X))
    assert not hasattr(ours, "sample_indices_")
    assert not hasattr(ours, "fit_curate")
    assert not hasattr(ours, "fit_transform")
    assert not hasattr(ours, "fit_predict")
    assert_array_equal(Pipeline(steps[:-1]).fit_transform(X), sklearn.pipeline.Pipeline(steps[:-1]).fit_transform(X))
    kmeans = [("scale", StandardScaler()), ("kmeans", KMeans(2, random_state=0, n_init=1))]
    assert_array_equal(Pipeline(kmeans).fit_predict(X), sklearn.pipeline.Pipeline(kmeans).fit_predict(X))


@pytest.mark.parametrize("steps", [[], [("clf", 5)], [("a", 5), ("clf", Ridge())], 5, [("clf", Ridge(), 1)], [5]])
def test_wrong_steps_raise_as_in_scikit_learn(data, steps):
    with pytest.raises(Exception) as stock:  # noqa: PT011 (whatever scikit-learn raises)
        sklearn.pipeline.Pipeline(steps).fit(*data)
    with pytest.raises(type(stock.value)) as ours:
        Pipeline(steps).fit(*data)
    assert str(ours.value) == str(stock.value)


@pytest.mark.parametrize(
    ("steps", "match"),
    [
        ([("curate", SignCurator()), ("curate", LogisticRegression())], "not unique"),
        ([("curate", SignCurator()), ("a__b", LogisticRegression())], "must not contain __"),
        ([("curate", SignCurator()), ("bad", LogisticRegression()), ("clf", LogisticRegression())], "'bad'.*transform"),
        ([("curate", SignCurator()), ("clf", 5)], r"'clf' \(int\) should implement fit"),
        ([("curate", SignCurator()), ("x", "something"), ("clf", LogisticRegression())], r"'x' \(something\)"),
    ],
)
def test_wrong_steps_raise_before_any_work(data, steps, match):
    with pytest.raises((TypeError, ValueError), match=match):
        Pipeline(steps).fit(*data)
    assert not hasattr(steps[0][1], "support_")


def test_a_sampler_among_the_steps_is_sent_to_imbalanced_learn(data):
    class Sampler(BaseEstimator):
        def fit_resample(self, X, y):
            raise AssertionError

    with pytest.raises(TypeError, match="imbalanced-learn's Pipeline"):
        make_pipeline(SignCurator(), Sampler(), LogisticRegression()).fit(*data)


@parametrize_with_checks(
    [Pipeline([("scale", StandardScaler()), ("clf", LogisticRegression())])],
    expected_failed_checks=lambda _: {
        "check_dont_overwrite_parameters": "scikit-learn's Pipeline changes `steps`",
        "check_estimators_overwrite_params": "scikit-learn's Pipeline changes `steps`",
    },
)
def test_estimator_checks(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [
        Pipeline([("scale", StandardScaler()), ("curate", SignCurator()), ("clf", LogisticRegression())]),
        Pipeline([("scale", MinMaxScaler()), ("curate", RandomCurator()), ("pca", PCA(1))]),
    ],
    expected_failed_checks=lambda _: {
        "check_dont_overwrite_parameters": "scikit-learn's Pipeline changes `steps`",
        "check_estimators_overwrite_params": "scikit-learn's Pipeline changes `steps`",
    },
)
def test_estimator_checks_with_a_curator(estimator, check):
    check(estimator)


# --- with curation: the same as removing the rows by hand ---------------------------------------------------


@pytest.mark.parametrize("curator", CURATORS)
def test_coefficients_are_bit_equal_to_removing_rows_by_hand(data, curator):
    X, y = data
    model = Pipeline(
        [("before", StandardScaler()), ("curate", clone(curator)), ("after", PCA(4)), ("clf", LogisticRegression())]
    )
    model.fit(X, y)

    before = StandardScaler()
    Z = before.fit_transform(X, y)
    kept = clone(curator).fit(Z, y).get_support(indices=True)
    assert 0 < len(kept) < N
    after = PCA(4)
    clf = LogisticRegression().fit(after.fit_transform(Z[kept], y[kept]), y[kept])

    assert_array_equal(model.sample_indices_, kept)
    assert_array_equal(model["before"].mean_, before.mean_)
    assert_array_equal(model["after"].components_, after.components_)
    assert_array_equal(model["clf"].coef_, clf.coef_)
    assert_array_equal(model["clf"].intercept_, clf.intercept_)
    assert_array_equal(model.predict_proba(X), clf.predict_proba(after.transform(before.transform(X))))
    assert model.score(X, y) == clf.score(after.transform(before.transform(X)), y)
    assert len(model.predict(X)) == N


@pytest.mark.parametrize("curator", CURATORS)
def test_curator_first(data, curator):
    X, y = data
    model = make_pipeline(clone(curator), StandardScaler(), LogisticRegression()).fit(X, y)
    kept = model.sample_indices_
    assert_array_equal(model[1].mean_, StandardScaler().fit(X[kept]).mean_)


def test_several_curators(data):
    X, y = data
    model = Pipeline(
        [
            ("first", RandomCurator(0.2, 1)),
            ("scale", StandardScaler()),
            ("second", SignCurator()),
            ("third", RandomCurator(0.1, 2)),
            ("clf", LogisticRegression()),
        ]
    ).fit(X, y)
    one = RandomCurator(0.2, 1).fit(X, y).sample_indices_
    Z = StandardScaler().fit_transform(X[one])
    two = one[SignCurator().fit(Z, y[one]).sample_indices_]
    three = two[RandomCurator(0.1, 2).fit(X[two], y[two]).sample_indices_]
    assert N > len(one) > len(two) > len(three)
    assert_array_equal(model.sample_indices_, three)
    Z = StandardScaler().fit(X[one]).transform(X[three])
    assert_array_equal(model["clf"].coef_, LogisticRegression().fit(Z, y[three]).coef_)


def test_passthrough_steps(data):
    X, y = data
    model = Pipeline([("a", "passthrough"), ("curate", RandomCurator()), ("b", None), ("clf", LogisticRegression())])
    kept = RandomCurator().fit(X, y).sample_indices_
    assert_array_equal(model.fit(X, y)["clf"].coef_, LogisticRegression().fit(X[kept], y[kept]).coef_)
    model.set_params(curate="passthrough").fit(X, y)
    assert_array_equal(model["clf"].coef_, LogisticRegression().fit(X, y).coef_)
    assert not hasattr(model, "sample_indices_")
    assert_array_equal(Pipeline([("curate", RandomCurator()), ("end", "passthrough")]).fit(X, y).transform(X), X)


def test_the_final_step_may_be_the_curator(data):
    X, y = data
    model = make_pipeline(StandardScaler(), SignCurator()).fit(X, y)
    Z = StandardScaler().fit_transform(X)
    kept = SignCurator().fit(Z, y).sample_indices_
    assert_array_equal(model.sample_indices_, kept)
    assert_array_equal(model.transform(X), Z)
    redrawn = make_pipeline(StandardScaler(), SignCurator(), "passthrough").fit_transform(X, y)
    assert_array_equal(redrawn, SignCurator().fit_transform(Z, y))
    redrawn = clone(model).fit_transform(X, y)
    assert_array_equal(redrawn, SignCurator().fit_transform(Z, y))
    stock = sklearn.pipeline.make_pipeline(StandardScaler(), SignCurator())
    assert_array_equal(redrawn, stock.fit_transform(X, y))


def test_fit_transform_keeps_the_rows_and_agrees_with_fit(data):
    X, y = data
    model = make_pipeline(StandardScaler(), SignCurator(), PCA(2))
    Z = clone(model).fit_transform(X, y)
    assert Z.shape == (N, 2)
    assert_array_equal(Z, clone(model).fit(X, y).transform(X))
    kept = model.fit(X, y).sample_indices_
    scaled = StandardScaler().fit_transform(X)
    assert_array_equal(model[-1].components_, PCA(2).fit(scaled[kept]).components_)
    assert_array_equal(make_pipeline(SignCurator(), LinearDiscriminantAnalysis()).fit_transform(X, y).shape, (N, 1))
    assert_array_equal(make_pipeline(SignCurator(), make_pipeline("passthrough")).fit_transform(X, y), X)
    weighted = make_pipeline(WeightCurator(), StandardScaler())
    Z, kept = weighted.fit_transform(X, y), weighted.sample_indices_
    assert_array_equal(Z, StandardScaler().fit(X[kept], sample_weight=1 + np.abs(X[kept, 0])).transform(X))


def test_fit_predict_and_score_samples(data):
    X, y = data
    model = make_pipeline(StandardScaler(), RandomCurator(), KMeans(2, random_state=0, n_init=1))
    labels = model.fit_predict(X, y)
    Z, kept = StandardScaler().fit_transform(X), model.sample_indices_
    assert len(kept) < N
    assert_array_equal(labels, KMeans(2, random_state=0, n_init=1).fit(Z[kept]).predict(Z))
    forest = make_pipeline(RandomCurator(), IsolationForest(n_estimators=5, random_state=0)).fit(X, y)
    by_hand = IsolationForest(n_estimators=5, random_state=0).fit(X[kept])
    assert_array_equal(forest.score_samples(X), by_hand.score_samples(X))
    with pytest.raises(TypeError, match="no predict method"):
        make_pipeline(RandomCurator(), AgglomerativeClustering()).fit_predict(X, y)
    assert len(make_pipeline(RandomCurator(), AgglomerativeClustering()).fit(X, y)[-1].labels_) == len(kept)


def test_not_fitted(data):
    model = make_pipeline(StandardScaler(), SignCurator(), LogisticRegression())
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    with pytest.raises(NotFittedError):
        model.predict(data[0])


def test_transformers_without_fit_transform(data):
    X, y = data

    class Bare(BaseEstimator):
        def fit(self, X, y=None):
            self.fitted_ = True
            return self

        def transform(self, X):
            return X * 2

    model = make_pipeline(Bare(), SignCurator(-1.0), LogisticRegression()).fit(X, y)
    assert_array_equal(model.sample_indices_, SignCurator(-1.0).fit(2 * X, y).sample_indices_)


# --- what the curator is told -------------------------------------------------------------------------------


def test_following(data):
    X, y = data
    final = LogisticRegression(C=0.3)
    model = make_pipeline(StandardScaler(), SignCurator(), final).fit(X, y)
    following = model[1].seen_["following"]
    assert isinstance(following, LogisticRegression)
    assert following is not final
    assert following.C == 0.3
    assert not hasattr(following, "coef_")

    model = make_pipeline(RandomCurator(), PCA(2), "passthrough", SignCurator(), MinMaxScaler(), final).fit(X, y)
    following = model[0].seen_["following"]
    assert [type(step) for _, step in following.steps] == [PCA, MinMaxScaler, LogisticRegression]
    following.fit(X, y)  # a plain, working pipeline
    assert model[1].n_components_ == 2
    assert [type(step) for _, step in model[3].seen_["following"].steps] == [MinMaxScaler, LogisticRegression]

    assert make_pipeline(StandardScaler(), SignCurator()).fit(X, y)[1].seen_["following"] is None
    assert make_pipeline(RandomCurator(), SignCurator()).fit(X, y)[0].seen_["following"] is None


def test_influence_through_the_final_step(data):
    X, y = data
    selector = InfluenceSelector("final", method="exact", removal_rate=0.1, cv=3, random_state=0)
    model = make_pipeline(StandardScaler(), selector, LogisticRegression(C=0.1)).fit(X, y)
    given = clone(selector).set_params(estimator=LogisticRegression(C=0.1))
    Z = StandardScaler().fit_transform(X)
    assert_array_equal(model.sample_indices_, given.fit(Z, y).sample_indices_)
    model = make_pipeline(StandardScaler(), selector, PCA(3), LogisticRegression()).fit(X, y)
    given.set_params(estimator=make_pipeline(PCA(3), LogisticRegression()))
    assert_array_equal(model.sample_indices_, given.fit(Z, y).sample_indices_)
    with pytest.raises(ValueError, match="'final'"):
        make_pipeline(StandardScaler(), selector).fit(X, y)


def test_task(data):
    X, y = data
    assert make_pipeline(SignCurator(), LogisticRegression()).fit(X, y)[0].seen_["task"] == "classification"
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2)
    assert make_pipeline(SignCurator(), search).fit(X, y)[0].seen_["task"] == "classification"
    assert make_pipeline(SignCurator(), Ridge()).fit(X, y)[0].seen_["task"] == "regression"
    assert make_pipeline(SignCurator(), PCA()).fit(X, y)[0].seen_["task"] is None
    assert make_pipeline(SignCurator(), "passthrough").fit(X, y)[0].seen_["task"] is None
    nested = make_pipeline(SignCurator(), make_pipeline(StandardScaler(), Ridge())).fit(X, y)
    assert nested[0].seen_["task"] == "regression"


def test_integer_targets_of_a_regressor_are_no_classes():
    X, y = make_regression(N, 4, noise=5.0, random_state=0)
    y = np.round(y / 10).astype(int)
    model = make_pipeline(
        StandardScaler(), InfluenceSelector(method="ip", removal_rate=0.1, cv=3, random_state=0), Ridge()
    )
    assert model.fit(X, y)[1].task_ == "regression"
    assert len(model.sample_indices_) == N - N // 10


# --- parameters that follow the rows ------------------------------------------------------------------------


def test_sample_weight_follows_the_kept_rows(data):
    X, y = data
    weight = np.linspace(0.1, 3, N)
    model = Pipeline([("scale", StandardScaler()), ("curate", RandomCurator()), ("clf", LogisticRegression())])
    model.fit(X, y, scale__sample_weight=weight, clf__sample_weight=weight)
    scaler = StandardScaler().fit(X, sample_weight=weight)
    kept = model.sample_indices_
    clf = LogisticRegression().fit(scaler.transform(X)[kept], y[kept], weight[kept])
    assert_array_equal(model["scale"].mean_, scaler.mean_)
    assert_array_equal(model["clf"].coef_, clf.coef_)
    assert model["curate"].seen_.get("sample_weight") is None
    model.fit(X, y, clf__sample_weight=None)
    assert_array_equal(
        model["clf"].coef_, LogisticRegression().fit(StandardScaler().fit_transform(X)[kept], y[kept]).coef_
    )


def test_only_parameters_of_the_training_rows_follow_them(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    rng = np.random.RandomState(0)
    groups = pd.DataFrame({"a": rng.randint(3, size=N), "b": rng.randint(3, size=N)}, index=np.arange(N)[::-1])
    Xv, yv = rng.normal(size=(N, 6)), rng.randint(2, size=N)  # as many as the training rows
    names = [f"row {i}" for i in range(N)]
    model = Pipeline([("one", RandomCurator(0.2, 1)), ("two", RandomCurator(0.2, 2)), ("clf", Recorder())])
    model.fit(
        X,
        y,
        one__sensitive_features=groups,
        two__sensitive_features=groups,
        two__X_val=Xv,
        two__y_val=yv,
        two__sample_weight=np.arange(N),
        clf__groups=groups,
        clf__sample_weight=names,
        clf__X_val=Xv,
        clf__y_val=yv,
        clf__extra={"a": 1},
    )
    one = model["one"].sample_indices_
    assert model["one"].seen_["sensitive_features"] is groups
    assert model["two"].seen_["sensitive_features"].equals(groups.iloc[one])
    assert_array_equal(model["two"].seen_["sample_weight"], one)
    assert model["two"].seen_["X_val"] is Xv
    assert model["two"].seen_["y_val"] is yv
    seen = model["clf"].seen_
    assert seen["groups"].equals(groups.iloc[model.sample_indices_])
    assert seen["sample_weight"] == [names[i] for i in model.sample_indices_]
    assert seen["X_val"] is Xv
    assert seen["y_val"] is yv
    assert seen["extra"] == {"a": 1}


def test_unknown_parameters_raise_before_any_work(data):
    model = make_pipeline(SignCurator(), LogisticRegression())
    with pytest.raises(ValueError, match="does not accept the sample_weight parameter"):
        model.fit(*data, sample_weight=np.ones(N))
    with pytest.raises(ValueError, match=r"one of \['signcurator', 'logisticregression'\]"):
        model.fit(*data, clf__sample_weight=np.ones(N))
    assert not hasattr(model[0], "support_")


# --- weights that the curator makes -------------------------------------------------------------------------


@pytest.mark.parametrize("curator", [WeightCurator(), SecretWeightCurator()])
def test_weight_factors_multiply_with_the_users_weights(data, curator):
    X, y = data
    factor = 1 + np.abs(X[:, 0])
    weight = np.linspace(0.1, 3, N)
    model = Pipeline([("curate", curator), ("scale", StandardScaler()), ("clf", LogisticRegression())]).fit(X, y)
    kept = model.sample_indices_
    Z = StandardScaler().fit_transform(X[kept])
    assert_array_equal(model["clf"].coef_, LogisticRegression().fit(Z, y[kept], factor[kept]).coef_)
    model.fit(X, y, clf__sample_weight=list(weight))
    assert_array_equal(model["clf"].coef_, LogisticRegression().fit(Z, y[kept], factor[kept] * weight[kept]).coef_)


def test_weight_factors_of_several_curators_multiply(data):
    X, y = data
    factor = 1 + np.abs(X[:, 0])
    model = make_pipeline(WeightCurator(0.2, 1), RandomCurator(0.2, 2), WeightCurator(0.2, 3), Recorder()).fit(X, y)
    one = model[0].sample_indices_
    two = one[model[1].sample_indices_]
    assert_array_equal(model[1].seen_["sample_weight"], factor[one])  # later curators know of earlier weights
    assert_array_equal(model[2].seen_["sample_weight"], factor[two])
    assert_allclose(model[-1].seen_["sample_weight"], factor[model.sample_indices_] ** 2, rtol=1e-15)


def test_weights_for_a_step_that_takes_none(data):
    X, y = data
    scaler = StandardScaler()
    model = make_pipeline(scaler, WeightCurator(), KNeighborsClassifier())
    with pytest.raises(
        TypeError, match=r"'kneighborsclassifier' \(KNeighborsClassifier\), takes no sample_weight. Use"
    ):
        model.fit(X, y)
    assert not hasattr(scaler, "mean_")
    for last in (KNeighborsClassifier(), "passthrough", make_pipeline(PCA(), LogisticRegression())):
        with pytest.raises(TypeError, match="takes no sample_weight"):
            make_pipeline(SecretWeightCurator(), last).fit(X, y)
    make_pipeline(RandomCurator(), KNeighborsClassifier()).fit(X, y)


def test_weights_reach_an_estimator_inside_a_search(data):
    X, y = data
    search = GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2)
    model = make_pipeline(WeightCurator(), search).fit(X, y)
    kept = model.sample_indices_
    by_hand = clone(search).fit(X[kept], y[kept], sample_weight=1 + np.abs(X[kept, 0]))
    assert_array_equal(model[-1].best_estimator_.coef_, by_hand.best_estimator_.coef_)
    model = make_pipeline(WeightCurator(), TransformedTargetRegressor(Ridge())).fit(X, y)
    by_hand = Ridge().fit(X[kept], y[kept], 1 + np.abs(X[kept, 0]))
    assert_allclose(model[-1].regressor_.coef_, by_hand.coef_)


# --- validation rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_val", [30, N])
@pytest.mark.parametrize("held_out", [False, True])
def test_X_val_is_carried_through_the_earlier_steps(data, n_val, held_out):
    X, y = data
    rng = np.random.RandomState(0)
    Xv, yv = 5 + 3 * rng.normal(size=(n_val, 6)), rng.randint(2, size=n_val)
    steps = [
        ("scale", StandardScaler()),
        ("first", RandomCurator()),
        ("pca", PCA(3)),
        ("second", SignCurator()),
        ("after", StandardScaler()),
        ("clf", LogisticRegression()),
    ]
    model = Pipeline(steps)
    rows = HeldOut(Xv, yv, sample_weight=yv, sensitive_features=yv) if held_out else Xv
    given = {"first__X_val": rows, "second__X_val": rows}
    if not held_out:
        given["second__y_val"] = yv
    model.fit(X, y, **given)
    Zv = model["scale"].transform(Xv)
    for name, expected in (("first", Zv), ("second", model["pca"].transform(Zv))):
        seen = model[name].seen_["X_val"]
        if held_out:
            assert isinstance(seen, HeldOut)
            assert seen.y is seen.sample_weight is seen.sensitive_features is yv
            seen = seen.X
        assert_array_equal(seen, expected)
    if held_out:
        assert rows.X is Xv
    else:
        assert model["second"].seen_["y_val"] is yv


def test_real_validation_rows(data):
    X, y = data
    X, Xv, y, yv = 100 * X[:80] + 7, 100 * X[80:] + 7, y[:80], y[80:]
    selector = InfluenceSelector(LogisticRegression(), method="ip", removal_rate=0.1, random_state=0)
    model = Pipeline([("scale", StandardScaler()), ("curate", selector), ("clf", LogisticRegression())])
    scaler = StandardScaler().fit(X)
    by_hand = clone(selector).fit(scaler.transform(X), y, X_val=scaler.transform(Xv), y_val=yv)
    for given in ({"curate__X_val": HeldOut(Xv, yv)}, {"curate__X_val": Xv, "curate__y_val": yv}):
        model.fit(X, y, **given)
        assert_array_equal(model["curate"].scores_, by_hand.scores_)


def test_held_out_rows_survive_a_search(data):
    X, y = data
    Xv, yv = X.copy(), y.copy()  # a search cuts fit parameters with as many rows as X

    class Checking(SignCurator):
        def _decide(self, X, y):
            assert self.seen_["X_val"].X.shape == (N, 6)
            return super()._decide(X, y)

    model = Pipeline([("scale", StandardScaler()), ("curate", Checking()), ("clf", LogisticRegression())])
    search = GridSearchCV(model, {"curate__threshold": [-1.0, -0.3]}, cv=3, error_score="raise")
    search.fit(X, y, curate__X_val=HeldOut(Xv, yv))
    seen = search.best_estimator_["curate"].seen_["X_val"]
    assert_array_equal(seen.X, search.best_estimator_["scale"].transform(Xv))
    assert seen.y is yv


# --- metadata routing ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("routing")
def test_routed_metadata_follows_the_rows(data):
    X, y = data
    weight, groups = np.linspace(0.1, 3, N), np.arange(N)
    Xv, yv = X[:30] + 5, y[:30]
    model = Pipeline(
        [
            ("scale", StandardScaler().set_fit_request(sample_weight="scaler_weight")),
            (
                "curate",
                RandomCurator().set_fit_request(
                    sample_weight=True, X_val="X_held", y_val=True, sensitive_features="groups"
                ),
            ),
            ("clf", Recorder().set_fit_request(sample_weight=True, groups=True, y_val=False)),
        ]
    )
    model.fit(X, y, sample_weight=weight, scaler_weight=2 - weight / 2, X_held=Xv, y_val=yv, groups=groups)
    assert_array_equal(model["scale"].mean_, StandardScaler().fit(X, sample_weight=2 - weight / 2).mean_)
    seen = model["curate"].seen_
    assert seen["sample_weight"] is weight
    assert seen["sensitive_features"] is groups
    assert_array_equal(seen["X_val"], model["scale"].transform(Xv))
    assert seen["y_val"] is yv
    kept, seen = model.sample_indices_, model["clf"].seen_
    assert_array_equal(seen["sample_weight"], weight[kept])
    assert_array_equal(seen["groups"], kept)
    assert seen["y_val"] is None
    model.fit(X, y, sample_weight=None, X_held=Xv)  # None is not given
    assert model["clf"].seen_["sample_weight"] is None


@pytest.mark.usefixtures("routing")
def test_metadata_that_no_step_requested_raises_as_in_scikit_learn(data):
    X, y = data
    for make in (make_pipeline, sklearn.pipeline.make_pipeline):
        scaler = StandardScaler()
        with pytest.raises(UnsetMetadataPassedError, match=r"\[sample_weight\] are passed but are not explicitly set"):
            make(scaler, SignCurator(), LogisticRegression()).fit(X, y, sample_weight=np.ones(N))
        with pytest.raises(TypeError, match=r"got unexpected argument\(s\)"):
            make(scaler, SignCurator(), LogisticRegression()).fit(X, y, unheard_of=np.ones(N))
        assert not hasattr(scaler, "mean_")


@pytest.mark.usefixtures("routing")
def test_weights_made_by_curation_need_no_request(data):
    X, y = data
    factor, weight = 1 + np.abs(X[:, 0]), np.linspace(0.1, 3, N)
    model = make_pipeline(WeightCurator(), Recorder()).fit(X, y)
    kept = model.sample_indices_
    assert_array_equal(model[-1].seen_["sample_weight"], factor[kept])
    model = make_pipeline(
        WeightCurator().set_fit_request(sample_weight=False), Recorder().set_fit_request(sample_weight="w")
    )
    model.fit(X, y, w=weight)
    assert_array_equal(model[-1].seen_["sample_weight"], factor[kept] * weight[kept])
    search = GridSearchCV(LogisticRegression().set_fit_request(sample_weight=True), {"C": [0.1, 1]}, cv=2)
    search.estimator.set_score_request(sample_weight=False)
    assert_array_equal(
        make_pipeline(WeightCurator(), search).fit(X, y)[-1].best_estimator_.coef_,
        clone(search).fit(X[kept], y[kept], sample_weight=factor[kept]).best_estimator_.coef_,
    )
    with pytest.raises(TypeError, match="takes no sample_weight"):
        make_pipeline(WeightCurator(), GridSearchCV(LogisticRegression(), {"C": [0.1, 1]})).fit(X, y)


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("named", [["X_val"], None])
def test_transform_input(data, named):
    """X_val is transformed once for the curator; for an ordinary step if it is named, as in scikit-learn."""
    X, y = data
    Xv, yv = X[:30] + 5, y[:30]
    model = Pipeline(
        [
            ("scale", StandardScaler()),
            ("curate", SignCurator().set_fit_request(X_val=True, y_val=True)),
            ("after", MinMaxScaler()),
            ("clf", Recorder().set_fit_request(X_val=True, y_val=True)),
        ],
        transform_input=named,
    )
    model.fit(X, y, X_val=Xv, y_val=yv)
    scaled = model["scale"].transform(Xv)
    assert_array_equal(model["curate"].seen_["X_val"], scaled)
    assert_array_equal(model["clf"].seen_["X_val"], model["after"].transform(scaled) if named else Xv)


@pytest.mark.usefixtures("routing")
def test_transform_input_of_several_sets(data):
    X, y = data
    Xv = (X[:30] + 5, X[30:] - 5)
    final = ("clf", Recorder().set_fit_request(X_val=True))
    stock = sklearn.pipeline.Pipeline([("scale", StandardScaler()), final], transform_input=["X_val"])
    expected = stock.fit(X, y, X_val=Xv)["clf"].seen_["X_val"]
    curate = ("curate", RandomCurator().set_fit_request(X_val=False))
    ours = Pipeline([("scale", StandardScaler()), curate, final], transform_input=["X_val"]).fit(X, y, X_val=Xv)
    for got, wanted in zip(ours["clf"].seen_["X_val"], expected, strict=True):
        assert_array_equal(got, wanted)


@pytest.mark.usefixtures("routing")
def test_transform_input_with_metadata_of_the_transformers(data):
    X, y = data
    Xv = X[:30] + 5
    steps = [("shift", Passing().set_transform_request(shift=True).set_fit_request(sample_weight=False))]
    final = ("clf", Recorder().set_fit_request(X_val=True))
    stock = sklearn.pipeline.Pipeline([*steps, clone(Pipeline([final])).steps[0]], transform_input=["X_val"])
    stock.fit(X, y, X_val=Xv, shift=10)
    curate = ("curate", RandomCurator().set_fit_request(X_val=False))
    ours = Pipeline([*steps, curate, final], transform_input=["X_val"]).fit(X, y, X_val=Xv, shift=10)
    assert_array_equal(ours[-1].seen_["X_val"], stock[-1].seen_["X_val"])
    assert_array_equal(ours[-1].seen_["X"], X[ours.sample_indices_] + 1 + 10)
    assert_array_equal(ours.predict(X, shift=10), stock.predict(X, shift=10))
    features = Pipeline([*steps, ("curate", RandomCurator()), ("pca", PCA(2))])
    Z = features.fit_transform(X, y, shift=10)
    assert_array_equal(Z, features.transform(X, shift=10))


def test_transform_input_without_routing_raises_as_in_scikit_learn(data):
    with pytest.raises(ValueError, match="can only be set if metadata routing is enabled"):
        Pipeline([("curate", SignCurator()), ("clf", LogisticRegression())], transform_input=["X_val"]).fit(*data)


@pytest.mark.usefixtures("routing")
def test_routing_through_a_search(data):
    X, y = data
    weight = np.linspace(0.1, 3, N)
    model = Pipeline(
        [
            ("scale", StandardScaler().set_fit_request(sample_weight=False)),
            ("curate", SignCurator().set_fit_request(sample_weight=False, X_val=True)),
            ("clf", LogisticRegression().set_fit_request(sample_weight=True)),
        ]
    )
    scoring = make_scorer(accuracy_score).set_score_request(sample_weight=False)
    search = GridSearchCV(model, {"curate__threshold": [-1.0, -0.3]}, scoring=scoring, cv=3, error_score="raise")
    search.fit(X, y, sample_weight=weight, X_val=HeldOut(X, y))
    best = search.best_estimator_
    kept, Z = best.sample_indices_, StandardScaler().fit_transform(X)
    assert_array_equal(best["clf"].coef_, LogisticRegression().fit(Z[kept], y[kept], weight[kept]).coef_)
    assert_array_equal(best["curate"].seen_["X_val"].X, Z)


# --- searches, copies, memory -------------------------------------------------------------------------------


@pytest.mark.parametrize("curator", CURATORS[1:])
def test_search_and_cross_validation_in_parallel(data, curator):
    X, y = data
    model = Pipeline([("scale", StandardScaler()), ("curate", curator), ("clf", LogisticRegression())])
    grid = {f"curate__{'rate' if isinstance(curator, RandomCurator) else 'removal_rate'}": [0.0, 0.1, 0.3]}
    search = GridSearchCV(model, grid, cv=3, n_jobs=2, error_score="raise").fit(X, y)
    alone = GridSearchCV(model, grid, cv=3, error_score="raise").fit(X, y)
    assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    scores = cross_val_score(model, X, y, cv=3, n_jobs=2, error_score="raise")
    assert scores.shape == (3,)
    assert_array_equal(scores, cross_val_score(model, X, y, cv=3))
    assert not hasattr(model, "sample_indices_")


@pytest.mark.parametrize("curator", CURATORS)
def test_copies(data, curator, tmp_path):
    X, y = data
    model = Pipeline(
        [("scale", StandardScaler()), ("curate", clone(curator)), ("clf", LogisticRegression())], verbose=True
    )
    copied = clone(model)
    assert type(copied) is Pipeline
    assert copied.verbose
    assert copied["curate"] is not model["curate"]
    model.set_params(verbose=False).fit(X, y)
    assert not hasattr(clone(model), "sample_indices_")
    joblib.dump(model, tmp_path / "model.joblib")
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        assert_array_equal(copied.predict_proba(X), model.predict_proba(X))
        assert_array_equal(copied.sample_indices_, model.sample_indices_)
    part = model[:2]
    assert type(part) is Pipeline
    assert_array_equal(part.transform(X), model["scale"].transform(X))
    assert model["curate"] is model.named_steps["curate"] is model[1]
    assert "curate" in model.get_params()


def test_steps_are_fitted_in_place_but_the_list_is_left_alone(data):
    steps = [("scale", StandardScaler()), ("curate", SignCurator()), ("clf", LogisticRegression())]
    model = Pipeline(steps).fit(*data)
    assert model.steps is not steps
    assert all(fitted is step for (_, fitted), (_, step) in zip(model.steps, steps, strict=True))


def test_memory(data, tmp_path):
    X, y = data
    scaler, shift, curator, after = StandardScaler(), Passing(), SignCurator(), MinMaxScaler()
    model = Pipeline(
        [("scale", scaler), ("shift", shift), ("curate", curator), ("after", after), ("clf", LogisticRegression())],
        memory=str(tmp_path),
    )
    plain = clone(model).set_params(memory=None).fit(X, y)
    Passing.fits = 0
    model.fit(X, y)
    model.fit(X, y)
    clone(model).set_params(clf__C=0.1, curate__threshold=-1.0).fit(X, y)
    assert Passing.fits == 1  # once for three fits
    for step in (scaler, shift, curator, after):  # the user's own objects are left as they were
        assert not hasattr(step, "n_features_in_")
        assert not hasattr(step, "fitted_")
    assert model["curate"] is not curator
    assert_array_equal(model.sample_indices_, plain.sample_indices_)
    assert_array_equal(model["clf"].coef_, plain["clf"].coef_)
    assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    not_caching = Pipeline([("curate", curator), ("clf", LogisticRegression())], memory=joblib.Memory(None)).fit(X, y)
    assert not_caching["curate"] is curator
    with pytest.raises(ValueError, match="memory"):
        Pipeline(model.steps, memory=5).fit(X, y)


# --- containers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("curator", CURATORS)
def test_set_output(data, library, curator):
    pytest.importorskip(library)
    X, y = data
    plain = make_pipeline(StandardScaler(), clone(curator), MinMaxScaler(), LogisticRegression()).fit(X, y)
    for steps in (
        [StandardScaler(), clone(curator), MinMaxScaler(), LogisticRegression()],
        [clone(curator), StandardScaler(), LogisticRegression()],
    ):
        model = make_pipeline(*steps).set_output(transform=library).fit(X, y)
        before = model[:-1].transform(X)
        assert before.__class__.__module__.split(".")[0] == library
        model.predict(X)  # no warning of names that were not there in fit
        # scikit-learn before 1.9 reads no names from polars 2
        assert hasattr(model[-1], "feature_names_in_") == hasattr(PCA().fit(before), "feature_names_in_")
    assert_array_equal(clone(model).fit(X, y).predict(X), model.predict(X))
    assert_array_equal(
        plain[-1].coef_,
        make_pipeline(StandardScaler(), clone(curator), MinMaxScaler(), LogisticRegression())
        .set_output(transform=library)
        .fit(X, y)[-1]
        .coef_,
    )


def test_feature_names(data):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcdef"), index=[f"row {i}" for i in range(N)])
    model = make_pipeline(StandardScaler(), SignCurator(), PCA(2)).fit(frame, y)
    assert list(model.feature_names_in_) == list("abcdef")
    assert model.n_features_in_ == 6
    assert list(model.get_feature_names_out()) == ["pca0", "pca1"]


@pytest.mark.parametrize("curator", CURATORS)
def test_pandas_and_column_transformer(data, curator):
    pd = pytest.importorskip("pandas")
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcdef"), index=np.arange(N)[::-1])
    frame["g"] = np.where(X[:, 1] > 0, "high", "low")
    labels = pd.Series(np.where(y == 1, "yes", "no"), index=frame.index)
    columns = ColumnTransformer([("numbers", StandardScaler(), list("abcdef")), ("words", OneHotEncoder(), ["g"])])
    model = Pipeline([("columns", columns), ("curate", clone(curator)), ("clf", LogisticRegression())])
    weight = pd.Series(np.linspace(0.1, 3, N), index=frame.index)
    model.fit(frame, labels, clf__sample_weight=weight)
    kept, Z = model.sample_indices_, clone(columns).fit_transform(frame)
    assert 0 < len(kept) < N
    by_hand = LogisticRegression().fit(Z[kept], labels.iloc[kept], weight.iloc[kept])
    assert_array_equal(model["clf"].coef_, by_hand.coef_)
    assert_array_equal(model.predict(frame), by_hand.predict(Z))
    direct = make_pipeline(clone(curator), Recorder()).fit(frame[list("abcdef")], labels)
    kept = direct.sample_indices_
    assert direct[-1].seen_["X"].equals(frame[list("abcdef")].iloc[kept])
    assert direct[-1].seen_["y"].equals(labels.iloc[kept])


@pytest.mark.parametrize("curator", CURATORS)
def test_polars(data, curator):
    pl = pytest.importorskip("polars")
    X, y = data
    frame = pl.DataFrame(X, schema=list("abcdef"))
    weight = pl.Series(np.linspace(0.1, 3, N))
    direct = Pipeline([("curate", clone(curator)), ("clf", Recorder())])
    direct.fit(frame, pl.Series(y), clf__groups=frame, clf__sample_weight=weight)
    kept = direct.sample_indices_
    assert direct[-1].seen_["X"].equals(frame[kept])
    assert direct[-1].seen_["groups"].equals(frame[kept])
    assert direct[-1].seen_["sample_weight"].equals(weight[kept])
    model = make_pipeline(StandardScaler(), clone(curator), LogisticRegression()).fit(frame, y)
    plain = make_pipeline(StandardScaler(), clone(curator), LogisticRegression()).fit(X, y)
    assert_array_equal(model.sample_indices_, plain.sample_indices_)
    assert_allclose(model[-1].coef_, plain[-1].coef_, rtol=1e-10)  # polars keeps columns, not rows, together
    assert_array_equal(model.predict(frame), plain.predict(X))


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array])
@pytest.mark.parametrize("curator", CURATORS)
def test_sparse(data, make, curator):
    X, y = data
    X = np.where(np.abs(X) > 0.5, X, 0)
    model = make_pipeline(MaxAbsScaler(), clone(curator), LogisticRegression()).fit(make(X), y)
    Z, kept = MaxAbsScaler().fit_transform(sparse.csr_matrix(X)), model.sample_indices_
    assert 0 < len(kept) < N
    assert_allclose(model[-1].coef_, LogisticRegression().fit(Z[kept], y[kept]).coef_, rtol=1e-6)
    assert_array_equal(model.predict(make(X)), model.predict(X))
    Xv = HeldOut(make(X[:30]), y[:30])
    model = Pipeline([("scale", MaxAbsScaler()), ("curate", clone(curator)), ("clf", Recorder())])
    model.fit(make(X), y, curate__X_val=Xv)
    assert sparse.issparse(model[-1].seen_["X"])


def test_lists(data):
    X, y = data
    model = make_pipeline(SignCurator(), LogisticRegression()).fit(X.tolist(), y.tolist())
    assert_array_equal(model[-1].coef_, make_pipeline(SignCurator(), LogisticRegression()).fit(X, y)[-1].coef_)
    assert len(model.predict(X.tolist())) == N


def test_take_rows():
    rows = np.array([2, 0])
    assert take_rows(["a", "b", "c"], rows) == ["c", "a"]
    assert take_rows(("a", "b", "c"), rows) == ["c", "a"]
    assert_array_equal(take_rows(np.arange(6).reshape(3, 2), rows), [[4, 5], [0, 1]])
    for kind in ("coo", "csr", "csc", "lil", "dia", "bsr"):
        taken = take_rows(sparse.eye(3).asformat(kind), rows)
        assert sparse.issparse(taken)
        assert_array_equal(taken.toarray(), np.eye(3)[rows])


# --- nesting ------------------------------------------------------------------------------------------------


def _by_hand(X, y, **params):
    """The rows that the scaler and SignCurator leave, and the model fitted on them."""
    Z = StandardScaler().fit_transform(X)
    kept = SignCurator().fit(Z, y).sample_indices_
    return kept, LogisticRegression(**params).fit(Z[kept], y[kept])


def test_nested_as_the_last_step_of_a_stock_pipeline(data):
    X, y = data
    inner = make_pipeline(SignCurator(), LogisticRegression())
    model = sklearn.pipeline.make_pipeline(StandardScaler(), inner).fit(X, y)
    kept, clf = _by_hand(X, y)
    assert_array_equal(model[-1].sample_indices_, kept)
    assert_array_equal(model[-1][-1].coef_, clf.coef_)
    search = GridSearchCV(model, {"pipeline__signcurator__threshold": [-0.5]}, cv=2, error_score="raise").fit(X, y)
    assert_array_equal(search.best_estimator_[-1][-1].coef_, clf.coef_)


def test_nested_as_an_earlier_step_of_a_stock_pipeline(data):
    X, y = data
    ends_curating = make_pipeline(StandardScaler(), SignCurator())
    model = sklearn.pipeline.make_pipeline(ends_curating, LogisticRegression()).fit(X, y)
    redrawn = SignCurator().fit_transform(StandardScaler().fit_transform(X), y)
    assert_array_equal(model[-1].coef_, LogisticRegression().fit(redrawn, y).coef_)
    curates_inside = make_pipeline(StandardScaler(), SignCurator(), PCA(2))
    model = sklearn.pipeline.make_pipeline(curates_inside, LogisticRegression()).fit(X, y)
    Z = clone(curates_inside).fit(X, y).transform(X)
    assert_array_equal(model[-1].coef_, LogisticRegression().fit(Z, y).coef_)
    FeatureUnion([("a", curates_inside), ("b", StandardScaler())]).fit_transform(X, y)


@pytest.mark.parametrize("memory", [False, True])
def test_nested_in_ours_is_exact(data, memory, tmp_path):
    X, y = data
    memory = str(tmp_path) if memory else None
    kept, clf = _by_hand(X, y)
    for model in (
        make_pipeline(StandardScaler(), make_pipeline(SignCurator(), LogisticRegression()), memory=memory),
        make_pipeline(make_pipeline(StandardScaler(), SignCurator()), LogisticRegression(), memory=memory),
        make_pipeline(
            make_pipeline(make_pipeline(StandardScaler()), make_pipeline(SignCurator())), LogisticRegression()
        ),
        make_pipeline(sklearn.pipeline.make_pipeline(StandardScaler()), SignCurator(), LogisticRegression()),
    ):
        model.fit(X, y)
        final = model[-1][-1] if isinstance(model[-1], Pipeline) else model[-1]
        assert_array_equal(final.coef_, clf.coef_)
        assert_array_equal(model.sample_indices_, kept)
        assert_array_equal(model.predict(X), clf.predict(StandardScaler().fit_transform(X)))


def test_nested_pipeline_hands_on_rows_weights_parameters_and_what_follows(data):
    X, y = data
    weight, Xv, yv = np.linspace(0.1, 3, N), X + 5, y
    inner = Pipeline([("scale", StandardScaler()), ("curate", WeightCurator(0.2, 1)), ("pca", PCA(3))])
    model = Pipeline([("first", RandomCurator(0.2, 2)), ("shift", Passing()), ("inner", inner), ("clf", Recorder())])
    model.fit(
        X,
        y,
        clf__sample_weight=weight,
        inner__curate__X_val=Xv,
        inner__curate__y_val=yv,
        inner__curate__sample_weight=weight,
    )
    first, kept = model["first"].sample_indices_, model.sample_indices_
    fitted = model["inner"]
    assert_array_equal(kept, first[fitted.sample_indices_])
    Z = StandardScaler().fit_transform(X[first] + 1)
    seen = fitted["curate"].seen_
    assert_array_equal(seen["sample_weight"], weight[first])
    assert_array_equal(seen["X_val"], fitted["scale"].transform(Xv + 1))
    assert seen["y_val"] is yv
    assert seen["task"] == "classification"
    assert [type(step) for _, step in seen["following"].steps] == [PCA, Recorder]
    factor = 1 + np.abs(Z[:, 0])[fitted.sample_indices_]
    assert_array_equal(model["clf"].seen_["sample_weight"], weight[kept] * factor)
    assert_array_equal(model["clf"].seen_["X"], fitted["pca"].transform(Z[fitted.sample_indices_]))
    with pytest.raises(TypeError, match="takes no sample_weight"):
        make_pipeline(clone(inner), KNeighborsClassifier()).fit(X, y)


def test_X_val_reaches_a_curator_in_a_nested_last_step(data):
    X, y = data
    inner = Pipeline([("shift", Passing()), ("curate", SignCurator()), ("clf", LogisticRegression())])
    model = Pipeline([("scale", StandardScaler()), ("model", inner)])
    for rows in (X[:30], HeldOut(X[:30], y[:30])):
        model.fit(X, y, model__curate__X_val=rows)
        seen = model["model"]["curate"].seen_["X_val"]
        assert_array_equal(getattr(seen, "X", seen), model["scale"].transform(X[:30]) + 1)


@pytest.mark.usefixtures("routing")
def test_routing_in_nested_pipelines(data):
    X, y = data
    weight = np.linspace(0.1, 3, N)
    inner = Pipeline([("shift", Passing()), ("curate", SignCurator().set_fit_request(sample_weight=True, X_val=True))])
    inner["shift"].set_fit_request(sample_weight=False)
    model = Pipeline(
        [
            ("scale", StandardScaler().set_fit_request(sample_weight=False)),
            ("inner", inner),
            ("clf", Recorder().set_fit_request(sample_weight=True, X_val=False)),
        ]
    )
    model.fit(X, y, sample_weight=weight, X_val=X[:30])
    seen = model["inner"]["curate"].seen_
    assert_array_equal(seen["sample_weight"], weight)
    assert_array_equal(seen["X_val"], model["scale"].transform(X[:30]) + 1)
    assert_array_equal(model["clf"].seen_["sample_weight"], weight[model.sample_indices_])


# --- looks --------------------------------------------------------------------------------------------------


def test_html_and_repr(data):
    model = make_pipeline(StandardScaler(), SignCurator(), LogisticRegression())
    for _ in range(2):
        html = model._repr_html_()
        assert all(name in html for name in ("Pipeline", "StandardScaler", "SignCurator", "LogisticRegression"))
        model.fit(*data)
    assert repr(model).startswith("Pipeline(steps=[('standardscaler'")


def test_verbose_prints_each_step_once(data):
    X, y = data
    steps = [
        ("scale", StandardScaler()),
        ("skip", "passthrough"),
        ("curate", SignCurator()),
        ("clf", LogisticRegression()),
    ]

    def lines(pipeline):
        out = io.StringIO()
        with redirect_stdout(out):
            pipeline.fit(X, y)
        return [line[: line.rindex("total=")] for line in out.getvalue().splitlines()]

    ours = lines(Pipeline(steps, verbose=True))
    assert ours == lines(sklearn.pipeline.Pipeline(steps, verbose=True))
    assert len(ours) == 4
    assert "(step 3 of 4) Processing curate" in ours[2]
    assert lines(Pipeline(steps)) == []


def test_tags(data):
    ours = make_pipeline(StandardScaler(), SignCurator(), LogisticRegression())
    stock = sklearn.pipeline.make_pipeline(StandardScaler(), SignCurator(), LogisticRegression())
    assert sklearn.utils.get_tags(ours) == sklearn.utils.get_tags(stock)
    assert sklearn.base.is_classifier(ours)
    assert sklearn.base.is_regressor(make_pipeline(SignCurator(), Ridge()))


def test_make_pipeline():
    model = make_pipeline(StandardScaler(), StandardScaler(), SignCurator(), memory="here", verbose=True)
    assert [name for name, _ in model.steps] == ["standardscaler-1", "standardscaler-2", "signcurator"]
    assert model.memory == "here"
    assert model.verbose
    assert model.transform_input is None
    assert type(model) is Pipeline


@pytest.mark.skipif(not hasattr(Pipeline, "set_callbacks"), reason="callbacks came with scikit-learn 1.9")
def test_callbacks_of_the_pipeline_see_each_ordinary_step(data):
    class Counting:
        def __init__(self):
            self.begun = []

        def setup(self, estimator, context): ...

        def teardown(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
            self.begun.append((context.task_name, X.shape))

        def on_fit_task_end(self, estimator, context, *, X=None, y=None): ...

    counting = Counting()
    model = make_pipeline(StandardScaler(), SignCurator(), PCA(2), LogisticRegression()).set_callbacks(counting)
    model.fit(*data)
    n = len(model.sample_indices_)
    for seen in (
        ("fit-transform-standardscaler", (N, 6)),
        ("fit-transform-pca", (n, 6)),
        ("fit-final-estimator", (n, 2)),
    ):
        assert seen in counting.begun
