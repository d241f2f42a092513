"""The preconditioners' own algebra on small matrices that are known: solves, eigenvalues, thresholds, reports."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import scipy.fft
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
)

from skinfluence.models import as_model
from skinfluence.operators import TrainingProblem
from skinfluence.preconditioners import (
    ArnoldiInverse,
    CGInverse,
    DataInfInverse,
    EKFACInverse,
    ExactInverse,
    Identity,
    LiSSAInverse,
    ProjectedFisher,
    arnoldi,
    cg,
    datainf,
    ekfac,
    exact,
    lissa,
    projected_fisher,
)
from skinfluence.preconditioners._base import on_free, require_room
from skinfluence.preconditioners._passes import LayerPasses
from skinfluence.preconditioners._series import Series
from skinfluence.preconditioners._spectrum import extreme_eigenvalues

N = 60


def matrix(values, seed=0):
    """A symmetric matrix of these eigenvalues."""
    Q, _ = np.linalg.qr(np.random.RandomState(seed).standard_normal((len(values), len(values))))
    return (Q * np.asarray(values, dtype=float)) @ Q.T


def make(kind, weighted=False):
    rng = np.random.RandomState(1)
    X = rng.standard_normal((N, 3)) * [1.0, 2.0, 0.5]
    noisy = X @ [1.0, -1.0, 2.0] + 2 * rng.standard_normal(N)
    weight = rng.uniform(0.5, 2, N) if weighted else None
    if kind in ("ridge", "ordinary", "lasso"):
        y = noisy
        estimator = {"ridge": Ridge(3.0), "ordinary": LinearRegression(), "lasso": Lasso(1.2, tol=1e-12)}[kind]
    else:
        y = np.digitize(noisy, [0.0] if kind == "binary" else [-2.0, 2.0])
        estimator = LogisticRegression(tol=1e-12, max_iter=1000)
    estimator.fit(X, y, sample_weight=weight)
    return TrainingProblem(as_model(estimator), X, y, weight)


def gradients(problem):
    """Each row's own ``(n, p)``, not weighted."""
    model, rows = problem.fitted.model, problem.rows
    D = problem.loss.gradient(model.outputs(rows.X), rows.y)
    return np.array([model.vjp(rows.X[[i]], D[[i]]) for i in range(len(rows))])


def shares(problem):
    weight = np.ones(N) if problem.rows.weight is None else problem.rows.weight
    return weight / weight.sum()


KINDS = ["ridge", "binary", "multinomial", "lasso"]
problems = pytest.mark.parametrize(("kind", "weighted"), [(k, w) for k in KINDS for w in (False, True)])


def padded_inverse(problem, A):
    """The inverse of a matrix of all parameters on those that move, zero elsewhere."""
    out = np.zeros_like(A)
    free = np.ix_(problem.free, problem.free)
    out[free] = np.linalg.pinv(A[free], rcond=1e-11)
    return out


# --- all of them ------------------------------------------------------------------------------------------------------


@problems
@pytest.mark.parametrize(
    "inverse",
    [ExactInverse(), ExactInverse(damping=0.3), CGInverse(tol=1e-10), CGInverse(damping=0.3, tol=1e-10),
     LiSSAInverse(tol=1e-9, depth=20_000), LiSSAInverse(damping=0.3, tol=1e-9, depth=5_000)],
    ids=lambda inverse: repr(inverse)[:24],
)  # fmt: skip
def test_inverse_hessians_are_the_dense_ones(kind, weighted, inverse):
    problem = make(kind, weighted)
    p = problem.n_params
    damping = 0.0 if inverse.damping == "auto" else inverse.damping
    expected = padded_inverse(problem, problem.dense_hessian(problem.params) + damping * np.eye(p))
    solve, report = inverse.at(problem, problem.params)
    G = np.random.RandomState(0).standard_normal((p, 3))
    if kind == "multinomial" and damping == 0.0:  # a shift that all intercepts share has no curvature
        G[3::4] -= G[3::4].mean(axis=0)
    scale = np.abs(expected).max()
    assert_allclose(solve(G), expected @ G, atol=1e-5 * scale)
    assert_allclose(solve(G[:, 0]), expected @ G[:, 0], atol=1e-5 * scale)
    assert_array_equal(solve(G[:, 0])[~problem.free], 0)
    assert report["damping"] == damping


def test_the_identity_moves_what_is_free():
    problem = make("lasso")
    solve, report = Identity().at(problem, problem.params)
    g = np.arange(1.0, 5.0)
    assert_array_equal(solve(g), g * problem.free)
    assert report == {}
    assert not problem.free.all()


def test_a_solve_on_what_is_free():
    def double(g):
        return 2 * g

    assert on_free(np.array([True, True]), double) is double
    restricted = on_free(np.array([True, False, True]), double)
    assert_array_equal(restricted(np.array([1.0, 5.0, 3.0])), [2, 0, 6])
    assert_array_equal(restricted(np.ones((3, 2))), [[2, 2], [0, 0], [2, 2]])


def test_where_no_parameter_can_move_nothing_does():
    X, y = np.random.RandomState(0).standard_normal((N, 3)), np.arange(N) / N
    problem = TrainingProblem(as_model(Lasso(1e3, fit_intercept=False).fit(X, y)), X, y)
    assert not problem.free.any()
    for inverse in (Identity(), ExactInverse(), CGInverse(), LiSSAInverse(), LiSSAInverse(batch_size=5),
                    ArnoldiInverse(), DataInfInverse(), EKFACInverse(), ProjectedFisher()):  # fmt: skip
        solve, report = inverse.at(problem, problem.params)
        assert_array_equal(solve(np.arange(1.0, 4.0)), np.zeros(3))
        assert_array_equal(solve(np.ones((3, 2))), np.zeros((3, 2)))
        assert report.get("rank", 0) == 0
        assert report.get("n_projections", 0) == 0
    assert ProjectedFisher(damping=0.3).at(problem, problem.params)[1]["damping"] == 0.3
    with pytest.raises(ValueError, match="damping"):
        ProjectedFisher(damping=-1.0).at(problem, problem.params)


# --- exact ------------------------------------------------------------------------------------------------------------


def test_cholesky_solves_or_gives_up():
    A, g = matrix([1.0, 2.0, 5.0]), np.array([1.0, 2.0, 3.0])
    solve = exact._cholesky(A, 0.5)
    assert_allclose(solve(g), np.linalg.solve(A + 0.5 * np.eye(3), g))
    assert solve(g).shape == (3,)
    assert_allclose(solve(np.eye(3)), np.linalg.inv(A + 0.5 * np.eye(3)))
    assert exact._cholesky(matrix([-1.0, 2.0, 5.0]), 0.5) is None
    assert exact._cholesky(matrix([-1.0, 2.0, 5.0]), 1.5) is not None
    # Of condition 1 / (10 p eps) and beyond it is singular.
    edge = 30 * np.finfo(float).eps
    assert exact._cholesky(np.diag([1.0, 1.0, edge * 1.2]), 0.0) is not None
    assert exact._cholesky(np.diag([1.0, 1.0, edge * 0.8]), 0.0) is None
    assert_array_equal(exact._cholesky(np.zeros((0, 0)), 0.0)(np.zeros(0)), [])
    before = A.copy()
    exact._cholesky(A, 1.0)
    assert_array_equal(A, before)


def test_pseudo_inverses_leave_out_what_is_zero():
    A, report = matrix([0.0, 1e-9, 2.0, 4.0]), {}
    solve = exact._pseudo_inverse(A, 0.0, 1e-10, automatic=True, report=report)  # 10 x 1e-10 x 4 = 4e-9 is zero
    expected = np.linalg.pinv(A, rcond=1e-8)
    assert_allclose(solve(np.eye(4)), expected, atol=1e-12)
    assert_allclose(solve(np.eye(4)[0]), expected[0], atol=1e-12)
    assert report == {"solver": "eigh", "rank": 2}
    solve = exact._pseudo_inverse(A, 0.0, 1e-11, automatic=True, report=report)  # 4e-10 is not
    assert report["rank"] == 3
    exact._pseudo_inverse(matrix([0.0, 4.2e-9, 2.0, 4.0]), 0.0, 1e-10, automatic=True, report=report)  # nor is this
    assert report["rank"] == 3
    exact._pseudo_inverse(A, 0.5, 1e-10, automatic=True, report=report)
    assert report["rank"] == 4


def test_pseudo_inverses_of_negative_curvature():
    A, report = matrix([-2.0, 1.0, 3.0]), {}
    with pytest.warns(ConvergenceWarning, match=r"negative curvature; 2.2 was added"):
        solve = exact._pseudo_inverse(A, 0.0, 1e-12, automatic=True, report=report)
    assert_allclose(report["damping"], 2.2)
    assert_allclose(solve(np.eye(3)), np.linalg.inv(A + 2.2 * np.eye(3)), atol=1e-12)
    with pytest.raises(ValueError, match=r"H \+ 1 I is not positive definite: its smallest eigenvalue is -1\."):
        exact._pseudo_inverse(A, 1.0, 1e-12, automatic=False, report=report)
    exact._pseudo_inverse(matrix([-1e-12, 1.0, 3.0]), 0.0, 1e-12, automatic=False, report=report)  # that is zero
    with pytest.raises(ValueError, match="not positive definite"):
        exact._pseudo_inverse(matrix([-1e-10, 1.0, 3.0]), 0.0, 1e-12, automatic=False, report=report)


def test_exact_reports_what_it_did():
    solved = {kind: ExactInverse().at(make(kind), make(kind).params)[1] for kind in KINDS}
    assert solved["ridge"] == {"solver": "cholesky", "damping": 0.0, "rank": 4}
    assert solved["lasso"]["rank"] == make("lasso").free.sum()
    assert solved["multinomial"]["solver"] == "eigh"
    assert solved["multinomial"]["rank"] == 11  # of twelve, the shared shift of the intercepts has none


class Sized:
    """A problem of which the sizes alone are asked."""

    def __init__(self, p, curvature="gauss_newton", model=None):
        self.n_params = p
        self.fitted = replace(make("ridge").fitted, curvature=curvature, model=model)


def test_what_is_small_enough_to_be_dense(monkeypatch):
    assert exact._is_small(Sized(4096))
    assert not exact._is_small(Sized(4097))
    assert exact._is_small(Sized(512, "hessian"))
    assert not exact._is_small(Sized(513, "hessian"))
    linear = make("multinomial").fitted.model
    for width, K, small in [(600, 3, True), (601, 3, False), (1200, 1, True), (1201, 1, False), (100, 23, True)]:
        model = type(linear)(np.zeros(width * K), n_features=width, n_outputs=K, fit_intercept=False)
        assert exact._is_small(Sized(width * K, model=model)) == small
    wide = type(linear)(np.zeros(4097), n_features=1, n_outputs=4097, fit_intercept=False)
    assert not exact._is_small(Sized(4097, model=wide))
    monkeypatch.setattr(exact, "_MOST_GRAM_COLUMNS", 1)
    problem = make("multinomial")
    solve, report = ExactInverse(damping=0.2).at(problem, problem.params)
    assert report["solver"] == "cg"
    assert report["damping"] == 0.2
    g = np.arange(12.0)
    A = problem.dense_hessian(problem.params) + 0.2 * np.eye(12)
    assert np.linalg.norm(A @ solve(g) - g) < 2e-6 * np.linalg.norm(g)
    assert exact._CG_TOL == 1e-6


def test_a_hessian_that_is_not_finite_is_refused():
    problem = make("ridge")
    problem.dense_hessian = lambda params: np.full((4, 4), np.inf)
    with pytest.raises(ValueError, match="The Hessian is not finite"):
        ExactInverse().at(problem, problem.params)


# --- conjugate gradients ----------------------------------------------------------------------------------------------


def test_conjugate_gradients_end_in_as_many_steps_as_eigenvalues():
    A, g = matrix([1.0, 1.0, 4.0, 9.0, 9.0]), np.arange(1.0, 6.0)
    u, n_iter, residual, least = cg.conjugate_gradients(lambda v: A @ v, g, np.copy, 1e-12, 50)
    assert_allclose(u, np.linalg.solve(A, g))
    assert n_iter == 3
    assert residual <= 1e-12
    assert 1.0 - 1e-9 <= least <= 9.0
    u, n_iter, residual, _ = cg.conjugate_gradients(lambda v: A @ v, g, np.copy, 1e-12, 2)
    assert n_iter == 2
    assert_allclose(residual, np.linalg.norm(A @ u - g) / np.linalg.norm(g))
    assert residual > 1e-6
    # A first step is one along g to the least of the quadratic.
    u, *_ = cg.conjugate_gradients(lambda v: A @ v, g, np.copy, 1e-12, 1)
    assert_allclose(u, g * (g @ g) / (g @ A @ g))


def test_what_is_zero_is_relative_to_the_matrix():
    """The unit of a Hessian is no matter: one of tiny eigenvalues is solved as it is in another unit."""
    A, g, unit = matrix([1.0, 2.0, 4.0, 9.0]), np.arange(1.0, 5.0), 1e-30
    u, n_iter, _, least = cg.conjugate_gradients(lambda v: unit * (A @ v), g, np.copy, 1e-10, 50)
    assert n_iter == 4
    assert least >= unit * (1 - 1e-9)
    assert_allclose(u * unit, np.linalg.solve(A, g))
    diagonal, off, _ = arnoldi.lanczos(lambda v: unit * (A @ v), 4, 4, np.random.RandomState(0))
    expected = arnoldi.lanczos(lambda v: A @ v, 4, 4, np.random.RandomState(0))
    assert_allclose(diagonal / unit, expected[0])
    assert_allclose(off / unit, expected[1])


def test_a_good_preconditioner_takes_one_step():
    A, g = matrix([1.0, 2.0, 4.0, 9.0]), np.arange(1.0, 5.0)
    u, n_iter, *_ = cg.conjugate_gradients(lambda v: A @ v, g, lambda r: np.linalg.solve(A, r), 1e-10, 50)
    assert n_iter == 1
    assert_allclose(u, np.linalg.solve(A, g))
    # A poor one changes the way and not the end.
    u, *_ = cg.conjugate_gradients(lambda v: A @ v, g, lambda r: r / np.arange(1.0, 5.0), 1e-12, 50)
    assert_allclose(u, np.linalg.solve(A, g))


def test_conjugate_gradients_stop_at_what_is_not_positive():
    g = np.array([1.0, 1.0])
    u, n_iter, residual, least = cg.conjugate_gradients(lambda v: -3.0 * v, g, np.copy, 1e-10, 50)
    assert (n_iter, residual, least) == (1, 1.0, -3.0)
    assert_array_equal(u, 0)
    A = np.diag([2.0, -1.0])
    *_, least = cg.conjugate_gradients(lambda v: A @ v, np.array([3.0, 1.0]), np.copy, 1e-10, 50)
    assert least < 0
    zero = cg.conjugate_gradients(lambda v: 0.0 * v, g, np.copy, 1e-10, 50)
    assert zero[3] == 0.0
    assert zero[1] == 1
    nothing = cg.conjugate_gradients(lambda v: v, np.zeros(2), np.copy, 1e-10, 50)
    assert_array_equal(nothing[0], 0)
    assert nothing[1:] == (0, 0.0, 0.0)


class Curved:
    """A problem whose Hessian is a given matrix, for solvers that take products with it alone."""

    def __init__(self, A, like="ridge"):
        own = make(like)
        vars(self).update(vars(own))
        self.A, self.params = np.asarray(A, dtype=float), own.params[: len(A)]
        self.free = np.ones(len(A), dtype=bool)
        self.n_params = len(A)
        self.fitted = replace(own.fitted, model=None)

    def require_hessian(self, method):
        pass

    def reduced(self, params):
        return params

    def hessian(self, at):
        from scipy.sparse.linalg import aslinearoperator

        return aslinearoperator(self.A)

    def dense_hessian(self, params):
        return self.A


def test_net_damping_is_a_tenth_of_the_mean_eigenvalue():
    A = np.diag([1.0, 2.0, 9.0])  # random signs give its trace exactly
    expected = np.linalg.inv(A + 0.4 * np.eye(3))
    for inverse in (ExactInverse(), CGInverse(tol=1e-12), ArnoldiInverse(random_state=0)):
        solve, report = inverse.at(Curved(A), np.zeros(3))
        assert_allclose(report["damping"], 0.4)
        assert_allclose(solve(np.eye(3)), expected, atol=1e-8)
    solve, report = LiSSAInverse(tol=1e-10, depth=5000).at(Curved(A), np.zeros(3))
    assert_allclose(report["damping"], 0.4)
    # Of few steps more is asked: that the residual comes to a tenth in so many.
    _, report = LiSSAInverse(depth=10).at(Curved(A), np.zeros(3))
    assert_allclose(report["damping"], 9 * (0.1 ** (-1 / 10) - 1), rtol=1e-3)
    assert_allclose(report["scale"], report["top_eigenvalue"] + report["damping"])


def test_a_given_damping_is_left_as_it_is():
    A = np.diag([1.0, 2.0, 9.0])
    for inverse in (ExactInverse(0.5), CGInverse(0.5), ArnoldiInverse(damping=0.5), LiSSAInverse(damping=0.5)):
        solve, report = inverse.at(Curved(A), np.zeros(3))
        assert report["damping"] == 0.5
        assert_allclose(solve(np.ones(3)), 1 / (np.diag(A) + 0.5), rtol=1e-3)


def test_mean_eigenvalues():
    A = np.diag([1.0, 2.0, 9.0, 100.0])
    H = Curved(A).hessian(None)
    assert_allclose(cg.mean_eigenvalue(H, np.ones(4, dtype=bool)), 28.0)
    assert_allclose(cg.mean_eigenvalue(H, np.array([True, True, True, False])), 4.0)
    assert cg.mean_eigenvalue(H, np.zeros(4, dtype=bool)) == 0.0
    B = matrix([1.0, 2.0, 3.0, 4.0])
    assert_allclose(cg.mean_eigenvalue(Curved(B).hessian(None), np.ones(4, dtype=bool)), 2.5, rtol=0.3)


def _solved(inverse, problem, g):
    solve, report = inverse.at(problem, np.zeros(len(g)))
    return solve(g), report


def test_cg_of_negative_curvature_starts_again_with_more_damping():
    A = np.diag([2.0, -1.0, 4.0, 5.0])
    g = np.array([3.0, 1.0, -2.0, 1.0])
    problem = Curved(A)
    # A tenth of the mean eigenvalue, as for every net, leaves a direction of negative curvature.
    solve, report = CGInverse(tol=1e-12).at(problem, np.zeros(4))
    assert_allclose(report["damping"], 0.25)
    *_, least = cg.conjugate_gradients(lambda v: A @ v + 0.25 * v, g, np.copy, 1e-12, 1000)
    assert -0.75 <= least < 0
    added = 0.25 + 10 * abs(least)
    with pytest.warns(ConvergenceWarning, match=rf"has negative curvature; {added:.3g} was added to its diagonal"):
        u = solve(g)
    assert_allclose(report["damping"], added)
    assert_allclose(u, g / (np.diag(A) + added), rtol=1e-10)
    assert report["residual"] > 1e-12  # of the run that stopped, too: the worst is told
    # What was added stays, for all that is solved afterwards: every column by the same matrix, and no second warning.
    assert_allclose(solve(np.eye(4)), np.diag(1 / (np.diag(A) + added)), rtol=1e-10)


def test_cg_adds_damping_until_no_negative_curvature_is_met():
    """A Hessian that shows more of its negative curvature at each start asks for more at each."""
    A = np.diag([100.0, -0.01, -50.0])
    g = np.array([1.0, 1.0, 1e-3])
    with pytest.warns(ConvergenceWarning) as warned:
        u, report = _solved(CGInverse(tol=1e-10), Curved(A), g)
    told = [float(str(w.message).split("; ")[1].split(" was")[0]) for w in warned]
    assert told == sorted(told)
    assert report["damping"] > 50.0
    assert_allclose(u, g / (np.diag(A) + report["damping"]), rtol=1e-8)


def test_a_given_damping_is_not_raised_by_cg():
    A = np.diag([2.0, -1.0, 4.0])
    g = np.array([3.0, 1.0, -2.0])
    solve, report = CGInverse(damping=0.5).at(Curved(A), np.zeros(3))
    *_, least = cg.conjugate_gradients(lambda v: A @ v + 0.5 * v, g, np.copy, 1e-6, 1000)
    with pytest.raises(
        ValueError, match=rf"H \+ 0\.5 I is not positive definite: a direction of curvature {least:.3g} was met\."
    ):
        solve(g)
    assert report["damping"] == 0.5
    u, _ = _solved(CGInverse(damping=1.5, tol=1e-10), Curved(A), g)
    assert_allclose(u, g / (np.diag(A) + 1.5))


def repeated_column(weighted=False):
    """Least squares with a column twice: a Hessian with a direction of no curvature."""
    rng = np.random.RandomState(2)
    X = rng.standard_normal((N, 3))
    X = np.column_stack([X, X[:, 1]])
    y = X[:, 0] + rng.standard_normal(N)
    weight = rng.uniform(0.5, 2, N) if weighted else None
    return TrainingProblem(as_model(LinearRegression().fit(X, y, weight)), X, y, weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("inverse", [ExactInverse(), CGInverse(tol=1e-10)], ids=["exact", "cg"])
def test_a_singular_hessian_is_solved_by_the_shortest_vector(inverse, weighted):
    problem = repeated_column(weighted)
    H = problem.dense_hessian(problem.params)
    assert np.linalg.matrix_rank(H) == 4
    solve, report = inverse.at(problem, problem.params)
    G = H @ np.random.RandomState(0).standard_normal((5, 3))  # what can be reached at all
    U = solve(G)
    assert_allclose(U, np.linalg.pinv(H, rcond=1e-10) @ G, atol=1e-8)
    assert_allclose(solve(G[:, 0]), U[:, 0], atol=1e-8)
    assert report["solver"] == {"ExactInverse": "eigh", "CGInverse": "minres"}[type(inverse).__name__]
    assert report["damping"] == 0.0


def test_what_a_singular_hessian_cannot_reach_is_solved_in_least_squares():
    problem = repeated_column()
    H = problem.dense_hessian(problem.params)
    g = np.array([1.0, 3.0, 0.5, -1.0, 2.0])  # uneven in the two columns that are the same
    assert np.linalg.norm(g - H @ np.linalg.pinv(H, rcond=1e-10) @ g) > 1.0
    exact_u, _ = _solved_at(ExactInverse(), problem, g)
    # The space that five parameters span is exhausted, and a step too many is the end of the answer.
    u, report = _solved_at(CGInverse(), problem, g)
    assert np.linalg.norm(u) < 100 * np.linalg.norm(exact_u)
    assert_allclose(exact_u, np.linalg.pinv(H, rcond=1e-10) @ g, atol=1e-10)
    assert_allclose(H @ u, H @ exact_u, atol=1e-6)
    assert 0 < report["n_iter"] < 20
    left = H @ (H @ u - g)
    assert_allclose(report["residual"], np.linalg.norm(left) / np.linalg.norm(H @ g), atol=1e-9)
    assert report["residual"] < 1e-4


def test_least_squares_report_the_worst_and_warn_of_what_is_unsolved():
    A = matrix([0.0, 1.0, 3.0, 9.0])
    g, report = A @ np.arange(1.0, 5.0), {"n_iter": 0, "residual": 0.0}
    assert_allclose(cg._least_squares(lambda v: A @ v, g, 1e-8, 50, report), np.linalg.pinv(A, rcond=1e-10) @ g)
    assert report["solver"] == "minres"
    assert report["n_iter"] == 3
    assert report["residual"] < 1e-10
    most = dict(report)
    assert_array_equal(cg._least_squares(lambda v: A @ v, np.zeros(4), 1e-8, 50, report), np.zeros(4))
    assert report == most
    with pytest.warns(ConvergenceWarning, match="stopped after 1 iterations at a relative residual of") as warned:
        u = cg._least_squares(lambda v: A @ v, g, 1e-8, 1, report)
    left = np.linalg.norm(A @ (A @ u - g)) / np.linalg.norm(A @ g)
    assert report["n_iter"] == 3
    assert_allclose(report["residual"], left)
    assert len(warned) == 1
    # It warns beyond a hundred times the tolerance, and at that of a ten-thousandth at the earliest.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cg._least_squares(lambda v: A @ v, g, 1.1 * left / 100, 1, report)


def test_a_hessian_may_be_singular_where_more_than_the_intercepts_is_not_penalised():
    assert not cg._may_be_singular(make("ridge"))
    assert not cg._may_be_singular(make("multinomial"))
    assert cg._may_be_singular(make("ordinary"))
    assert cg._may_be_singular(repeated_column())
    X, y = np.arange(6.0)[:, None], np.arange(6.0) ** 2
    for intercept in (False, True):  # a slope alone is no more than an intercept
        problem = TrainingProblem(as_model(LinearRegression(fit_intercept=intercept).fit(X, y)), X, y)
        assert cg._may_be_singular(problem) == intercept
    lasso = make("lasso")
    lasso.free[:] = [True, False, False, False]  # what cannot move does not count
    assert not cg._may_be_singular(lasso)


def test_a_damping_that_is_given_is_solved_by_conjugate_gradients():
    problem = repeated_column()
    H, g = problem.dense_hessian(problem.params), np.arange(1.0, 6.0)
    u, report = _solved_at(CGInverse(damping=0.1, tol=1e-10), problem, g)
    assert report["solver"] == "cg"
    assert_allclose(u, np.linalg.solve(H + 0.1 * np.eye(5), g))


def test_cg_reports_the_worst_of_what_it_solved():
    problem = make("multinomial")
    solve, report = CGInverse(damping=0.1, tol=1e-3).at(problem, problem.params)
    assert report["n_iter"] == 0
    solve(np.random.RandomState(0).standard_normal((12, 4)))
    most, worst = report["n_iter"], report["residual"]
    assert 0 < most < 20
    assert 0 < worst <= 1e-3
    solve(np.zeros(12))
    assert (report["n_iter"], report["residual"]) == (most, worst)
    stopped, report = CGInverse(damping=1e-6, tol=1e-12, max_iter=1).at(problem, problem.params)
    with pytest.warns(ConvergenceWarning, match="stopped after 1 iterations at a relative residual of"):
        stopped(np.arange(12.0))


def test_dampings_are_checked():
    assert cg.check_damping("auto") == 0.0
    assert cg.check_damping(0) == 0.0
    assert cg.check_damping(2) == 2.0
    for bad, match in [("much", "'auto' or a number >= 0, got 'much'"), (np.inf, "finite"), (np.nan, "finite|nan")]:
        with pytest.raises(ValueError, match=match):
            cg.check_damping(bad)
    with pytest.raises(ValueError, match="damping"):
        cg.check_damping(-1e-9)
    with pytest.raises(TypeError):
        cg.check_damping(None)


def test_the_kronecker_inverse_is_exact_where_the_curvature_is_one_product():
    """Of a squared error the Hessian is the Gram matrix and the penalty: but for the intercept's, which has none."""
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)  # few enough rows that the sample is all of them
    problem = TrainingProblem(as_model(Ridge(2.0, fit_intercept=False).fit(X, y)), X, y)
    apply = cg._kronecker_inverse(problem, problem.params)
    H = problem.dense_hessian(problem.params)
    assert_allclose(np.column_stack([apply(e) for e in np.eye(3)]), np.linalg.inv(H))
    weight = np.full(12, 3.0)
    weighted = TrainingProblem(as_model(Ridge(2.0, fit_intercept=False).fit(X, y, weight)), X, y, weight)
    apply = cg._kronecker_inverse(weighted, weighted.params)
    H = weighted.dense_hessian(weighted.params)
    assert_allclose(np.column_stack([apply(e) for e in np.eye(3)]), np.linalg.inv(H))
    # Of two targets, too: the outputs' curvature is the identity.
    two = np.column_stack([y, -2 * y + 1])
    both = TrainingProblem(as_model(Ridge(2.0, fit_intercept=False).fit(X, two)), X, two)
    apply = cg._kronecker_inverse(both, both.params)
    assert_allclose(np.column_stack([apply(e) for e in np.eye(6)]), np.linalg.inv(both.dense_hessian(both.params)))


def test_the_kronecker_inverse_looks_at_a_sample():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((100, 3)), rng.standard_normal(100)
    X[::8] = X[0]  # every eighth row, 100 // (4 * 3), is what it sees
    problem = TrainingProblem(as_model(Ridge(2.0, fit_intercept=False).fit(X, y)), X, y)
    apply = cg._kronecker_inverse(problem, problem.params)
    H = np.outer(X[0], X[0]) + 0.02 * np.eye(3)
    assert_allclose(np.column_stack([apply(e) for e in np.eye(3)]), np.linalg.inv(H), rtol=1e-8)


def test_the_kronecker_inverse_is_of_softmaxes_a_mean_over_rows():
    problem = make("multinomial", weighted=True)
    X, weight = problem.rows.X[::3], problem.rows.weight[::3]  # 60 // (4 * 4)
    F = problem.fitted.model.outputs(X)
    P = np.exp(F) / np.exp(F).sum(axis=1, keepdims=True)
    A = sum(w * (np.diag(p) - np.outer(p, p)) for w, p in zip(weight, P, strict=True)) / weight.sum()
    Z = np.column_stack([X, np.ones(len(X))])
    product = np.kron(A, Z.T @ Z / len(X))
    values, vectors = np.linalg.eigh(product)
    shift = problem.penalty_scale * problem.fitted.penalty.l2.mean()
    expected = (vectors / (np.maximum(values, 0) + shift)) @ vectors.T
    apply = cg._kronecker_inverse(problem, problem.params)
    assert_allclose(np.column_stack([apply(e) for e in np.eye(12)]), expected, rtol=1e-6, atol=1e-9)


def test_no_kronecker_inverse_where_there_is_nothing_to_go_by(monkeypatch):
    assert cg._kronecker_inverse(Curved(np.eye(3)), np.zeros(3)) is np.copy
    problem = make("ridge")
    monkeypatch.setattr(cg, "_WIDEST_GRAM", 3)
    assert cg._kronecker_inverse(problem, problem.params) is np.copy
    monkeypatch.setattr(cg, "_WIDEST_GRAM", 4)
    assert cg._kronecker_inverse(problem, problem.params) is not np.copy
    X, y = np.zeros((6, 2)), np.arange(6.0)
    flat = TrainingProblem(as_model(LinearRegression(fit_intercept=False).fit(X, y)), X, y)
    assert cg._kronecker_inverse(flat, flat.params) is np.copy


# --- arnoldi ----------------------------------------------------------------------------------------------------------


def test_lanczos_of_repeated_eigenvalues_goes_on():
    A = matrix([2.0] * 5 + [7.0])
    diagonal, off, Q = arnoldi.lanczos(lambda v: A @ v, 6, 6, np.random.RandomState(0))
    assert_allclose(Q.T @ Q, np.eye(6), atol=1e-12)
    T = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    assert_allclose(Q.T @ A @ Q, T, atol=1e-10)
    assert (off == 0).sum() == 4
    assert_allclose(np.linalg.eigvalsh(T), [2.0] * 5 + [7.0])
    one = arnoldi.lanczos(lambda v: A @ v, 6, 1, np.random.RandomState(0))
    assert [part.shape for part in one] == [(1,), (0,), (6, 1)]


def test_arnoldi_keeps_eigenvalues_of_largest_size():
    values = np.array([1.0, 2.0, 3.0, 8.0])
    A = matrix(values)
    solve, report = ArnoldiInverse(rank=2, n_iter=4, damping=0.0, random_state=0).at(Curved(A), np.zeros(4))
    assert_allclose(report["eigenvalues"], [8.0, 3.0])
    assert (report["rank"], report["n_iter"], report["solver"]) == (2, 4, "arnoldi")
    _, vectors = np.linalg.eigh(A)
    V = vectors[:, 2:]
    assert_allclose(solve(np.eye(4)), V / [3.0, 8.0] @ V.T, atol=1e-12)
    assert_allclose(solve(np.eye(4)[0]), (V / [3.0, 8.0] @ V.T)[0], atol=1e-12)
    whole = ArnoldiInverse(rank=4, n_iter=100, random_state=0).at(Curved(matrix([0.0, 1e-15, 1, 2])), np.zeros(4))[1]
    assert (whole["rank"], whole["n_iter"]) == (2, 4)  # zero to rounding
    single = ArnoldiInverse(rank=1, n_iter=1, damping=0.0, random_state=0).at(Curved(np.eye(3) * 4), np.zeros(3))
    assert_allclose(single[1]["eigenvalues"], [4.0])
    A = matrix([2.0, 7.0])
    pair, report = ArnoldiInverse(rank=2, n_iter=2, damping=0.0, random_state=0).at(Curved(A), np.zeros(2))
    assert_allclose(report["eigenvalues"], [7.0, 2.0])
    assert_allclose(pair(np.eye(2)), np.linalg.inv(A))


def test_arnoldi_of_negative_curvature():
    A = matrix([-2.0, 1.0, 5.0])
    with pytest.warns(ConvergenceWarning, match="2.2 was added"):
        solve, report = ArnoldiInverse(random_state=0).at(Curved(A), np.zeros(3))
    assert_allclose(report["damping"], 2.2)
    assert_allclose(solve(np.eye(3)), np.linalg.inv(A + 2.2 * np.eye(3)), atol=1e-10)
    for damping, least in [(1.5, "-0.5"), (0.5, "-1.5")]:
        with pytest.raises(ValueError, match=rf"is not positive definite: its smallest eigenvalue is {least} or less"):
            ArnoldiInverse(damping=damping, random_state=0).at(Curved(A), np.zeros(3))
    ArnoldiInverse(damping=2.5, random_state=0).at(Curved(A), np.zeros(3))


@pytest.mark.parametrize(("rank", "n_iter", "name"), [(0, 5, "rank"), (5, 4, "n_iter")])
def test_arnoldis_sizes_are_checked(rank, n_iter, name):
    with pytest.raises(ValueError, match=name):
        ArnoldiInverse(rank, n_iter).at(Curved(np.eye(3)), np.zeros(3))
    ArnoldiInverse(1, 1).at(Curved(np.eye(3)), np.zeros(3))


def test_a_krylov_basis_within_the_memory():
    with config_context(working_memory=8 * 100 * 50 / 2**20):
        arnoldi._require_memory(100, 50)
        with pytest.raises(ValueError, match=r"n_iter=101 vectors of 50 parameters takes 0 MiB"):
            arnoldi._require_memory(101, 50)
    with config_context(working_memory=1), pytest.raises(ValueError, match="takes 8 MiB"):
        arnoldi._require_memory(1024, 1024)


# --- lissa ------------------------------------------------------------------------------------------------------------


SPECTRA = {
    "positive": [0.5, 1.0, 3.0, 8.0], "a null space": [0.0, 0.0, 2.0, 5.0], "negative": [-6.0, -2.0, -1.0, -0.5],
    "more negative": [-9.0, -1.0, 2.0, 4.0], "more positive": [-2.0, 0.0, 1.0, 7.0], "zero": [0.0, 0.0, 0.0],
    "repeated": [4.0, 4.0, 4.0], "one": [-3.0],
}  # fmt: skip


@pytest.mark.parametrize("name", SPECTRA)
def test_extreme_eigenvalues_are_those_of_the_dense_matrix(name):
    A = matrix(SPECTRA[name], seed=3)
    values = np.linalg.eigvalsh(A)
    greatest, least = extreme_eigenvalues(lambda V: A @ V, len(A))
    size = np.abs(values).max()
    rounding = 1e-12 * size
    assert values[-1] - 0.01 * size <= greatest <= values[-1] + rounding
    assert values[0] - rounding <= least <= values[0] + 0.01 * size
    assert extreme_eigenvalues(lambda V: A @ V, len(A)) == (greatest, least)


@given(
    # Now and then few of them, each many times: Lanczos's iteration has then soon seen all there is.
    st.one_of(
        st.lists(st.integers(-1000, 1000), min_size=1, max_size=40),
        st.lists(st.integers(-1000, 1000), min_size=1, max_size=3).flatmap(
            lambda few: st.lists(st.sampled_from(few), min_size=1, max_size=40)
        ),
    ),
    st.integers(0, 20),
)
def test_estimates_of_extreme_eigenvalues_lie_within_the_spectrum(values, seed):
    A = matrix(values, seed=seed)
    size = np.abs(values).max()
    greatest, least = extreme_eigenvalues(lambda V: A @ V, len(A))
    assert min(values) - 1e-12 * size <= least <= greatest <= max(values) + 1e-12 * size


def test_repeated_eigenvalues_leave_the_estimates_within_the_spectrum():
    # After two products nothing but rounding is left. Made orthogonal to nothing, it goes beyond in half of these.
    values = [295.0, 295.0, 277.0, 277.0, 277.0, 277.0, 277.0]
    for seed in range(20):
        A = matrix(values, seed=seed)
        greatest, least = extreme_eigenvalues(lambda V, A=A: A @ V, len(A))
        assert_allclose([least, greatest], [277.0, 295.0], rtol=1e-12)


def test_extreme_eigenvalues_take_few_products():
    # A null space, and a tail of eigenvalues as nets and wide tables have them.
    values = np.concatenate([np.zeros(300), 1 / np.arange(1, 101)])
    A, products = matrix(values, seed=0), 0

    def times(V):
        nonlocal products
        products += 1
        return A @ V

    greatest, _ = extreme_eigenvalues(times, len(A))
    assert_allclose(greatest, 1.0, rtol=1e-3)
    assert products <= 10


def test_products_that_are_not_finite_have_no_eigenvalues():
    with pytest.raises(ValueError, match="A product with the Hessian is NaN or inf"):
        extreme_eigenvalues(lambda V: V * np.inf, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_lissa_reports_the_top_of_the_spectrum(kind):
    problem = make(kind, weighted=True)
    H = problem.dense_hessian(problem.params)[np.ix_(problem.free, problem.free)]
    _, report = LiSSAInverse().at(problem, problem.params)
    assert_allclose(report["top_eigenvalue"], np.linalg.eigvalsh(H)[-1], rtol=0.01)


def test_the_recursion_on_the_whole_hessian():
    A, scale, damping = np.diag([1.0, 4.0]), 5.0, 0.5
    V = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    # After k steps h / scale is (1 - r^(k + 1)) / (a + damping), r = 1 - (a + damping) / scale; the residual is r^k.
    a = np.diag(A)[:, None]
    r = 1 - (a + damping) / scale
    solved, steps, residual = lissa._over_all(lambda W: A @ W, V, damping, scale, 3, 1e-9)
    assert_allclose(solved, V * (1 - r**4) / (a + damping))
    assert steps == 3
    left = np.abs(V * r**3)
    assert_allclose(residual, (np.linalg.norm(left, axis=0) / np.maximum(np.linalg.norm(V, axis=0), 1e-30)).max())
    solved, steps, residual = lissa._over_all(lambda W: A @ W, V, damping, scale, 1000, 1e-6)
    assert_allclose(solved, V / (a + damping), rtol=1e-5)
    assert_array_equal(solved[:, 1], 0)
    assert steps == int(np.ceil(np.log(1e-6) / np.log(r.max())))
    assert 0 < residual <= 1e-6
    nothing = lissa._over_all(lambda W: A @ W, np.zeros((2, 2)), damping, scale, 10, 1e-6)
    assert_array_equal(nothing[0], 0)
    assert nothing[1:] == (0, 0.0)


def test_the_recursion_that_diverges_says_when():
    with pytest.raises(ValueError, match=r"LiSSA diverged after 3 steps with damping=0 and scale=1"):
        # r = -3: residuals of 3, 9 and 27 of g's length, of which the third is beyond ten
        lissa._over_all(lambda W: 4.0 * W, np.ones((2, 1)), 0.0, 1.0, 100, 1e-6)
    lissa._over_all(lambda W: 4.0 * W, np.ones((2, 1)), 0.0, 1.0, 2, 1e-6)
    lissa._over_all(lambda W: 10.9 * W, np.ones((2, 1)), 0.0, 1.0, 1, 1e-6)
    with pytest.raises(ValueError, match="diverged after 1 steps"):
        lissa._over_all(lambda W: 11.1 * W, np.ones((2, 1)), 0.0, 1.0, 1, 1e-6)


def test_the_recursion_over_batches():
    batches = [np.diag([1.0, 2.0]), np.diag([3.0, 0.0])]
    V = np.array([[1.0, 5.0, 0.0], [2.0, 1.0, 0.0]])
    scale, damping = 4.0, 0.5
    h = V
    for B in batches:
        h = V + (1 - damping / scale) * h - B @ h / scale
    times = [lambda W, B=B: B @ W for B in batches]
    assert_allclose(lissa._over_batches(iter(times), V, damping, scale, 2), h / scale)
    assert_allclose(lissa._over_batches(iter(times), V[:, :1], damping, scale, 2), h[:, :1] / scale)
    assert_allclose(
        lissa._over_batches(iter(times), V[:, :1], damping, scale, 1),
        (V + (1 - 0.125) * V - batches[0] @ V / 4)[:, :1] / 4,
    )
    wild = iter([lambda W: 100.0 * W] * 9)
    with pytest.raises(ValueError, match=r"diverged after 1 mini-batches with damping=0 and scale=1.*larger batches"):
        lissa._over_batches(wild, V[:, :1], 0.0, 1.0, 9)


def test_relative_residuals():
    V = np.array([[3.0, 0.0, 0.0], [4.0, 0.0, 2.0]])
    assert_allclose(lissa._relative(V / 2, V), [0.5, 0.0, 0.5])


@given(
    seed=st.integers(0, 1000),
    depth=st.integers(1, 60),
    log_tol=st.floats(-12, -0.05),
    scale=st.sampled_from([0.55, 0.8, 1.0, 3.0]),
    damping=st.sampled_from([0.0, 0.03]),
)
def test_a_series_is_what_the_recursion_comes_to(seed, depth, log_tol, scale, damping):
    """Directions without curvature, of the top, and beyond the scale, where terms change their sign."""
    rng = np.random.RandomState(seed)
    Q = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    A = (Q * [0.0, 1e-9, 0.1, 0.7, 1.0]) @ Q.T
    V = np.column_stack([rng.standard_normal((5, 3)), Q[:, 0], Q[:, 4], np.zeros(5)])
    found = Series(A, damping, scale)
    assert found.settles
    U, steps, residual = found.solve(V, depth, 10.0**log_tol)
    wanted, wanted_steps, wanted_residual = lissa._over_all(lambda W: A @ W, V, damping, scale, depth, 10.0**log_tol)
    assert_allclose(U, wanted, rtol=1e-8, atol=1e-8)
    assert_allclose(residual, wanted_residual, rtol=1e-6, atol=1e-13)
    assert steps == wanted_steps


def test_a_series_that_grows_is_left_to_the_recursion():
    for value, scale in ((-0.1, 1.0), (1.0, 0.4)):
        assert not Series(np.diag([0.5, value]), 0.0, scale).settles
    assert Series(np.diag([0.5, -1e-13]), 0.0, 1.0).settles  # no curvature, but for rounding


def counted(monkeypatch, name):
    """Calls of a function of `lissa`, which it goes on doing."""
    calls, own = [], getattr(lissa, name)

    def noted(*args, **kwargs):
        calls.append(args)
        return own(*args, **kwargs)

    monkeypatch.setattr(lissa, name, noted)
    return calls


@pytest.mark.parametrize("scale", ["auto", 3.0])
@pytest.mark.parametrize("kind", ["multinomial", "lasso"])  # of whose parameters some are held at zero
def test_many_right_hand_sides_are_solved_by_the_eigenvectors_of_the_hessian(kind, scale, monkeypatch):
    problem = make(kind)
    V = gradients(problem).T
    calls = counted(monkeypatch, "_over_all")
    inverse = LiSSAInverse(0.02, scale, depth=80, tol=1e-3)
    solve, report = inverse.at(problem, problem.params)
    found = solve(V)
    assert not calls
    assert report["depth"] > 1
    alone, single_report = inverse.at(problem, problem.params)
    assert_allclose(alone(V[:, :1]), found[:, :1], rtol=1e-8, atol=1e-10)
    assert len(calls) == 1
    assert single_report["depth"] <= report["depth"]
    assert_allclose(solve(V[:, 0]), found[:, 0], rtol=1e-12)  # what is made serves one column too
    assert len(calls) == 1


@pytest.mark.parametrize("seed", range(6))
def test_zero_curvature_in_single_precision_is_no_negative_one(seed, monkeypatch):
    """Class scores may move together without any change, and the products' rounding is that of the table."""
    rng = np.random.RandomState(seed)
    X, y = rng.standard_normal((80, 4)).astype(np.float32), rng.randint(3, size=80)
    fitted = as_model(LogisticRegression(tol=1e-6).fit(X, y))
    problem = TrainingProblem(fitted, X, y, None)
    calls = counted(monkeypatch, "_over_all")
    LiSSAInverse(depth=5000).at(problem, problem.params)[0](gradients(problem).T)
    assert not calls


@pytest.mark.parametrize("widths", [(30, 30), (10, 30), (10, 4, 4)])
@pytest.mark.parametrize("scale", [1.0, 0.4])  # the second is beyond what settles
def test_the_hessian_is_made_once(widths, scale):
    A, wide = matrix([0.1, 0.5, 1.0] * 4), []

    def times(V):
        wide.extend([V.shape[1]] * (V.shape[1] == 12))
        return A @ V

    hessian = lissa._Hessian(times, 12, 1000)
    for width in widths:
        V = np.ones((12, width))
        series = hessian.series(V, 0.0, scale, 0.0)
        if series is None:
            assert_allclose(hessian.product(V), A @ V)
        assert (series is None) == (scale == 0.4 or hessian.columns < 12)
    assert wide == [12]


def test_right_hand_sides_of_any_size():
    problem = make("binary")
    solve, _ = LiSSAInverse(0.02).at(problem, problem.params)
    V = np.random.RandomState(0).standard_normal((problem.n_params, 30))
    assert_allclose(solve(1e200 * V), 1e200 * solve(V), rtol=1e-10)
    V[0, 3] = np.nan
    with pytest.raises(ValueError, match="NaN or inf to solve for"):
        solve(V)


def test_dampings_and_scales_of_lissa():
    problem = make("ridge")
    auto = LiSSAInverse()
    assert auto._damping_and_scale(problem, problem.params, 9.0, 1.0) == (0.0, 9.0)
    assert auto._damping_and_scale(problem, problem.params, 9.0, -9e-14) == (0.0, 9.0)  # zero to rounding
    with pytest.warns(ConvergenceWarning, match="2.2 was added"):
        damping, scale = auto._damping_and_scale(problem, problem.params, 9.0, -2.0)
    assert_allclose([damping, scale], [2.2, 11.2])
    assert LiSSAInverse(damping=3.0)._damping_and_scale(problem, problem.params, 9.0, -2.0) == (3.0, 12.0)
    assert LiSSAInverse(damping=3.0, scale=7)._damping_and_scale(problem, problem.params, 9.0, 0.0) == (3.0, 7.0)
    assert LiSSAInverse(damping=0)._damping_and_scale(problem, problem.params, 9.0, 0.0) == (0.0, 9.0)
    for damping in (1.0, 2.0):
        with pytest.raises(ValueError, match=rf"H \+ {damping:g} I is not positive definite: .* is {damping - 2:.3g}"):
            LiSSAInverse(damping=damping)._damping_and_scale(problem, problem.params, 9.0, -2.0)
    with pytest.raises(ValueError, match="The Hessian is zero"):
        auto._damping_and_scale(problem, problem.params, 0.0, 0.0)
    assert auto._damping_and_scale(problem, problem.params, 0.5, 0.0) == (0.0, 0.5)


def test_many_right_hand_sides_are_served_by_a_dense_hessian():
    def is_made(p, n_columns):
        hessian = lissa._Hessian(lambda V: 2 * V, p, 100)
        assert_array_equal(hessian.product(np.ones((p, n_columns))), 2)
        return hessian.made is not None

    assert not is_made(10, 1)
    assert is_made(20, 2)
    assert not is_made(21, 2)
    with config_context(working_memory=4 * 8 * 100 / 2**20):
        assert is_made(10, 2)
        assert not is_made(11, 2)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [({"scale": "much"}, "scale must be 'auto' or a number > 0, got 'much'"), ({"scale": 0.0}, "scale"),
     ({"depth": 0}, "depth"), ({"tol": 0.0}, "tol"), ({"tol": 1.0}, "tol"), ({"n_repeats": 0}, "n_repeats"),
     ({"batch_size": 0}, "batch_size"), ({"n_repeats": 2}, "n_repeats=2 averages runs")],
)  # fmt: skip
def test_lissas_parameters_are_checked(parameters, match):
    problem = make("ridge")
    with pytest.raises(ValueError, match=match):
        LiSSAInverse(**parameters).at(problem, problem.params)
    LiSSAInverse(scale=50.0, depth=1, n_repeats=1, batch_size=1)._check()
    LiSSAInverse(n_repeats=2, batch_size=3)._check()


def test_lissa_by_batches_reports_and_draws_by_its_seed():
    problem = make("ridge")
    H, g = problem.dense_hessian(problem.params), np.arange(1.0, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        few = [
            _solved_at(LiSSAInverse(damping=2.0, depth=300, batch_size=20, n_repeats=3, random_state=s), problem, g)
            for s in (0, 0, 1)
        ]
    assert_array_equal(few[0][0], few[1][0])
    assert not np.array_equal(few[0][0], few[2][0])
    u, report = few[0]
    assert report["depth"] == 300
    left = g - H @ u - 2.0 * u
    assert_allclose(report["residual"], np.linalg.norm(left) / np.linalg.norm(g))
    assert report["residual"] < 0.5
    assert report["scale"] > report["top_eigenvalue"] + 2.0  # a batch's may be more than the whole's
    whole = _solved_at(LiSSAInverse(damping=2.0, batch_size=N), problem, g)  # no batch at all
    assert_allclose(whole[0], np.linalg.solve(H + 2 * np.eye(4), g), rtol=1e-3)
    assert whole[1]["depth"] < 100


def _solved_at(inverse, problem, g):
    solve, report = inverse.at(problem, problem.params)
    return solve(g), report


def test_lissa_that_is_left_far_from_the_answer_warns():
    problem = make("ridge")
    H, g = problem.dense_hessian(problem.params), np.arange(1.0, 5.0)
    top = np.linalg.eigvalsh(H)[-1]
    slow, report = LiSSAInverse(damping=0.0, scale=50 * top, depth=20).at(problem, problem.params)
    with pytest.warns(ConvergenceWarning, match="LiSSA stopped after 20 steps at a relative residual of .*more depth"):
        slow(g)
    assert report["residual"] > 0.1
    solve, report = LiSSAInverse(damping=top, depth=8).at(problem, problem.params)
    solve(g)
    assert 1e-4 < report["residual"] < 0.1
    most = report["residual"]
    solve(np.linalg.eigh(H)[1][:, -1])
    assert report["residual"] == most


def test_a_batch_weighs_what_it_weighs_on_average():
    problem = make("binary", weighted=True)
    batch = lissa._batch(problem, problem.rows.take(np.array([3, 3, 8])))
    assert_allclose(batch.total_weight, problem.total_weight * 3 / N)
    assert_array_equal(batch.rows.y, problem.rows.y[[3, 3, 8]])
    assert len(problem.rows) == N


# --- passes over layers -----------------------------------------------------------------------------------------------


class Block:
    """What a block of rows' gradients is made of: arrays."""

    def __init__(self, n_bytes):
        self.inputs, self.cotangents, self.layer = np.zeros(n_bytes - 8, np.uint8), np.zeros(1), "not an array"


class ThreeBlocks:
    """A problem whose rows come in three blocks, of two layers with a hundred bytes each; counts how often."""

    def __init__(self):
        self.asked = 0

    def layer_rows(self, params, cotangents):
        self.asked += 1
        for k in range(3):
            yield slice(10 * k, 10 * k + 10), [Block(100), Block(100)]


@pytest.mark.parametrize("share", [1, 3])
@pytest.mark.parametrize(("spare", "times"), [(0, 1), (4, 1), (-1, 3), (-250, 3), (-600, 3)])
def test_passes_keep_what_takes_a_quarter_of_the_memory(share, spare, times):
    problem = ThreeBlocks()
    with config_context(working_memory=4 * share * (600 + spare) / 2**20):
        passes = LayerPasses(problem, np.zeros(1), share=share)
        for _ in range(3):
            seen = [(at.start, len(layers)) for at, layers in passes]
            assert seen == [(0, 2), (10, 2), (20, 2)]
    assert problem.asked == times


def test_a_pass_that_was_broken_off_is_no_pass():
    problem = ThreeBlocks()
    passes = LayerPasses(problem, np.zeros(1))
    for _ in passes:
        break
    assert len(list(passes)) == 3
    assert problem.asked == 2


# --- datainf, ekfac, trak ---------------------------------------------------------------------------------------------


@problems
def test_datainf_is_the_mean_of_dense_inverses(kind, weighted):
    problem = make(kind, weighted)
    J, w, free = gradients(problem) * problem.free, shares(problem), problem.free
    p = problem.n_params
    assert_allclose(datainf.shares(problem), w)
    # Of a layer's size all its parameters, whether they move or not.
    lam = 0.2 * float(w @ (J**2).sum(axis=1)) / p
    expected = sum(wi * np.linalg.inv(lam * np.eye(p) + np.outer(gi, gi)) for wi, gi in zip(w, J, strict=True))
    solve, report = DataInfInverse(damping=0.2).at(problem, problem.params)
    assert_allclose(list(report["lambda"].values()), [lam])
    G = np.random.RandomState(0).standard_normal((p, 2))
    assert_allclose(solve(G), (expected @ (G * free[:, None])) * free[:, None], rtol=1e-8)
    assert_allclose(solve(G[:, 0]), solve(G)[:, 0])


def test_datainf_without_gradients_is_the_identity():
    X = np.random.RandomState(0).standard_normal((N, 2))
    problem = TrainingProblem(as_model(LinearRegression(fit_intercept=False).fit(X, np.zeros(N))), X, np.zeros(N))
    solve, report = DataInfInverse().at(problem, problem.params)
    assert list(report["lambda"].values()) == [1.0]
    assert_array_equal(solve(np.array([2.0, 3.0])), [2, 3])
    with pytest.raises(ValueError, match="damping"):
        DataInfInverse(damping=0.0).at(problem, problem.params)


def test_ekfac_of_a_squared_error_is_the_dense_answer():
    """One output with a constant curvature: the Kronecker product is no approximation."""
    problem = make("ridge", weighted=True)
    Z = np.column_stack([problem.rows.X, np.ones(N)])
    H = (Z * shares(problem)[:, None]).T @ Z
    values, vectors = np.linalg.eigh(H)
    l2 = problem.penalty_scale * problem.fitted.penalty.l2
    solve, report = EKFACInverse(damping=0.5, random_state=0).at(problem, problem.params)
    assert_allclose(list(report["damping"].values()), [0.5 * values.mean()])
    assert report["left_out"] == []
    # The penalty is added along the axes of the eigenvectors' table, as for every layer.
    g = np.arange(1.0, 5.0)
    assert_allclose(solve(g), vectors @ ((vectors.T @ g) / (values + 0.5 * values.mean() + l2)), rtol=1e-8)
    assert_allclose(solve(np.stack([g, 2 * g], axis=1))[:, 1], 2 * solve(g))


def test_sampled_labels_square_to_the_curvature():
    problem = make("multinomial")
    F = np.log(np.array([[0.2, 0.3, 0.5]] * 4))
    y = np.zeros(4, dtype=int)
    P = np.array([0.2, 0.3, 0.5])
    found = ekfac.pseudo_gradients(problem, F, y, np.array([[0.1], [0.4], [0.9], [1.0]]))
    assert_allclose(found, [P - [1, 0, 0], P - [0, 1, 0], P - [0, 0, 1], P - [0, 0, 1]])
    binary = make("binary")
    F = np.array([[0.0], [0.0], [2.0]])
    p = 1 / (1 + np.exp(-2.0))
    found = ekfac.pseudo_gradients(binary, F, np.array([0, 1, 1]), np.array([[0.49], [0.5], [0.9]]))
    assert_allclose(found[:, 0], [-0.5, 0.5, np.sqrt(p * (1 - p))])
    # Seven sevenths sum to less than a draw may be: that is the last label's.
    last = np.nextafter(1.0, 0.0)
    assert np.cumsum(np.full(7, 1 / 7))[-1] < last
    found = ekfac.pseudo_gradients(problem, np.zeros((1, 7)), y[:1], np.array([[last]]))
    assert_allclose(found, [[1 / 7] * 6 + [-6 / 7]])


def test_ekfac_draws_alike_in_both_passes_whatever_the_blocks():
    problem = make("multinomial", weighted=True)
    g = np.arange(12.0)
    whole = EKFACInverse(random_state=3).at(problem, problem.params)[0](g)
    with config_context(working_memory=1e-3):
        assert_allclose(EKFACInverse(random_state=3).at(problem, problem.params)[0](g), whole)
    assert not np.allclose(EKFACInverse(random_state=4).at(problem, problem.params)[0](g), whole)


def test_where_nothing_curves_nothing_moves():
    assert_array_equal(ekfac.inverse(np.array([[0.0, 4.0], [-1.0, 0.5]])), [[0, 0.25], [0, 2]])


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"labels": "mine"}, "labels must be"),
        ({"uncovered": "mine"}, "uncovered must be"),
        ({"damping": -1}, "damping"),
    ],
)
def test_ekfacs_parameters_are_checked(parameters, match):
    problem = make("ridge")
    with pytest.raises(ValueError, match=match):
        EKFACInverse(**parameters).at(problem, problem.params)
    EKFACInverse(damping=0.0, labels="true", uncovered="leave_out").at(problem, problem.params)


@problems
@pytest.mark.parametrize("k", [1, 2, 100])
@pytest.mark.parametrize("damping", ["auto", 0.0, 0.7])
def test_projected_fishers_are_the_dense_ones(kind, weighted, k, damping):
    problem = make(kind, weighted)
    free = problem.free
    J, w = gradients(problem)[:, free], shares(problem)
    p = int(free.sum())
    k = min(k, p)
    basis = projected_fisher.RandomBasis(p, k, np.random.RandomState(5))
    R = basis.vectors(np.eye(k))
    assert_allclose(R.T @ R, np.eye(k), atol=1e-12)
    assert_allclose(basis.coordinates(np.eye(p)), R.T, atol=1e-12)
    F = R.T @ (J * w[:, None]).T @ J @ R
    added = 0.1 * np.trace(F) / k if damping == "auto" else damping
    expected = R @ np.linalg.pinv(F + added * np.eye(k), rcond=1e-12) @ R.T
    inverse = ProjectedFisher(n_projections=k, damping=damping, random_state=np.random.RandomState(5))
    with config_context(working_memory=1024 if k > 2 else 2e-3):  # a slab at a time
        solve, report = inverse.at(problem, problem.params)
    assert_allclose(report["damping"], added)
    assert (report["n_projections"], report["rank"]) == (k, np.linalg.matrix_rank(F + added * np.eye(k), tol=1e-12))
    G = np.zeros((problem.n_params, 2))
    G[free] = np.random.RandomState(0).standard_normal((p, 2))
    found = solve(G)
    assert_allclose(found[free], expected @ G[free], atol=1e-8 * np.abs(expected).max())
    assert_array_equal(found[~free], 0)
    assert solve(G[:, 0]).shape == (problem.n_params,)


def test_directions_without_a_gradient_are_left_out():
    X = np.random.RandomState(0).standard_normal((2, 4))
    y = np.array([1.0, -1.0])
    problem = TrainingProblem(as_model(Ridge(100.0, fit_intercept=False).fit(X, y)), X, y)
    J = gradients(problem)
    solve, report = ProjectedFisher(damping=0.0, random_state=0).at(problem, problem.params)
    assert report["rank"] == 2
    assert_allclose(solve(np.arange(4.0)), np.linalg.pinv(J.T @ J / 2, rcond=1e-10) @ np.arange(4.0))


def test_random_bases_are_signed_cosines_of_a_seed():
    basis = projected_fisher.RandomBasis(6, 3, np.random.RandomState(0))
    assert set(basis.signs) == {-1.0, 1.0}
    assert len(set(basis.chosen)) == 3
    assert list(basis.chosen) == sorted(basis.chosen)
    whole = scipy.fft.dct(np.diag(basis.signs), axis=0, norm="ortho")
    assert_allclose(basis.vectors(np.eye(3)), whole[basis.chosen].T)


def test_directions_of_almost_no_gradient_are_left_out():
    """Zero to rounding: ten times the projections times the precision of X, relative to the largest."""
    eps = np.finfo(float).eps
    for least, rank in [(10.0, 1), (40.0, 2)]:
        X = np.diag([1.0, np.sqrt(least * eps)])
        problem = TrainingProblem(as_model(Ridge(1.0, fit_intercept=False).fit(X, [1.0, 1.0])), X, np.ones(2))
        # Where the parameters are zero each row's residual is one, and its gradient the row.
        _, report = ProjectedFisher(damping=0.0, random_state=0).at(problem, np.zeros(2))
        assert report["rank"] == rank


def test_slabs_of_projected_gradients_take_a_quarter_of_the_memory(monkeypatch):
    problem = make("ridge")
    slabs = []
    made = projected_fisher._ProjectedFisher._gradients
    monkeypatch.setattr(
        projected_fisher._ProjectedFisher, "_gradients",
        lambda self, rows, budget: slabs.append(len(rows)) or made(self, rows, budget),
    )  # fmt: skip
    whole = ProjectedFisher(damping=1.0, random_state=0).at(problem, problem.params)[0](np.ones(4))
    assert slabs == [N]
    for room, expected in [(25, [25, 25, 10]), (N - 1, [N - 1, 1]), (N, [N]), (1, [1] * N)]:
        slabs.clear()
        with config_context(working_memory=4 * 8 * 4 * room / 2**20):
            found = ProjectedFisher(damping=1.0, random_state=0).at(problem, problem.params)[0](np.ones(4))
        assert slabs == expected
        assert_allclose(found, whole)


def test_matrices_within_the_memory():
    with config_context(working_memory=8 * 100 * 100 / 2**20):
        require_room(100, "A matrix", "Take less")
        with pytest.raises(ValueError, match=r"A matrix of 101 x 101 numbers .* Take less, or raise working_memory"):
            require_room(101, "A matrix", "Take less")
    problem = make("ridge")
    for k, outcome in ((3, nullcontext()), (4, pytest.raises(ValueError, match=r"4 x 4 .* Lower n_projections"))):
        with config_context(working_memory=8 * 3 * 3 / 2**20), outcome:
            ProjectedFisher(k, random_state=0).at(problem, problem.params)


def test_columns_are_sliced_within_the_memory():
    def widths(k, p, budget):
        return [s.stop - s.start for s in projected_fisher._column_slices(k, p, budget)]

    assert widths(70, 10, 10**9) == [32, 32, 6]
    assert widths(5, 10, 160) == [2, 2, 1]
    assert widths(3, 10, 79) == [1, 1, 1]
    assert [s.start for s in projected_fisher._column_slices(5, 10, 160)] == [0, 2, 4]
