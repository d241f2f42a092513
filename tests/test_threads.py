"""Threads and determinism: many fits at once, BLAS threads in workers, and scores that depend on the seed alone."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import threadpool_info

from skinfluence import CuratedClassifier, InfluenceRelabeler, InfluenceReweighter, InfluenceSelector, influence_scores
from skinfluence.methods import GEX, METHODS, BetaShapley, DataShapley, GradientMethod, IPEnsemble, LeaveOneOut, LiSSA
from skinfluence.snapshots import SGD, Seeds
from skinfluence.snapshots._seeds import _refit

# Settings that are quick, and that draw enough for a seed to matter; the other methods are as they are by name.
SET = {
    "ip_ensemble": IPEnsemble(dropout=0.3),
    "lissa": LiSSA(batch_size=16, depth=50),
    "gex": GEX(n_members=2, n_steps=60, batch_size=16),
    "data_shapley": DataShapley(2),
    "beta_shapley": BetaShapley(n_permutations=2),
}
NET = MLPClassifier((3,), max_iter=20, random_state=0)
BLOCKS_MIB = (1 / 512, 1 / 32, 1024)


@pytest.fixture
def X_y():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(80, 4))
    return X, (X[:, 0] - X[:, 1] + rng.normal(size=80) > 0).astype(int)


def configured(name: str):
    return SET.get(name, name)


def scores(X_y, method, n_jobs=None, seed=0):
    X, y = X_y
    clf = LogisticRegression().fit(X[:50], y[:50])
    return influence_scores(clf, X[:50], y[:50], X[50:], y[50:], method=method, random_state=seed, n_jobs=n_jobs)


# --- determinism ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_the_same_for_any_number_of_jobs_and_backend(X_y, name):
    method = configured(name)
    expected = scores(X_y, method)
    assert np.array_equal(scores(X_y, method), expected)
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend):
            for n_jobs in (1, 2):
                assert np.array_equal(scores(X_y, method, n_jobs), expected)


MEMBERS = {
    "linear, sgd": (LogisticRegression(), GradientMethod(SGD(3, n_steps=20, batch_size=16))),
    "linear, gex": (LogisticRegression(), GEX(n_members=3, n_steps=20, batch_size=16)),
    "linear, gex by losses": (LogisticRegression(), GEX("loss", n_members=3, n_steps=20, batch_size=16)),
    "linear, seeds": (SGDClassifier("log_loss", random_state=0), GradientMethod(Seeds(3))),
    "net, sgd": (NET, GradientMethod(SGD(3, n_steps=20, lr=0.01, batch_size=16))),
    "net, gex": (NET, GEX(n_members=3, n_steps=20, lr=0.01, batch_size=16)),
    "net, seeds": (NET, GradientMethod(Seeds(3))),
}


@pytest.mark.filterwarnings("ignore:.*not at a minimum", "ignore:Stochastic Optimizer")
@pytest.mark.parametrize("backend", ["threading", "loky"])
@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_the_same_for_any_number_of_jobs(X_y, name, backend):
    estimator, method = MEMBERS[name]
    if estimator is NET:
        pytest.importorskip("torch")
    X, y = X_y
    fitted = clone(estimator).fit(X, y)
    given = {"method": method, "random_state": 0}
    alone = influence_scores(fitted, X, y, **given)
    with joblib.parallel_config(backend=backend):
        for n_jobs in (1, 2):
            assert np.array_equal(influence_scores(fitted, X, y, n_jobs=n_jobs, **given), alone)


class Together:
    """Counts how many are within at the same time."""

    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.2)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize("snapshots", [SGD(2, n_steps=1, batch_size=16), Seeds(2)], ids=str)
def test_members_are_made_at_the_same_time(X_y, monkeypatch, snapshots):
    X, y = X_y
    fitted = SGDClassifier("log_loss", random_state=0).fit(X, y)
    for n_jobs, most in ((None, 1), (1, 1), (2, 2)):
        together = Together()

        def watched(function, together=together):
            def call(*given):
                with together:
                    return function(*given)

            return call

        with monkeypatch.context() as patch, joblib.parallel_config(backend="threading"):
            patch.setattr(SGD, "_member", watched(SGD._member))
            patch.setattr("skinfluence.snapshots._seeds._refit", watched(_refit))
            influence_scores(fitted, X, y, method=GradientMethod(snapshots), random_state=0, n_jobs=n_jobs)
        assert together.most == most


@pytest.mark.parametrize("name", METHODS)
def test_scores_are_those_of_any_block_size_to_rounding(X_y, name):
    method = configured(name)
    found = []
    for working_memory in BLOCKS_MIB:
        with config_context(working_memory=working_memory):
            found.append(scores(X_y, method))
    for other in found[1:]:
        # Sums over rows are added up block by block; CG and LiSSA iterate to a tolerance on what comes of that.
        assert other == pytest.approx(found[0], rel=1e-6, abs=1e-9 * np.abs(found[0]).max())


@pytest.mark.parametrize("name", [*SET, "trak"])
def test_another_seed_gives_other_scores(X_y, name):
    assert not np.array_equal(scores(X_y, configured(name)), scores(X_y, configured(name), seed=1))


@pytest.mark.parametrize("make", [InfluenceSelector, InfluenceRelabeler, InfluenceReweighter])
@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_curators_decide_alike_for_any_number_of_jobs_and_backend(X_y, make, backend):
    X, y = X_y
    method = "ip" if make is InfluenceRelabeler else "ip_ensemble"
    expected = make(method=method, random_state=0).fit(X, y)
    with joblib.parallel_config(backend=backend):
        for n_jobs in (1, 2, 3):
            found = make(method=method, random_state=0, n_jobs=n_jobs).fit(X, y)
            assert np.array_equal(found.scores_, expected.scores_)
            assert np.array_equal(found.support_, expected.support_)


def test_weights_and_regression_are_deterministic_too(X_y):
    X, _ = X_y
    y = X @ [1.0, 2.0, 0.0, -1.0]
    weight = np.random.RandomState(1).uniform(0.5, 2, size=len(y))
    ridge = Ridge().fit(X, y, sample_weight=weight)
    expected = influence_scores(ridge, X, y, method=LeaveOneOut(), sample_weight=weight)
    for backend in ("threading", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            found = influence_scores(ridge, X, y, method=LeaveOneOut(), sample_weight=weight)
            assert np.array_equal(found, expected)


# --- threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_scores_from_many_threads_at_once(X_y, name):
    method = configured(name)
    expected = [scores(X_y, method, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda seed: scores(X_y, method, seed=seed), range(4)))
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("make", [InfluenceSelector, InfluenceRelabeler, InfluenceReweighter])
def test_separate_curators_are_fitted_from_many_threads_at_once(X_y, make):
    X, y = X_y

    def fitted(seed):
        curator = make(random_state=seed).fit(X, y)
        return curator.scores_, curator.support_, curator.estimator_.predict(X)

    expected = list(map(fitted, range(8)))
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(fitted, range(8)))
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert np.array_equal(a, b)


def test_curated_estimators_are_fitted_from_many_threads_at_once(X_y):
    X, y = X_y

    def fitted(seed):
        return CuratedClassifier(LogisticRegression(), InfluenceSelector(random_state=seed)).fit(X, y).predict_proba(X)

    expected = list(map(fitted, range(6)))
    with ThreadPoolExecutor(6) as threads:
        assert all(np.array_equal(a, b) for a, b in zip(threads.map(fitted, range(6)), expected, strict=True))


def test_one_table_is_scored_by_many_threads_at_once_in_blocks_of_their_own(X_y):
    def scored(k):
        # scikit-learn's configuration is that of a thread.
        with config_context(working_memory=BLOCKS_MIB[k % 3]):
            return scores(X_y, "exact")

    expected = list(map(scored, range(9)))
    with ThreadPoolExecutor(9) as threads:
        assert all(np.array_equal(a, b) for a, b in zip(threads.map(scored, range(9)), expected, strict=True))


class Asking(LogisticRegression):
    """Leaves a file that says how many threads BLAS has where it was fitted."""

    def __init__(self, folder=None):
        super().__init__()
        self.folder = folder

    def fit(self, X, y, sample_weight=None):
        n_threads = max(pool["num_threads"] for pool in threadpool_info())
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").write_text(str(n_threads))
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("inner", [None, 1])
def test_blas_has_its_share_of_the_cores_in_worker_processes(X_y, tmp_path, monkeypatch, inner):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with joblib.parallel_config(backend="loky", inner_max_num_threads=inner):
        InfluenceSelector(Asking(tmp_path), random_state=0, n_jobs=2).fit(*X_y)
    in_workers = [int(p.read_text()) for p in tmp_path.iterdir() if not p.name.startswith(f"{os.getpid()}-")]
    assert len(in_workers) == 5  # the folds
    assert max(in_workers) <= (inner or max(joblib.cpu_count() // 2, 1))


def test_threads_leave_the_limits_of_blas_as_they_were(X_y):
    before = [pool["num_threads"] for pool in threadpool_info()]
    with joblib.parallel_config(backend="threading", n_jobs=3):
        scores(X_y, "exact")
        InfluenceSelector(random_state=0).fit(*X_y)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda seed: scores(X_y, "ip_ensemble", n_jobs=2, seed=seed), range(8)))
    assert [pool["num_threads"] for pool in threadpool_info()] == before


def test_parallel_parts_keep_scikit_learns_configuration():
    with config_context(working_memory=3):
        for backend in ("threading", "loky"):
            with joblib.parallel_config(backend=backend, n_jobs=2):
                assert Parallel()(delayed(_working_memory)() for _ in range(2)) == [3, 3]


def _working_memory():
    from sklearn import get_config

    return get_config()["working_memory"]
