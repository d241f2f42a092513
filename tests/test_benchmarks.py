"""The benchmarks' runner: aggregation, storage, Markdown of stored JSON alone; and a tiny run of each part."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as command
from benchmarks import _data, _peers, _runner, noise, speed


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


@pytest.fixture
def noise_rows():
    accuracy = {noise.NONE: [0.8, 0.9], noise.DEFAULT: [0.82, 0.9], noise.AUTO: [0.78, 0.89]}
    return [noise_row(method, "pol", flips, values) for flips in (0.0, 0.3) for method, values in accuracy.items()]


def test_gates_of_noise_are_paired_with_no_curation(noise_rows):
    values = {entry["gate"]: (entry["value"], entry["passed"]) for entry in noise.gates(noise_rows)}
    assert values[f"{noise.DEFAULT}: mean gain, points"] == (1.0, True)
    assert values[f"{noise.AUTO}: worst cell, points"] == (-1.5, False)


def test_markdown_comes_from_the_stored_json_alone(noise_rows, tmp_path, monkeypatch, capsys):
    result = {
        "benchmark": "noise", "quick": False, "date": "2001-02-03T04:05:06+00:00", "seconds": 12.0,
        "about": "About it.",
        "versions": {"Python": "3"}, "machine": {"cpu": "a cpu", "cores": 2, "blas": "a blas", "load_before": 0.1},
        "rows": noise_rows, "gates": noise.gates(noise_rows),
    }  # fmt: skip
    stored, tables = _runner.save(result, tmp_path)
    assert json.loads(stored.read_text(encoding="utf-8")) == result
    assert "| " + noise.DEFAULT in tables.read_text(encoding="utf-8")
    assert "+1.00" in tables.read_text(encoding="utf-8")

    stored.write_text(stored.read_text(encoding="utf-8").replace("a cpu", "another cpu"), encoding="utf-8")
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
    """A folder with two small tables, of two and of three classes."""
    rng = np.random.default_rng(0)
    (tmp_path / "tabular").mkdir()
    X = rng.normal(size=(300, 4))
    for name, classes in (("spambase", 2), ("covertype_balanced15k", 3)):
        outputs = X @ rng.normal(size=(4, classes)) + 0.3 * rng.gumbel(size=(300, classes))
        frame = pd.DataFrame(X, columns=list("abcd")).assign(target=outputs.argmax(axis=1) + 1)
        frame.to_csv(tmp_path / "tabular" / f"{name}.csv.gz", index=False)
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


def test_extra_memory_of_a_small_call_is_small():
    row = speed.extra_memory_in_subprocess("ip", "dense", 2000, 10, 2)
    assert 0 <= row["resident"] < speed.MEMORY_LIMIT
    assert 0 < row["traced"] < speed.MEMORY_LIMIT


@pytest.mark.parametrize("kind", ["dense", "correlated", "CSR"])
def test_cases_are_scored(kind):
    case = speed.make_case(kind, 300, 20, 3)
    assert case.scores("ip").shape == (300,)
    assert case.product().shape == (300, 3)
