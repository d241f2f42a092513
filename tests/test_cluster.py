"""A real cluster of processes, by Dask: the scores of one process, also where a worker is killed on the way.

And one by Ray, where that is installed: no extra of the package brings it.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import time
import warnings

import joblib
import numpy as np
import pytest
from joblib.pool import PicklingPool
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import DataShapley, IPEnsemble, LeaveOneOut, LiSSA, SelfLiSSA
from skinfluence.models import as_model
from skinfluence.models._dask import DaskRows
from skinfluence.models._streams import RowStream
from skinfluence.objectives import DemographicParity
from skinfluence.operators import TrainingProblem

distributed = pytest.importorskip("distributed", reason="needs dask.distributed")
dask = pytest.importorskip("dask", reason="needs dask")
array = pytest.importorskip("dask.array", reason="needs dask")

pytestmark = [
    pytest.mark.slow,
    # The threads and sockets of Dask end after the cluster that they belong to.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Sending large graph:UserWarning"),
    # On a busy machine: raised as an error, it would keep the cluster from starting.
    pytest.mark.filterwarnings("ignore:Creating scratch directories:UserWarning"),
]


_PATIENCE = 300  # seconds, in which a worker has started even where many others want the processor


@pytest.fixture(scope="module")
def client():
    with (
        # So long after a worker was lost the cluster gives its place up if no other has taken it by then: on a busy
        # machine, or where the next is killed at that moment, it would be one worker short from there on.
        dask.config.set({"distributed.deploy.lost-worker-timeout": f"{2 * _PATIENCE}s"}),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as found,
    ):
        yield found
    gc.collect()  # what is left of it goes here, and not within a test of another module that takes it for its own


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
    """Kills a worker as soon as it has begun to work, once, within the block."""

    def __init__(self, client, folder):
        super().__init__(daemon=True)
        self.victims, self.folder, self.killed = pids(client), folder, None
        self.ended = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.ended.set()
        self.join()

    def run(self):
        while self.killed is None and not self.ended.is_set():
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
    client.wait_for_workers(2, timeout=_PATIENCE)
    given = (X[:24], y[:24], X[24:], y[24:])
    expected = influence_scores(LogisticRegression().fit(X[:24], y[:24]), *given, method=make(None), random_state=0)
    slow = Slow(folder, seconds=0.02).fit(X[:24], y[:24])
    with Killer(client, folder) as killer, joblib.parallel_config(backend="dask"):
        found = influence_scores(
            slow, *given, method=make(tmp_path / "kept" if kept else None), random_state=0, n_jobs=2
        )
    assert killer.killed is not None
    assert np.array_equal(found, expected)
    client.wait_for_workers(2, timeout=_PATIENCE)
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
    client.wait_for_workers(2, timeout=_PATIENCE)
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
    assert len(here) <= 1  # the validation rows
    assert pids(client) & processes(tmp_path)


class Received:
    """Bytes of each result that comes from the workers; a block that comes as it is fails."""

    def __init__(self, monkeypatch):
        self.sizes = []
        monkeypatch.setattr(DaskRows, "piece", lambda self, k: pytest.fail("A block of X came to the client."))
        result = distributed.Future.result
        monkeypatch.setattr(distributed.Future, "result", lambda f, *given: self.noted(result(f, *given)))

    def noted(self, found):
        self.sizes.append(sum(np.asarray(part).nbytes for part in (found if isinstance(found, list) else [found])))
        return found


SOLVED = [
    ("exact", "binary"), ("exact", "three classes"), ("cg", "three classes"), ("cg", "regression"),
    (LiSSA(damping=0.1, depth=20), "binary"), ("arnoldi", "three classes"), ("trak", "regression"),
    (SelfLiSSA(damping=0.1, depth=20), "binary"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "kind"), SOLVED, ids=lambda part: str(part)[:14])
def test_hessians_are_summed_where_the_blocks_live(client, monkeypatch, method, kind):
    rng = np.random.RandomState(0)
    n = 160 if isinstance(method, SelfLiSSA) else 1600
    X = rng.normal(size=(n, 5))
    weight = rng.uniform(0.5, 2, size=n)
    if kind == "regression":
        y, estimator = X[:, 0] + rng.normal(size=n), Ridge()
    else:
        y = np.digitize(X[:, 0] + rng.normal(size=n), [0.0] if kind == "binary" else [-0.5, 0.5])
        estimator = LogisticRegression(tol=1e-10)
    estimator.fit(X, y, sample_weight=weight)
    given = {"method": method, "random_state": 0, "sample_weight": weight}
    expected = influence_scores(estimator, X, y, X[:9], y[:9], **given)
    client.wait_for_workers(2, timeout=_PATIENCE)
    home = blocks_on(client, X)
    received = Received(monkeypatch)
    found = influence_scores(estimator, home, y, X[:9], y[:9], **given)
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-9 * np.abs(expected).max())
    assert received.sizes
    if n == 1600:  # self-influence takes the gradients of single rows here
        # Sums over a block, or a number for each output of its rows; never its features. The least blocks are of
        # parameters, of which trak's matrix has the most.
        p = estimator.coef_.size + np.size(estimator.intercept_)
        assert max(received.sizes) <= max(8 * p * p, 8 * (n // 8) * np.size(estimator.intercept_))
        assert max(received.sizes) < X.nbytes / 8


def test_objectives_on_dask_rows_are_pulled_back_where_they_live(client, monkeypatch, X_y):
    """The outputs come here, whatever an objective makes of them, and its derivatives go back."""
    X, y = np.tile(X_y[0], (20, 1)), np.tile(X_y[1], 20)
    groups = X[:, 1] > 0
    clf = LogisticRegression().fit(X, y)
    given = {"objective": DemographicParity(), "sensitive_features": groups, "method": "exact"}
    expected = influence_scores(clf, X, y, **given)
    client.wait_for_workers(2, timeout=_PATIENCE)
    home = blocks_on(client, X)
    received = Received(monkeypatch)
    found = influence_scores(clf, home, y, **given)
    assert found == pytest.approx(expected, rel=1e-8)
    assert max(received.sizes) < X.nbytes / 8


def test_picked_rows_are_picked_where_they_live(client, monkeypatch, X_y):
    X, _ = X_y
    client.wait_for_workers(2, timeout=_PATIENCE)
    Received(monkeypatch)
    rows = RowStream(DaskRows(blocks_on(client, X)), np.asarray)
    assert rows.shape == X.shape
    assert rows.dtype == X.dtype
    assert rows.row_bytes == X[0].nbytes
    for indices in ([5, 59, 0, 5], [-1, 3], slice(0, 60, 7), np.arange(60) % 2 == 0):
        assert np.array_equal(rows[indices], X[indices])
    with pytest.raises(IndexError, match="below 60"):
        rows[[60]]


def test_labels_are_scored_where_the_blocks_live(client, monkeypatch, X_y):
    X, y = X_y
    clf = LogisticRegression(class_weight="balanced").fit(X, y)
    direction = [(0.5, clf_params(clf), np.arange(5.0)), (2.0, clf_params(clf) / 2, np.ones(5))]
    weight = np.linspace(0.5, 2, 60)
    client.wait_for_workers(2, timeout=_PATIENCE)
    here = TrainingProblem(as_model(clf), X, y, weight)
    home = blocks_on(client, X)
    Received(monkeypatch)
    there = TrainingProblem(as_model(clf), home, y, weight)
    assert there.rows.are_elsewhere
    assert not here.rows.are_elsewhere
    assert there.label_scores(direction) == pytest.approx(here.label_scores(direction))
    assert there.value(there.params) == pytest.approx(here.value(here.params))


def clf_params(clf):
    return np.r_[clf.coef_.ravel(), clf.intercept_]


def test_dask_rows_outlive_a_worker_that_is_killed(client, X_y, tmp_path):
    X, y = X_y
    client.wait_for_workers(2, timeout=_PATIENCE)
    pipe = make_pipeline(leaving_traces(tmp_path, 0.1), LogisticRegression()).fit(X, y)
    expected = influence_scores(pipe, X, y, X[:9], y[:9])
    home = client.persist(array.from_array(X, chunks=(2, -1)))
    for path in tmp_path.iterdir():
        path.unlink()
    with Killer(client, tmp_path) as killer:
        found = influence_scores(pipe, home, y, X[:9], y[:9])
    assert killer.killed is not None
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_a_value_that_is_not_finite_is_named_from_the_worker(client, X_y):
    X, y = X_y
    client.wait_for_workers(2, timeout=_PATIENCE)
    clf = LogisticRegression().fit(X, y)
    spoiled = X.copy()
    spoiled[41, 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        influence_scores(clf, blocks_on(client, spoiled), y, X[:9], y[:9])


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ray():
    found = pytest.importorskip("ray", reason="needs ray, which is installed by hand: pip install ray")
    # What it registers with joblib makes joblib's own pool of processes a pool of Ray's.
    bases = PicklingPool.__bases__
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patched.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # where the workers find this module
        found.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        importlib.import_module("ray.util.joblib").register_ray()
    yield found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.shutdown()
    PicklingPool.__bases__ = bases


class OnRay(LogisticRegression):
    """Leaves a file for each fit that says in which process it was, and whether that is a worker of Ray's."""

    def __init__(self, folder=None):
        super().__init__()
        self.folder = folder

    def fit(self, X, y, sample_weight=None):
        if self.folder is not None:
            at_work = "ray" in sys.modules and sys.modules["ray"].get_runtime_context().get_actor_id() is not None
            (self.folder / f"{os.getpid()}-{at_work}-{time.monotonic_ns()}").touch()
        return super().fit(X, y, sample_weight)


def fits(folder) -> dict[str, set[int]]:
    """The processes of fits on workers of Ray's ("True") and elsewhere ("False")."""
    found = {"True": set(), "False": set()}
    for path in folder.iterdir():
        pid, at_work, _ = path.name.split("-")
        found[at_work].add(int(pid))
    return found


# Ray's own warnings, and its sockets and processes, which end after the cluster that they belong to.
on_ray = pytest.mark.filterwarnings("ignore")


@on_ray
@pytest.mark.parametrize(
    "method", [LeaveOneOut(verbose=1), DataShapley(4, truncation=0.0), IPEnsemble(3), "knn_shapley"],
    ids=lambda m: str(m)[:12],
)  # fmt: skip
def test_methods_give_the_same_scores_on_ray(ray, X_y, tmp_path, monkeypatch, method):
    X, y = X_y
    given = (X[:25], y[:25], X[25:], y[25:])
    clf = OnRay().fit(X[:25], y[:25])
    with joblib.parallel_config(backend="loky"):
        expected = influence_scores(clf, *given, method=method, random_state=0, n_jobs=2)
    clf.folder = tmp_path
    backend, sent = importlib.import_module("ray.util.joblib.ray_backend").RayBackend, []
    submit = backend.submit
    monkeypatch.setattr(backend, "submit", lambda *own, **named: sent.append(1) or submit(*own, **named))
    with joblib.parallel_config(backend="ray"):
        found = influence_scores(clf, *given, method=method, random_state=0, n_jobs=2)
    assert np.array_equal(found, expected)
    assert sent  # members of an ensemble, too
    refits = isinstance(method, (LeaveOneOut, DataShapley))
    assert bool(fits(tmp_path)["True"]) == refits
    assert fits(tmp_path)["False"] <= {os.getpid()}  # what all refits are compared with


@on_ray
def test_folds_are_fitted_on_ray(ray, X_y, tmp_path):
    X, y = X_y
    with joblib.parallel_config(backend="loky"):
        expected = InfluenceSelector(OnRay(), random_state=0, n_jobs=2).fit(X, y).scores_
    with joblib.parallel_config(backend="ray"):
        found = InfluenceSelector(OnRay(tmp_path), random_state=0, n_jobs=2).fit(X, y).scores_
    assert np.array_equal(found, expected)
    assert fits(tmp_path)["True"]  # by how many of them is up to Ray
    assert fits(tmp_path)["False"] <= {os.getpid()}  # the curated rows are fitted here
