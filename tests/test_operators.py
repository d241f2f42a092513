"""The training objective and its derivatives against dense sums over rows, in every configuration of weights."""

from __future__ import annotations

import tracemalloc
import warnings
from dataclasses import is_dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.svm import LinearSVC

from skinfluence import influence_scores
from skinfluence.models import as_model, linear
from skinfluence.models._blocks import MAX_ROWS
from skinfluence.models.linear import LinearModel
from skinfluence.operators import (
    Rows,
    TrainingProblem,
    _problem,
    _rows,
    _sent,
    check_weights,
    outputs_by_block,
    pull_back,
    require_finite,
    unwarned_floats,
    warn_unless_minimum,
)
from skinfluence.operators._rows import ClassWeights
from skinfluence.operators._sent import JacobianCurvature, RowNorms, row_dot, weighted

N, D = 40, 3


def data(kind):
    rng = np.random.RandomState(1)
    X = rng.standard_normal((N, D))
    noisy = X @ [1.0, -2.0, 0.5] + rng.standard_normal(N)
    if kind == "regression":
        return X, noisy
    return X, np.digitize(noisy, [0.0] if kind == "binary" else [-1.0, 1.0])


class Dense:
    """A linear problem written out: one row after the other, with the penalty and the weights as they are."""

    def __init__(self, problem, X, weight):
        self.problem, self.X, self.weight = problem, X, weight
        model = problem.fitted.model
        self.K, self.width = model.n_outputs, model.width
        self.Z = np.column_stack([X, np.ones(len(X))]) if model.fit_intercept else X

    def outputs(self, params):
        return self.Z @ params.reshape(self.K, self.width).T

    def gradients(self, params):
        D = self.problem.loss.gradient(self.outputs(params), self.problem.rows.y)
        return np.array([np.outer(d, z).ravel() for d, z in zip(D, self.Z, strict=True)])

    def penalty(self):
        return self.problem.penalty_scale * self.problem.fitted.penalty.l2

    def gradient(self, params):
        return self.weight @ self.gradients(params) / self.weight.sum() + self.penalty() * params

    def hessian(self, params):
        F, y, H = self.outputs(params), self.problem.rows.y, np.diag(self.penalty())
        for i, z in enumerate(self.Z):
            columns = [
                self.problem.loss.hessian_product(F[[i]], y[[i]], e[None, :])[0] for e in np.eye(self.K)
            ]  # fmt: skip
            H = H + self.weight[i] * np.kron(np.column_stack(columns), np.outer(z, z)) / self.weight.sum()
        return H


@pytest.fixture(params=["binary", "multinomial", "regression"])
def kind(request):
    return request.param


@pytest.fixture(params=["plain", "weighted", "without intercept"])
def case(request, kind):
    """A problem, its dense twin, and parameters that are no minimum."""
    X, y = data(kind)
    weight = np.random.RandomState(2).uniform(0.2, 3, N) if request.param == "weighted" else None
    estimator = Ridge(2.0) if kind == "regression" else LogisticRegression(C=0.5)
    estimator.set_params(fit_intercept=request.param != "without intercept").fit(X, y, sample_weight=weight)
    problem = TrainingProblem(as_model(estimator), X, y, weight)
    params = problem.params + np.linspace(-0.5, 0.7, problem.n_params)
    return problem, Dense(problem, X, np.ones(N) if weight is None else weight), params


def test_values_gradients_and_hessians_are_sums_over_rows(case):
    problem, dense, params = case
    values = problem.loss.value(dense.outputs(params), problem.rows.y)
    assert_allclose(problem.row_values(params), values)
    penalty = float((dense.penalty() * params**2).sum() / 2)
    assert_allclose(problem.value(params), dense.weight @ values / dense.weight.sum() + penalty)
    assert_allclose(problem.gradient(params), dense.gradient(params))
    H = dense.hessian(params)
    assert_allclose(problem.dense_hessian(params), H, atol=1e-14)
    operator = problem.hessian(params)
    V = np.random.RandomState(3).standard_normal((problem.n_params, 4))
    assert operator.shape == H.shape
    assert_allclose(operator @ V, H @ V, atol=1e-14)
    assert_allclose(operator.matvec(V[:, 0]), H @ V[:, 0], atol=1e-14)
    assert_allclose(operator.matvec(V[:, :1]), (H @ V)[:, :1], atol=1e-14)
    assert_allclose(operator.H @ V, H.T @ V, atol=1e-14)
    assert_allclose(operator.rmatvec(V[:, 1]), H.T @ V[:, 1], atol=1e-14)


def test_products_and_norms_are_of_the_rows_gradients(case):
    problem, dense, params = case
    J, relative = dense.gradients(params), dense.weight / dense.weight.sum()
    v, w = np.random.RandomState(4).standard_normal((2, problem.n_params))
    assert_allclose(problem.row_products(v, params), relative * (J @ v), atol=1e-15)
    other = dense.gradients(problem.params) @ w
    both = problem.scores([(2.0, params, v), (-0.5, problem.params, w)])
    assert_allclose(both, relative * (2 * (J @ v) - other / 2), atol=1e-15)
    assert_allclose(problem.score_matrix(params, np.stack([v, w])), relative * (J @ np.stack([v, w], 1)).T, atol=1e-15)
    assert_allclose(problem.squared_gradient_norms(params), (J**2).sum(axis=1))
    some = problem.other_rows(dense.X[5:9], [problem_label(problem, i) for i in range(5, 9)])
    assert_allclose(problem.row_products(v, params, some), (J @ v)[5:9] / dense.weight.sum(), atol=1e-15)
    assert_allclose(problem.squared_gradient_norms(params, some), (J**2).sum(axis=1)[5:9])
    assert_allclose(problem.row_values(params, some), problem.row_values(params)[5:9])


def problem_label(problem, i):
    y = problem.rows.y[i]
    return y[0] if problem.fitted.classes is None else problem.fitted.classes[y]


def test_gradients_of_some_rows_are_their_weighted_mean(case):
    problem, dense, params = case
    some = problem.rows.take(np.array([7, 3, 3, 30]))
    J, w = dense.gradients(params)[[7, 3, 3, 30]], dense.weight[[7, 3, 3, 30]]
    assert_allclose(problem.gradient(params, some), w @ J / w.sum() + dense.penalty() * params)


def test_pull_backs_are_at_each_of_the_parameters(case):
    problem, dense, params = case
    seen = []

    def cotangents(F, at, member):
        seen.append(member)
        return F * (member + 1.0) + np.arange(N)[at, None]

    two = pull_back(problem.fitted, problem.rows, [params, problem.params], cotangents)
    assert set(seen) == {0, 1}
    for m, (found, at) in enumerate(zip(two, [params, problem.params], strict=True)):
        D = dense.outputs(at) * (m + 1.0) + np.arange(N)[:, None]
        assert_allclose(found, (D.T @ dense.Z).ravel())
        assert found.dtype == np.float64


@pytest.mark.parametrize("memory", [1e-4, 1024])
@pytest.mark.parametrize("keep", [True, False])
def test_blocks_and_kept_outputs_change_nothing(case, memory, keep, monkeypatch):
    problem, dense, params = case
    size = N * problem.fitted.model.n_outputs * 8
    monkeypatch.setattr(_problem, "_KEPT_OUTPUTS_BYTES", size if keep else size - 1)
    asked = []
    outputs = LinearModel.outputs_and_jvps
    monkeypatch.setattr(LinearModel, "outputs_and_jvps", lambda self, *given: asked.append(1) or outputs(self, *given))
    with config_context(working_memory=memory):
        n_blocks = len(list(problem.rows.blocks(4 * problem.fitted.model.n_outputs)))
        assert (n_blocks > 1) == (memory < 1)
        H = problem.hessian(params)
        assert len(asked) == (n_blocks if keep else 0)
        asked.clear()
        v = np.arange(problem.n_params, dtype=float)
        assert_allclose(H @ v, dense.hessian(params) @ v, atol=1e-13)
        assert len(asked) == (0 if keep else n_blocks)
        assert_allclose(problem.dense_hessian(params), dense.hessian(params), atol=1e-14)
        assert_allclose(problem.gradient(params), dense.gradient(params))
        slices, found = zip(
            *outputs_by_block(problem.fitted.model, problem.rows, [params, problem.params]), strict=True
        )
        assert len(slices) == (len(found) if memory < 1 else 1)
        assert_allclose(np.concatenate([Fs[0] for Fs in found]), dense.outputs(params), atol=1e-14)
        assert_allclose(np.concatenate([Fs[1] for Fs in found]), dense.outputs(problem.params), atol=1e-14)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
@pytest.mark.parametrize("bytes_at_once", [1, 1 << 22])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("sparse", [None, "csr", "csc"])
def test_products_with_many_columns_at_once(kind, sparse, keep, bytes_at_once, at_once, monkeypatch):
    X, y = data(kind)
    given = X if sparse is None else sp.csr_array(X).asformat(sparse)
    estimator = Ridge(2.0) if kind == "regression" else LogisticRegression(C=0.5)
    problem = TrainingProblem(as_model(estimator.fit(X, y)), given, y)
    monkeypatch.setattr(_problem, "_KEPT_OUTPUTS_BYTES", 1 << 20 if keep else 0)
    monkeypatch.setattr(linear, "_PUSHED_OUTPUTS", at_once)
    monkeypatch.setattr(linear, "_PUSHED_BYTES", bytes_at_once)
    V = np.random.RandomState(3).standard_normal((problem.n_params, 11))
    wanted = Dense(problem, X, np.ones(N)).hessian(problem.params) @ V
    assert_allclose(problem.hessian(problem.params) @ V, wanted, atol=1e-14)


MANY_OUTPUTS, MANY_ROWS = 40, 27_000  # whose outputs are 8.2 MiB, too much to be kept for the Hessian
OPERATIONS = {
    "values": lambda problem, v: problem.row_values(problem.params),
    "gradient": lambda problem, v: problem.gradient(problem.params),
    "outputs": lambda problem, v: sum(
        Fs[0].sum() for _, Fs in outputs_by_block(problem.fitted.model, problem.rows, [problem.params] * 3)
    ),
    "pull_back": lambda problem, v: pull_back(
        problem.fitted, problem.rows, [problem.params] * 3, lambda F, at, member: F
    ),
    "scores": lambda problem, v: problem.scores([(1.0, problem.params, v)] * 5),
    "score_matrix": lambda problem, v: problem.score_matrix(problem.params, np.tile(v, (20, 1))),
    "label_scores": lambda problem, v: problem.label_scores([(1.0, problem.params, v)] * 3),
    "norms": lambda problem, v: problem.squared_gradient_norms(problem.params),
    "hessian": lambda problem, v: problem.hessian(problem.params) @ v,
    "hessian, many columns": lambda problem, v: problem.hessian(problem.params) @ np.tile(v[:, None], 30),
    "dense_hessian": lambda problem, v: problem.dense_hessian(problem.params),
    "layers": lambda problem, v: sum(
        rows.squared_norms().sum() for _, (rows,) in problem.layer_rows(problem.params)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def many():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((MANY_ROWS, 2)), np.arange(MANY_ROWS) % MANY_OUTPUTS
    clf = LogisticRegression(max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return TrainingProblem(as_model(clf.fit(X[:400], y[:400])), X, y)


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_made_of_rows_stays_within_the_memory(many, name):
    with config_context(working_memory=1):
        OPERATIONS[name](many, many.params)  # imports and caches
        tracemalloc.start()
        found = OPERATIONS[name](many, many.params)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    returned = sum(np.asarray(part).nbytes for part in (found if isinstance(found, list) else [found]))
    assert peak - returned < 2 * 2**20


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_class_weights_are_looked_up(weighted):
    rng = np.random.RandomState(0)
    codes, by_class = rng.randint(3, size=50).astype(np.int8), np.array([0.5, 2.0, 3.0])
    user_weight = rng.uniform(size=50) if weighted else None
    expected = by_class[codes] * (1 if user_weight is None else user_weight)
    weight = ClassWeights(by_class, codes, user_weight)
    assert len(weight) == 50
    for key in (slice(3, 9), np.array([4, 1, 1]), codes == 2, slice(None, None, 7)):
        assert_array_equal(weight[key], expected[key])
    assert_array_equal(np.asarray(weight), expected)
    assert np.asarray(weight, dtype=np.float32).dtype == np.float32
    assert_allclose(weight.sum(), expected.sum())
    assert weight.any()
    assert not ClassWeights(np.array([0.0, 0.0, 1.0]), np.array([0, 1, 1]), None).any()


def test_weights_by_class_take_no_room():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((200_000, 2)), np.arange(200_000) % 2
    estimator = LogisticRegression(class_weight="balanced").fit(X[:400], y[:400])
    as_model(estimator)  # imports and caches
    tracemalloc.start()
    problem = TrainingProblem(as_model(estimator), X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_allclose(problem.total_weight, 200_000)
    assert peak < 8 * 200_000  # less than one float a row: a code each, and work on a part of them


@pytest.mark.parametrize("method", ["ip", "self_tracin"])
def test_a_csc_matrix_is_scored_in_parts_too(method):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((MAX_ROWS + 100, 2)), np.arange(MAX_ROWS + 100) % 2
    estimator = LogisticRegression().fit(X[:400], y[:400])
    judges = () if method == "self_tracin" else (X[:50], y[:50])
    dense = influence_scores(estimator, X, y, *judges, method=method)
    assert_allclose(influence_scores(estimator, sp.csc_array(X), y, *judges, method=method), dense, rtol=1e-9)


@pytest.mark.parametrize("given", [None, "balanced", {0: 3.0}])
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_count_by_their_class_and_their_weight(given, weighted):
    X, y = data("multinomial")
    weight = np.random.RandomState(2).uniform(0.2, 3, N) if weighted else None
    estimator = LogisticRegression(class_weight=given, tol=1e-10, max_iter=1000).fit(X, y, sample_weight=weight)
    problem = TrainingProblem(as_model(estimator), X, y, weight)
    assert np.linalg.norm(problem.gradient(problem.params)) < 1e-6  # the weights are those that it was fitted with
    if given is None and not weighted:
        assert problem.rows.weight is None
        assert problem.total_weight == N
    else:
        assert_allclose(problem.total_weight, problem.rows.weight.sum())
    by_class = np.ones(3) if given is None else problem._class_weight
    expected = by_class[y] * (1 if weight is None else weight)
    assert_allclose(np.ones(N) if problem.rows.weight is None else problem.rows.weight, expected)
    assert (problem.rows.user_weight is None) == (not weighted)
    other = problem.other_rows(X[:6], y[:6], None if weight is None else weight[:6], name="X_val")
    assert_allclose(np.ones(6) if other.weight is None else other.weight, expected[:6])
    assert other.name == "X_val"
    # The score that a row would have under another label counts that label's weight.
    v = np.arange(problem.n_params, dtype=float)
    directions = [(0.5, problem.params, v), (2.0, problem.params / 2, v[::-1].copy())]
    found = problem.label_scores(directions)
    assert found.shape == (N, 3)
    assert_allclose(found[np.arange(N), y], problem.scores(directions), atol=1e-14)
    for label in range(3):
        share = by_class[label] * (np.ones(N) if weight is None else weight)
        as_if = Rows(problem.rows.X, np.full(N, label), share)
        assert_allclose(found[:, label], problem.scores(directions, as_if), atol=1e-14)


def test_labels_are_a_classifiers():
    X, y = data("regression")
    problem = TrainingProblem(as_model(Ridge().fit(X, y)), X, y)
    with pytest.raises(TypeError, match="Labels are a classifier's; Ridge is a regressor"):
        problem.label_scores([(1.0, problem.params, problem.params)])


@pytest.mark.parametrize(
    ("estimator", "scale"),
    [(LogisticRegression(), 1 / 60), (Lasso(0.1), 1.0), (SGDClassifier("log_loss", random_state=0), N / 60)],
    ids=["sum", "mean", "rows"],
)
def test_penalties_are_per_sum_mean_or_rows(estimator, scale):
    X, y = data("binary")
    weight = np.full(N, 1.5)
    problem = TrainingProblem(as_model(estimator.fit(X, y, sample_weight=weight)), X, y, weight)
    assert_allclose(problem.total_weight, 60)
    assert_allclose(problem.penalty_scale, scale)


def test_one_class_is_refused_and_so_are_lengths():
    X, y = data("binary")
    fitted = as_model(LogisticRegression().fit(X, y))
    with pytest.raises(ValueError, match=r"at least two classes, got one: \[1\]"):
        TrainingProblem(fitted, X, np.ones(N, dtype=int))
    with pytest.raises(ValueError, match=r"at least two classes, got one: \[0\]"):
        TrainingProblem(fitted, X[:1], [0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        TrainingProblem(fitted, X, y[:-1])
    problem = TrainingProblem(fitted, X, y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        problem.other_rows(X, y[:-1])
    assert len(problem.other_rows(X[:3], [1, 1, 1])) == 3


def test_a_kinked_loss_has_no_hessian():
    X, y = data("binary")
    problem = TrainingProblem(as_model(LinearSVC(loss="hinge").fit(X, y)), X, y)
    with pytest.raises(TypeError, match=r"method='cg' needs the second derivative .* of this LinearSVC has none"):
        problem.require_hessian("cg")
    with pytest.raises(TypeError, match="second derivative"):
        problem.hessian(problem.params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_regression_targets_are_of_the_dtype_of_x(dtype):
    X, y = data("regression")
    problem = TrainingProblem(as_model(Ridge().fit(X, y)), X.astype(dtype), y)
    assert problem.rows.y.dtype == problem.rows.X.dtype == dtype
    assert problem.scores([(1.0, problem.params, problem.params)]).dtype == np.float64
    labels = TrainingProblem(as_model(LogisticRegression().fit(X, y > 0)), X.astype(dtype), y > 0)
    assert labels.rows.y.dtype.kind == "i"


def test_layers_hold_the_rows_gradients(case):
    problem, dense, params = case
    J = dense.gradients(params)
    with config_context(working_memory=1e-4):
        seen = np.zeros(N)
        for at, (rows,) in problem.layer_rows(params):
            assert_allclose(rows.squared_norms(), (J[at] ** 2).sum(axis=1))
            assert_allclose(rows.total(np.ones(len(J[at]))).ravel(), J[at].sum(axis=0), atol=1e-14)
            seen[at] += 1
        assert_array_equal(seen, 1)
        marks = np.arange(N, dtype=float)
        own = problem.layer_rows(params, lambda F, at: np.zeros_like(F) + marks[at, None])
        for at, (rows,) in own:
            assert_allclose(rows.squared_norms(), marks[at] ** 2 * dense.K * (dense.Z[at] ** 2).sum(axis=1))


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_are_taken_with_what_belongs_to_them():
    rows = Rows(np.arange(12.0).reshape(6, 2), np.arange(6), np.arange(6) * 10.0, np.arange(6) * 2.0, "X_val")
    some = rows.take(np.array([4, 0]))
    assert_array_equal(some.X, [[8, 9], [0, 1]])
    assert_array_equal(some.y, [4, 0])
    assert_array_equal(some.weight, [40, 0])
    assert_array_equal(some.user_weight, [8, 0])
    assert some.name == "X_val"
    assert len(rows) == 6
    assert not rows.are_elsewhere
    bare = Rows(rows.X, rows.y).take(np.array([1]))
    assert bare.weight is None
    assert bare.user_weight is None
    with config_context(working_memory=4e-5):  # 41 bytes: a row or two
        blocks = list(rows.blocks(0))
        assert len(blocks) == 3
        assert_array_equal(np.concatenate([y for _, _, y, _ in blocks]), rows.y)
        assert_array_equal(np.concatenate([w for *_, w in blocks]), rows.weight)
        assert all(w is None for *_, w in Rows(rows.X, rows.y).blocks(0))
        per_row = rows.each(lambda X, y, weight: X[:, 0] + y + weight, 0)
        assert_array_equal(per_row, rows.X[:, 0] + rows.y + rows.weight)
        table = rows.each(lambda X, y, weight: X * 2, 0, (2,))
        assert_array_equal(table, rows.X * 2)
    assert_array_equal(rows.total(lambda whole: whole.X.sum(axis=0)), rows.X.sum(axis=0))


class Stream:
    """Rows that are read piece by piece, by a cluster or here."""

    shape, edges, row_bytes = (6, 2), [0, 4, 6], 16

    def __init__(self, cluster):
        self.cluster = cluster


def test_rows_are_elsewhere_where_a_cluster_holds_them():
    assert Rows(Stream("a cluster"), np.arange(6)).are_elsewhere
    assert not Rows(Stream(None), np.arange(6)).are_elsewhere


def test_weights_are_checked():
    X = np.zeros((3, 1))
    assert check_weights(None, X) is None
    assert_array_equal(check_weights([0, 0, 2], X), [0.0, 0.0, 2.0])
    assert check_weights([1, 1, 1], X).dtype == np.float64
    assert_array_equal(check_weights(2, X), [2.0, 2.0, 2.0])
    # scikit-learn's own words, or ours where it has none.
    with pytest.raises(ValueError, match=r"at least one (positive entry, got zeros alone|non-zero number)"):
        check_weights([0, 0, 0], X)
    with pytest.raises(ValueError, match="Negative values"):
        check_weights([1, -1, 1], X)


def test_outputs_that_are_not_finite_name_their_cause():
    X = np.ones((3, 2))
    require_finite(np.array([[1.0], [2.0], [3.0]]), X)
    with unwarned_floats():
        require_finite(np.full((2, 1), 1.5e308), X)  # finite, though their sum is not
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="raw outputs are not finite: its parameters are not, or the values of Z"):
            require_finite(np.array([[bad], [0.0]]), X, "Z")
        spoiled = X.copy()
        spoiled[2, 1] = bad
        for container in (spoiled, sp.csr_array(spoiled), sp.csc_array(spoiled)):
            with pytest.raises(ValueError, match="Input Z contains"):
                require_finite(np.array([[bad], [0.0]]), container, "Z")
    with pytest.raises(ValueError, match="raw outputs"):
        require_finite(np.array([[np.nan]]), object())


def test_terms_are_weighted_in_their_own_dtype():
    terms = np.ones((2, 3), dtype=np.float32)
    assert weighted(terms, None) is terms
    found = weighted(terms, np.array([2.0, 3.0]))
    assert found.dtype == np.float32
    assert_array_equal(found, [[2, 2, 2], [3, 3, 3]])
    assert_array_equal(row_dot(np.array([[2.0], [3.0]]), np.array([[5.0], [7.0]])), [10, 21])
    assert_array_equal(row_dot(np.array([[2.0, 1.0], [3.0, 0.0]]), np.array([[5.0, 1.0], [7.0, 9.0]])), [11, 21])


SENT = [kind for module in (_sent, _rows) for kind in vars(module).values() if is_dataclass(kind)]


@pytest.mark.parametrize("kind", SENT, ids=str)
def test_what_is_sent_does_not_change(kind):
    assert kind.__dataclass_params__.frozen


class WithJacobians:
    """A linear model that is only known by its Jacobians, some rows at a time."""

    def __init__(self, model):
        self.model, self.params, self.n_outputs = model, model.params, model.n_outputs

    def outputs(self, X):
        return self.model.outputs(X)

    def jacobians(self, X):
        K, p = self.n_outputs, len(self.params)
        Z = np.column_stack([X, np.ones(len(X))])
        J = np.stack([np.kron(np.eye(K), z).reshape(K, p) for z in Z])
        yield J[:3]
        yield J[3:]


@pytest.mark.parametrize("memory", [2e-4, 1024])
def test_curvature_from_jacobians_is_that_from_gram_matrices(memory):
    X, y = data("multinomial")
    weight = np.linspace(0.5, 2, N)
    problem = TrainingProblem(as_model(LogisticRegression(C=np.inf).fit(X, y)), X, y, weight)
    with config_context(working_memory=memory):
        found = JacobianCurvature(WithJacobians(problem.fitted.model), problem.loss)(problem.rows)
    assert_allclose(found / weight.sum(), problem.dense_hessian(problem.params), atol=1e-14)


def test_what_does_not_move_has_no_norm():
    X, y = data("regression")
    problem = TrainingProblem(as_model(Lasso(0.7).fit(X, y)), X, y)
    assert_array_equal(problem.free, [*(Lasso(0.7).fit(X, y).coef_ != 0), True])
    assert not problem.free.all()
    J = Dense(problem, X, np.ones(N)).gradients(problem.params)
    assert_allclose(problem.squared_gradient_norms(problem.params), (J[:, problem.free] ** 2).sum(axis=1))
    norms = RowNorms(problem.fitted.model, lambda F, y: np.ones_like(F), problem.free, "X")
    assert_allclose(
        norms(X, problem.rows.y, None), (np.column_stack([X, np.ones(N)])[:, problem.free] ** 2).sum(axis=1)
    )


# --- whether it is a minimum ------------------------------------------------------------------------------------------


def moved(problem, by):
    """The problem of the same rows with the fitted parameters moved, so that the gradient is ``by`` typical rows'."""
    params, free = problem.params, problem.free
    H = problem.dense_hessian(params)
    typical = np.sqrt(problem.squared_gradient_norms(params).mean())
    direction = np.zeros(len(params))
    direction[free] = 1 / np.sqrt(free.sum())
    step = np.linalg.solve(H, direction * by * typical)
    found = object.__new__(TrainingProblem)
    vars(found).update(vars(problem), fitted=replace(problem.fitted, model=problem.fitted.model.at(params + step)))
    return found


@pytest.mark.parametrize(("by", "warns"), [(0.0, False), (0.027, False), (0.034, True), (1.0, True)])
def test_a_gradient_beyond_three_hundredths_of_a_rows_warns(by, warns):
    X, y = data("regression")
    problem = moved(TrainingProblem(as_model(LinearRegression().fit(X, y)), X, y), by)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        left = warn_unless_minimum(problem, problem.params)
    assert [w.category for w in caught] == [ConvergenceWarning] * warns
    assert_allclose(left, np.linalg.norm(problem.gradient(problem.params)))
    if warns:
        typical = np.sqrt(problem.squared_gradient_norms(problem.params).mean())
        assert f"has norm {left:.3g}, {left / typical:.0%} of a typical row's {typical:.3g}" in str(caught[0].message)


def test_only_fitted_parameters_of_linear_models_are_asked():
    X, y = data("regression")
    problem = moved(TrainingProblem(as_model(LinearRegression().fit(X, y)), X, y), 1.0)
    assert warn_unless_minimum(problem, problem.params.copy()) is None


def test_rows_that_are_fitted_exactly_leave_rounding_alone():
    X = data("regression")[0] * 1e3
    y = X @ [1.0, 2.0, 3.0]
    problem = TrainingProblem(as_model(LinearRegression().fit(X, y)), X, y)
    nudged = problem.params * (1 + 1e-13)
    vars(problem).update(fitted=replace(problem.fitted, model=problem.fitted.model.at(nudged)))
    left = warn_unless_minimum(problem, problem.params)  # warnings are errors here
    assert left > 0.03 * np.sqrt(problem.squared_gradient_norms(problem.params).mean())
    far = problem.params * (1 + 1e-5)
    vars(problem).update(fitted=replace(problem.fitted, model=problem.fitted.model.at(far)))
    with pytest.warns(ConvergenceWarning):
        warn_unless_minimum(problem, problem.params)


def test_what_does_not_move_may_have_a_gradient():
    X, y = data("regression")
    problem = TrainingProblem(as_model(Lasso(0.7, tol=1e-12).fit(X, y)), X, y)
    assert np.linalg.norm(problem.gradient(problem.params)[~problem.free]) > 0.1
    assert warn_unless_minimum(problem, problem.params) < 1e-6


def test_of_many_rows_a_sample_is_typical():
    rng = np.random.RandomState(0)
    X = rng.standard_normal((4000, 2))
    y = X[:, 0] + rng.standard_normal(4000)
    problem = moved(TrainingProblem(as_model(LinearRegression().fit(X, y)), X, y), 1.0)
    typical = np.sqrt(problem.squared_gradient_norms(problem.params)[::2].mean())
    with pytest.warns(ConvergenceWarning, match=f"of a typical row's {typical:.3g}"):
        warn_unless_minimum(problem, problem.params)
