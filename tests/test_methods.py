"""Methods: identities between them, and each against its dense, slow self."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, Ridge, SGDClassifier
from sklearn.svm import LinearSVC

from skinfluence import HeldOut, influence_scores
from skinfluence.methods import (
    CG,
    IP,
    METHODS,
    Exact,
    GradientMethod,
    IPEnsemble,
    LeaveOneOut,
    SelfTracIn,
    resolve_method,
)
from skinfluence.models import as_model
from skinfluence.objectives import Utility
from skinfluence.operators import TrainingProblem
from skinfluence.preconditioners import CGInverse, ExactInverse, Identity
from skinfluence.snapshots import Dropout, Final


@pytest.fixture(scope="module", params=[2, 3], ids=["binary", "multinomial"])
def fitted(request):
    X, y = make_classification(200, 6, n_informative=4, n_classes=request.param, random_state=0)
    estimator = LogisticRegression(tol=1e-8, max_iter=1000).fit(X[:140], y[:140])
    return estimator, X[:140], y[:140], X[140:], y[140:]


def dense_gradients(problem, params, rows):
    """Row gradients ``(n, p)`` one row at a time."""
    model = problem.fitted.model.at(params)
    D = problem.loss.gradient(model.outputs(rows.X), rows.y)
    return np.array([model.vjp(rows.X[[i]], D[[i]]) for i in range(len(rows))])


# Held to all subsets in test_refit_methods.py: by default they are thousands of refits.
SAMPLED = {"data_shapley", "beta_shapley"}


@pytest.mark.parametrize("name", sorted(set(METHODS) - SAMPLED))
def test_names_and_objects_give_the_same_scores(fitted, name):
    data = tuple(part[:60] for part in fitted[1:3])
    estimator = clone(fitted[0]).fit(*data)
    by_name = influence_scores(estimator, *data, *fitted[3:], method=name, random_state=0)
    by_object = influence_scores(estimator, *data, *fitted[3:], method=METHODS[name](), random_state=0)
    assert_allclose(by_name, by_object, rtol=0)
    assert by_name.shape == (60,)
    assert by_name.dtype == np.float64


def test_ip_is_the_inner_product_of_gradients(fitted):
    estimator, X, y, X_val, y_val = fitted
    problem = TrainingProblem(as_model(estimator), X, y)
    J = dense_gradients(problem, problem.params, problem.rows)
    g = dense_gradients(problem, problem.params, problem.other_rows(X_val, y_val)).mean(axis=0)
    assert_allclose(influence_scores(estimator, X, y, X_val, y_val), J @ g / len(y), rtol=1e-10, atol=1e-14)


def test_exact_is_the_dense_answer(fitted):
    estimator, X, y, X_val, y_val = fitted
    problem = TrainingProblem(as_model(estimator), X, y)
    H = problem.hessian(problem.params) @ np.eye(problem.n_params)
    J = dense_gradients(problem, problem.params, problem.rows)
    g = dense_gradients(problem, problem.params, problem.other_rows(X_val, y_val)).mean(axis=0)
    expected = J @ np.linalg.pinv(H, rcond=1e-12) @ g / len(y)
    for method in ("exact", CG(tol=1e-12), GradientMethod(preconditioner=ExactInverse())):
        assert_allclose(influence_scores(estimator, X, y, X_val, y_val, method=method), expected, rtol=1e-6, atol=1e-12)


def test_the_dense_hessian_is_the_operator(fitted):
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3])
    by_products = problem.hessian(problem.params) @ np.eye(problem.n_params)
    assert_allclose(problem.dense_hessian(problem.params), by_products, rtol=1e-10, atol=1e-14)
    assert_allclose(by_products, by_products.T, atol=1e-14)


def test_self_tracin_is_minus_the_squared_gradient_norm(fitted):
    estimator, X, y, *_ = fitted
    problem = TrainingProblem(as_model(estimator), X, y)
    J = dense_gradients(problem, problem.params, problem.rows)
    assert_allclose(influence_scores(estimator, X, y, method="self_tracin"), -(J**2).sum(axis=1) / len(y), rtol=1e-10)


def test_no_dropout_is_ip(fitted):
    ip = influence_scores(*fitted, method="ip")
    for method in (IPEnsemble(dropout=0), GradientMethod(snapshots=Dropout(3, 0.0)), GradientMethod(), IP()):
        assert_allclose(influence_scores(*fitted, method=method, random_state=0), ip, rtol=1e-9, atol=1e-15)


def test_ip_ensemble_is_the_mean_of_ip_at_its_members(fitted):
    estimator, X, y, X_val, y_val = fitted
    problem = TrainingProblem(as_model(estimator), X, y)
    members = Dropout(4, 0.3).draw(problem, np.random.RandomState(7))
    assert_allclose([w for w, _ in members], 0.25)
    expected = np.zeros(len(y))
    for _, params in members:
        g = dense_gradients(problem, params, problem.other_rows(X_val, y_val)).mean(axis=0)
        expected += dense_gradients(problem, params, problem.rows) @ g / len(y) / 4
    method = IPEnsemble(4, 0.3)
    assert_allclose(influence_scores(*fitted, method=method, random_state=7), expected, rtol=1e-9, atol=1e-14)


def test_dropout_is_inverted(fitted):
    """Kept parameters are scaled up, so that a parameter is right on average."""
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3])
    members = np.array([params for _, params in Dropout(4000, 0.2).draw(problem, np.random.RandomState(0))])
    share = (members == 0).mean()
    assert 0.19 < share < 0.21
    assert_allclose(members.mean(axis=0), problem.params, rtol=0.05)
    kept = members[0] != 0
    assert_allclose(members[0][kept], problem.params[kept] / 0.8)


def test_members_are_the_same_whichever_others_are_drawn(fitted):
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3])
    few = Dropout(2, 0.2).draw(problem, np.random.RandomState(0))
    many = Dropout(5, 0.2).draw(problem, np.random.RandomState(0))
    assert_allclose(few[1][1], many[1][1], rtol=0)


def test_members_are_a_sequence_and_each_is_made_once(fitted, monkeypatch):
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3], None)
    members = Dropout(4, 0.3).draw(problem, np.random.RandomState(7))
    assert len(members) == 4
    for found, wanted in zip(members[1:3], list(members)[1:3], strict=True):
        assert found[0] == wanted[0] == 0.25
        assert_allclose(found[1], wanted[1])
    assert_allclose(members[-1][1], list(members)[-1][1])
    made, own = [], type(members).__getitem__
    monkeypatch.setattr(type(members), "__getitem__", lambda self, at: made.append(at) or own(self, at))
    influence_scores(*fitted, method=GradientMethod(Dropout(3), ExactInverse()), random_state=0)
    assert made == [0, 1, 2, 3]  # the last ends it


def test_a_kind_of_identity_is_asked_at_each_snapshot(fitted):
    class Scaled(Identity):
        def at(self, problem, params):
            asked.append(params)
            return lambda g: g * 2, {}

    asked = []
    scores = influence_scores(*fitted, method=GradientMethod(Dropout(3, 0.5), Scaled()), random_state=0)
    assert len(asked) == 3
    assert not np.array_equal(asked[0], asked[1])
    assert_allclose(scores, 2 * influence_scores(*fitted, method=IPEnsemble(3, dropout=0.5), random_state=0), rtol=1e-6)


def test_snapshots_must_be_some(fitted):
    class Nothing(Final):
        def draw(self, problem, random_state, n_jobs=None):
            return []

    with pytest.raises(ValueError, match=r"Nothing\(\) drew no snapshot"):
        influence_scores(*fitted, method=GradientMethod(Nothing()))


@pytest.mark.parametrize("method", ["ip_ensemble", "exact", GradientMethod(Dropout(3), CGInverse(tol=1e-12))], ids=str)
def test_same_scores_for_any_jobs_and_memory(fitted, method):
    estimator, X, y, X_val, y_val = fitted
    X, y = np.tile(X, (60, 1)), np.tile(y, 60)
    one = influence_scores(estimator, X, y, X_val, y_val, method=method, random_state=3)
    two = influence_scores(estimator, X, y, X_val, y_val, method=method, random_state=3, n_jobs=2)
    assert_allclose(one, two, rtol=0)
    with config_context(working_memory=1):
        tight = influence_scores(estimator, X, y, X_val, y_val, method=method, random_state=3)
    assert_allclose(tight, one, rtol=1e-7, atol=1e-12 * np.abs(one).max())


def test_leave_one_out_is_a_refit_without_the_row(fitted):
    estimator, X, y, X_val, y_val = fitted
    estimator = clone(estimator).fit(X[:40], y[:40])
    scores = influence_scores(estimator, X[:40], y[:40], X_val, y_val, method="leave_one_out", n_jobs=2)

    def objective(model):
        P = model.predict_proba(X_val)
        return -np.log(P[np.arange(len(y_val)), y_val]).mean()

    for i in (0, 17, 39):
        keep = np.delete(np.arange(40), i)
        refit = clone(estimator).fit(X[keep], y[keep])
        assert_allclose(scores[i], objective(refit) - objective(estimator), rtol=1e-6, atol=1e-10)


def test_leave_one_out_of_a_class_with_one_row_says_so():
    X, y = np.arange(12.0).reshape(-1, 1), np.array([0] * 11 + [1])
    estimator = LogisticRegression().fit(X, y)
    with pytest.raises(ValueError, match=r"two rows of each class; \[1\]"):
        influence_scores(estimator, X, y, method="leave_one_out")


def test_per_validation_row_averages_to_the_scores(fitted):
    estimator, X, y, X_val, y_val = fitted
    weight = np.linspace(0.5, 2, len(y_val))
    for method in ("ip", "exact", IPEnsemble(3, 0.2)):
        for held_out in (HeldOut(X_val, y_val), HeldOut(X_val, y_val, sample_weight=weight)):
            scores = influence_scores(estimator, X, y, held_out, method=method, random_state=0)
            with config_context(working_memory=0.05):
                blocks = list(
                    influence_scores(estimator, X, y, held_out, method=method, random_state=0, per_validation_row=True)
                )
            assert len(blocks) > 1
            matrix = np.vstack(blocks)
            assert matrix.shape == (len(y_val), len(y))
            assert_allclose(matrix.mean(axis=0), scores, rtol=1e-8, atol=1e-13)


def test_per_validation_row_is_the_score_against_that_row_alone(fitted):
    estimator, X, y, X_val, y_val = fitted
    matrix = np.vstack(
        list(influence_scores(estimator, sp.csr_array(X), y, sp.csr_array(X_val), y_val, per_validation_row=True))
    )
    for v in (0, 11):
        alone = influence_scores(estimator, X, y, X_val[[v]], y_val[[v]])
        assert_allclose(matrix[v], alone, rtol=1e-9, atol=1e-14)


def test_per_validation_row_needs_a_gradient_method(fitted):
    with pytest.raises(TypeError, match="gradient method"):
        influence_scores(*fitted, method="self_tracin", per_validation_row=True)


def test_singular_hessians_give_the_minimum_norm_answer():
    """A repeated column leaves the unpenalised fit undetermined; predictions, and so influence on them, are not."""
    X, y = make_regression(80, 4, noise=5.0, random_state=0)
    doubled = np.column_stack([X, X[:, 0]])
    plain = influence_scores(LinearRegression().fit(X, y), X, y, X[:20], y[:20], method="exact")
    for method in ("exact", CG(tol=1e-12)):
        estimator = LinearRegression().fit(doubled, y)
        assert_allclose(influence_scores(estimator, doubled, y, doubled[:20], y[:20], method=method), plain, rtol=1e-6)


def test_what_the_solver_did_is_reported(fitted):
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3])
    _, report = ExactInverse(damping=0.5).at(problem, problem.params)
    assert report == {"solver": "cholesky", "damping": 0.5, "rank": problem.n_params}
    X, y = make_regression(30, 4, random_state=0)
    singular = TrainingProblem(as_model(LinearRegression().fit(np.hstack([X, X]), y)), np.hstack([X, X]), y)
    _, report = ExactInverse().at(singular, singular.params)
    assert report == {"solver": "eigh", "damping": 0.0, "rank": 5}
    solve, report = CGInverse(tol=1e-7).at(problem, problem.params)
    solve(np.ones(problem.n_params) if problem.fitted.model.n_outputs == 1 else problem.gradient(0 * problem.params))
    assert report["solver"] == "cg"
    assert 0 < report["residual"] <= 1e-7
    assert report["n_iter"] > 0


@pytest.mark.parametrize("inverse", [ExactInverse, CGInverse])
def test_damping_is_added_to_the_hessian(inverse, fitted):
    problem = TrainingProblem(as_model(fitted[0]), *fitted[1:3])
    g = problem.gradient(np.zeros(problem.n_params))
    solve, _ = inverse(0.3).at(problem, problem.params)
    H = problem.hessian(problem.params) @ np.eye(problem.n_params)
    assert_allclose(solve(g), np.linalg.solve(H + 0.3 * np.eye(problem.n_params), g), rtol=1e-4, atol=1e-8)
    many = np.column_stack([g, 2 * g])
    assert_allclose(solve(many)[:, 1], 2 * solve(g), rtol=1e-6, atol=1e-12)


def test_large_multinomial_problems_go_matrix_free_and_agree(monkeypatch):
    rng = np.random.RandomState(0)
    X = rng.standard_normal((400, 30))
    y = (X[:, :8] + rng.gumbel(size=(400, 8))).argmax(axis=1)
    estimator = LogisticRegression(C=0.1, max_iter=500).fit(X, y)
    problem = TrainingProblem(as_model(estimator), X, y)
    g = problem.gradient(np.zeros(problem.n_params))
    dense, report = ExactInverse().at(problem, problem.params)
    assert report["solver"] == "eigh"  # the intercepts' common shift makes it singular
    assert report["rank"] == problem.n_params - 1
    monkeypatch.setattr("skinfluence.preconditioners.exact._MOST_GRAM_COLUMNS", 100)
    free, report = ExactInverse().at(problem, problem.params)
    assert report["solver"] == "cg"
    assert_allclose(free(g), dense(g), rtol=1e-4, atol=1e-5 * np.abs(dense(g)).max())


def test_an_indefinite_hessian_is_damped_or_refused():
    """Identity-link Tweedie models have no convex loss; "auto" finds a damping, a number too small is an error."""
    from sklearn.linear_model import TweedieRegressor

    rng = np.random.RandomState(0)
    X, y = rng.uniform(size=(50, 2)), rng.uniform(1, 3, size=50)
    estimator = TweedieRegressor(power=0, link="identity", alpha=0).fit(X, y)
    estimator.power, estimator.coef_, estimator.intercept_ = 3.0, np.array([0.1, 0.1]), 6.0
    elsewhere = pytest.warns(ConvergenceWarning, match="not at a minimum")
    with elsewhere, pytest.warns(ConvergenceWarning, match="negative curvature"):
        assert np.isfinite(influence_scores(estimator, X, y, X, y, method="exact")).all()
    with elsewhere:
        assert np.isfinite(influence_scores(estimator, X, y, X, y, method="cg")).all()
    estimator.alpha = 1e-6
    with elsewhere, pytest.warns(ConvergenceWarning, match="negative curvature"):
        assert np.isfinite(influence_scores(estimator, X, y, X, y, method="cg")).all()
    for method in (Exact(damping=1e-9), CG(damping=1e-9)):
        with elsewhere, pytest.raises(ValueError, match="not positive definite"):
            influence_scores(estimator, X, y, X, y, method=method)


@pytest.mark.parametrize("method", ["exact", "cg", "lissa", "arnoldi", "ekfac"])
def test_influence_away_from_the_minimum_warns(method):
    X, y = make_classification(300, random_state=0)
    X *= np.logspace(0, 2, X.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        stopped = LogisticRegression(max_iter=3).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="LogisticRegression is not at a minimum .* norm .* more iterations"):
        influence_scores(stopped, X, y, method=method)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        LogisticRegression(C=1e4, max_iter=10_000),
        SGDClassifier("log_loss", alpha=0.01, random_state=0),
        LinearSVC(random_state=0),
        Ridge(alpha=1e-10),  # interpolates: every gradient is a rounding error
    ],
    ids=str,
)
def test_influence_at_a_minimum_does_not_warn(estimator):
    X, y = make_classification(15 if isinstance(estimator, Ridge) else 300, random_state=0)
    assert np.isfinite(influence_scores(estimator.fit(X, y), X, y, method="exact")).all()


def test_cg_that_stops_early_warns(fitted):
    with pytest.warns(ConvergenceWarning, match="relative residual"):
        influence_scores(*fitted, method=CG(max_iter=1, tol=1e-12))


@pytest.mark.parametrize("method", ["exact", "cg"])
def test_losses_without_second_derivative_are_refused(method):
    X, y = make_classification(60, random_state=0)
    with pytest.raises(TypeError, match=r"Perceptron has none .* 'ip', 'ip_ensemble', 'self_tracin', 'leave_one_out'"):
        influence_scores(Perceptron().fit(X, y), X, y, method=method)


@pytest.mark.parametrize(
    ("method", "error", "words"),
    [
        ("ipp", ValueError, "method must be one of"),
        (3, TypeError, "method must be one of"),
        (Exact(damping="some"), ValueError, "damping must be 'auto' or a number"),
        (Exact(damping=-1.0), ValueError, "damping"),
        (IPEnsemble(n_members=0), ValueError, "n_members"),
        (IPEnsemble(dropout=1.0), ValueError, "dropout"),
        (CG(tol=0.0), ValueError, "tol"),
        (CG(max_iter=0), ValueError, "max_iter"),
    ],
    ids=str,
)
def test_bad_methods_are_refused(fitted, method, error, words):
    with pytest.raises(error, match=words):
        influence_scores(*fitted, method=method)


@pytest.mark.parametrize(
    "method", [IP(), IPEnsemble(), Exact(), CG(), SelfTracIn(), LeaveOneOut(), GradientMethod()], ids=str
)
def test_methods_are_parameters_like_any_other(method):
    assert str(clone(method)) == str(method)
    assert resolve_method(method) is method
    for name, value in method.get_params().items():
        assert getattr(clone(method).set_params(**{name: value}), name) == value


def test_named_methods_are_lines_of_one_table(fitted):
    for name, snapshots, preconditioner in [
        ("ip", Final, Identity),
        ("ip_ensemble", Dropout, Identity),
        ("exact", Final, ExactInverse),
        ("cg", Final, CGInverse),
    ]:
        parts = METHODS[name]().parts()
        assert (type(parts[0]), type(parts[1])) == (snapshots, preconditioner)


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_beside_x_stays_small(order):
    """Blocks, not tables, and none of them copied: 16 MiB with the scores of a million rows."""
    import tracemalloc

    rng = np.random.RandomState(0)
    X = np.asarray(rng.standard_normal((400_000, 10)), order=order)
    y = (X[:, 0] + rng.standard_normal(400_000) > 0).astype(int)
    estimator = LogisticRegression().fit(X[:1000], y[:1000])
    beside = {}
    for method in ("ip", "ip_ensemble", "self_tracin", "exact"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tracemalloc.start()
            scores = influence_scores(estimator, X, y, X[:500], y[:500], method=method, random_state=0)
            beside[method] = tracemalloc.get_traced_memory()[1] - scores.nbytes
            tracemalloc.stop()
    assert max(beside.values()) < 6 * 2**20, beside


def test_regression_scores_follow_the_same_formula():
    X, y = make_regression(60, 3, n_targets=2, noise=3, random_state=0)
    estimator = Ridge(alpha=2.0).fit(X, y)
    problem = TrainingProblem(as_model(estimator), X, y)
    residual = estimator.predict(X) - y
    J = np.hstack([residual[:, [k]] * np.column_stack([X, np.ones(60)]) for k in range(2)])
    g = J[:20].mean(axis=0)
    assert_allclose(influence_scores(estimator, X, y, X[:20], y[:20]), J @ g / 60, rtol=1e-9)
    H = problem.dense_hessian(problem.params)
    assert_allclose(
        influence_scores(estimator, X, y, X[:20], y[:20], method="exact"), J @ np.linalg.solve(H, g) / 60, rtol=1e-8
    )


def test_utility_losses_are_what_they_say(fitted):
    estimator, X, y, X_val, y_val = fitted
    P = estimator.predict_proba(X_val)[np.arange(len(y_val)), y_val]
    problem = TrainingProblem(as_model(estimator), X, y)
    rows = problem.other_rows(X_val, y_val)
    values = {
        loss: Utility(loss).bind(problem, rows, trusted=True).value(problem.fitted.model)
        for loss in ("log_loss", "mae", "gce", "auto")
    }
    assert_allclose(values["log_loss"], -np.log(P).mean())
    assert_allclose(values["mae"], (1 - P).mean())
    assert_allclose(values["gce"], ((1 - P**0.7) / 0.7).mean())
    assert values["auto"] == values["log_loss"]
    untrusted = Utility().bind(problem, rows, trusted=False)
    assert_allclose(untrusted.value(problem.fitted.model), values["mae"])
