"""CuratorSampler: a curating step in imbalanced-learn's Pipeline. HeldOut: validation rows in one object."""

import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import sklearn
from _curators import RandomCurator, SecretWeightCurator, SignCurator, WeightCurator
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from skinfluence._curation import InfluenceSelector
from skinfluence._held_out import HeldOut
from skinfluence._pipeline import make_pipeline
from skinfluence._sampler import CuratorSampler

N = 120


@pytest.fixture
def data():
    return make_classification(N, 6, n_informative=4, weights=[0.7], flip_y=0.15, random_state=0)


def test_fit_resample(data):
    X, y = data
    curator = SignCurator()
    sampler = curator.as_sampler()
    assert isinstance(sampler, CuratorSampler)
    X_kept, y_kept = sampler.fit_resample(X, y)
    kept = clone(curator).fit(X, y).sample_indices_
    assert_array_equal(sampler.sample_indices_, kept)
    assert_array_equal(X_kept, X[kept])
    assert_array_equal(y_kept, y[kept])
    assert not hasattr(curator, "sample_indices_")
    assert not hasattr(sampler, "transform")
    assert not hasattr(sampler, "fit")


def test_is_an_estimator(data):
    sampler = CuratorSampler(RandomCurator(0.3))
    assert sampler.get_params()["curator__rate"] == 0.3
    sampler.set_params(curator__rate=0.5)
    assert sampler.curator.rate == 0.5
    sampler.fit_resample(*data)
    copied = clone(sampler)
    assert copied.curator is not sampler.curator
    assert not hasattr(copied, "curator_")
    assert_array_equal(pickle.loads(pickle.dumps(sampler)).sample_indices_, sampler.sample_indices_)
    assert "CuratorSampler" in sampler._repr_html_()
    assert repr(copied) == "CuratorSampler(curator=RandomCurator(rate=0.5))"


def test_parameters_reach_the_curator(data):
    X, y = data
    rows = HeldOut(X, y)
    sampler = CuratorSampler(RandomCurator())
    sampler.fit_resample(X, y, X_val=rows, sample_weight=y)
    assert sampler.curator_.seen_["X_val"] is rows
    assert sampler.curator_.seen_["sample_weight"] is y


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(data, library):
    frames = pytest.importorskip(library)
    X, y = data
    frame = frames.DataFrame(dict(zip("abcdef", X.T, strict=True)))
    X_kept, y_kept = CuratorSampler(RandomCurator()).fit_resample(frame, frames.Series(y))
    assert isinstance(X_kept, frames.DataFrame)
    assert isinstance(y_kept, frames.Series)
    assert len(X_kept) == len(y_kept) < N


def test_sparse(data):
    X_kept, y_kept = CuratorSampler(RandomCurator()).fit_resample(sparse.csr_matrix(data[0]), data[1])
    assert sparse.issparse(X_kept)
    assert X_kept.shape[0] == len(y_kept)


@pytest.mark.parametrize("curator", [WeightCurator(), SecretWeightCurator()])
def test_weights_cannot_be_expressed(data, curator):
    with pytest.raises(TypeError, match=r"WeightCurator puts weights on rows.*Use skinfluence.Pipeline"):
        CuratorSampler(curator).fit_resample(*data)
    assert not hasattr(curator, "support_")


def test_wants_a_curator(data):
    with pytest.raises(TypeError, match=r"wants a curating step.*got StandardScaler\(\)"):
        CuratorSampler(StandardScaler()).fit_resample(*data)


def test_the_following_step_is_unknown_to_it(data):
    with pytest.raises(ValueError, match="'final'"):
        InfluenceSelector("final", method="ip").as_sampler().fit_resample(*data)


# --- imbalanced-learn ---------------------------------------------------------------------------------------

CURATORS = [
    pytest.param(SignCurator(), id="sign"),
    pytest.param(InfluenceSelector(method="ip", removal_rate=0.1, cv=3, random_state=0), id="influence"),
]


@pytest.mark.parametrize("curator", CURATORS)
def test_in_imbalanced_learns_pipeline(data, curator):
    pipelines = pytest.importorskip("imblearn.pipeline")
    X, y = data
    theirs = pipelines.make_pipeline(StandardScaler(), clone(curator).as_sampler(), LogisticRegression()).fit(X, y)
    ours = make_pipeline(StandardScaler(), clone(curator), LogisticRegression()).fit(X, y)
    assert_array_equal(theirs[1].sample_indices_, ours.sample_indices_)
    assert_array_equal(theirs[-1].coef_, ours[-1].coef_)
    assert_array_equal(theirs.predict(X), ours.predict(X))
    assert "CuratorSampler" in theirs._repr_html_()
    both = type("Both", (SignCurator,), {"fit_resample": None})()
    with pytest.raises(TypeError, match="implement fit and transform or fit_resample"):
        pipelines.make_pipeline(both, LogisticRegression()).fit(X, y)


@pytest.mark.parametrize("curator", CURATORS)
def test_beside_imbalanced_learns_samplers(data, curator):
    pipelines = pytest.importorskip("imblearn.pipeline")
    from imblearn.over_sampling import SMOTE
    from imblearn.under_sampling import RandomUnderSampler

    X, y = data
    for other in (SMOTE(k_neighbors=2, random_state=0), RandomUnderSampler(random_state=0)):
        model = pipelines.make_pipeline(clone(curator).as_sampler(), clone(other), LogisticRegression()).fit(X, y)
        kept = clone(curator).fit(X, y).sample_indices_
        by_hand = LogisticRegression().fit(*clone(other).fit_resample(X[kept], y[kept]))
        assert_array_equal(model[-1].coef_, by_hand.coef_)
        model = pipelines.make_pipeline(clone(other), clone(curator).as_sampler(), LogisticRegression()).fit(X, y)
        Z, z = clone(other).fit_resample(X, y)
        kept = clone(curator).fit(Z, z).sample_indices_
        assert_array_equal(model[-1].coef_, LogisticRegression().fit(Z[kept], z[kept]).coef_)


def test_search_parameters_and_memory_in_imbalanced_learns_pipeline(data, tmp_path):
    pipelines = pytest.importorskip("imblearn.pipeline")
    X, y = data
    steps = [("scale", StandardScaler()), ("curate", CuratorSampler(RandomCurator())), ("clf", LogisticRegression())]
    model = pipelines.Pipeline(steps)
    search = GridSearchCV(model, {"curate__curator__rate": [0.0, 0.3]}, cv=3, n_jobs=2, error_score="raise").fit(X, y)
    assert set(search.cv_results_["param_curate__curator__rate"]) == {0.0, 0.3}
    model.fit(X, y)
    cached = pipelines.Pipeline(clone(model).steps, memory=str(tmp_path))
    for _ in range(2):
        cached.fit(X, y)
        assert_array_equal(cached["clf"].coef_, model["clf"].coef_)
    joblib.dump(cached, tmp_path / "model.joblib")
    assert_array_equal(joblib.load(tmp_path / "model.joblib").predict(X), model.predict(X))


def test_regression_in_imbalanced_learns_pipeline():
    pipelines = pytest.importorskip("imblearn.pipeline")
    X, y = make_regression(N, 4, noise=5.0, random_state=0)
    selector = InfluenceSelector(method="ip", removal_rate=0.1, cv=3, random_state=0)
    model = pipelines.make_pipeline(StandardScaler(), selector.as_sampler(), Ridge()).fit(X, y)
    assert len(model[1].sample_indices_) == N - N // 10
    assert_array_equal(model[-1].coef_, make_pipeline(StandardScaler(), selector, Ridge()).fit(X, y)[-1].coef_)


def test_routing_in_imbalanced_learns_pipeline(data):
    pipelines = pytest.importorskip("imblearn.pipeline")
    X, y = data
    weight, rows = np.linspace(0.1, 3, N), HeldOut(X, y)
    with sklearn.config_context(enable_metadata_routing=True):
        curator = SignCurator().set_fit_request(sample_weight="w", X_val=True)
        model = pipelines.make_pipeline(
            StandardScaler().set_fit_request(sample_weight=True),
            curator.as_sampler(),
            LogisticRegression().set_fit_request(sample_weight=False),
        )
        model.fit(X, y)
        model.fit(X, y, sample_weight=weight, w=weight + 1, X_val=rows)
        with pytest.raises(sklearn.exceptions.UnsetMetadataPassedError, match="sample_weight"):
            CuratorSampler(SignCurator()).fit_resample(X, y, sample_weight=weight)
    assert_array_equal(model[0].mean_, StandardScaler().fit(X, sample_weight=weight).mean_)
    assert model[1].curator_.seen_["X_val"] is rows
    assert_array_equal(model[1].curator_.seen_["sample_weight"], weight + 1)


def test_routing_without_imbalanced_learn(data):
    """It knows of no fit_resample then: parameters go to the curating step as they are."""
    code = """
import sys
import sklearn
from sklearn.linear_model import LogisticRegression
from skinfluence._sampler import CuratorSampler
from skinfluence._pipeline import Pipeline

class Curator(LogisticRegression):
    def fit_curate(self, X, y, sample_weight):
        self.sample_indices_ = sample_weight
        return X, y, None

sklearn.set_config(enable_metadata_routing=True)
sampler = CuratorSampler(Curator())
sampler.fit_resample([[1.0]], [1], sample_weight=5)
assert sampler.sample_indices_ == 5
sampler.get_metadata_routing()
assert "imblearn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- HeldOut ------------------------------------------------------------------------------------------------


def test_held_out_cannot_be_sliced():
    rows = HeldOut([[1.0]], [1], sample_weight=[2.0], sensitive_features=["a"])
    for name in ("__len__", "__iter__", "__getitem__", "__array__", "shape"):
        assert not hasattr(rows, name)
    assert (rows.X, rows.y, rows.sample_weight, rows.sensitive_features) == ([[1.0]], [1], [2.0], ["a"])
    assert vars(pickle.loads(pickle.dumps(rows))) == vars(rows)


def test_held_out_repr():
    shown = repr(HeldOut(sparse.csr_matrix((3, 2)), [1, 2, 3], sample_weight=np.ones(3), sensitive_features=5))
    assert shown == (
        "HeldOut(X=<csr_matrix of shape (3, 2)>, y=<list of 3 rows>, sample_weight=<ndarray of shape (3,)>, "
        "sensitive_features=<int>)"
    )


def test_held_out_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        HeldOut([[1.0]], [1], [1.0])
