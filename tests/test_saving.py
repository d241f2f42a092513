"""Fitted estimators go to disk and come back: pickle, joblib, and skops without a type that is nobody's."""

from __future__ import annotations

import io
import pickle

import joblib
import numpy as np
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from skinfluence import (
    CuratedClassifier,
    CuratedRegressor,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    make_pipeline,
)
from skinfluence.methods import EKFAC, METHODS, IPEnsemble
from skinfluence.objectives import Joint, Utility


def _pipeline():
    return make_pipeline(StandardScaler(), InfluenceSelector(estimator="final", random_state=0), LogisticRegression())


CASES = {
    "selector": lambda: InfluenceSelector(random_state=0),
    "auto": lambda: InfluenceSelector(method="exact", removal_rate="auto", random_state=0),
    "configured": lambda: InfluenceSelector(method=IPEnsemble(n_members=3), random_state=0),
    "layered": lambda: InfluenceSelector(method=EKFAC(damping=0.2), cv=None, random_state=0),
    "joint": lambda: InfluenceSelector(objective=Joint([Utility(), Utility(loss="gce")]), random_state=0),
    "reweighter": lambda: InfluenceReweighter(random_state=0),
    "relabeler": lambda: InfluenceRelabeler(random_state=0),
    "classifier": lambda: CuratedClassifier(LogisticRegression(), curator=InfluenceSelector(random_state=0)),
    "regressor": lambda: CuratedRegressor(Ridge(), curator=InfluenceSelector(random_state=0)),
    "pipeline": _pipeline,
    "sampler": lambda: InfluenceSelector(random_state=0).as_sampler(),
}


def _through_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def _through_joblib(estimator):
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def _through_skops(estimator):
    skops = pytest.importorskip("skops.io")
    data = skops.dumps(estimator)
    unknown = skops.get_untrusted_types(data=data)
    # What is not scikit-learn's, NumPy's or Python's is an estimator, a method or an objective that the user named.
    assert all(name.startswith("skinfluence.") for name in unknown), unknown
    assert not any(name.rpartition(".")[2].startswith("_") for name in unknown)
    return skops.loads(data, trusted=unknown)


@pytest.mark.parametrize("through", [_through_pickle, _through_joblib, _through_skops])
@pytest.mark.parametrize("name", CASES)
def test_a_fitted_estimator_comes_back(name, through):
    make = make_regression if name == "regressor" else make_classification
    X, y = make(120, random_state=0)
    estimator = CASES[name]()
    fitted = estimator.fit(X, y) if hasattr(estimator, "fit") else None
    if fitted is None:
        estimator.fit_resample(X, y)
    back = through(estimator)
    for one in ("scores_", "support_", "sample_indices_", "sample_weight_", "y_curated_"):
        if hasattr(estimator, one):
            np.testing.assert_array_equal(getattr(back, one), getattr(estimator, one))
    if hasattr(estimator, "predict"):
        np.testing.assert_array_equal(back.predict(X), estimator.predict(X))
    assert repr(back) == repr(estimator)
    if hasattr(estimator, "_repr_html_"):
        html = back._repr_html_()
        assert ("skinfluence-summary" in html) == ("skinfluence-summary" in estimator._repr_html_())


@pytest.mark.parametrize("through", [_through_pickle, _through_skops])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_configured_method_comes_back(name, through):
    selector = InfluenceSelector(method=METHODS[name]())
    back = through(selector)
    assert type(back.method) is METHODS[name]
    assert repr(back) == repr(selector)
