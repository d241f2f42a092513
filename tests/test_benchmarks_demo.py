"""`make demo`: the table and the picture, on few rows and rates."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

pytest.importorskip("matplotlib")

from benchmarks import demo


def few_rows(return_X_y):
    X, y = load_breast_cancer(return_X_y=return_X_y)
    return X[:250], y[:250]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(demo, "SOURCES", {"few": few_rows})
    monkeypatch.setattr(demo, "RATES", (0.0, 0.2))
    monkeypatch.setattr(demo, "SEEDS", range(2))
    monkeypatch.setattr(demo, "CURVE_RATES", np.array([0.0, 0.2, 0.4]))


def test_a_split_flips_training_labels_alone():
    split, again = (demo.make_split(few_rows, 1) for _ in range(2))
    assert (len(split.y_train), len(split.y_test)) == (150, 100)
    assert split.flipped.mean() == pytest.approx(demo.FLIPPED, abs=0.01)
    np.testing.assert_array_equal(split.y_train, again.y_train)
    X, y = few_rows(return_X_y=True)
    labels = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
    for rows, given, wrong in (
        (split.X_train, split.y_train, split.flipped),
        (split.X_test, split.y_test, np.zeros(100, dtype=bool)),
    ):
        true = np.array([labels[row.tobytes()] for row in rows])
        np.testing.assert_array_equal(given != true, wrong)


def test_a_study_of_one_split(small):
    one = demo.study("few", 0)
    assert [row["home"] for row in one.rows] == list(demo.HOMES)
    for row in one.rows:
        assert row["rate"] in demo.RATES
        assert row["without"] == pytest.approx(one.by_influence[0])
        assert 0 <= row["found"] <= 1
    assert one.by_influence[0] == one.by_chance[0]  # nothing is removed yet
    # Flipped rows lie lower than others, by far more than chance would have them.
    assert (one.scores[one.flipped][:, None] < one.scores[~one.flipped]).mean() > 0.8


def test_the_command_prints_a_table_and_draws(small, tmp_path, monkeypatch, capsys):
    picture = tmp_path / "demo.png"
    monkeypatch.setattr(demo, "over_cores", lambda function, arguments: [function(*given) for given in arguments])
    demo.main(["--out", str(picture)])
    printed = capsys.readouterr().out
    assert all(home in printed for home in demo.HOMES)
    assert "accuracy without" in printed
    assert picture.stat().st_size > 10_000
