"""The benchmark of cost: tasks, multiples, growth and what is extrapolated, on tiny tasks."""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from benchmarks import _runner
from benchmarks.experiments import _cost_figures, _cost_tasks, cost
from skinfluence import influence_scores
from skinfluence.methods import METHODS, resolve_method

FEW = ("ip", "ip_ensemble", "exact", "tda", "lissa", "self_tracin", "self_lissa")


@pytest.fixture
def few(monkeypatch):
    """Some of the methods, and a net on which LiSSA's steps are quick."""
    monkeypatch.setattr(cost, "GRADIENTS", FEW)
    factors = {cost.ROWS: (1, 2, 4), cost.WIDTH: (1, 2), cost.CLASSES: (1,)}
    on_nets = tuple(name for name in FEW if name not in ("exact", "lissa", "self_lissa"))
    return cost.Sizes(
        linear=(40, 3, 3), net=(30, 3, 3), small=(20, 2, 2), gex_steps=1, rounds=2, slow_rounds=3, on_nets=on_nets,
        ladders=(
            cost.Ladder(_cost_tasks.linear_task, (30, 3, 3), factors, FEW),
            cost.Ladder(_cost_tasks.net_task, (20, 3, 3), factors, on_nets),
            cost.Ladder(_cost_tasks.net_task, (40, 2, 2), factors, ("gex",), short=True),
        ),
    )  # fmt: skip


def test_every_method_is_timed_or_extrapolated_on_both_tasks():
    assert {*cost.FULL.names(cost.LINEAR), *_cost_tasks.REFITS} == set(METHODS)
    assert {*cost.FULL.names(cost.NET), *_cost_tasks.REFITS, "self_lissa"} == set(METHODS)
    assert set(cost.PUBLISHED) <= set(METHODS)


@pytest.mark.parametrize("tasks", [(_cost_tasks.linear_task,), (_cost_tasks.net_task, _cost_tasks.trained_net_task)])
def test_every_method_is_seen_to_grow_and_drawn_with_looks_of_its_own(tasks):
    seen = [name for ladder in cost.FULL.ladders if ladder.task in tasks for name in ladder.methods]
    assert sorted(seen) == sorted(METHODS)
    assert all(len(factors) >= 3 for ladder in cost.FULL.ladders for factors in ladder.factors.values())
    assert set(_cost_figures._LOOKS) == set(METHODS)
    assert len(set(_cost_figures._LOOKS.values())) == len(METHODS)


def test_a_part_of_the_work_is_of_the_same_method_and_less():
    task = _cost_tasks.linear_task(20, 2, 2)
    for name, (part, _) in _cost_tasks.SHORT.items():
        less, whole = task.method(name, 7, short=True), resolve_method(task.method(name, 7))
        assert type(less) is type(whole)
        (changed,) = [key for key, value in less.get_params().items() if value != whole.get_params()[key]]
        done, of = {"gex": (1, 8)}.get(name) or (less.get_params()[changed], whole.get_params()[changed])
        assert part.replace(",", "").split()[::3] == [str(done), str(of)]
    assert task.method("ip", 7, short=True) == "ip"


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
    assert task.count_refits("leave_one_out") == 20
    for name in ("data_shapley", "beta_shapley"):
        assert 20 <= task.count_refits(name) <= 2 * 20 + 1


def test_multiples_are_of_ip_in_the_same_round_and_extrapolations_say_so(few, monkeypatch):
    task = _cost_tasks.linear_task(*few.linear)
    rows = {row["method"]: row for row in cost.multiples(task, few)}
    baselines = {name for name in cost.BASELINES if name != cost.CLEANLAB or find_spec("cleanlab")}
    assert set(rows) == {*FEW, *cost.REFITS, *baselines}
    assert rows["ip"]["ratio"] == 1.0
    assert all(rows[name]["calls"] == 2 and rows[name]["how"] == cost.MEASURED for name in {*FEW, *baselines})
    for name in cost.REFITS:
        assert rows[name]["how"] == cost.EXTRAPOLATED
        assert rows[name]["calls"] == 0
    assert rows["leave_one_out"]["fits_a_row"] == 1.0
    for name in ("data_shapley", "beta_shapley"):
        assert 50 <= rows[name]["fits_a_row"] <= 100 + 100 / 20 / 2
        assert rows[name]["seconds"] > rows["leave_one_out"]["seconds"]


def test_a_slow_method_is_timed_beside_ip_in_rounds_of_its_own(few, monkeypatch):
    """Of two seconds and more each; IP is taken from the middle of three calls about it."""
    task = _cost_tasks.linear_task(*few.linear)
    ip = itertools.cycle([1.0, 3.0, 2.0])

    def seconds(call):
        if getattr(call, "keywords", {}).get("method") == "ip":
            return next(ip)
        return 6.0

    monkeypatch.setattr(cost, "SLOW", 0.0)
    monkeypatch.setattr(cost, "seconds", seconds)
    monkeypatch.setattr(cost, "extrapolated", lambda *given: [])
    ip_alone = {"ip": task.call("ip", 1), "exact": task.call("exact", 1)}
    assert cost._beside_ip(ip_alone["exact"], ip_alone["ip"]) == (6.0, 2.0)
    slow = {row["method"]: row for row in cost.multiples(task, few)}
    assert slow["exact"] == {
        "task": cost.LINEAR, "method": "exact", "how": cost.MEASURED,
        "seconds": 6.0, "ratio": 3.0, "ratio_quartiles": [3.0, 3.0], "calls": few.slow_rounds,
    }  # fmt: skip
    assert slow["ip"]["ratio"] == 1.0


@pytest.mark.parametrize("make", [_cost_tasks.linear_task, _cost_tasks.net_task, _cost_tasks.trained_net_task])
def test_baselines_score_every_row(make):
    task = make(60, 4, 3)
    if task.family == _cost_tasks.LINEAR or make is _cost_tasks.trained_net_task:
        probability = task.estimator.predict_proba(task.X)[np.arange(60), task.y]
    else:
        torch = pytest.importorskip("torch")
        output = task.estimator.net[0](torch.from_numpy(task.X))
        probability = torch.softmax(output, 1).detach().numpy()[np.arange(60), task.y]
    np.testing.assert_allclose(np.exp(task.baseline(_cost_tasks.LOSS)()), probability, rtol=1e-5)
    assert len(np.unique(task.baseline(_cost_tasks.RANDOM)())) == 60
    pytest.importorskip("cleanlab")
    found = task.baseline(_cost_tasks.CLEANLAB)()
    assert found.shape == (60,)
    assert np.ptp(found) > 0


def test_a_method_that_took_too_long_is_not_tried_at_the_next_size(few, monkeypatch):
    linear, net, part = few.ladders
    points = cost.grow(linear, cost.ROWS, 1)
    assert {point["x"] for point in points} == {30, 60, 120}
    assert {point["method"] for point in points} == {*FEW}
    assert not any("part" in point for point in points)
    assert {point["x"] for point in cost.grow(net, cost.WIDTH, 1)} == {
        101 * 3 + 4 * 3 + 4 * 3,
        101 * 6 + 7 * 6 + 7 * 3,
    }
    assert {point["part"] for point in cost.grow(part, cost.CLASSES, 1)} == {"1 member of 8"}
    monkeypatch.setattr(cost, "GIVEN_UP", 0.0)
    points = cost.grow(linear, cost.ROWS, 1)
    assert [point["x"] for point in points if point["method"] == "ip"] == [30, 60, 120]
    assert {point["x"] for point in points if point["method"] != "ip"} == {30}


def test_sizes_other_than_those_of_ip_stand_beside_the_slope():
    def points(method, part, sizes):
        return [
            {"task": cost.NET, "axis": axis, "x": x, "method": method, "seconds": 2.0 * x} | part
            for axis in cost.AXES
            for x in sizes
        ]

    growth = (
        points("ip", {}, (10, 20, 4000)) + points("gex", {"part": "1 member of 8"}, (1, 2, 4)) + points("cg", {}, (10,))
    )
    ip, gex, cg = cost._slopes(growth, cost.NET)
    assert ip == {"method": "ip", "part": "all"} | {
        f"in {axis}, 10 to 4,000": "1.00" for axis in ("rows", "parameters", "classes")
    }
    assert gex["part"] == "1 member of 8"
    assert gex["in rows, 10 to 4,000"] == "1.00 (1 to 4)"
    assert cg["in rows, 10 to 4,000"] is None


def test_slope_is_that_of_the_power():
    points = [{"x": x, "seconds": 3.0 * x**1.5} for x in (10, 80, 20)]
    assert cost.slope(points) == pytest.approx(1.5)
    assert cost.slope(points[:2]) is None
    set_up = {"x": 1, "seconds": 1000.0}  # a smaller size, where other things cost
    assert cost.slope([set_up, *points]) == pytest.approx(1.5)


def test_published_multiples_with_and_without_gradients():
    lines = {line["method"]: line for line in cost._beside_published([])}
    assert [*lines][: len(cost.BASELINES) + len(cost.PUBLISHED)] == [*cost.BASELINES, *cost.PUBLISHED]
    assert set(lines) == {*cost.BASELINES, *METHODS}
    assert set(lines["trak"].values()) == {"trak", None}
    line = lines["ekfac"]
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
    assert "| gex | 1 member of 8 |" in text
    assert "in rows, 20 to 80" in text
    for name in ("cost_multiples", "cost_growth"):
        assert f"({name}.png)" in text
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
