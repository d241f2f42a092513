"""Hard metrics: against fairlearn, by hand, and what they refuse."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skinfluence import metrics

DIFFERENCES = ["demographic_parity_difference", "equal_opportunity_difference", "equalized_odds_difference"]


@pytest.fixture
def predictions(rng):
    groups = rng.choice(["x", "y", "z"], size=400, p=[0.5, 0.3, 0.2])
    y = (rng.uniform(size=400) < 0.3 + 0.2 * (groups == "y")).astype(int)
    y_pred = (rng.uniform(size=400) < 0.2 + 0.5 * y + 0.1 * (groups == "z")).astype(int)
    return y, y_pred, groups, rng.uniform(0.2, 2.0, size=400)


@pytest.mark.parametrize("name", DIFFERENCES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_groups", [2, 3])
def test_differences_are_fairlearns(predictions, name, weighted, n_groups):
    fairlearn = pytest.importorskip("fairlearn.metrics")
    y, y_pred, groups, weight = predictions
    options = {
        "sensitive_features": groups if n_groups == 3 else groups == "x",
        "sample_weight": weight if weighted else None,
    }
    expected = getattr(fairlearn, name)(y, y_pred, **options)
    assert_allclose(getattr(metrics, name)(y, y_pred, **options), expected, rtol=1e-12)
    assert expected > 0


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_positive_label_splits_the_classes_in_two(predictions, name):
    y, y_pred, groups, _ = predictions
    words = np.array(["no", "yes"])
    expected = getattr(metrics, name)(y, y_pred, sensitive_features=groups)
    assert getattr(metrics, name)(words[y], words[y_pred], sensitive_features=groups) == expected
    # A third class is negative too.
    y, y_pred = np.where(y == 1, 2, np.arange(400) % 2), np.where(y_pred == 1, 2, np.arange(400) % 2)
    assert getattr(metrics, name)(y, y_pred, sensitive_features=groups, positive_label=2) == expected
    with pytest.raises(ValueError, match=r"classes \[0, 1, 2\]\. Say which is positive"):
        getattr(metrics, name)(y, y_pred, sensitive_features=groups)


def test_one_class_alone_is_no_riddle():
    for only in (0, 1):
        assert metrics.demographic_parity_difference([only] * 4, [only] * 4, sensitive_features=[0, 0, 1, 1]) == 0
    with pytest.raises(ValueError, match="positive_label"):
        metrics.demographic_parity_difference(["a"] * 4, ["a"] * 4, sensitive_features=[0, 0, 1, 1])


def test_group_mean_difference_is_the_range_of_weighted_means():
    values, groups = [1.0, 2.0, 6.0, 3.0, 5.0], ["a", "a", "b", "b", "c"]
    assert_allclose(
        metrics.group_mean_difference(values, sensitive_features=groups, sample_weight=[1, 3, 2, 1, 1]), 5 - 1.75
    )


def test_fair_score_and_robust_accuracy_count_rows():
    a, b = ["x", "y", "x", "x"], ["x", "x", "x", "y"]
    assert metrics.fair_score(a, b) == 0.5
    assert metrics.fair_score(a, b, sample_weight=[1, 1, 1, 0]) == pytest.approx(1 / 3)
    assert metrics.robust_accuracy(a, b) == 0.5
    with pytest.raises(ValueError, match="inconsistent"):
        metrics.fair_score(a, b[:3])
    with pytest.raises(ValueError, match="inconsistent"):
        metrics.robust_accuracy(a, b[:3])


LABELS = ["m", "f", "m", "f", "d"]


@pytest.mark.parametrize(
    "groups",
    [
        LABELS,
        tuple(LABELS),
        np.array(LABELS),
        np.array(LABELS, dtype=object)[:, None],
        pd.Series(LABELS, index=[4, 3, 2, 1, 0]),
        pd.Series(LABELS, dtype="category"),
        pd.DataFrame({"group": LABELS}),
        pl.Series(LABELS),
        pl.Series(LABELS, dtype=pl.Categorical),
        pl.DataFrame({"group": LABELS}),
    ],
    ids=lambda groups: type(groups).__module__.split(".")[0] + "." + type(groups).__name__,
)
def test_groups_come_in_any_container(groups):
    codes, labels = metrics.encode_groups(groups, 5)
    assert labels == ["d", "f", "m"]
    assert_array_equal(codes, [2, 1, 2, 1, 0])


@pytest.mark.parametrize(
    "groups",
    [[3, 1, 3], [True, False, True], [2.5, -1.0, 2.5], np.array(["2020-01-02", "2019-01-01", "2020-01-02"], "M8[D]")],
    ids=str,
)
def test_groups_have_labels_of_any_kind(groups):
    codes, labels = metrics.encode_groups(groups, 3)
    assert_array_equal(codes, [1, 0, 1])
    assert labels == sorted(labels)
    mixed, labels = metrics.encode_groups([groups[0], "b", groups[2]], 3)
    assert_array_equal(mixed, [0, 1, 0])
    assert labels == [groups[0], "b"]


@pytest.mark.parametrize(
    "groups",
    [
        ["a", np.nan, "b"],
        ["a", None, "b"],
        [0, np.nan, 1],
        np.array([0, np.nan, 1]),
        pd.Series(["a", pd.NA, "b"], dtype="string"),
        pd.Series(["a", None, "b"], dtype="category"),
        pd.Series([0, None, 1], dtype="Int64"),
        pd.Series(pd.to_datetime(["2020-01-01", None, "2020-01-02"])),
        pl.Series(["a", None, "b"]),
        np.array(["2020-01-01", "NaT", "2020-01-02"], dtype="M8[D]"),
    ],
    ids=str,
)
def test_missing_groups_are_refused(groups):
    with pytest.raises(ValueError, match="1 of 3 are missing"):
        metrics.encode_groups(groups, 3)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (None, "The groups of the rows are needed, and there are none: pass sensitive_features=..."),
        ([0, 1], "one entry for each of 3 rows, got 2"),
        (["a", "a", "a"], r"at least two of them in sensitive_features, got \['a'\]"),
        (np.zeros((3, 2)), r"one column, got an array of shape \(3, 2\)"),
    ],
)
def test_groups_that_are_none_are_refused(groups, words):
    with pytest.raises(ValueError, match=words):
        metrics.encode_groups(groups, 3)


def test_groups_without_rows_to_compare_are_named():
    with pytest.raises(ValueError, match=r"needs positive rows of positive weight; \['b'\] have none"):
        metrics.equal_opportunity_difference([1, 1, 0, 0], [1, 0, 1, 0], sensitive_features=list("aabb"))
    with pytest.raises(ValueError, match=r"needs negative rows of positive weight; \['a'\] have none"):
        metrics.equalized_odds_difference([1, 1, 0, 1], [1, 0, 1, 0], sensitive_features=list("aabb"))
    with pytest.raises(ValueError, match=r"needs rows of positive weight; \['b'\] have none"):
        metrics.demographic_parity_difference(
            [1, 0, 0, 1], [1, 0, 1, 0], sensitive_features=list("aabb"), sample_weight=[1, 1, 0, 0]
        )


def test_many_groups_are_no_trouble():
    groups = np.arange(100_000).astype(str).astype(object)
    codes, labels = metrics.encode_groups(groups, len(groups))
    assert_array_equal(np.array(labels, dtype=object)[codes], groups)
