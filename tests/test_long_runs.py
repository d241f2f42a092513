"""Long work: progress that is shown where it is asked for, and runs that are interrupted and go on."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.utils.parallel import delayed

from skinfluence import InfluenceRelabeler, InfluenceReweighter, InfluenceSelector, _checkpoint, influence_scores
from skinfluence._parallel import run_all
from skinfluence._progress import progress
from skinfluence.methods import BetaShapley, DataShapley, GradientMethod, LeaveOneOut
from skinfluence.snapshots import Seeds


@pytest.fixture
def X_y():
    rng = np.random.RandomState(0)
    X = rng.normal(size=(40, 3))
    return X, (X[:, 0] + rng.normal(size=40) > 0).astype(int)


@pytest.fixture(params=["tqdm", "lines"])
def shown(request, monkeypatch, capsys):
    """What is on standard error, with tqdm and as if it was not installed."""
    if request.param == "tqdm":
        pytest.importorskip("tqdm", reason="needs tqdm")
    else:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tqdm" else find(name))

    def read():
        text = capsys.readouterr().err
        assert ("it/s" in text or "s/it" in text or "?it" in text) == (request.param == "tqdm" and bool(text))
        return text

    return read


# --- progress ---------------------------------------------------------------------------------------------------------

METHODS = {
    "groups of 8 refits": LeaveOneOut(verbose=1),
    "orders": DataShapley(3, verbose=1),
    "Beta orders": BetaShapley(n_permutations=3, verbose=1),
}


@pytest.mark.parametrize("what", METHODS)
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_methods_that_refit_show_what_is_done(X_y, shown, what, n_jobs):
    X, y = X_y
    clf, method = LogisticRegression().fit(X, y), METHODS[what]
    expected = influence_scores(clf, X, y, method=type(method)(**method.get_params() | {"verbose": 0}), random_state=0)
    assert shown() == ""
    found = influence_scores(clf, X, y, method=method, random_state=0, n_jobs=n_jobs)
    assert np.array_equal(found, expected)
    text = shown()
    assert what.removeprefix("Beta ") in text
    assert ("5/5" if what.startswith("groups") else "3/3") in text.replace(" of ", "/")


def test_members_of_other_seeds_are_counted(X_y, shown):
    X, y = X_y
    clf = SGDClassifier(loss="log_loss", random_state=0).fit(X, y)
    influence_scores(clf, X, y, method=GradientMethod(Seeds(2, verbose=1)), random_state=0)
    assert "refits" in shown()


@pytest.mark.parametrize("make", [InfluenceSelector, InfluenceRelabeler, InfluenceReweighter])
def test_curators_show_folds_and_within_them_what_the_method_does(X_y, shown, make):
    X, y = X_y
    given = {"estimator": LogisticRegression(), "random_state": 0, "cv": 3}
    quiet = make(**given).fit(X, y)
    assert shown() == ""
    loud = make(**given, verbose=1).fit(X, y)
    text = shown().replace(" of ", "/")
    assert "folds" in text
    assert "3/3" in text
    assert np.array_equal(quiet.scores_, loud.scores_)
    if make is InfluenceSelector:
        make(**given, verbose=1, method=LeaveOneOut(verbose=1)).fit(X, y)
        text = shown()
        assert "folds" in text
        assert "groups of 8 refits" in text


def test_a_cache_does_not_ask_what_was_shown(X_y, tmp_path, capsys):
    X, y = X_y
    for verbose in (0, 1):
        InfluenceSelector(LogisticRegression(), memory=str(tmp_path), random_state=0, verbose=verbose).fit(X, y)
    assert "folds" not in capsys.readouterr().err  # nothing was computed again


def test_lines_are_few(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with progress(1000, "parts", verbose=1) as step:
        for _ in range(1000):
            step()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"parts: {100 * k} of 1000" for k in range(1, 11)]


def test_parts_that_are_kept_count_as_done(X_y, tmp_path, shown):
    X, y = X_y
    clf = LogisticRegression().fit(X, y)
    for _ in range(2):
        influence_scores(clf, X, y, method=LeaveOneOut(tmp_path, verbose=1), random_state=0)
        assert "5/5" in shown().replace(" of ", "/")


def test_an_error_in_a_part_ends_the_bar_and_is_raised(capsys):
    def fails(k):
        raise ArithmeticError(k)

    with pytest.raises(ArithmeticError), progress(3, "parts", verbose=1) as step:
        run_all((delayed(fails)(k) for k in range(3)), None, step)
    assert "3/3" not in capsys.readouterr().err


def test_parts_on_a_backend_that_gives_all_results_together(shown):
    with parallel_config(backend="multiprocessing", n_jobs=1), progress(3, "parts", verbose=1) as step:
        assert run_all((delayed(abs)(-k) for k in range(3)), None, step) == [0, 1, 2]
    assert "3/3" in shown().replace(" of ", "/")


@pytest.mark.parametrize("method", [LeaveOneOut(verbose=1), "knn_shapley"], ids=lambda m: str(m)[:12])
def test_methods_on_a_backend_that_gives_all_results_together(X_y, method):
    X, y = X_y
    clf = LogisticRegression().fit(X, y)
    expected = influence_scores(clf, X, y, method=method, random_state=0)
    with parallel_config(backend="multiprocessing", n_jobs=1):
        np.testing.assert_array_equal(influence_scores(clf, X, y, method=method, random_state=0), expected)


def test_what_a_killed_process_left_is_cleared_up_by_who_makes_the_part(tmp_path):
    kinds = {
        "left": tmp_path / ".a-abcdefgh.tmp",
        "other": tmp_path / ".a-b-abcdefgh.tmp",
        "own": tmp_path / ".a-x.tmp",
    }
    for path in kinds.values():
        path.write_bytes(b"torn")
    _checkpoint._write(tmp_path / "a.npz", {"x": np.arange(3)})
    assert not kinds["left"].exists()
    assert kinds["other"].exists()
    assert kinds["own"].exists()
    with np.load(tmp_path / "a.npz") as kept:
        np.testing.assert_array_equal(kept["x"], np.arange(3))


def test_a_part_that_two_processes_write_is_written(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"

    savez = np.savez

    def overtaken(file, **arrays):
        savez(file, **arrays)
        savez(path, **arrays)  # by another process, which then clears up
        for left in tmp_path.glob(".*.tmp"):
            left.unlink()

    monkeypatch.setattr(np, "savez", overtaken)
    _checkpoint._write(path, {"x": np.arange(3)})
    with np.load(path) as kept:
        np.testing.assert_array_equal(kept["x"], np.arange(3))
    path.unlink()
    monkeypatch.setattr(np, "savez", lambda file, **arrays: [p.unlink() for p in tmp_path.glob(".*.tmp")])
    with pytest.raises(FileNotFoundError):
        _checkpoint._write(path, {"x": np.arange(3)})


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

SLOW_RUN = """
import os, time
from sklearn.datasets import make_regression
from sklearn.linear_model import Ridge
from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import DataShapley, LeaveOneOut

class Slow(Ridge):
    def fit(self, X, y, sample_weight=None):
        with open(os.path.join(os.environ["PIDS"], str(os.getpid())), "w"):
            pass
        time.sleep(float(os.environ.get("SECONDS_A_FIT", 0)))
        return super().fit(X, y, sample_weight)

def scores(kind, folder, n_jobs=1, verbose=1):
    X, y = make_regression(50, 4, noise=3.0, random_state=0)
    if kind == "shapley":
        method = DataShapley(10, truncation=0.0, checkpoint_dir=folder, verbose=verbose)
    else:
        method = LeaveOneOut(folder, verbose=verbose)
    if kind == "curator":
        curator = InfluenceSelector(Slow(), method=method, cv=3, random_state=0, n_jobs=n_jobs, verbose=verbose)
        return curator.fit(X, y).scores_
    data = (X[:30], y[:30], X[30:], y[30:])
    return influence_scores(Slow().fit(*data[:2]), *data, method=method, random_state=0, n_jobs=n_jobs)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("kind", "n_jobs"), [("loo", 1), ("shapley", 2), ("curator", 2)])
def test_an_interrupted_run_leaves_no_worker_and_goes_on_to_the_same_answer(tmp_path, monkeypatch, kind, n_jobs):
    module, folder, pids = f"interrupted_{kind}_{n_jobs}", tmp_path / "kept", tmp_path / "pids"
    pids.mkdir()
    (tmp_path / f"{module}.py").write_text(SLOW_RUN)
    paths = [str(tmp_path), str(Path(__file__).parents[1]), *sys.path]
    # The tests may run in the background of a shell, which lets its jobs ignore Ctrl-C.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; import {module}; {module}.scores({kind!r}, {str(folder)!r}, {n_jobs})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "SECONDS_A_FIT": "0.05", "PIDS": str(pids)}
    run = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while len(list(folder.glob("*/*.npz"))) < 2 and time.monotonic() < until and run.poll() is None:
            time.sleep(0.01)
        assert run.poll() is None
        os.kill(run.pid, signal.SIGINT)  # what Ctrl-C sends, to the process alone: it must end its workers itself
        _, errors = run.communicate(timeout=30)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    assert run.returncode in (-signal.SIGINT, 130, 1)
    assert "KeyboardInterrupt" in errors
    workers = [int(path.name) for path in pids.iterdir()]
    assert len(workers) >= n_jobs
    until = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, workers))
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}
    assert len(kept) >= 2
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PIDS", str(pids))
    slow = importlib.import_module(module)
    resumed, afresh = slow.scores(kind, folder, verbose=0), slow.scores(kind, None, verbose=0)
    assert np.array_equal(resumed, afresh)
    after = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}
    assert len(after) > len(kept)
    assert {path: after[path] for path in kept} == kept  # what was there is read, not made again
    assert not list(folder.glob("*/.*.tmp"))  # a worker that was killed while it wrote may have left one
