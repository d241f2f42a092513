"""The displays: the arrays behind them against computations by hand, and what is drawn against the arrays."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import textwrap
from html import unescape

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn import config_context
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline as make_stock_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler
from sklearn.utils import estimator_html_repr

from skinfluence import (
    CuratedClassifier,
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    Pipeline,
    influence_scores,
    make_pipeline,
)
from skinfluence._summary import summary_html
from skinfluence.metrics import demographic_parity_difference
from skinfluence.objectives import adversarial_rows
from skinfluence.plotting import (
    FrontierDisplay,
    InfluenceDisplay,
    MethodComparisonDisplay,
    RemovalCurveDisplay,
    most_harmful,
)

DISPLAYS = (FrontierDisplay, InfluenceDisplay, MethodComparisonDisplay, RemovalCurveDisplay)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def tables():
    """Training rows, a tenth of their labels flipped, and test rows; scaled."""
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    flipped = np.random.RandomState(0).random_sample(300) < 0.1
    return X[:300], np.where(flipped, 1 - y[:300], y[:300]), flipped, X[300:], y[300:]


def removed_by_hand(scores, y, n_removed):
    """Rows left without the lowest, one by one, leaving a class its last row."""
    kept = list(range(len(scores)))
    for row in sorted(range(len(scores)), key=lambda i: (scores[i], i))[:n_removed]:
        if sum(y[i] == y[row] for i in kept) > 1:
            kept.remove(row)
    return np.array(kept)


# --- InfluenceDisplay -------------------------------------------------------------------------------------------------


def test_influence_display_draws_the_histogram_of_each_group(tables):
    X, y, flipped, X_val, y_val = tables
    clf = LogisticRegression().fit(X, y)
    groups = np.where(flipped, "flipped", "kept")
    display = InfluenceDisplay.from_estimator(
        clf, X, y, X_val, y_val, method="exact", groups=groups, threshold=-0.001, bins=20, histtype="bar"
    )
    assert_array_equal(display.scores, influence_scores(clf, X, y, X_val, y_val, method="exact"))
    edges = np.histogram_bin_edges(display.scores, 20)
    for bars, members in zip(display.bars_, (~flipped, flipped), strict=True):  # the larger group first
        counts = [patch.get_height() for patch in bars]
        assert_array_equal(counts, np.histogram(display.scores[members], edges)[0])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    n_below = (display.scores < -0.001).sum()
    assert texts == [
        f"kept ({(~flipped).sum()} rows)",
        f"flipped ({flipped.sum()} rows)",
        f"threshold: {n_below} rows below",
    ]
    assert_allclose(display.threshold_line_.get_xdata(), -0.001)
    assert "removed" in display.ax_.get_xlabel()
    assert display.figure_ is display.ax_.figure


def test_influence_display_passes_everything_on_to_the_scores(tables):
    X, y, _, X_val, y_val = tables
    weight = np.linspace(0.5, 2, len(y))
    clf = LogisticRegression().fit(X, y, weight)
    group, group_val = X[:, 0] > 0, X_val[:, 0] > 0
    display = InfluenceDisplay.from_estimator(
        clf,
        X,
        y,
        X_val,
        y_val,
        method="ip_ensemble",
        objective="demographic_parity",
        sample_weight=weight,
        sensitive_features_val=group_val,
        random_state=3,
    )
    expected = influence_scores(
        clf,
        X,
        y,
        X_val,
        y_val,
        method="ip_ensemble",
        objective="demographic_parity",
        sample_weight=weight,
        sensitive_features_val=group_val,
        random_state=3,
    )
    assert_array_equal(display.scores, expected)
    alone = InfluenceDisplay.from_estimator(clf, X, y, objective="demographic_parity", sensitive_features=group)
    assert_array_equal(
        alone.scores, influence_scores(clf, X, y, objective="demographic_parity", sensitive_features=group)
    )


def test_a_curator_is_found_in_its_homes(tables):
    X, y, *_ = tables
    selector = InfluenceSelector(removal_rate=0.1, random_state=0)
    alone = InfluenceSelector(removal_rate=0.1, random_state=0).fit(X, y)
    pipe = make_pipeline(StandardScaler(with_mean=False, with_std=False), selector, LogisticRegression())
    grid = GridSearchCV(pipe, {"influenceselector__removal_rate": [0.1]}, cv=2).fit(X, y)
    homes = [alone, pipe.fit(X, y), CuratedClassifier(LogisticRegression(), selector).fit(X, y), grid]
    for home in homes:
        display = InfluenceDisplay.from_curator(home)
        assert_array_equal(display.scores, alone.scores_)
        assert display.threshold == alone.threshold_
    reweighter = InfluenceReweighter(random_state=0).fit(X, y)
    assert InfluenceDisplay.from_curator(reweighter).threshold is None


def test_from_curator_says_what_is_missing(tables):
    X, y, *_ = tables
    with pytest.raises(TypeError, match=r"Wanted a fitted curator.* got LogisticRegression"):
        InfluenceDisplay.from_curator(LogisticRegression())
    with pytest.raises(NotFittedError, match="InfluenceSelector is not fitted"):
        InfluenceDisplay.from_curator(InfluenceSelector())
    both = Pipeline([("a", InfluenceSelector()), ("b", InfluenceSelector()), ("c", LogisticRegression())]).fit(X, y)
    with pytest.raises(ValueError, match="holds 2 curators"):
        InfluenceDisplay.from_curator(both)


@pytest.mark.parametrize(
    ("scores", "error", "match"),
    [
        ([0.0, np.nan], ValueError, "finite"),
        ([], ValueError, "finite"),
        (["a", "b"], TypeError, "numbers"),
        (np.zeros((3, 2)), ValueError, "1d"),
    ],
)
def test_scores_are_checked(scores, error, match):
    with pytest.raises(error, match=match):
        InfluenceDisplay.from_scores(np.asarray(scores))


def test_groups_must_match():
    with pytest.raises(ValueError, match="inconsistent"):
        InfluenceDisplay.from_scores(np.arange(3.0), groups=["a", "b"])
    one = InfluenceDisplay.from_scores(np.arange(3.0), groups=["a", "a", "a"])
    assert len(one.bars_) == 1


# --- RemovalCurveDisplay ----------------------------------------------------------------------------------------------


def test_removal_curve_of_given_scores_is_refits_by_hand(tables):
    X, y, _, X_test, y_test = tables
    scores = influence_scores(LogisticRegression().fit(X, y), X, y, X_test, y_test)
    rates = [0, 0.1, 0.25]
    display = RemovalCurveDisplay.from_scores(
        scores, LogisticRegression(), X, y, X_test, y_test, removal_rates=rates, n_random=2, random_state=0
    )
    for at, rate in enumerate(rates):
        kept = removed_by_hand(scores, y, int(rate * len(y)))
        expected = LogisticRegression().fit(X[kept], y[kept]).score(X_test, y_test)
        assert display.curves["lowest influence first"][0, at] == pytest.approx(expected)
    chance = display.curves["at random"]
    assert chance.shape == (2, 3)
    assert_allclose(chance[:, 0], display.curves["lowest influence first"][0, 0])
    line = display.lines_["at random"]
    assert_allclose(line.get_xdata(), rates)
    assert_allclose(line.get_ydata(), chance.mean(axis=0))
    band = display.bands_["at random"].get_paths()[0].vertices
    low, high = chance.mean(axis=0) - chance.std(axis=0, ddof=1), chance.mean(axis=0) + chance.std(axis=0, ddof=1)
    assert band[:, 1].min() == pytest.approx(low.min())
    assert band[:, 1].max() == pytest.approx(high.max())
    assert "lowest influence first" not in display.bands_  # one repetition has no spread
    assert "accuracy" in display.ax_.get_ylabel()


def test_the_rows_drawn_at_random_follow_the_seed(tables):
    X, y, _, X_test, y_test = tables

    def chance(seed):
        display = RemovalCurveDisplay.from_scores(
            np.zeros(len(y)), LogisticRegression(), X, y, X_test, y_test, removal_rates=[0, 0.6], random_state=seed
        )
        return display.curves["at random"]

    assert_array_equal(chance(0), chance(0))
    assert not np.array_equal(chance(0), chance(1))


def test_removal_curve_of_an_estimator_is_cross_validated(tables):
    X, y, *_ = tables
    rates, cv = [0, 0.2], StratifiedKFold(3)
    model = make_stock_pipeline(StandardScaler(), LogisticRegression())
    selector = InfluenceSelector(estimator="final", method="exact", random_state=0)
    display = RemovalCurveDisplay.from_estimator(
        model, X, y, curator={"exact": selector}, removal_rates=rates, cv=cv, scoring="balanced_accuracy", n_random=0
    )
    assert list(display.curves) == ["exact"]
    for fold, (train, test) in enumerate(cv.split(X, y)):
        curator = InfluenceSelector(
            estimator=make_stock_pipeline(StandardScaler(), LogisticRegression()), method="exact", random_state=0
        ).fit(X[train], y[train])
        for at, rate in enumerate(rates):
            kept = train[removed_by_hand(curator.scores_, y[train], int(rate * len(train)))]
            fitted = make_stock_pipeline(StandardScaler(), LogisticRegression()).fit(X[kept], y[kept])
            expected = balanced_accuracy_score(y[test], fitted.predict(X[test]))
            assert display.curves["exact"][fold, at] == pytest.approx(expected)
    assert "balanced accuracy" in display.ax_.get_ylabel()
    relative = display.plot(relative=True).lines_["exact"].get_ydata()
    gain = display.curves["exact"] - display.curves["exact"][:, [0]]
    assert_allclose(relative, gain.mean(axis=0))


def test_jobs_change_nothing(tables):
    X, y, _, X_test, y_test = tables
    given = (np.arange(300.0), LogisticRegression(), X, y, X_test, y_test)
    one = RemovalCurveDisplay.from_scores(*given, removal_rates=[0, 0.3], n_jobs=1)
    two = RemovalCurveDisplay.from_scores(*given, removal_rates=[0, 0.3], n_jobs=2)
    for name in one.curves:
        assert_array_equal(one.curves[name], two.curves[name])


def test_removal_never_empties_a_class():
    X, y = load_iris(return_X_y=True)
    scores = np.where(y == 2, -1.0, 1.0) * (1 + np.arange(150))
    display = RemovalCurveDisplay.from_scores(
        scores, LogisticRegression(max_iter=1000), X, y, X, y, removal_rates=[0.2, 0.5], n_random=0
    )
    kept = removed_by_hand(scores, y, 75)
    assert set(y[kept]) == {0, 1, 2}
    expected = LogisticRegression(max_iter=1000).fit(X[kept], y[kept]).score(X, y)
    assert display.curves["lowest influence first"][0, 1] == pytest.approx(expected)


def test_removal_curve_of_a_regressor():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    display = RemovalCurveDisplay.from_estimator(Ridge(), X, y, removal_rates=[0, 0.1], cv=3)
    assert display.curves["lowest influence first"].shape == (3, 2)
    assert display.curves["at random"].shape == (9, 2)
    assert "R²" in display.ax_.get_ylabel()


@pytest.mark.parametrize("rates", [[0.1], [0, 1.0], [0.2, 0.1], [-0.1, 0.2], [[0, 0.1]]])
def test_removal_rates_are_checked(tables, rates):
    X, y, _, X_test, y_test = tables
    with pytest.raises(ValueError, match="removal_rates must be at least two shares"):
        RemovalCurveDisplay.from_scores(
            np.zeros(len(y)), LogisticRegression(), X, y, X_test, y_test, removal_rates=rates
        )


def test_scores_must_be_as_many_as_rows(tables):
    X, y, _, X_test, y_test = tables
    with pytest.raises(ValueError, match="inconsistent"):
        RemovalCurveDisplay.from_scores(np.zeros(7), LogisticRegression(), X, y, X_test, y_test)
    with pytest.raises(ValueError, match="empty dict"):
        RemovalCurveDisplay.from_scores({}, LogisticRegression(), X, y, X_test, y_test)


# --- FrontierDisplay --------------------------------------------------------------------------------------------------


def test_frontier_is_both_figures_by_hand(tables):
    X, y, _, X_test, y_test = tables
    group_test = X_test[:, 1] > 0
    scores = influence_scores(LogisticRegression().fit(X, y), X, y, X_test, y_test)
    rates = [0, 0.1, 0.3]
    display = FrontierDisplay.from_scores(
        {"mine": scores},
        LogisticRegression(),
        X,
        y,
        X_test,
        y_test,
        against="demographic_parity",
        sensitive_features_test=group_test,
        removal_rates=rates,
    )
    for at, rate in enumerate(rates):
        kept = removed_by_hand(scores, y, int(rate * len(y)))
        predicted = LogisticRegression().fit(X[kept], y[kept]).predict(X_test)
        gap = abs(predicted[group_test].mean() - predicted[~group_test].mean())
        assert display.utility["mine"][0, at] == pytest.approx((predicted == y_test).mean())
        assert display.against["mine"][0, at] == pytest.approx(gap)
    line = display.lines_["mine"]
    assert_allclose(line.get_xdata(), display.against["mine"][0])
    assert_allclose(line.get_ydata(), display.utility["mine"][0])
    assert "demographic parity" in display.ax_.get_xlabel()
    assert [text.get_text() for text in display.ax_.texts] == ["30%"]


@pytest.mark.parametrize("container", ["array", "pandas", "polars"])
def test_robustness_is_against_the_model_of_all_rows(tables, container):
    X, y, _, X_test, y_test = tables
    X, X_test = X * 3 + 1, X_test * 3 + 1
    names = [f"x{i}" for i in range(X.shape[1])]
    wrap = {
        "array": lambda Z: Z,
        "pandas": lambda Z: pd.DataFrame(Z, columns=names),
        "polars": lambda Z: pl.DataFrame(Z, schema=names),
    }[container]
    scores = np.random.RandomState(0).normal(size=len(y))
    display = FrontierDisplay.from_scores(
        scores,
        make_stock_pipeline(MinMaxScaler(), LogisticRegression()),
        wrap(X),
        y,
        wrap(X_test),
        y_test,
        against="robustness",
        removal_rates=[0, 0.4],
    )
    # By hand, in the scaled features, in which the attack moves rows.
    scaler = MinMaxScaler().fit(X)
    first = LogisticRegression().fit(scaler.transform(X), y)
    moved = scaler.inverse_transform(adversarial_rows(first, scaler.transform(X_test)))
    kept = removed_by_hand(scores, y, int(0.4 * len(y)))
    again = make_stock_pipeline(MinMaxScaler(), LogisticRegression()).fit(X[kept], y[kept])
    expected = [first.predict(scaler.transform(moved)), again.predict(moved)]
    assert_allclose(display.against["lowest influence first"][0], [(p == y_test).mean() for p in expected])


def test_frontier_of_an_estimator_hands_groups_to_the_curators_that_use_them(tables):
    X, y, *_ = tables
    groups = np.where(X[:, 1] > 0, "a", "b")
    cv = StratifiedKFold(2)
    display = FrontierDisplay.from_estimator(
        LogisticRegression(),
        X,
        y,
        against="demographic_parity",
        sensitive_features=groups,
        curator={
            "utility": InfluenceSelector(random_state=0),
            "parity": InfluenceSelector(objective="demographic_parity", random_state=0),
        },
        removal_rates=[0, 0.2],
        cv=cv,
        n_random=2,
    )
    assert {name: values.shape for name, values in display.utility.items()} == {
        "utility": (2, 2),
        "parity": (2, 2),
        "at random": (4, 2),
    }
    train, test = next(iter(cv.split(X, y)))
    curator = InfluenceSelector(objective="demographic_parity", random_state=0)
    curator.fit(X[train], y[train], sensitive_features=groups[train])
    kept = train[removed_by_hand(curator.scores_, y[train], int(0.2 * len(train)))]
    predicted = LogisticRegression().fit(X[kept], y[kept]).predict(X[test])
    gap = demographic_parity_difference(y[test], predicted, sensitive_features=groups[test])
    assert display.against["parity"][0, 1] == pytest.approx(gap)


def test_a_figure_of_ones_own(tables):
    X, y, _, X_test, y_test = tables

    def positive_share(fitted, X, y, groups):
        assert groups is None
        return fitted.predict(X).mean()

    display = FrontierDisplay.from_scores(
        np.arange(300.0), LogisticRegression(), X, y, X_test, y_test, against=positive_share, removal_rates=[0, 0.1]
    )
    expected = LogisticRegression().fit(X, y).predict(X_test).mean()
    assert display.against["lowest influence first"][0, 0] == pytest.approx(expected)
    assert display.ax_.get_xlabel() == "positive share"


def test_frontier_says_what_is_missing(tables):
    X, y, _, X_test, y_test = tables
    given = (np.zeros(300), LogisticRegression(), X, y, X_test, y_test)
    with pytest.raises(ValueError, match="against must be one of"):
        FrontierDisplay.from_scores(*given, against="parity")
    with pytest.raises(ValueError, match="pass sensitive_features_test="):
        FrontierDisplay.from_scores(*given, against="equalized_odds")
    with pytest.raises(ValueError, match="pass sensitive_features="):
        FrontierDisplay.from_estimator(LogisticRegression(), X, y, against="equal_opportunity")
    no_way_back = make_stock_pipeline(FunctionTransformer(), StandardScaler(), LogisticRegression())
    no_way_back.steps[0] = ("one_way", _OneWay())
    with pytest.raises(TypeError, match="no inverse_transform"):
        FrontierDisplay.from_scores(given[0], no_way_back, *given[2:], against="robustness")


class _OneWay(StandardScaler):
    inverse_transform = property()  # there is none


# --- MethodComparisonDisplay ------------------------------------------------------------------------------------------


def test_comparison_is_spearman(tables):
    X, y, _, X_val, y_val = tables
    clf = LogisticRegression().fit(X, y)
    methods = ["ip", "exact", "self_tracin"]
    display = MethodComparisonDisplay.from_estimator(clf, X, y, X_val, y_val, methods=methods)
    scores = [influence_scores(clf, X, y, X_val, y_val, method=method) for method in methods]
    assert_allclose(display.correlation, spearmanr(scores, axis=1).statistic, atol=1e-12)
    assert display.names == methods
    assert_allclose(display.im_.get_array(), display.correlation)
    assert display.text_[0, 1].get_text() == f"{display.correlation[0, 1]:.2f}"
    assert [label.get_text() for label in display.ax_.get_xticklabels()] == methods


def test_comparison_with_ties_and_constants():
    rng = np.random.RandomState(0)
    a, b = rng.randint(4, size=50), rng.randint(4, size=50)
    display = MethodComparisonDisplay.from_scores({"a": a, "b": b, "constant": np.ones(50)}, colorbar=False)
    assert display.correlation[0, 1] == pytest.approx(spearmanr(a, b).statistic)
    assert np.isnan(display.correlation[2]).all()
    assert display.text_[2, 0].get_text() == "nan"


def test_comparison_says_what_is_wrong(tables):
    X, y, *_ = tables
    with pytest.raises(TypeError, match="must be a dict"):
        MethodComparisonDisplay.from_scores([np.zeros(3), np.zeros(3)])
    with pytest.raises(ValueError, match="at least two"):
        MethodComparisonDisplay.from_scores({"a": np.zeros(3)})
    with pytest.raises(ValueError, match="inconsistent"):
        MethodComparisonDisplay.from_scores({"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(ValueError, match="same name"):
        MethodComparisonDisplay.from_estimator(LogisticRegression().fit(X, y), X, y, methods=["ip", "ip"])


# --- most_harmful -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["array", "pandas", "polars", "list"])
def test_most_harmful_rows(tables, container):
    X, y, *_ = tables
    X, labels = X[:, :3], np.where(y == 1, "yes", "no")
    clf = LogisticRegression().fit(X, labels)
    scores = influence_scores(clf, X, labels)
    rows = sorted(range(len(y)), key=lambda i: scores[i])[:5]
    wrap = {
        "array": np.asarray,
        "list": lambda Z: Z.tolist(),
        "pandas": lambda Z: pd.DataFrame(Z, index=[f"r{i}" for i in range(len(Z))], columns=list("abc")),
        "polars": lambda Z: pl.DataFrame(Z, schema=list("abc")),
    }[container]
    clf = LogisticRegression().fit(wrap(X), labels)
    table = most_harmful(scores, wrap(X), labels.tolist() if container == "list" else labels, model=clf, n_rows=5)
    assert_array_equal(table["row"], rows)
    assert_array_equal(table["score"], scores[rows])
    assert_array_equal(table["given"], labels[rows])
    assert_array_equal(table["predicted"], clf.predict(wrap(X))[rows])
    assert_allclose(table["p_given"], clf.predict_proba(wrap(X))[rows, (labels[rows] == "yes").astype(int)])
    if container in ("array", "list"):
        assert_array_equal(table.X, X[rows])
    else:
        assert list(table.columns) == ["row", "score", "given", "predicted", "p_given", "a", "b", "c"]
        assert_array_equal(table["b"], X[rows, 1])
        assert type(table) is type(wrap(X))
    if container == "pandas":
        assert list(table.index) == [f"r{i}" for i in rows]


def test_most_harmful_rows_of_a_home(tables):
    X, y, *_ = tables
    pipe = make_pipeline(StandardScaler(), InfluenceSelector(random_state=0), LogisticRegression()).fit(X, y)
    table = most_harmful(pipe, X, y)
    assert_array_equal(table.score, np.sort(pipe[1].scores_)[:10])
    assert_array_equal(table.predicted, pipe.predict(X)[table.row])
    selector = InfluenceSelector(random_state=0).fit(X, y)
    assert_array_equal(most_harmful(selector, X, y).predicted, selector.estimator_.predict(X)[table.row])
    assert "predicted" not in most_harmful(pipe[1], X, y)  # in a pipeline it has no model of its own
    asked = most_harmful(pipe, X, y, model=LogisticRegression(C=1e-6).fit(X, y))
    assert_allclose(asked.p_given, 0.5, atol=0.2)


def test_most_harmful_rows_of_a_regressor():
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    ridge = Ridge().fit(X, y)
    table = most_harmful(influence_scores(ridge, X, y), X, y, model=ridge, n_rows=3)
    assert_allclose(table["predicted"], ridge.predict(X)[table["row"]])
    assert "p_given" not in table


def test_most_harmful_says_what_is_wrong(tables):
    X, y, *_ = tables
    with pytest.raises(ValueError, match=r"columns named \['score'\]"):
        most_harmful(np.arange(3.0), pd.DataFrame({"score": [1, 2, 3]}), [0, 1, 0])
    with pytest.raises(ValueError, match="inconsistent"):
        most_harmful(np.arange(3.0), X, y)
    with pytest.raises(ValueError, match="n_rows"):
        most_harmful(np.arange(300.0), X, y, n_rows=0)
    unseen = most_harmful(np.arange(300.0), X, np.full(300, 7), model=LogisticRegression().fit(X, y))
    assert_array_equal(unseen.p_given, 0)


# --- what they share --------------------------------------------------------------------------------------------------


def _drawn(display_class, ax=None):
    return {
        InfluenceDisplay: lambda: InfluenceDisplay.from_scores(np.arange(5.0), ax=ax),
        RemovalCurveDisplay: lambda: RemovalCurveDisplay(np.array([0, 0.1]), {"a": np.eye(2)}).plot(ax=ax),
        FrontierDisplay: lambda: FrontierDisplay(np.array([0, 0.1]), {"a": np.eye(2)}, {"a": np.eye(2)}).plot(ax=ax),
        MethodComparisonDisplay: lambda: MethodComparisonDisplay(np.eye(2), ["a", "b"]).plot(ax=ax),
    }[display_class]()


@pytest.mark.parametrize("display_class", DISPLAYS)
def test_a_display_draws_on_the_axes_it_is_given(display_class):
    figure, axes = plt.subplots(1, 2)
    display = _drawn(display_class, axes[1])
    assert isinstance(display, display_class)
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert not axes[0].has_data()
    assert display.plot() is display  # again, on axes of its own
    assert display.ax_ is not axes[1]


def test_curves_are_told_apart_without_colour():
    curves = {f"curve {i}": np.zeros((1, 2)) for i in range(6)} | {"at random": np.zeros((1, 2))}
    display = RemovalCurveDisplay(np.array([0, 0.1]), curves).plot()
    looks = {(line.get_marker(), str(line.get_linestyle())) for line in display.lines_.values()}
    assert len({marker for marker, _ in looks} | {"s"}) >= 6
    assert len(looks) == len(curves)


def test_importing_the_package_imports_no_matplotlib():
    code = """
    import sys, numpy as np, sklearn.model_selection
    from sklearn.linear_model import LogisticRegression
    before = set(sys.modules)
    import skinfluence.plotting
    skinfluence.plotting.InfluenceDisplay(np.arange(3.0))  # making one draws nothing
    X, y = np.arange(8.0)[:, None], [0, 1] * 4
    table = skinfluence.plotting.most_harmful(np.arange(8.0), X, y, model=LogisticRegression().fit(X, y))
    new = {name.split(".")[0] for name in set(sys.modules) - before}
    assert not new & {"matplotlib", "pandas", "polars", "torch", "skorch"}, new
    sys.modules["matplotlib"] = None
    try:
        skinfluence.plotting.InfluenceDisplay.from_scores(np.arange(3.0))
    except ImportError as error:
        print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "InfluenceDisplay.plot" in done.stdout
    assert "pip install 'skinfluence[plot]'" in done.stdout


# --- what a notebook shows --------------------------------------------------------------------------------------------


def test_a_fitted_curator_shows_what_it_did_below_the_diagram(tables):
    X, y, *_ = tables
    labels = np.where(y == 1, "<benign>", "malignant")
    selector = InfluenceSelector(method="exact", removal_rate=0.1, random_state=0)
    assert "skinfluence-summary" not in selector._repr_html_()
    selector.fit(X, labels)
    for html in (selector._repr_html_(), selector._repr_mimebundle_()["text/html"]):
        assert html.count("skinfluence-summary") == 1
    text = _text(summary_html(selector))
    assert f"rows removed {30} of {300} (10.0%)" in text
    assert f"threshold {selector.threshold_:.4g}" in text
    assert "method exact (cholesky)" in text
    assert "objective utility scored by 5 models, cross-fitted" in text
    for label in ("<benign>", "malignant"):
        n, gone = (labels == label).sum(), ((labels == label) & ~selector.support_).sum()
        assert f"{label} {n} {gone} ({gone / n:.1%})" in text
    assert "<benign>" not in summary_html(selector)  # it is no tag
    assert "note" not in text
    (note,) = selector.set_params(method="tracin").fit(X, labels).notes_
    assert f"note {note} objective" in _text(summary_html(selector))


def test_the_other_curators_show_what_they_did(tables):
    X, y, _, X_val, y_val = tables
    relabeler = InfluenceRelabeler(random_state=0).fit(X, y, X_val=X_val, y_val=y_val)
    text = _text(summary_html(relabeler))
    assert f"rows relabelled {relabeler.relabeled_.sum()} of 300" in text
    assert "against validation rows" in text
    reweighter = InfluenceReweighter(random_state=0, cv=None).fit(X, y)
    text = _text(summary_html(reweighter))
    assert f"effective rows {reweighter.effective_sample_size_:.1f} of 300" in text
    assert "against the rows it was fitted on" in text
    X, y = load_diabetes(return_X_y=True)
    text = _text(summary_html(InfluenceSelector(Ridge(), random_state=0).fit(X, y)))
    assert "rows removed 22 of 442" in text
    assert "class" not in text


def test_scikit_learns_own_diagrams_are_left_as_they_are(tables):
    X, y, *_ = tables
    selector = InfluenceSelector(random_state=0).fit(X, y)
    assert "skinfluence-summary" not in estimator_html_repr(selector)
    with config_context(display="text"):
        assert not hasattr(selector, "_repr_html_")
        assert "text/html" not in selector._repr_mimebundle_()
    pipe = make_pipeline(InfluenceSelector(random_state=0), LogisticRegression()).fit(X, y)
    assert "InfluenceSelector" in pipe._repr_html_()
    assert "skinfluence-summary" in pickle.loads(pickle.dumps(selector))._repr_html_()


def _text(fragment):
    """What is read of an HTML fragment."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", fragment)))
