"""The half-moons: a short run on moons that are far apart gives a row for every method, tables and pictures."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks import _runner
from benchmarks.experiments import _moons_scores, moons

pytest.importorskip("torch")
pytest.importorskip("skorch")

CASES = {"noise 0.1, short": (0.1, 60)}


@pytest.fixture(scope="module")
def result():
    """A quick run of one case, with what every run adds to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moons, "CASES", CASES)
        # Workers would not know of the case.
        patch.setattr(_runner, "over_cores", lambda function, tasks: [function(*task) for task in tasks])
        found = moons.run(quick=True)
    return {
        "benchmark": "moons", "quick": True, "date": "2001-02-03T04:05:06+00:00", "seconds": 1.0, "versions": {},
        "machine": {"cpu": "a cpu", "cores": 2, "blas": "a blas", "load_before": 0.1}, **found,
    }  # fmt: skip


def test_every_method_gives_a_row_with_values_in_range(result):
    rows = {row["method"]: row for row in result["rows"]}
    expected = {_moons_scores.RANDOM, _moons_scores.LOSS, _moons_scores.UNDAMPED, *_moons_scores.SCORED}
    assert expected <= set(rows)
    assert set(rows) - expected == {_moons_scores.CLEANLAB} - set(result["absent"])
    assert not result["refused"]
    for row in rows.values():
        for value in ("auroc", "ap", "flipped_negative", "others_positive"):
            assert row[value] is None or 0 <= row[value]["mean"] <= 1
    signed = {name for name, row in rows.items() if row["flipped_negative"] is not None}
    assert signed == set(rows) - {_moons_scores.RANDOM, _moons_scores.LOSS, *_moons_scores.UNSIGNED}


def test_flipped_rows_of_clear_moons_are_told_by_what_should_tell_them(result):
    auroc = {row["method"]: row["auroc"]["mean"] for row in result["rows"]}
    for method in (_moons_scores.LOSS, "exact, GN, λ = 0.1", "lissa, GN", "ekfac", "tda", "self_tracin", "knn_shapley"):
        assert auroc[method] > 0.9, method
    assert auroc["ip"] > 0.75
    assert 0.2 < auroc[_moons_scores.RANDOM] < 0.8


def test_tracin_takes_the_checkpoints_of_the_run(result):
    drawn = moons.draw_moons(0, 0.1)
    net = moons.fit_net(drawn, 20, 0)
    assert len(dict(net.callbacks_)["keep"].history_) == _moons_scores.CHECKPOINTS
    ip, tracin = (_moons_scores.by_method(name, net, drawn, 0).scores for name in ("ip", "tracin"))
    assert not np.allclose(ip / np.abs(ip).max(), tracin / np.abs(tracin).max())


def test_cleanlab_ranks_as_the_loss_of_nets_that_never_saw_the_row(monkeypatch):
    pytest.importorskip("cleanlab")
    drawn = moons.draw_moons(1, 0.1)
    net = moons.fit_net(drawn, 60, 1)
    trained_on = []
    fit_net = _moons_scores.fit_net

    def recorded(part, epochs, seed):
        trained_on.append(part.X)
        return fit_net(part, epochs, seed)

    monkeypatch.setattr(_moons_scores, "fit_net", recorded)
    judged = _moons_scores.by_cleanlab(net, drawn, 1)
    assert [len(X) for X in trained_on] == [133, 133, 134]
    assert moons.detection(judged, drawn.flipped)["auroc"] > 0.9
    # Those it names have less than a half for their label, which is what its quality is with two classes.
    assert judged.harmful.any()
    assert (judged.scores[judged.harmful] < 0.5).all()


def test_without_cleanlab_its_line_is_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setattr(_moons_scores, "find_spec", lambda name: None)
    drawn = moons.draw_moons(0, 0.1)
    assert _moons_scores.CLEANLAB not in _moons_scores.scorers(None, drawn, 0)


def test_a_result_is_stored_as_tables_and_pictures(result, tmp_path, monkeypatch):
    monkeypatch.setattr(moons, "CASES", CASES)
    _, tables = _runner.save(result, tmp_path)
    text = tables.read_text(encoding="utf-8")
    assert "## noise 0.1, short (test accuracy " in text
    for row in result["rows"]:
        assert f"| {row['method']} |" in text
    assert (tmp_path / "moons_60.png").stat().st_size > 10_000
    assert [point["flipped"] for point in result["points"]].count(True) == _moons_scores.N_FLIPPED
