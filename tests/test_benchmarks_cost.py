"""The benchmark of cost: tasks, multiples, growth and what is extrapolated, on tiny tasks."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import _runner
from benchmarks.experiments import _cost_tasks, cost
from skinfluence import influence_scores
from skinfluence.methods import METHODS

FEW = ("ip", "ip_ensemble", "exact", "tda", "lissa", "self_tracin", "self_lissa")


@pytest.fixture
def few(monkeypatch):
    """Some of the methods, and a net on which LiSSA's steps are quick."""
    monkeypatch.setattr(cost, "GRADIENTS", FEW)
    return cost.Sizes(
        linear=(40, 3, 3), net=(30, 3, 3), small=(20, 2, 2), linear_growth=(30, 3, 3), net_growth=(20, 3, 3),
        factors={cost.ROWS: (1, 2, 4), cost.WIDTH: (1, 2), cost.CLASSES: (1,)}, gex_steps=1, rounds=2,
        not_on_nets=(*cost.NOT_ON_NETS, "lissa"),
    )  # fmt: skip


def test_every_method_is_timed_or_extrapolated():
    assert {*_cost_tasks.GRADIENTS, *_cost_tasks.REFITS, "beta_shapley"} == set(METHODS)
    assert set(cost.PUBLISHED) <= set(METHODS)


@pytest.mark.parametrize(
    ("make", "n_params"), [(_cost_tasks.linear_task, 3 * 5), (_cost_tasks.net_task, 101 * 4 + 5 * 4 + 5 * 3)]
)
def test_a_task_is_of_the_size_asked_and_its_calls_are_scores(make, n_params):
    task = make(40, 4, 3)
    assert (len(task.X), len(task.X_val), task.n_classes, task.n_params) == (40, 2, 3, n_params)
    assert set(np.unique(task.y)) <= {0, 1, 2}
    assert task.label.startswith(f"{task.family}, 40 rows × {task.X.shape[1]} features, 3 classes")
    wanted = influence_scores(task.estimator, task.X, task.y, task.X_val, task.y_val, method="ip")
    np.testing.assert_allclose(task.call("ip", 1)(), wanted)
    # Five checkpoints, the last of them the fitted parameters.
    points = task.method("tracin", 1).checkpoints
    assert len(points) == _cost_tasks.N_CHECKPOINTS
    np.testing.assert_allclose(points[-1], task._params())
    assert task.call("self_tracin", 1)().shape == (40,)


def test_refits_are_counted():
    task = _cost_tasks.linear_task(20, 2, 2)
    assert task.count_refits("leave_one_out", 2) == 20
    assert 20 <= task.count_refits("data_shapley", 2) <= 2 * 20 + 1


def test_multiples_are_of_ip_in_the_same_round_and_extrapolations_say_so(few, monkeypatch):
    task = _cost_tasks.linear_task(*few.linear)
    rows = {row["method"]: row for row in cost.multiples(task, few)}
    assert set(rows) == {*FEW, *cost.REFITS}
    assert rows["ip"]["ratio"] == 1.0
    assert all(rows[name]["calls"] == 2 and rows[name]["how"] == cost.MEASURED for name in FEW)
    for name in cost.REFITS:
        assert rows[name]["how"] == cost.EXTRAPOLATED
        assert rows[name]["calls"] == 0
    assert rows["leave_one_out"]["fits_a_row"] == 1.0
    assert rows["data_shapley"]["seconds"] > rows["leave_one_out"]["seconds"]

    monkeypatch.setattr(cost, "SLOW", 0.0)
    monkeypatch.setattr(cost, "seconds", lambda call: 2.0 if call.keywords["method"] == "ip" else 6.0)
    monkeypatch.setattr(cost, "extrapolated", lambda *given: [])
    slow = {row["method"]: row for row in cost.multiples(task, few)}
    assert slow["exact"] == {
        "task": cost.LINEAR, "method": "exact", "how": cost.MEASURED,
        "seconds": 6.0, "ratio": 3.0, "ratio_quartiles": None, "calls": 1,
    }  # fmt: skip


def test_a_method_that_took_too_long_is_not_tried_at_the_next_size(few, monkeypatch):
    points = cost.grow(cost.LINEAR, cost.ROWS, few.linear_growth, few)
    assert {point["x"] for point in points} == {30, 60, 120}
    assert {point["method"] for point in points} == {*FEW} - {"self_lissa"}
    assert {point["x"] for point in cost.grow(cost.NET, cost.WIDTH, few.net_growth, few)} == {
        101 * 3 + 4 * 3 + 4 * 3,
        101 * 6 + 7 * 6 + 7 * 3,
    }
    monkeypatch.setattr(cost, "GIVEN_UP", 0.0)
    points = cost.grow(cost.LINEAR, cost.ROWS, few.linear_growth, few)
    assert [point["x"] for point in points if point["method"] == "ip"] == [30, 60, 120]
    assert {point["x"] for point in points if point["method"] != "ip"} == {30}


def test_slope_is_that_of_the_power():
    points = [{"x": x, "seconds": 3.0 * x**1.5} for x in (10, 80, 20)]
    assert cost.slope(points) == pytest.approx(1.5)
    assert cost.slope(points[:2]) is None
    set_up = {"x": 1, "seconds": 1000.0}  # a smaller size, where other things cost
    assert cost.slope([set_up, *points]) == pytest.approx(1.5)


def test_published_multiples_with_and_without_gradients():
    (line,) = [line for line in cost._beside_published([]) if line["method"] == "ekfac"]
    assert line["published, CIFAR-10N"] == "751"
    assert line["published, with its gradients"] == f"{(22.54 + 65) / (0.03 + 65):.2f}" == "1.35"


def test_a_run_is_stored_with_its_tables_and_pictures(few, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "QUICK", few)
    result = _runner.run("cost", quick=True, data_home=None)
    _, tables = _runner.save(result, tmp_path)
    text = tables.read_text(encoding="utf-8")
    for title in ("Multiples of IP beside the published", "Growth, MLP: slope of log time"):
        assert f"## {title}" in text
    assert "| leave_one_out |" in text
    assert "in rows, 20 to 80" in text
    for name in ("cost_multiples", "cost_growth"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
