"""The experiments beyond the paper, on made data: what is spoilt, what curators return, and a small run of all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import _data, _runner
from benchmarks._stored_parts import ENVIRONMENT_VARIABLE
from benchmarks.experiments import _beyond_crowd as crowd
from benchmarks.experiments import _beyond_curators as curators
from benchmarks.experiments import _beyond_poison as poison
from benchmarks.experiments import _beyond_regression as regression
from benchmarks.experiments import _beyond_trees as trees
from benchmarks.experiments import beyond
from skinfluence import CuratedClassifier, InfluenceSelector


@pytest.fixture
def data_home(tmp_path):
    """A folder with a crowd, a table of two classes and one with a continuous target."""
    rng = np.random.default_rng(0)
    (tmp_path / "tabular").mkdir()
    X = rng.normal(size=(300, 4))
    score = X @ [1.0, -1.0, 0.5, 0.0] + 0.3 * rng.normal(size=300)
    for name, target in (("spambase", (score > 0).astype(int)), ("california_housing", 10 * score + 50)):
        pd.DataFrame(X, columns=list("abcd")).assign(target=target).to_csv(
            tmp_path / "tabular" / f"{name}.csv.gz", index=False
        )
    frame = pd.DataFrame({"pair_id": range(300), "name_a": "a", "name_b": "b"})
    for i in range(14):
        frame[f"f{i}"] = X[:, i % 4] + 0.1 * rng.normal(size=300)
    truth = (score > 0.5).astype(int)
    frame["single_worker"] = np.where(rng.random(300) < 0.2, 1 - truth, truth)
    frame["majority"] = np.where(rng.random(300) < 0.1, 1 - truth, truth)
    frame.assign(truth=truth).to_csv(tmp_path / "crowd_product.csv.gz", index=False)
    return tmp_path


def table(data_home):
    return _data.load("spambase", seed=0, flips=0.0, cap=150, data_home=data_home)


def test_a_backdoor_is_a_feature_and_a_label(data_home):
    clean = table(data_home)
    rows = poison.poison(clean, poison.BACKDOOR, 30, seed=0)
    assert (len(rows.y), len(rows.y_trusted)) == (120, 30)
    assert rows.poisoned.sum() == round(0.1 * 120)
    assert (rows.y[rows.poisoned] == 1).all()
    # One column is the same in all poisoned rows, far out, and in the test rows with the trigger.
    (column,) = np.flatnonzero(np.ptp(rows.X[rows.poisoned], axis=0) < 1e-9)
    assert rows.X[rows.poisoned, column].min() > 2
    assert len(rows.X_triggered) == np.sum(clean.y_test == 0)
    np.testing.assert_allclose(rows.X_triggered[:, column], rows.X[rows.poisoned, column][0])
    others = np.arange(4) != column
    np.testing.assert_allclose(rows.X_triggered[:, others], rows.X_test[clean.y_test == 0][:, others])


def test_a_shifted_part_is_moved_and_labelled_wrongly(data_home):
    clean = table(data_home)
    rows = poison.poison(clean, poison.SHIFTED, 30, seed=0)
    order = np.random.default_rng(0).permutation(150)[30:]
    assert_array_equal(rows.y != clean.y_train[order], rows.poisoned)
    assert rows.poisoned.sum() == round(0.15 * 120)
    moved = rows.X[rows.poisoned].mean(axis=0) - rows.X[~rows.poisoned].mean(axis=0)
    assert 1.5 < np.linalg.norm(moved) < 4.5
    assert rows.X_triggered is None


def test_a_poisoned_table_is_told_of_every_curator(data_home):
    rows = poison.one_seed("spambase", poison.BACKDOOR, 2, 120, 30, data_home)  # the trigger says nothing by itself
    found = {row["method"]: row for row in rows}
    assert len(found) == len(rows)
    assert {curators.NONE, curators.RANDOM, curators.LOSS, poison.ALONE, poison.ADDED, poison.TRUSTED_LOSS} <= set(
        found
    )
    assert found[curators.NONE]["attack"] > found[poison.ALONE]["attack"]
    assert found["exact"]["removed"] == pytest.approx(0.1)
    assert "removed" not in found[poison.ALONE]


def test_gross_targets_are_too_high_and_shuffled_ones_belong_to_others():
    y = np.random.default_rng(0).normal(size=200)
    gross, spoilt = regression.spoil(y, regression.GROSS, 0.1, seed=0)
    assert spoilt.sum() == 20
    assert ((gross - y)[spoilt] >= 5).all()
    assert ((gross - y)[spoilt] <= 15).all()
    assert_array_equal(gross[~spoilt], y[~spoilt])
    shuffled, spoilt = regression.spoil(y, regression.SHUFFLED, 0.1, seed=0)
    assert_array_equal(np.sort(shuffled), np.sort(y))
    assert_array_equal(shuffled != y, spoilt)
    same, spoilt = regression.spoil(y, regression.CLEAN, 0.0, seed=0)
    assert_array_equal(same, y)
    assert not spoilt.any()


def test_curation_of_gross_targets_helps_ridge_and_is_compared_with_huber(data_home):
    rows = regression.one_seed("california_housing", regression.GROSS, 0.2, 0, 200, data_home)
    found = {row["method"]: row for row in rows}
    assert {regression.HUBER, regression.GRIDDED, "exact, then Huber", curators.LOSS} <= set(found)
    assert found["exact"]["r2"] > found[curators.NONE]["r2"]
    assert found["exact"]["auroc"] > 0.8
    assert found[regression.GRIDDED]["removed"] in [pytest.approx(rate, abs=0.01) for rate in regression.GRID]
    assert found[curators.NONE]["auroc"] is None


class Recorder(BaseEstimator):
    """Keeps what it was fitted on."""

    def fit(self, X, y, sample_weight=None):
        self.given_ = X, y, sample_weight
        return self


def test_what_is_trained_again_is_what_the_curator_left():
    X, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
    keep, weight = np.array([True, False, True, True]), np.array([1.0, 2.0, 3.0, 4.0])
    outcome = curators.Outcome(keep, y=1 - y, weight=weight)
    X_kept, y_kept, weight_kept = curators.retrained(Recorder(), X, y, outcome).given_
    assert_array_equal(X_kept, X[keep])
    assert_array_equal(y_kept, (1 - y)[keep])
    assert_array_equal(weight_kept, weight[keep])
    assert curators.retrained(Recorder(), X, y, curators.Outcome(keep)).given_[2] is None
    ranked = curators.Outcome(keep, np.array([0.1, 0.9, 0.5, 0.2])).at_rate(0.5)
    assert_array_equal(ranked.keep, [True, False, False, True])


@pytest.mark.parametrize("labels", list(crowd.LABELS))
def test_the_crowd_is_judged_by_the_truth(labels, data_home):
    rows = {row["method"]: row for row in crowd.one_seed(labels, 0, 200, data_home)}
    relabelled = rows["relabel, exact, 5 %"]
    assert 0 < relabelled["changed"] <= 0.05
    assert relabelled["removed"] == 0
    assert 0 <= relabelled["changed_right"] <= 1
    assert rows["remove, exact, 5 %"]["removed"] == pytest.approx(0.05)
    assert rows["remove, exact, 5 %"]["auroc"] > 0.6
    assert rows[curators.NONE]["changed"] == 0


def quick_surrogate(kind):
    model = LogisticRegression() if kind == "linear" else MLPClassifier((4,), max_iter=5, random_state=0)
    return make_pipeline(StandardScaler(), model)


def test_trees_are_curated_through_another_model(data_home, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(trees, "surrogate", quick_surrogate)
    rows = trees.one_seed("spambase", 0.3, 1, 150, 5, data_home)
    found = {row["method"]: row for row in rows}
    assert {*trees.SURROGATES, "linear, per-row loss", "per-row loss" + trees.AS_FLIPPED} <= set(found)
    assert found["linear, per-row loss"]["auroc"] != found["per-row loss"]["auroc"]
    assert "linear, exact, auto" + trees.AS_FLIPPED not in found
    assert found["linear, exact" + trees.AS_FLIPPED]["removed"] == pytest.approx(0.3, abs=0.01)
    assert found["linear, exact"]["auroc"] > 0.6
    # Held to the other home: each line has a model of its own.
    noisy = _data.load("spambase", seed=1, flips=0.3, cap=150, data_home=data_home)
    for name in ("linear, ip_ensemble", "linear, exact", "linear, exact, auto"):
        kind, params = trees.SURROGATES[name]
        curator = InfluenceSelector(quick_surrogate(kind), random_state=1, **params)
        home = CuratedClassifier(HistGradientBoostingClassifier(max_iter=5, random_state=1), curator)
        wanted = home.fit(noisy.X_train, noisy.y_train).score(noisy.X_test, noisy.y_test)
        assert found[name]["accuracy"] == pytest.approx(wanted)


def test_a_run_is_stored_part_by_part_and_drawn(data_home, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(trees, "surrogate", quick_surrogate)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "parts"))
    result = _runner.run("beyond", quick=True, data_home=str(data_home))
    assert len(list((tmp_path / "parts").glob("*.json"))) == 5
    # A second run takes what is there.
    for part in (crowd, poison, regression, trees):
        monkeypatch.setattr(part, "one_seed", None)
    again = beyond.run(quick=True, data_home=str(data_home))
    assert again["poison"] == result["poison"]

    _, tables = _runner.save(result, tmp_path / "results")
    text = tables.read_text(encoding="utf-8")
    for title in ("Crowd, one worker's labels", "Poison, spambase, backdoor", "Regression, california_housing: R²"):
        assert f"## {title}" in text
    for name in ("beyond_trees", "beyond_regression", "beyond_backdoor"):
        assert f"({name}.png)" in text
        assert (tmp_path / "results" / f"{name}.png").stat().st_size > 10_000


def test_a_missing_table_is_named_before_any_work(data_home, monkeypatch):
    (data_home / "tabular" / "spambase.csv.gz").unlink()
    monkeypatch.setattr(crowd, "one_seed", None)
    with pytest.raises(_data.MissingData, match="spambase"):
        beyond.run(quick=True, data_home=str(data_home))
