"""The linear datamodeling score and leave-one-out: against refits and correlations by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.svm import LinearSVC

from skinfluence import HeldOut, fidelity, influence_scores
from skinfluence._bootstrap import Bootstrap, _spearman
from skinfluence.fidelity import leave_one_out_correlation, linear_datamodeling_score
from skinfluence.methods._refit import LeaveOneOut
from skinfluence.models import as_model
from skinfluence.objectives import Joint, Utility
from skinfluence.operators import TrainingProblem


@pytest.fixture(scope="module")
def fitted():
    """A classifier, its rows and validation rows."""
    X, y = make_classification(120, 4, random_state=0)
    return LogisticRegression(tol=1e-8).fit(X[:60], y[:60]), X[:60], y[:60], X[60:], y[60:]


@pytest.fixture(scope="module")
def exact(fitted):
    return influence_scores(*fitted, method="exact")


def lds(fitted, scores, n_subsets=20, random_state=0, n_resamples=50, **options):
    estimator, X, y, X_val, y_val = fitted
    return linear_datamodeling_score(
        estimator, X, y, scores, X_val, y_val, n_subsets=n_subsets, random_state=random_state,
        n_resamples=n_resamples, **options,
    )  # fmt: skip


def subsets_of(fitted, n_subsets=20, kept_share=0.5):
    """The subsets that `lds` draws with seed 0."""
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3])
    return fidelity._subsets(problem, kept_share, n_subsets, np.random.RandomState(0).randint(np.iinfo(np.int32).max))


def row_losses(estimator, X_val, y_val):
    return -np.log(estimator.predict_proba(X_val)[np.arange(len(y_val)), y_val])


# --- the score --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_share", [0.5, 0.8])
def test_it_correlates_kept_scores_with_minus_the_objective_of_refits(fitted, exact, kept_share):
    estimator, X, y, X_val, y_val = fitted
    found = lds(fitted, exact, kept_share=kept_share)
    kept = subsets_of(fitted, kept_share=kept_share)
    assert (kept.sum(axis=1) == 60 * kept_share).all()
    assert len(np.unique(kept, axis=0)) == 20
    objective = np.array([row_losses(clone(estimator).fit(X[S], y[S]), X_val, y_val).mean() for S in kept])
    assert_allclose(found.actual, objective - row_losses(estimator, X_val, y_val).mean(), rtol=1e-3, atol=1e-6)
    assert_allclose(found.predicted, [exact[~S].sum() for S in kept], rtol=1e-9, atol=1e-12)
    assert_allclose(found.score, spearmanr(kept @ exact, -objective).statistic, rtol=1e-9)
    assert found.score > 0.7
    assert found.score_by_row is None
    low, high = found.confidence_interval
    assert -1 <= low <= found.score <= high <= 1
    assert_allclose(lds(fitted, -exact, kept_share=kept_share).score, -found.score, rtol=1e-9)


def test_it_tells_methods_apart(fitted, exact):
    random = np.random.RandomState(0).standard_normal(60)
    scores = [lds(fitted, s, n_subsets=60).score for s in (exact, influence_scores(*fitted, method="ip"), random)]
    assert scores[0] > scores[1] > scores[2]
    assert abs(scores[2]) < 0.4


def test_scores_of_each_validation_row_are_judged_row_by_row(fitted):
    estimator, X, y, X_val, y_val = fitted
    blocks = list(influence_scores(*fitted, method="exact", per_validation_row=True))
    matrix = np.vstack(blocks)
    found = lds(fitted, matrix)
    kept = subsets_of(fitted)
    losses = np.column_stack([row_losses(clone(estimator).fit(X[S], y[S]), X_val, y_val) for S in kept])
    assert_allclose(found.actual, losses - row_losses(estimator, X_val, y_val)[:, None], rtol=1e-2, atol=1e-5)
    expected = [spearmanr(kept @ scores, -loss).statistic for scores, loss in zip(matrix, losses, strict=True)]
    assert_allclose(found.score_by_row, expected, atol=1e-2)
    assert_allclose(found.score, np.mean(found.score_by_row), rtol=1e-12)
    assert found.score > 0.8
    streamed = lds(fitted, iter([matrix[:7], matrix[7:]]))
    assert_allclose(streamed.predicted, found.predicted, rtol=1e-9, atol=1e-13)
    assert_allclose(streamed.score, found.score, rtol=1e-9)


def test_validation_rows_count_by_their_weight(fitted):
    estimator, X, y, X_val, y_val = fitted
    weight = np.arange(60) % 3.0
    held_out = HeldOut(X_val, y_val, sample_weight=weight)
    matrix = np.vstack(list(influence_scores(estimator, X, y, held_out, method="exact", per_validation_row=True)))
    found = linear_datamodeling_score(
        estimator, X, y, matrix, held_out, n_subsets=12, random_state=0, n_resamples=20
    )  # fmt: skip
    assert_allclose(found.score, np.average(found.score_by_row, weights=weight))
    # A row of weight zero has scores of zero, which predict nothing; it counts for nothing either.
    assert_array_equal(found.score_by_row[weight == 0], 0)
    assert (found.score_by_row[weight > 0] != 0).all()


def test_rows_whose_loss_never_changes_count_as_nothing():
    X, y = make_classification(80, 4, class_sep=3.0, random_state=0)
    estimator = LinearSVC().fit(X[:40], y[:40])
    matrix = np.random.RandomState(0).standard_normal((40, 40))
    matrix[0] = 1.0
    found = linear_datamodeling_score(
        estimator, X[:40], y[:40], matrix, X[40:], y[40:], n_subsets=10, random_state=0, n_resamples=20
    )
    flat = np.ptp(found.actual, axis=1) == 0  # beyond the margin in every refit
    assert flat.any()
    assert not flat.all()
    assert_array_equal(found.score_by_row[flat], 0)
    assert found.score_by_row[0] == 0
    assert np.isfinite(found.confidence_interval).all()


def test_weights_are_those_of_training(fitted):
    estimator, X, y, X_val, y_val = fitted
    weight = np.linspace(0.0, 3.0, 60)
    estimator = clone(estimator).fit(X, y, sample_weight=weight)
    scores = influence_scores(estimator, X, y, X_val, y_val, method="exact", sample_weight=weight)
    found = lds((estimator, X, y, X_val, y_val), scores, sample_weight=weight)
    S = subsets_of(fitted)[4]
    refit = clone(estimator).fit(X[S], y[S], sample_weight=weight[S])
    rise = row_losses(refit, X_val, y_val).mean() - row_losses(estimator, X_val, y_val).mean()
    assert_allclose(found.actual[4], rise, rtol=1e-3)


def test_every_subset_has_every_class():
    X, y = make_classification(60, 4, random_state=0)
    y[:] = 0
    y[:3] = 1
    fitted = (LogisticRegression().fit(X, y), X, y, X, y)
    kept = subsets_of(fitted, n_subsets=200)
    assert (kept[:, :3].sum(axis=1) > 0).all()
    assert (kept.sum(axis=1) == 30).all()
    y[3:6] = 2
    y[1:3] = 0
    X, y = X[:40], y[:40]
    with pytest.raises(ValueError, match=r"lacked a class.*kept_share"):
        subsets_of((LogisticRegression().fit(X, y), X, y, X, y), kept_share=0.05)


def test_any_objective_can_be_judged(fitted):
    estimator, X, y, X_val, y_val = fitted
    groups = np.where(X_val[:, 1] > 0, "a", "b")
    options = {"objective": "demographic_parity", "sensitive_features_val": groups}
    scores = influence_scores(estimator, X, y, X_val, y_val, method="exact", **options)
    found = lds(fitted, scores, **options)

    def gap(model):
        P = model.predict_proba(X_val)[:, 1]
        return abs(P[groups == "a"].mean() - P[groups == "b"].mean())

    S = subsets_of(fitted)[0]
    assert_allclose(found.actual[0], gap(clone(estimator).fit(X[S], y[S])) - gap(estimator), rtol=1e-3, atol=1e-6)
    with pytest.raises(TypeError, match="a mean over them"):
        lds(fitted, np.ones((60, 60)) * scores, **options)


# --- draws ------------------------------------------------------------------------------------------------------------


def test_same_answer_for_the_same_seed_and_any_number_of_jobs(fitted, exact):
    estimator = SGDClassifier(loss="log_loss", max_iter=5, tol=None).fit(*fitted[1:3])
    noisy = (estimator, *fitted[1:])
    one, two = lds(noisy, exact, 6), lds(noisy, exact, 6, n_jobs=2)
    assert_array_equal(one.actual, two.actual)
    assert one.confidence_interval == two.confidence_interval
    assert np.abs(one.actual - lds(noisy, exact, 6, random_state=1).actual).max() > 0
    # The first subsets are the same whichever others are drawn.
    assert_array_equal(lds(noisy, exact, 9).actual[:6], one.actual)


class Counting(LinearRegression):
    n_fits = 0

    def fit(self, X, y, sample_weight=None):
        Counting.n_fits += 1
        return super().fit(X, y, sample_weight)


class CountingSGD(SGDClassifier):
    n_fits = 0

    def fit(self, X, y, coef_init=None, intercept_init=None, sample_weight=None):
        CountingSGD.n_fits += 1
        return super().fit(X, y, coef_init, intercept_init, sample_weight)


def test_repeats_are_averaged(fitted, exact):
    estimator = CountingSGD(loss="log_loss", max_iter=5, tol=None).fit(*fitted[1:3])
    noisy = (estimator, *fitted[1:])
    CountingSGD.n_fits = 0
    one = lds(noisy, exact, 6)
    assert CountingSGD.n_fits == 7
    three = lds(noisy, exact, 6, n_repeats=3)
    assert CountingSGD.n_fits == 7 + 3 * 7
    assert np.abs(one.actual - three.actual).max() > 0
    many = lds(noisy, exact, 6, n_repeats=12).actual
    assert np.abs(three.actual - many).mean() < np.abs(one.actual - many).mean()


def test_repeats_without_each_row_are_averaged(fitted, exact):
    estimator = CountingSGD(loss="log_loss", max_iter=5, tol=None).fit(*fitted[1:3])
    given = (estimator, *fitted[1:3], exact, *fitted[3:])
    options = {"n_rows": 5, "random_state": 0, "n_resamples": 10}
    CountingSGD.n_fits = 0
    one = leave_one_out_correlation(*given, **options).actual
    assert CountingSGD.n_fits == 6
    three = leave_one_out_correlation(*given, n_repeats=3, **options).actual
    assert CountingSGD.n_fits == 6 + 3 * 6
    many = leave_one_out_correlation(*given, n_repeats=12, **options).actual
    assert np.abs(three - many).mean() < np.abs(one - many).mean()
    with pytest.raises(ValueError, match="n_repeats"):
        leave_one_out_correlation(*given, n_repeats=0, **options)


def test_what_draws_nothing_is_refitted_once():
    X, y = make_regression(60, 4, noise=5.0, random_state=0)
    estimator = Counting().fit(X[:30], y[:30])
    scores = influence_scores(estimator, X[:30], y[:30], X[30:], y[30:], method="exact")
    Counting.n_fits = 0
    lds((estimator, X[:30], y[:30], X[30:], y[30:]), scores, 5, n_repeats=10)
    assert Counting.n_fits == 6


def test_refits_are_kept_for_other_scores_and_more_subsets(tmp_path, fitted):
    X, y = make_regression(60, 4, noise=5.0, random_state=0)
    estimator = Counting().fit(X[:30], y[:30])
    data = (estimator, X[:30], y[:30], X[30:], y[30:])
    scores = influence_scores(*data, method="exact")
    Counting.n_fits = 0
    one = lds(data, scores, 5, checkpoint_dir=tmp_path)
    assert Counting.n_fits == 6
    other = lds(data, scores**2, 5, checkpoint_dir=tmp_path)
    by_row = lds(data, np.random.RandomState(0).standard_normal((30, 30)), 5, checkpoint_dir=tmp_path)
    assert Counting.n_fits == 6
    assert_array_equal(one.actual, other.actual)
    assert_allclose(by_row.actual.mean(axis=0), one.actual)
    lds(data, scores, 8, checkpoint_dir=tmp_path)
    assert Counting.n_fits == 9
    leave_one_out_correlation(*data[:3], scores, *data[3:], n_rows=4, random_state=0, checkpoint_dir=tmp_path)
    assert Counting.n_fits == 13
    leave_one_out_correlation(*data[:3], scores, *data[3:], random_state=0, checkpoint_dir=tmp_path)
    assert Counting.n_fits == 13 + 26
    with pytest.warns(UserWarning, match="resumes nothing"):
        lds(data, scores, 3, random_state=None, checkpoint_dir=tmp_path)


# --- correlation and interval -----------------------------------------------------------------------------------------


def test_correlations_of_samples_with_ties_are_scipys():
    rng = np.random.RandomState(0)
    a, b = rng.randint(5, size=(4, 30)), rng.standard_normal((4, 30)).argsort(axis=1)
    for counts in (np.ones(30, dtype=int), np.bincount(rng.randint(30, size=30), minlength=30)):
        expected = [spearmanr(np.repeat(x, counts), np.repeat(y, counts)).statistic for x, y in zip(a, b, strict=True)]
        assert_allclose(_spearman(a, b, counts), expected, rtol=1e-10)


def test_the_interval_is_that_of_the_bootstrap():
    rng = np.random.RandomState(0)
    predicted = rng.standard_normal(40)
    actual = predicted + rng.standard_normal(40)
    score, (low, high), _ = Bootstrap(400, 0.9, 0).correlate(predicted, actual, None)
    assert_allclose(score, spearmanr(predicted, actual).statistic)
    samples = [rng.randint(40, size=40) for _ in range(400)]
    expected = np.quantile([spearmanr(predicted[s], actual[s]).statistic for s in samples], [0.05, 0.95])
    assert_allclose([low, high], expected, atol=0.05)
    _, wider, _ = Bootstrap(400, 0.99, 0).correlate(predicted, actual, None)
    assert wider[0] < low < high < wider[1]


def test_the_interval_of_many_rows_is_over_rows_too():
    """Rows that differ in how well they are predicted leave doubt that more subsets do not take away."""
    rng = np.random.RandomState(0)
    actual = rng.standard_normal((6, 2000))
    predicted = actual * np.array([1, 1, 1, -1, 1, -1])[:, None] + 0.1 * rng.standard_normal((6, 2000))
    _, (low, high), each = Bootstrap(200, 0.9, 0).correlate(predicted, actual, None)
    assert high - low > 0.5
    assert np.ptp(each) > 1.9
    _, (low, high), _ = Bootstrap(200, 0.9, 0).correlate(predicted[0], actual[0], None)
    assert high - low < 0.05


# --- leave-one-out ----------------------------------------------------------------------------------------------------


def test_leave_one_out_is_the_method(fitted, exact):
    estimator, X, y, X_val, y_val = fitted
    found = leave_one_out_correlation(estimator, X, y, exact, X_val, y_val, random_state=0, n_resamples=50)
    truth = influence_scores(estimator, X, y, X_val, y_val, method=LeaveOneOut(), random_state=0)
    assert_allclose(found.actual, truth, rtol=1e-2, atol=1e-7)
    assert_array_equal(found.predicted, exact)
    assert_allclose(found.score, spearmanr(exact, truth).statistic, atol=1e-3)
    assert found.score > 0.9
    assert found.confidence_interval[0] <= found.score <= found.confidence_interval[1]
    assert leave_one_out_correlation(estimator, X, y, -exact, X_val, y_val, random_state=0, n_rows=20).score < -0.7


def test_leave_one_out_of_some_rows(fitted, exact):
    estimator, X, y, X_val, y_val = fitted
    everything = leave_one_out_correlation(estimator, X, y, exact, X_val, y_val, random_state=0, n_resamples=10)
    some = leave_one_out_correlation(estimator, X, y, exact, X_val, y_val, n_rows=15, random_state=0, n_resamples=10)
    assert some.predicted.shape == (15,)
    at = [np.flatnonzero(exact == score).item() for score in some.predicted]
    assert len(set(at)) == 15
    assert_allclose(some.actual, everything.actual[at], rtol=1e-9)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "error", "words"),
    [
        (np.arange(59.0), ValueError, r"n_samples=60; got \(59,\)"),
        (np.ones((60, 3)), ValueError, r"n_samples=60; got \(60, 3\)"),
        (np.random.RandomState(0).rand(7, 60), ValueError, "one row for each of 60 validation rows, got 7"),
        (iter([]), ValueError, "one row for each of 60 validation rows, got 0"),
        (np.random.RandomState(0).rand(2, 2, 60), ValueError, "scores must have shape"),
        (np.r_[np.nan, np.arange(59.0)], ValueError, "scores must be finite"),
        (np.ones(60), ValueError, "all of them alike"),
    ],
)
def test_bad_scores_are_refused_before_any_refit(fitted, monkeypatch, scores, error, words):
    monkeypatch.setattr(fidelity.Refit, "model", lambda *_: pytest.fail("refitted"))
    with pytest.raises(error, match=words):
        lds(fitted, scores)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_subsets": 2}, ValueError, "n_subsets"),
        ({"kept_share": 1.0}, ValueError, "kept_share"),
        ({"kept_share": 0}, ValueError, "kept_share"),
        ({"n_repeats": 0}, ValueError, "n_repeats"),
        ({"n_resamples": 0}, ValueError, "n_resamples"),
        ({"confidence_level": 1.0}, ValueError, "confidence_level"),
        ({"objective": "accuracy"}, ValueError, "objective must be one of"),
        ({"objective": Joint(["utility", "robustness"])}, TypeError, "Give its parts"),
        ({"sensitive_features": ["a"] * 60}, ValueError, "uses no sensitive features"),
        ({"checkpoint_dir": 1}, TypeError, "checkpoint_dir"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused(fitted, exact, options, error, words):
    with pytest.raises(error, match=words):
        lds(fitted, exact, **options)


def test_leave_one_out_refuses_what_it_cannot_do(fitted, exact):
    estimator, X, y, X_val, y_val = fitted
    with pytest.raises(TypeError, match="Give one score a row"):
        leave_one_out_correlation(estimator, X, y, np.random.RandomState(0).rand(60, 60), X_val, y_val)
    for n_rows in (2, 61):
        with pytest.raises(ValueError, match="n_rows"):
            leave_one_out_correlation(estimator, X, y, exact, X_val, y_val, n_rows=n_rows)
    with pytest.raises(TypeError, match="differentiate"):
        linear_datamodeling_score(None, X, y, exact, X_val, y_val)
    X, y = make_regression(20, 3, random_state=0)
    with pytest.raises(ValueError, match="go together"):
        linear_datamodeling_score(Ridge().fit(X, y), X, y, y, X, objective=Utility())
