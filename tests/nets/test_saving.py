"""Fitted nets in their homes go to disk and come back: pickle, joblib, and skops where it can."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

torch = pytest.importorskip("torch")
pytest.importorskip("skorch")

from skinfluence import (  # noqa: E402
    CuratedClassifier,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    Pipeline,
    influence_scores,
)
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .homes import classifier, table  # noqa: E402

OPTIONS = {"method": "ip", "cv": 2, "random_state": 0}


def mlp():
    return MLPClassifier(hidden_layer_sizes=6, tol=10.0, n_iter_no_change=4, random_state=0)  # a few epochs


def in_pipeline(curator, final):
    return Pipeline([("scale", StandardScaler()), ("curate", curator), ("clf", final)])


CASES = {
    "selector": lambda: InfluenceSelector(classifier(), **OPTIONS),
    "wrapped": lambda: InfluenceSelector(DifferentiableNet(classifier(), parameters="last_layer"), **OPTIONS),
    "relabeler": lambda: InfluenceRelabeler(classifier(), **OPTIONS),
    "reweighter": lambda: InfluenceReweighter(classifier(), **OPTIONS),
    "pipeline": lambda: in_pipeline(InfluenceSelector("final", **OPTIONS), classifier()),
    "mixed": lambda: in_pipeline(InfluenceReweighter(classifier(), **OPTIONS), LogisticRegression()),
    "curated": lambda: CuratedClassifier(classifier(), InfluenceSelector("final", **OPTIONS)),
    "mlp": lambda: in_pipeline(InfluenceSelector("final", **OPTIONS), mlp()),
}


def through_joblib(estimator):
    buffer = io.BytesIO()
    joblib.dump(estimator, buffer)
    buffer.seek(0)
    return joblib.load(buffer)


def through_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))


def curator_of(estimator):
    if isinstance(estimator, Pipeline):
        return estimator["curate"]
    return getattr(estimator, "curator_", estimator)


def assert_same(back, fitted, X):
    ours, theirs = curator_of(back), curator_of(fitted)
    for name in ("scores_", "support_", "sample_indices_", "sample_weight_", "y_"):
        if getattr(theirs, name, None) is not None:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert ours.engine_ == theirs.engine_ == "forward"
    for name in ("estimator_",):
        if hasattr(theirs, name):
            np.testing.assert_array_equal(getattr(ours, name).predict_proba(X), theirs.estimator_.predict_proba(X))
    if hasattr(fitted, "predict"):
        np.testing.assert_array_equal(back.predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize("through", [through_pickle, through_joblib])
@pytest.mark.parametrize("name", CASES)
def test_a_fitted_estimator_comes_back(name, through):
    X, y = table()
    fitted = CASES[name]().fit(X, y)
    back = through(fitted)
    assert_same(back, fitted, X)
    # and it is fitted again as it was
    np.testing.assert_array_equal(curator_of(back.fit(X, y)).scores_, curator_of(fitted).scores_)


@pytest.mark.parametrize("name", ["mlp"])
def test_skops_takes_what_is_made_of_arrays(name):
    skops = pytest.importorskip("skops.io")
    X, y = table()
    fitted = CASES[name]().fit(X, y)
    data = skops.dumps(fitted)
    unknown = skops.get_untrusted_types(data=data)
    assert all(kind.startswith(("skinfluence.", "sklearn.neural_network.")) for kind in unknown), unknown
    assert_same(skops.loads(data, trusted=unknown), fitted, X)


def test_a_wrapped_net_comes_back_with_its_scores():
    X, y = table()
    torch.manual_seed(0)
    net = DifferentiableNet(classifier(), parameters="last_layer").fit(X, y)
    for back in (through_pickle(net), through_joblib(net)):
        np.testing.assert_array_equal(influence_scores(back, X, y), influence_scores(net, X, y))


def test_reading_a_saved_mlp_imports_no_torch(tmp_path):
    X, y = table()
    joblib.dump(InfluenceSelector(mlp(), **OPTIONS).fit(X, y), tmp_path / "curator.joblib")
    code = (
        "import sys, joblib; curator = joblib.load(sys.argv[1]);"
        "assert len(curator.get_support()) == 80; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "curator.joblib"], check=True)
