"""The half-moons' objectives: a quick run has every method and curator; the formula has the package's objectives."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks import _runner
from benchmarks.experiments import _moons_scores, moons_objectives
from skinfluence import influence_scores
from skinfluence.nets import DifferentiableNet

pytest.importorskip("torch")
pytest.importorskip("skorch")

# The slow ones, which the tests of the moons run too, do without here.
FEW = ("ip", "tracin", moons_objectives.REFERENCE, "exact, GN, λ = 0.1", "cg, GN", "ekfac")


@pytest.fixture(scope="module")
def result():
    """A quick run, of few methods and a short training, with what every run adds to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moons_objectives, "PACKAGE", FEW)
        patch.setattr(moons_objectives, "METHODS", (*FEW, _moons_scores.UNDAMPED))
        patch.setattr(moons_objectives, "EPOCHS", 60)
        # Workers would not know of it.
        patch.setattr(_runner, "over_cores", lambda function, tasks: [function(*task) for task in tasks])
        found = moons_objectives.run(quick=True)
    return {
        "benchmark": "moons_objectives", "quick": True, "date": "2001-02-03T04:05:06+00:00", "seconds": 1.0,
        "versions": {}, "machine": {"cpu": "a cpu", "cores": 2, "blas": "a blas", "load_before": 0.1}, **found,
    }  # fmt: skip


@pytest.fixture(scope="module")
def task():
    return moons_objectives.draw("noise 0.1", 3)


def test_every_method_is_held_to_the_reference_for_every_objective(result):
    agreement = {(row["objective"], row["method"]): row for row in result["rows"]}
    methods = {*FEW, _moons_scores.UNDAMPED} - {moons_objectives.REFERENCE}
    assert set(agreement) == {(objective, method) for objective in moons_objectives.OBJECTIVES for method in methods}
    assert len(agreement) == len(result["rows"])
    for objective in moons_objectives.OBJECTIVES:
        # The same system, solved to a tolerance.
        solved = agreement[objective, "cg, GN"]
        assert all(solved[value]["mean"] > 0.95 for value in moons_objectives.AGREEMENT)
        assert agreement[objective, "ip"]["spearman"]["mean"] < solved["spearman"]["mean"]
        for row in (agreement[objective, method] for method in methods):
            assert 0 <= row["polarity"]["mean"] <= 1
            assert 0 <= row["polarity_larger"]["mean"] <= 1


def test_every_objective_has_every_curator_and_removes_the_lowest(result):
    removals = {(row["objective"], row["curator"]): row for row in result["removals"]}
    curators = {*moons_objectives.BASELINES, *FEW, _moons_scores.UNDAMPED}
    curators -= set() if find_spec("cleanlab") else {_moons_scores.CLEANLAB}
    assert set(removals) == {(objective, who) for objective in moons_objectives.OBJECTIVES for who in curators}
    assert result["absent"] == sorted({_moons_scores.CLEANLAB} - curators)
    for (_, who), row in removals.items():
        if who not in (moons_objectives.NONE, _moons_scores.CLEANLAB):
            assert row["removed"]["mean"] == 10
        assert 0.5 < row["accuracy"]["mean"] <= 1
        assert 0 <= row["moved_wrong"]["mean"] <= 1
    assert removals["utility", moons_objectives.NONE]["removed"]["mean"] == 0
    told = {who: removals["utility", who]["auroc"] for who in curators}
    assert told[moons_objectives.NONE] is None
    assert told[_moons_scores.LOSS]["mean"] > 0.9
    assert 0.2 < told[moons_objectives.RANDOM]["mean"] < 0.8
    # Who needs no objective removes the same rows for all of them.
    for who in set(moons_objectives.BASELINES) & curators:
        found = [removals[objective, who]["accuracy"] for objective in moons_objectives.OBJECTIVES]
        assert found[0] == found[1] == found[2]
    # On the rows that the scores were taken on; one seed does not show it for robustness.
    for objective in ("utility", "fairness"):
        none, own = (removals[objective, who] for who in (moons_objectives.NONE, moons_objectives.REFERENCE))
        assert own["value_scored"]["mean"] < none["value_scored"]["mean"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_objectives_in_torch_are_those_of_the_package(task):
    J, gradients, _ = _moons_scores.derivatives(task.net, task.moons, moons_objectives.targets(task))
    rows = task.moons.X, task.moons.y, task.test.X, task.test.y
    found = {}
    for (name, objective), g in zip(moons_objectives.OBJECTIVES.items(), gradients, strict=True):
        groups = task.test.groups if objective.uses_groups else None
        ip = influence_scores(
            DifferentiableNet(task.net), *rows, method="ip", objective=objective, sensitive_features_val=groups
        )
        found[name] = J @ g / len(J)
        np.testing.assert_allclose(found[name], ip, rtol=1e-3, atol=1e-4 * np.abs(ip).max())
    assert not np.allclose(found["utility"], found["robustness"])


def test_groups_depend_on_the_first_coordinate_and_differ_in_their_labels(task):
    X, y, groups = task.judged.X, task.judged.y, task.judged.groups
    assert groups[X[:, 0] > 0.5].mean() > 0.7
    assert groups[X[:, 0] <= 0.5].mean() < 0.3
    assert y[groups == 1].mean() - y[groups == 0].mean() > 0.1
    assert len(y) == moons_objectives.N_JUDGED == 2 * y.sum()
    assert not set(X[:, 0]) & {*task.moons.X[:, 0], *task.test.X[:, 0]}


def test_a_result_is_stored_as_tables_and_a_picture(result, tmp_path):
    _, tables = _runner.save(result, tmp_path)
    text = tables.read_text(encoding="utf-8")
    for objective in moons_objectives.OBJECTIVES:
        assert f"## Agreement for {objective} (with {moons_objectives.REFERENCE})" in text
        assert f"## Rows removed for {objective}" in text
    assert text.count("| moved rows predicted wrong |") == 1
    assert (tmp_path / "moons_objectives.png").stat().st_size > 10_000


def test_the_stored_result_has_all_methods_and_baselines():
    stored = _runner.load("moons_objectives")
    made = moons_objectives.tables(stored)
    assert len(stored["seeds"]) >= 5
    for objective in moons_objectives.OBJECTIVES:
        removed = {(row["case"], row["removed by"]) for row in made[f"Rows removed for {objective}"]}
        curators = (*moons_objectives.BASELINES, *moons_objectives.METHODS)
        assert removed == {(case, who) for case in moons_objectives.CASES for who in curators}
