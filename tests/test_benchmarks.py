"""The benchmarks' runner: aggregation, storage, Markdown of stored JSON alone; and a tiny run of each part."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks import __main__ as command
from benchmarks import _data, _memory, _peers, _runner, noise, speed
from benchmarks.experiments import _synthetic_removal as removal
from benchmarks.experiments import fairness, synthetic


def test_aggregate_gives_mean_spread_and_seeds_in_order_of_appearance():
    rows = [
        {"data": "b", "seed": 0, "accuracy": 0.5, "auroc": None},
        {"data": "a", "seed": 0, "accuracy": 1.0, "auroc": 0.75},
        {"data": "b", "seed": 1, "accuracy": 0.7, "auroc": None},
    ]
    first, second = _runner.aggregate(rows, ("data",), ("accuracy", "auroc"))
    assert first["data"] == "b"
    assert first["accuracy"]["mean"] == pytest.approx(0.6)
    assert first["accuracy"]["std"] == pytest.approx(np.std([0.5, 0.7], ddof=1), abs=1e-6)
    assert first["accuracy"]["seeds"] == [0.5, 0.7]
    assert first["auroc"] is None
    assert second["accuracy"] == {"mean": 1.0, "std": None, "seeds": [1.0]}


def test_gate_says_what_was_asked_and_whether_it_was_met():
    assert _runner.gate("time", 2.5, 2.5) == {"gate": "time", "value": 2.5, "asked": "≤ 2.5", "passed": True}
    assert not _runner.gate("gain", -0.1, 0, at_least=True)["passed"]


def test_markdown_table_aligns_figures_and_marks_what_is_missing_or_failed():
    table = _runner.markdown_table(
        [{"name": "x", "value": 1.23456, "ok": True}, {"name": "y", "value": None, "ok": False}]
    )
    assert table.splitlines() == [
        "| name | value | ok |",
        "| --- | ---: | --- |",
        "| x | 1.23 | yes |",
        "| y | – | **no** |",
    ]


def noise_row(method: str, cell: str, flips: float, accuracy: list[float]) -> dict:
    seeds = [{"seed": seed, "accuracy": value, "balanced_accuracy": value} for seed, value in enumerate(accuracy)]
    common = {"data": cell, "flips": flips, "method": method, "majority": 0.5, "removed": 0.05, "seconds": 0.1}
    known = {"wrong": flips or None, "auroc": 0.9 if flips else None, "ap": 0.8 if flips else None}
    return _runner.aggregate([common | known | one for one in seeds], ("data", "flips", "method"), noise.VALUES)[0]


def stored(name: str, rows: list[dict], **more) -> dict:
    """What `_runner.run` makes of a benchmark's rows."""
    return {
        "benchmark": name, "quick": True, "date": "2001-02-03T04:05:06+00:00", "seconds": 12.0, "about": "About it.",
        "versions": {"Python": "3"}, "machine": {"cpu": "a cpu", "cores": 2, "blas": "a blas", "load_before": 0.1},
        "rows": rows, **more,
    }  # fmt: skip


@pytest.fixture
def noise_rows():
    accuracy = {noise.NONE: [0.8, 0.9], noise.DEFAULT: [0.82, 0.9], noise.AUTO: [0.78, 0.89]}
    return [noise_row(method, "pol", flips, values) for flips in (0.0, 0.3) for method, values in accuracy.items()]


def test_gates_of_noise_are_paired_with_no_curation(noise_rows):
    values = {entry["gate"]: (entry["value"], entry["passed"]) for entry in noise.gates(noise_rows)}
    assert values[f"{noise.DEFAULT}: mean gain, points"] == (1.0, True)
    assert values[f"{noise.AUTO}: worst cell, points"] == (-1.5, False)


def test_markdown_comes_from_the_stored_json_alone(noise_rows, tmp_path, monkeypatch, capsys):
    result = stored("noise", noise_rows, gates=noise.gates(noise_rows))
    in_json, tables = _runner.save(result, tmp_path)
    assert json.loads(in_json.read_text(encoding="utf-8")) == result
    assert "| " + noise.DEFAULT in tables.read_text(encoding="utf-8")
    assert "+1.00" in tables.read_text(encoding="utf-8")

    in_json.write_text(in_json.read_text(encoding="utf-8").replace("a cpu", "another cpu"), encoding="utf-8")
    monkeypatch.setattr(_runner, "RESULTS", tmp_path)
    monkeypatch.setattr(_runner.load, "__defaults__", (tmp_path,))
    assert command.main(["table", "noise"]) == 0
    assert "on another cpu, 2 cores" in capsys.readouterr().out


def test_methods_missing_from_some_cells_are_compared_on_the_cells_they_share(noise_rows):
    rows = [row for row in noise_rows if (row["method"], row["flips"]) != (noise.AUTO, 0.0)]
    made = noise.tables({"rows": rows, "gates": []})
    assert [row["method"] for row in made["All 2 cells"]] == [noise.NONE, noise.DEFAULT]
    shared = next(table for title, table in made.items() if title.startswith("The 1 cells"))
    assert [row["method"] for row in shared] == [noise.NONE, noise.DEFAULT, noise.AUTO]


@pytest.mark.parametrize("labels", [np.array([-1, 1]), np.array([0, 1, 2])])
def test_flip_labels_flips_the_share_asked_and_nothing_else(labels):
    y = np.tile(labels, 50)
    flipped, mask = _data.flip_labels(y, 0.3, seed=0)
    assert mask.sum() == round(0.3 * len(y))
    assert np.array_equal(flipped != y, mask)
    assert np.isin(flipped, labels).all()


@pytest.fixture
def data_home(tmp_path):
    """A folder with small tables: two of two and of three classes; Bank, the comments, and Adult with its groups."""
    rng = np.random.default_rng(0)
    (tmp_path / "tabular").mkdir()
    X = rng.normal(size=(300, 4))
    for name, classes in (("spambase", 2), ("covertype_balanced15k", 3)):
        outputs = X @ rng.normal(size=(4, classes)) + 0.3 * rng.gumbel(size=(300, classes))
        frame = pd.DataFrame(X, columns=list("abcd")).assign(target=outputs.argmax(axis=1) + 1)
        frame.to_csv(tmp_path / "tabular" / f"{name}.csv.gz", index=False)
    s = rng.integers(2, size=300)
    X[:, 3] = s
    y = (X[:, 0] + s + rng.normal(size=300) > 0.5).astype(np.int8)
    train, val, test = np.split(np.arange(300), [150, 225])
    np.savez(tmp_path / "bank.npz", X=X, y=y, s=s, train_idx=train, val_idx=val, test_idx=test)
    np.savez(tmp_path / "toxic_comments_minilm.npz", emb=X[:, :3].astype(np.float16), y=y, mentions_any=s)
    np.savez(tmp_path / "adult.npz", X_train=X[:150], y_train=y[:150], X_test_all=X[150:], y_test_all=y[150:], s_col=3)
    return tmp_path


def test_load_caps_flips_and_keeps_test_labels(data_home):
    table = _data.load("spambase", seed=3, flips=0.1, cap=100, data_home=data_home)
    clean = _data.load("spambase", seed=3, flips=0.0, cap=100, data_home=data_home)
    assert table.X_train.shape == (100, 4)
    assert table.wrong.sum() == 10
    assert np.array_equal(table.y_train != clean.y_train, table.wrong)
    assert np.array_equal(table.y_test, clean.y_test)
    assert clean.wrong is None


def test_missing_data_is_named(data_home, monkeypatch, capsys):
    monkeypatch.delenv(_data.ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(_data.MissingData, match=f"'bank.npz'.*--data-home DIR.*{_data.ENVIRONMENT_VARIABLE}"):
        _data.data_file("bank.npz")
    assert command.main(["run", "noise", "--data-home", str(data_home)]) == 2
    assert re.search(r"error: .* has no such file", capsys.readouterr().err)


@pytest.mark.parametrize("data", ["spambase", "covertype_balanced15k"])
def test_a_split_gives_one_row_a_method(data, data_home):
    rows = noise.one_split(data, 0.2, 0, 200, data_home)
    found = {row["method"]: row for row in rows}
    assert set(noise.OURS) | {"no curation", "random removal, 5 %", "per-row loss, 5 %"} <= set(found)
    assert found[noise.NONE]["removed"] == 0
    assert found[noise.DEFAULT]["removed"] == pytest.approx(_peers.REMOVAL_RATE, abs=0.01)
    assert found[noise.DEFAULT]["auroc"] > 0.7


def test_time_line_is_a_ratio_of_interleaved_calls():
    order = []
    line = speed.Line("call", lambda: order.append("ours"), lambda: order.append("reference"), "a call", 1e9)
    row = speed.time_line(line, seconds=0)
    assert order[-10:] == ["reference", "ours"] * 5
    assert row["pairs"] == 5
    assert row["ratio"] > 0


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_extra_memory_of_a_small_call_is_small(class_weight):
    row = _memory.in_fresh_process(speed.extra_memory, "ip", "dense", 2000, 10, 2, class_weight)
    assert row["call"].endswith("balanced") == (class_weight is not None)
    assert 0 <= row["resident"] < speed.MEMORY_LIMIT
    assert 0 < row["traced"] < speed.MEMORY_LIMIT


@pytest.mark.parametrize("kind", ["dense", "correlated", "CSR", "CSC"])
def test_cases_are_scored(kind):
    case = speed.make_case(kind, 300, 20, 3)
    assert case.scores("ip").shape == (300,)
    assert case.product().shape == (300, 3)


@pytest.mark.parametrize(("name", "n_train"), [("bank", 150), ("toxic", 180), ("adult", 150)])
def test_splits_part_all_rows_and_carry_their_groups(name, n_train, data_home):
    splits = _data.load_splits(name, seed=1, data_home=data_home)
    assert splits.X_train.shape == (n_train, 4)
    assert len(splits.y_train) + len(splits.y_val) + len(splits.y_test) == 300
    # Single precision at best, in which few rows are alike: no row is there twice.
    assert len(np.unique(np.concatenate([splits.X_train, splits.X_val, splits.X_test]), axis=0)) == 300
    for part in ("train", "val", "test"):
        assert np.array_equal(getattr(splits, f"X_{part}")[:, 3], getattr(splits, f"groups_{part}"))


def test_on_blobs_the_influence_function_agrees_with_refits(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "N_TRAIN", 40)
    monkeypatch.setattr(synthetic, "N_FLIPPED", 4)
    done = [synthetic.one_seed(case, 0) for case in synthetic.CASES]
    rows = [row for rows, _, _ in done for row in rows]
    assert len(rows) == len(synthetic.CASES) * len(synthetic.OBJECTIVES) * len(synthetic.PAIRS)
    assert all(row["spearman"] > 0.95 for row in rows if (row["a"], row["b"]) == ("exact", synthetic.TRUTH))
    utility = next(row for row in rows if row["case"] == "separable")
    assert (utility["a"], utility["b"], utility["found"]) == ("ip", "exact", 1.0)

    rows = _runner.aggregate(rows, ("case", "objective", "a", "b"), synthetic.VALUES)
    removals = [row for _, rows, _ in done for row in rows]
    removals = _runner.aggregate(removals, ("case", "objective", "curator"), removal.VALUES)
    points = [point for _, _, points in done for point in points]
    _, tables = _runner.save(stored("synthetic", rows, removals=removals, points=points), tmp_path)
    assert "## ip against exact" in tables.read_text(encoding="utf-8")
    assert (tmp_path / "synthetic.png").stat().st_size > 10_000


def test_a_frontier_has_one_row_a_level(data_home, tmp_path):
    rows = fairness.frontier(fairness.RANDOM, "", 0, (0.05, 0.2), data_home)
    assert [(row["curator"], row["level"]) for row in rows] == [(fairness.NONE, 0.0), ("random", 0.05), ("random", 0.2)]
    for method in fairness.METHODS:
        for objective in fairness.OBJECTIVES:
            found = fairness.frontier(method, objective, 0, (0.05, 0.2), data_home)
            assert [row["level"] for row in found] == [0.05, 0.2]
            rows += found
    assert all(0 <= row["gap"] <= 1 for row in rows)
    parity = next(row for row in rows if row["curator"] == "parity, exact" and row["level"] == 0.2)
    assert parity["gap"] < rows[0]["gap"]

    _runner.save(stored("fairness", _runner.aggregate(rows, ("curator", "level"), fairness.VALUES)), tmp_path)
    assert (tmp_path / "fairness.png").stat().st_size > 10_000


def test_on_the_frontier_cleanlab_removes_what_it_names_and_ranks_as_the_loss(data_home):
    pytest.importorskip("cleanlab")
    splits = _data.load_splits("adult", seed=0, data_home=data_home)
    X, y = StandardScaler().fit_transform(splits.X_train), splits.y_train
    keep, fits = fairness._choice(fairness.CLEANLAB, "", X, y, (), 0)
    by_loss = fairness._choice(fairness.LOSS, "", X, y, (), 0)[0]
    assert fits == _peers.FOLDS
    curation = _peers.cleanlab(X, y, LogisticRegression(max_iter=1000), 0)
    assert 0 < (~curation.keep).sum() < len(y)
    assert np.array_equal(keep(fairness.OWN), np.flatnonzero(curation.keep))
    assert np.array_equal(by_loss(0.2), np.sort(np.argsort(-curation.suspicion, kind="stable")[int(0.2 * len(y)) :]))


def test_fairlearn_is_the_peer(data_home):
    pytest.importorskip("fairlearn")
    (row,) = fairness.frontier(fairness.PEER, "", 0, (0.05,), data_home)
    assert row["fits"] > 1
    assert row["level"] == 0.05


def serially(function, tasks):
    """In the place of `_runner.over_cores`, whose workers would not know what a test has changed."""
    return [function(*task) for task in tasks]


def saved(name: str, found: dict, folder) -> str:
    """The Markdown that a run's result is stored as."""
    _, tables = _runner.save(stored(name, []) | found, folder)
    return tables.read_text(encoding="utf-8")


def test_a_quick_run_of_noise_has_all_methods_in_every_cell(data_home, tmp_path, monkeypatch):
    monkeypatch.setattr(_runner, "over_cores", serially)
    monkeypatch.setattr(_data, "TABULAR", ("spambase",))
    X = pd.read_csv(data_home / "tabular" / "spambase.csv.gz")
    X.to_csv(data_home / "tabular" / "phoneme.csv.gz", index=False)
    found = noise.run(quick=True, data_home=str(data_home))
    methods = {row["method"] for row in found["rows"]}
    assert set(noise.METHODS) - methods <= {name for name in _peers.BASELINES if "cleanlab" in name or "pyinf" in name}
    cells = {(row["data"], row["flips"]) for row in found["rows"]}
    assert cells == {(name, flips) for name in ("spambase", "phoneme") for flips in (0.0, 0.3)}
    assert len(found["rows"]) == len(methods) * len(cells)
    for row in found["rows"]:
        assert len(row["accuracy"]["seeds"]) == 2
        assert 0.4 < row["accuracy"]["mean"] <= 1
        if row["auroc"] is not None and row["method"] in noise.OURS:
            assert row["auroc"]["mean"] > 0.7, row["method"]
    text = saved("noise", found, tmp_path / "out")
    assert "## All 4 cells" in text
    assert "| spambase, 30% |" in text


def test_a_quick_run_of_synthetic_has_a_row_for_every_pair(tmp_path, monkeypatch):
    monkeypatch.setattr(_runner, "over_cores", serially)
    monkeypatch.setattr(synthetic, "N_TRAIN", 40)
    monkeypatch.setattr(synthetic, "N_FLIPPED", 4)
    found = synthetic.run(quick=True)
    combinations = {(row["case"], row["objective"], row["a"], row["b"]) for row in found["rows"]}
    assert len(combinations) == len(found["rows"])
    assert len(combinations) == len(synthetic.CASES) * len(synthetic.OBJECTIVES) * len(synthetic.PAIRS)
    separable = [row for row in found["rows"] if (row["case"], row["objective"]) == ("separable", "utility")]
    assert all(row["found"]["mean"] == 1 and len(row["found"]["seeds"]) == 2 for row in separable)
    text = saved("synthetic", found, tmp_path)
    assert f"## {synthetic.PAIRS[0][0]} against {synthetic.PAIRS[0][1]}" in text
    curators = {*removal.BASELINES, *synthetic.SCORED} - _peer_names(removal.CLEANLAB)
    wanted = {
        (case, objective, curator)
        for case in synthetic.CASES for objective in synthetic.OBJECTIVES for curator in curators
    }  # fmt: skip
    removals = {(row["case"], row["objective"], row["curator"]): row for row in found["removals"]}
    assert set(removals) == wanted
    assert len(removals) == len(found["removals"])
    for table in text.split("## Rows removed for ")[1:]:
        assert all(table.count(f"| {curator} |") == len(synthetic.CASES) for curator in curators)
    for curator in curators - {removal.NONE, removal.RANDOM}:
        one = removals["separable", "utility", curator]
        assert one["auroc"]["mean"] == 1
        assert one["found"]["mean"] == 1 or curator == removal.CLEANLAB  # which removes as few as it likes
        assert one["value"]["mean"] < removals["separable", "utility", removal.NONE]["value"]["mean"]
    assert {row["removed"]["mean"] for (_, _, curator), row in removals.items() if curator == "ip"} == {4.0}


def test_removed_rows_are_judged_on_rows_that_nobody_scored():
    blobs = synthetic.draw_blobs(0, *synthetic.CASES["separable, feature × 5"])
    assert len(blobs.judged.y) == synthetic.N_JUDGED == 2 * blobs.judged.y.sum()
    assert not set(blobs.judged.X[:, 0]) & {*blobs.X[:, 0], *blobs.test.X[:, 0]}
    model = removal.classifier().fit(blobs.X, blobs.y)
    measured = {name: measure(model) for name, measure in removal.measures(model, blobs.judged).items()}
    p = model.predict_proba(blobs.judged.X)[:, 1]
    means = [p[blobs.judged.groups == group].mean() for group in (0, 1)]
    assert measured["fairness"] == pytest.approx(means[1] - means[0])
    # 1.3 times the way to the boundary, the model's outputs are -0.3 of what they were.
    outputs = -0.3 * model.decision_function(blobs.judged.X) * (2 * blobs.judged.y - 1)
    assert measured["robustness"] == pytest.approx(np.log1p(np.exp(-outputs)).mean())


def _peer_names(*names: str) -> set[str]:
    """Those names, where cleanlab is not installed."""
    return set() if find_spec("cleanlab") else set(names)


def test_a_quick_run_of_fairness_has_every_curator_at_every_level(tmp_path, monkeypatch):
    monkeypatch.setattr(_runner, "over_cores", serially)
    rng = np.random.default_rng(0)
    s = rng.integers(2, size=900)
    X = np.column_stack([rng.normal(size=(900, 3)), s])
    y = (X[:, 0] + s + rng.normal(size=900) > 0.5).astype(np.int8)
    train, test = slice(450), slice(450, None)
    np.savez(
        tmp_path / "adult.npz", X_train=X[train], y_train=y[train], X_test_all=X[test], y_test_all=y[test], s_col=3
    )
    found = fairness.run(quick=True, data_home=str(tmp_path))
    levels = {(row["curator"], row["level"]) for row in found["rows"]}
    curators = [f"{name}, {method}" for name in fairness.OBJECTIVES for method in fairness.METHODS]
    wanted = {(curator, rate) for curator in (fairness.RANDOM, fairness.LOSS, *curators) for rate in (0.05, 0.2)}
    wanted |= {(fairness.NONE, 0.0)} | ({(fairness.PEER, 0.05)} if find_spec("fairlearn") else set())
    wanted |= {(fairness.CLEANLAB, fairness.OWN)} if find_spec("cleanlab") else set()
    assert levels == wanted
    assert len(found["rows"]) == len(wanted)
    assert all(0 <= row["gap"]["mean"] <= 1 and 0.4 < row["accuracy"]["mean"] <= 1 for row in found["rows"])
    gap = {(row["curator"], row["level"]): row["gap"]["mean"] for row in found["rows"]}
    assert gap[fairness.NONE, 0.0] > 0.4
    assert gap["parity, exact", 0.2] < 0.2
    assert gap[fairness.RANDOM, 0.2] > 0.4
    assert gap[fairness.LOSS, 0.2] > 0.4
    text = saved("fairness", found, tmp_path / "out")
    assert all(f"| {curator} |" in text for curator, _ in levels)


def test_stored_tables_of_the_blobs_and_of_the_frontier_have_all_baselines():
    made = synthetic.tables(_runner.load("synthetic"))
    removed = [rows for title, rows in made.items() if title.startswith("Rows removed for ")]
    assert len(removed) == len(synthetic.OBJECTIVES)
    for rows in removed:
        own = {case: {row["removed by"] for row in rows if row["case"] == case} for case in synthetic.CASES}
        assert all(curators == {*removal.BASELINES, *synthetic.SCORED} for curators in own.values())
    (frontier,) = fairness.tables(_runner.load("fairness")).values()
    assert set(fairness.BASELINES) < {row["curator"] for row in frontier}
    assert len(_runner.load("synthetic")["seeds"]) >= 5 <= len(_runner.load("fairness")["seeds"])


def test_the_readme_lists_every_benchmark(capsys):
    assert command.main(["list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == list(_runner.NAMES)
    readme = (_runner.RESULTS.parent / "README.md").read_text(encoding="utf-8")
    missing = [name for name in listed if f"    python -m benchmarks run {name} " not in readme]
    assert not missing
