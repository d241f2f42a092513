"""A real cluster of processes, by Dask: the scores of one process, also where a worker is killed on the way."""

from __future__ import annotations

import os
import signal
import threading
import time

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import DataShapley, IPEnsemble, LeaveOneOut

distributed = pytest.importorskip("distributed", reason="needs dask.distributed")
array = pytest.importorskip("dask.array", reason="needs dask")

pytestmark = [
    pytest.mark.slow,
    # The threads and sockets of Dask end after the cluster that they belong to.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning"),
]


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found


@pytest.fixture
def X_y():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(60, 4))
    return X, (X[:, 0] + rng.normal(size=60) > 0).astype(int)


def pids(client) -> set[int]:
    return set(client.run(os.getpid).values())


class Slow(LogisticRegression):
    """Takes its time, and leaves a file that says which process it was fitted in."""

    def __init__(self, folder=None, seconds=0.0):
        super().__init__()
        self.folder = folder
        self.seconds = seconds

    def fit(self, X, y, sample_weight=None):
        if self.folder is not None:
            (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(self.seconds)
        return super().fit(X, y, sample_weight)


def processes(folder) -> set[int]:
    return {int(path.name.split("-")[0]) for path in folder.iterdir()}


class Killer(threading.Thread):
    """Kills a worker as soon as it has begun to work, once."""

    def __init__(self, client, folder):
        super().__init__(daemon=True)
        self.victims, self.folder, self.killed = pids(client), folder, None

    def run(self):
        ended = time.monotonic() + 30
        while self.killed is None and time.monotonic() < ended:
            at_work = [path for path in self.folder.iterdir() if int(path.name.split("-")[0]) in self.victims]
            if len(at_work) >= 6:
                self.killed = int(at_work[-1].name.split("-")[0])
                os.kill(self.killed, signal.SIGKILL)
            time.sleep(0.005)


@pytest.mark.parametrize(
    "method", [LeaveOneOut(), DataShapley(4, truncation=0.0), IPEnsemble(3), "exact"], ids=lambda m: str(m)[:12]
)
def test_methods_give_the_same_scores_on_a_cluster(client, X_y, method):
    X, y = X_y
    clf = LogisticRegression().fit(X[:25], y[:25])
    given = (clf, X[:25], y[:25], X[25:], y[25:])
    expected = influence_scores(*given, method=method, random_state=0)
    with joblib.parallel_config(backend="dask"):
        found = influence_scores(*given, method=method, random_state=0, n_jobs=2)
    assert np.array_equal(found, expected)


def test_folds_are_fitted_on_the_cluster(client, X_y, tmp_path):
    X, y = X_y
    expected = InfluenceSelector(LogisticRegression(), random_state=0).fit(X, y).scores_
    with joblib.parallel_config(backend="dask"):
        found = InfluenceSelector(Slow(tmp_path), random_state=0, n_jobs=2).fit(X, y).scores_
    assert np.array_equal(found, expected)
    assert processes(tmp_path) & pids(client)
    assert processes(tmp_path) <= pids(client) | {os.getpid()}  # the curated rows are fitted here


@pytest.mark.parametrize("make", [LeaveOneOut, lambda folder: DataShapley(4, truncation=0.0, checkpoint_dir=folder)])
@pytest.mark.parametrize("kept", [False, True])
def test_refits_outlive_a_worker_that_is_killed(client, X_y, tmp_path, make, kept):
    X, y = np.tile(X_y[0], (1, 25)), X_y[1]  # wide, so that rows are scattered and may be lost with a worker
    folder = tmp_path / "fits"
    folder.mkdir()
    client.wait_for_workers(2)
    given = (X[:24], y[:24], X[24:], y[24:])
    expected = influence_scores(LogisticRegression().fit(X[:24], y[:24]), *given, method=make(None), random_state=0)
    slow = Slow(folder, seconds=0.02).fit(X[:24], y[:24])
    killer = Killer(client, folder)
    killer.start()
    with joblib.parallel_config(backend="dask"):
        found = influence_scores(
            slow, *given, method=make(tmp_path / "kept" if kept else None), random_state=0, n_jobs=2
        )
    killer.join()
    assert killer.killed is not None
    assert np.array_equal(found, expected)
    client.wait_for_workers(2)
    assert killer.killed not in pids(client)


def blocks_on(client, X):
    """``X`` as a Dask array of eight blocks that the workers hold."""
    return client.persist(array.from_array(X, chunks=(-(-len(X) // 8), -1)))


def leaving_traces(folder, seconds=0.0):
    def traced(block):
        (folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(seconds)
        return block

    return FunctionTransformer(traced)


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "self_tracin"])
def test_dask_rows_are_scored_where_their_blocks_live(client, X_y, tmp_path, method):
    X, y = X_y
    client.wait_for_workers(2)
    clf = LogisticRegression().fit(X, y)
    expected = influence_scores(clf, X, y, X[:9], y[:9], method=method, random_state=0)
    found = influence_scores(clf, blocks_on(client, X), y, X[:9], y[:9], method=method, random_state=0)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    pipe = make_pipeline(leaving_traces(tmp_path), LogisticRegression()).fit(X, y)
    for path in tmp_path.iterdir():
        path.unlink()
    home = blocks_on(client, X)
    found = influence_scores(pipe, home, y, X[:9], y[:9], method=method, random_state=0)
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)
    here = [path for path in tmp_path.iterdir() if path.name.startswith(f"{os.getpid()}-")]
    assert len(here) <= 2  # the first block, for its dtype, and the validation rows
    assert pids(client) & processes(tmp_path)


def test_dask_rows_outlive_a_worker_that_is_killed(client, X_y, tmp_path):
    X, y = X_y
    client.wait_for_workers(2)
    pipe = make_pipeline(leaving_traces(tmp_path, 0.1), LogisticRegression()).fit(X, y)
    expected = influence_scores(pipe, X, y, X[:9], y[:9])
    home = client.persist(array.from_array(X, chunks=(2, -1)))
    for path in tmp_path.iterdir():
        path.unlink()
    killer = Killer(client, tmp_path)
    killer.start()
    found = influence_scores(pipe, home, y, X[:9], y[:9])
    killer.join()
    assert killer.killed is not None
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_value_that_is_not_finite_is_named_from_the_worker(client, X_y):
    X, y = X_y
    client.wait_for_workers(2)
    clf = LogisticRegression().fit(X, y)
    spoiled = X.copy()
    spoiled[41, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        influence_scores(clf, blocks_on(client, spoiled), y, X[:9], y[:9])
