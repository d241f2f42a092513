"""The defence study: a quick run on a small table that stands for Bank gives a row for every method and action."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import _data, _runner
from benchmarks.experiments import _defence_scores as scores
from benchmarks.experiments import _defence_tables, defence

N_TRAIN, N = 240, 640


@pytest.fixture(scope="module")
def data_home(tmp_path_factory):
    """Two classes, apart and one rarer than the other as in Bank; a twentieth of the training labels flipped."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    y = (rng.random(N) < 0.3).astype(int)
    X = rng.normal(size=(N, 4)) + 2.0 * y[:, None] * [1, 1, 0, 0]
    given = y.copy()
    given[:12] = 1 - given[:12]
    train, val, test = np.split(np.arange(N), [N_TRAIN, N_TRAIN + 200])
    np.savez(
        folder / "bank.npz", X=X, y=given.astype(np.int8), s=(X[:, 3] > 0), train_idx=train, val_idx=val, test_idx=test
    )
    return folder


@pytest.fixture(scope="module")
def result(data_home):
    """A quick run, with what every run adds to it."""
    scores.setting.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_runner, "over_cores", lambda function, tasks: [function(*task) for task in tasks])
        found = defence.run(quick=True, data_home=str(data_home))
    return {
        "benchmark": "defence", "quick": True, "date": "2001-02-03T04:05:06+00:00", "seconds": 1.0, "versions": {},
        "machine": {"cpu": "a cpu", "cores": 2, "blas": "a blas", "load_before": 0.1}, **found,
    }  # fmt: skip


@pytest.fixture
def at(data_home):
    scores.setting.cache_clear()
    yield scores.setting("bank", "held-out", str(data_home))
    scores.setting.cache_clear()


def rows_of(result, protocol):
    return {(row["method"], row["action"]): row for row in result["rows"] if row["protocol"] == protocol}


@pytest.mark.parametrize("protocol", defence.PROTOCOLS)
def test_every_method_gives_a_row_for_every_action(protocol, result):
    rows = rows_of(result, protocol)
    absent = {method for method in defence.METHODS if (method, defence.TRIM) not in rows}
    assert absent <= {scores.CLEANLAB, scores.CLEANLAB_5}
    wanted = {(m, action) for m in set(defence.METHODS) - absent for action in scores.actions(m)}
    assert set(rows) == wanted | {(defence.NONE, "")}
    for row in rows.values():
        for value in ("accuracy", "balanced_accuracy", "clean", "anew", "majority", "effective"):
            assert all(0 <= one <= 1 for one in row[value]["seeds"]), (row["method"], row["action"], value)
    assert all(0.05 <= share <= 0.25 for share in rows[defence.NONE, ""]["share"]["seeds"])


def test_an_attack_does_harm_and_what_is_scored_on_it_mends_some(result):
    for protocol in defence.PROTOCOLS:
        rows = rows_of(result, protocol)
        without = rows[defence.NONE, ""]
        assert without["accuracy"]["mean"] < without["clean"]["mean"]
        assert without["accuracy"]["mean"] == without["anew"]["mean"]
        trimmed = {m: rows[m, defence.TRIM] for m, action in rows if action == defence.TRIM and m != scores.CLEANLAB}
        assert all(row["effective"]["mean"] == pytest.approx(1 - 12 / N_TRAIN) for row in trimmed.values())
        # An attacker who starts again changes what is predicted for the rows attacked, and no others.
        for row in rows.values():
            anew, clean, share = (np.array(row[value]["seeds"]) for value in ("anew", "clean", "share"))
            assert (np.abs(anew - clean) <= share + 1e-9).all()
    # The attack that was scored on is the attack that is tested under "paper".
    rows = rows_of(result, "paper")
    assert all(rows[method, scores.RELABEL]["gain"]["mean"] > 3 for method in ("ip", "ip_ensemble", "exact", "ekfac"))
    assert rows[defence.RANDOM, scores.RELABEL]["gain"]["mean"] < 2
    # The paper's model has no intercept: another model.
    assert rows[defence.NONE, ""]["clean"] != rows_of(result, "held-out")[defence.NONE, ""]["clean"]


def test_attacks_differ_and_what_knows_of_none_is_done_once(result, monkeypatch, at):
    shares = rows_of(result, "held-out")[defence.NONE, ""]["share"]["seeds"]
    assert len(set(shares)) == len(shares) == 2
    judged = at.X_val, at.y_val
    first = defence.defences(scores.SELF, at, judged, judged, 0)
    monkeypatch.setattr(scores, "scored", None)  # would raise if it were called again
    assert defence.defences(scores.SELF, at, judged, (at.X_val + 1, at.y_val), 1) is first
    with pytest.raises(TypeError):
        defence.defences("ip", at, judged, judged, 0)


@pytest.mark.parametrize("method", [scores.LOSS, scores.CLEANLAB_5, scores.CLEANLAB])
def test_baselines_find_flipped_labels(method, at):
    if method != scores.LOSS:
        pytest.importorskip("cleanlab")
    judged = at.X_val, at.y_val
    found = scores.scored(method, at, judged, judged, 0)
    X, y, weight = scores.curated(scores.RELABEL, found, at, judged)
    assert X is at.X
    assert weight is None
    changed = np.flatnonzero(y != at.y)
    assert (changed < 12).mean() > 0.5
    kept, _, _ = scores.curated(scores.TRIM, found, at, judged)
    assert len(kept) == len(at.y) - len(changed)


def test_scores_of_a_method_are_acted_on_as_the_curators_would(at):
    from sklearn.frozen import FrozenEstimator

    from skinfluence import InfluenceReweighter, InfluenceSelector

    judged = at.X_val, at.y_val
    found = scores.scored("exact", at, judged, judged, 0)
    frozen, given = FrozenEstimator(at.model), {"X_val": at.X_val, "y_val": at.y_val}
    X, y, _ = InfluenceSelector(frozen, method="exact", removal_rate=0.05).fit_curate(at.X, at.y, **given)
    ours = scores.curated(scores.TRIM, found, at, judged)
    assert np.array_equal(ours[0], X)
    assert np.array_equal(ours[1], y)
    for action, settings in ((scores.REWEIGHT, {}), (scores.RAW, {"scale": "raw", "temperature": 1 / len(at.y)})):
        *_, weight = InfluenceReweighter(frozen, method="exact", **settings).fit_curate(at.X, at.y, **given)
        assert np.allclose(scores.curated(action, found, at, judged)[2], weight)
    # The relabeller's choice is that of the lowest scores, where they are negative.
    lowest = np.argsort(found.scores)[:12]
    assert np.array_equal(np.flatnonzero(found.labels != at.y), np.sort(lowest[found.scores[lowest] < 0]))


def test_methods_without_lines_come_to_those_that_they_stand_behind(result):
    assert {(row["method"], row["as"]) for row in result["same"]} == set(scores.SAME.items())
    assert len(result["same"]) == len(scores.SAME) * len(defence.PROTOCOLS)
    assert all(row["difference"] < 1e-3 and row["chosen"] == 1 for row in result["same"])
    assert all(row["difference"] == 0 for row in result["same"] if row["method"] in ("tracin", "tda"))


def ranked(best: str) -> list[dict]:
    """Rows of one table in which one method is ahead of the others."""
    values = {method: 0.9 if method == best else 0.8 for method in _defence_tables.COMPARED}
    return [
        {"protocol": p, "data": "bank", "method": m, "action": a, "accuracy": {"seeds": [value, value]}}
        for p in defence.PROTOCOLS
        for m, value in values.items()
        for a in _defence_tables.AVERAGED
    ]


def test_the_text_says_whether_ip_ensemble_is_best_on_average(result):
    assert "is **not**" not in _defence_tables.verdict(ranked("ip_ensemble"))
    said = _defence_tables.verdict(ranked("datainf"))
    assert said.count("it is **not**") == 2
    assert "datainf has most (90.00 %)" in said
    assert "over the tables, relabelling and (raw) reweighting" in result["about"]


def test_a_result_is_stored_as_tables_and_pictures(result, tmp_path):
    _, tables = _runner.save(result, tmp_path)
    text = tables.read_text(encoding="utf-8")
    for title in ("On average over the tables", "Protocol paper beside the published", "Bank, protocol held-out",
                  "Methods that come to another"):  # fmt: skip
        assert f"## {title}" in text
    assert "| lissa relabel 5 % |" in text
    assert "| 86.07 |" in text
    for method in {row["method"] for row in result["rows"]}:
        assert f"| {method} |" in text
    for protocol in ("held_out", "paper"):
        assert (tmp_path / f"defence_{protocol}.png").stat().st_size > 10_000


def test_missing_data_is_named_before_any_work(tmp_path):
    with pytest.raises(_data.MissingData, match=r"bank\.npz"):
        defence.run(data_home=str(tmp_path))
