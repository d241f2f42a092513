"""The benchmark of fidelity: tasks, shared refits, times and tables, on tiny tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

pytest.importorskip("torch")

from benchmarks import _runner, fidelity
from skinfluence import influence_scores
from skinfluence.methods import GEX, METHODS

SIZES = replace(
    fidelity.QUICK,
    left_out=(*(set(METHODS) - {"ip", "exact", "tracin", "self_tracin", "data_shapley"}), fidelity.GEX_LOSS),
)


@pytest.mark.filterwarnings("ignore")  # of nets whose training was cut short
def test_tasks_are_fitted_and_scored_as_a_user_would():
    table = fidelity.make_task("breast_cancer", 0, SIZES, None)
    assert (len(table.y), len(table.y_val)) == (40, 20)
    given = (table.estimator, table.X, table.y, table.X_val, table.y_val)
    assert_allclose(table.score("ip", SIZES, 0), influence_scores(*given))
    members = table.score("gex", SIZES, 0)  # by its name alone it would be "ip"
    assert_allclose(members, influence_scores(*given, method=GEX(n_steps=800), random_state=0))
    assert (members != table.score("ip", SIZES, 0)).any()
    p = table.estimator.predict_proba(table.X)[np.arange(40), table.y]
    assert_allclose(table.score(fidelity.LOSS, SIZES, 0), np.log(p))
    net = fidelity.make_task(fidelity.NET, 0, SIZES, None)
    assert len(net.history) == 1
    assert_allclose(net.history.params[-1][:5], net.estimator.coefs_[0].ravel()[:5], atol=2)
    assert net.estimator.random_state is None  # so that refits draw seeds of their own


def test_all_methods_share_the_refits(tmp_path):
    task = fidelity.make_task("breast_cancer", 0, SIZES, None)
    exact = fidelity.correlations(task, task.score("exact", SIZES, 0), SIZES, 0, str(tmp_path))
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(kept) >= SIZES.n_subsets + 40
    fidelity.correlations(task, task.score("ip", SIZES, 0), SIZES, 0, str(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")} == kept
    assert exact["loo_spearman"] > 0.9
    assert exact["low"] <= exact["lds"] <= exact["high"]


def test_time_is_a_multiple_of_ip_in_the_same_round(monkeypatch):
    monkeypatch.setattr(fidelity, "_seconds", lambda call: call())
    assert fidelity.timed(lambda: (0.4, "scores"), lambda: (0.2, None), 3) == ("scores", 0.4, pytest.approx(2.0))
    first_is_slow = iter([(4.0, "scores"), (0.2, ""), (0.3, ""), (0.4, "")])  # the first call is not counted
    assert fidelity.timed(lambda: next(first_is_slow), lambda: (0.1, None), 3) == ("scores", 0.3, pytest.approx(3.0))
    slow = iter([(4.0, "scores"), (3.0, "")])
    assert fidelity.timed(lambda: next(slow), lambda: (1.0, None), 3) == ("scores", 3.0, 3.0)
    very_slow = iter([(6.0, "scores")])  # asked for once
    assert fidelity.timed(lambda: next(very_slow), lambda: (2.0, None), 3) == ("scores", 6.0, 3.0)


def test_a_quick_run_is_stored_with_its_tables(monkeypatch, tmp_path):
    monkeypatch.setattr(fidelity, "QUICK", SIZES)
    result = _runner.run("fidelity", quick=True, data_home=None)
    _, tables = _runner.save(result, tmp_path)
    text = tables.read_text(encoding="utf-8")
    for title in ("LDS", "Leave one out, Spearman", "In full, breast_cancer", "In full, digits", "Published"):
        assert f"## {title}" in text
    found = {(row["data"], row["method"]): row for row in result["rows"]}
    for method in (*fidelity.BASELINES, "ip", "exact", "tracin", "self_tracin"):
        assert -1 <= found[fidelity.NET, method]["lds"]["mean"] <= 1
    for data in ("breast_cancer", fidelity.NET):
        assert (data, "data_shapley") in found
    for method in (fidelity.SOURCE, *fidelity.SEVERAL):  # of training runs and seeds: no such thing on a table
        assert {data for data, name in found if name == method} == {fidelity.NET}
    same = found["breast_cancer", "tracin"]["lds"], found["breast_cancer", "ip"]["lds"]
    assert same[0] == same[1]
