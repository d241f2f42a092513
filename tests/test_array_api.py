"""Arrays of other libraries: linear models fitted by scikit-learn's array API dispatch, and scored as NumPy's are."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import sklearn
from sklearn.utils.fixes import parse_version

torch = pytest.importorskip("torch")

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]

# Dispatch takes an environment variable that SciPy reads when it is imported: hence a process of its own.
SCRIPT = """
import sys
import warnings

import numpy as np
import sklearn
import torch
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skinfluence
from skinfluence import CuratedRegressor, InfluenceReweighter, InfluenceSelector, influence_scores

device, dispatch = sys.argv[1], sys.argv[2] == "True"
sklearn.set_config(array_api_dispatch=dispatch)
warnings.simplefilter("ignore")  # of scikit-learn, about the solvers it takes under dispatch

def tensors(*arrays):
    return [torch.from_numpy(a).to(device) for a in arrays]

def host(values):
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)

def close(found, wanted):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(host(found), wanted, rtol=1e-3, atol=1e-5 * np.abs(wanted).max())

X, y = make_classification(200, n_classes=3, n_informative=5, random_state=0)
Xr, yr = make_regression(200, 5, noise=5.0, random_state=0)
weight = np.random.RandomState(0).uniform(0.5, 2, size=200)
tol = dict(tol=1e-10, max_iter=5000)
cases = [
    (RidgeClassifier(solver="svd"), X, y), (Ridge(solver="svd"), Xr, yr),
    (make_pipeline(StandardScaler(), Ridge(solver="svd")), Xr, yr), (LogisticRegression(**tol), X, y),
]
for estimator, A, b in cases:
    A_there, b_there, w_there = tensors(A, b, weight)
    name = f"{list(estimator.named_steps)[-1]}__" if hasattr(estimator, "steps") else ""
    there = estimator.fit(A_there, b_there, **{f"{name}sample_weight": w_there})
    scores = {}
    for method in ("ip", "exact", "ip_ensemble", "self_tracin"):
        judges = () if method == "self_tracin" else (A_there[:40], b_there[:40])
        scores[method] = influence_scores(
            there, A_there, b_there, *judges, method=method, sample_weight=w_there, random_state=0
        )
        assert type(scores[method]) is np.ndarray
    here = estimator.fit(A, b, **{f"{name}sample_weight": weight})
    for method, found in scores.items():
        judges = () if method == "self_tracin" else (A[:40], b[:40])
        close(found, influence_scores(here, A, b, *judges, method=method, sample_weight=weight, random_state=0))

X_there, y_there, Xr_there, yr_there = tensors(X, y, Xr, yr)
for curator in (InfluenceSelector(random_state=0), InfluenceReweighter(random_state=0)):
    close(curator.fit(X_there, y_there).scores_, curator.fit(X, y).scores_)
curated = CuratedRegressor(Ridge(solver="svd"), InfluenceSelector(Ridge(solver="svd"), random_state=0))
close(curated.fit(Xr_there, yr_there).predict(Xr_there), curated.fit(Xr, yr).predict(Xr))
pipe = skinfluence.make_pipeline(StandardScaler(), InfluenceSelector(random_state=0), Ridge(solver="svd"))
close(pipe.fit(Xr_there, yr_there).predict(Xr_there), pipe.fit(Xr, yr).predict(Xr))
print("done")
"""


@pytest.mark.parametrize("dispatch", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_tensors_are_scored_as_arrays_are(device, dispatch):
    if device == "cuda" and not dispatch:
        pytest.skip("scikit-learn takes no CUDA tensors without dispatch")
    if dispatch and parse_version(sklearn.__version__) < parse_version("1.9"):
        pytest.skip("LogisticRegression takes tensors by dispatch from scikit-learn 1.9 on")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, device, str(dispatch)],
        env={**os.environ, "SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
