"""DataInf, EKFAC and TDA against dense per-row gradients."""

from __future__ import annotations

import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import Lasso, LogisticRegression, Ridge, SGDClassifier
from sklearn.preprocessing import scale

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import EKFAC, IP, TDA, DataInf, GradientMethod
from skinfluence.models import as_model
from skinfluence.operators import TrainingProblem
from skinfluence.preconditioners import EKFACInverse
from skinfluence.snapshots import Checkpoints, record_partial_fit


@pytest.fixture(scope="module")
def binary():
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)[:200, :8]
    X_val = scale(load_breast_cancer().data)[200:260, :8]
    return LogisticRegression(C=0.5).fit(X, y[:200]), X, y[:200], X_val, y[200:260]


@pytest.fixture(scope="module")
def multinomial():
    X, y = load_wine(return_X_y=True)
    X = scale(X)[:, :6]
    return LogisticRegression().fit(X[::2], y[::2]), X[::2], y[::2], X[1::2], y[1::2]


@pytest.fixture(scope="module")
def regression():
    X, y = load_diabetes(return_X_y=True)
    X, y = X[:150] * 10, y[:150] / 50
    return Ridge().fit(X[:100], y[:100]), X[:100], y[:100], X[100:], y[100:]


CASES = ["binary", "multinomial", "regression"]


def dense(case, weight=None):
    """Per-row gradients ``(n, p)`` of the training loss, and the objective's gradient."""
    est, X, y, X_val, y_val = case
    problem = TrainingProblem(as_model(est), X, y, weight)
    model, loss = problem.fitted.model, problem.loss

    def rows(X, y):
        F = model.outputs(X)
        D = loss.gradient(F, y)
        return np.stack([np.outer(d, np.append(x, 1.0)).ravel() for d, x in zip(D, X, strict=True)])

    val = problem.other_rows(X_val, y_val)
    return problem, rows(problem.rows.X, problem.rows.y), rows(val.X, val.y).mean(axis=0)


def weights_of(n):
    return np.random.RandomState(0).uniform(0.5, 2.0, n)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_datainf_is_the_mean_of_inverses(name, weighted, request):
    case = request.getfixturevalue(name)
    w = weights_of(len(case[1])) if weighted else np.ones(len(case[1]))
    _, G, g = dense(case)
    share = w / w.sum()
    damping = 0.1 * (share @ (G**2)).mean()
    P = sum(s * np.linalg.inv(damping * np.eye(len(g)) + np.outer(row, row)) for s, row in zip(share, G, strict=True))
    wanted = share * (G @ P @ g)
    found = influence_scores(*case, method="datainf", sample_weight=w if weighted else None)
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("name", CASES)
def test_datainf_tends_to_ip(name, request):
    case = request.getfixturevalue(name)
    _, G, _ = dense(case)
    damping = 1e9
    found = influence_scores(*case, method=DataInf(damping)) * damping * (G**2).mean()
    np.testing.assert_allclose(found, influence_scores(*case, method="ip"), rtol=1e-6)


def ekfac_reference(case, weight, damping):
    """EKFAC of a linear model with true labels, by dense Kronecker products."""
    problem, G, g = dense(case, weight)
    K = problem.fitted.model.n_outputs
    share = np.full(len(G), 1 / len(G)) if weight is None else weight / weight.sum()
    A = np.column_stack([case[1], np.ones(len(G))])
    F = problem.fitted.model.outputs(case[1])
    D = problem.loss.gradient(F, problem.rows.y)
    Q_A = np.linalg.eigh((A * share[:, None]).T @ A)[1]
    Q_B = np.linalg.eigh((D * share[:, None]).T @ D)[1]
    Q = np.kron(Q_B, Q_A)
    spectrum = share @ (G @ Q) ** 2
    l2 = problem.penalty_scale * problem.fitted.penalty.l2
    # The penalty's L2 is added along the eigenvectors, as the layer's own.
    shift = damping * spectrum.mean() + l2
    assert Q_B.shape == (K, K)
    return share * (G @ (Q @ ((Q.T @ g) / (spectrum + shift))))


@pytest.mark.filterwarnings("ignore:.*not at a minimum")  # the weights are not those of the fit
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_ekfac_is_its_dense_kronecker_form(name, weighted, request):
    case = request.getfixturevalue(name)
    w = weights_of(len(case[1])) if weighted else None
    found = influence_scores(*case, method=EKFAC(labels="true"), sample_weight=w)
    wanted = ekfac_reference(case, w, 0.1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_ekfac_of_one_row_repeated_is_the_dense_answer(kind):
    # With one input the Gauss-Newton matrix is a Kronecker product, which EKFAC has exactly.
    rng = np.random.RandomState(0)
    X = np.tile(rng.randn(4), (60, 1))
    if kind == "binary":
        est, y, y_val = LogisticRegression(fit_intercept=False), np.arange(60) % 3 == 0, np.array([0, 1, 0, 1, 0]) == 1
    else:
        est, y, y_val = Ridge(fit_intercept=False), rng.randn(60), rng.randn(5)
    est.fit(X, y)
    X_val = rng.randn(5, 4)
    problem = TrainingProblem(as_model(est), X, y)
    found = influence_scores(est, X, y, X_val, y_val, method=EKFAC(damping=0.01), random_state=0)
    H = problem.dense_hessian(problem.params)
    l2 = np.diag(problem.penalty_scale * problem.fitted.penalty.l2)
    damping = 0.01 * np.trace(H - l2) / len(H)
    rows = problem.other_rows(X_val, y_val)
    D = problem.loss.gradient(problem.fitted.model.outputs(rows.X), rows.y)
    g = problem.fitted.model.vjp(rows.X, D) / len(D)
    u = np.linalg.solve(H + damping * np.eye(len(H)), g)
    np.testing.assert_allclose(found, problem.row_products(u, problem.params), rtol=1e-8)


def test_ekfac_samples_the_gauss_newton_matrix(multinomial):
    # In the mean over seeds the sampled curvature is the Gauss-Newton matrix's in the same basis.
    est, X, y, *_ = multinomial
    problem = TrainingProblem(as_model(est), X, y)
    traces = [
        EKFACInverse(random_state=seed).factors(problem, [problem.params])[0]["linear"].squares.sum()
        for seed in range(60)
    ]
    H = problem.dense_hessian(problem.params)
    wanted = np.trace(H) - (problem.penalty_scale * problem.fitted.penalty.l2).sum()
    assert abs(np.mean(traces) - wanted) < 4 * np.std(traces) / np.sqrt(len(traces))


METHODS = [DataInf(), EKFAC(labels="true"), TDA(labels="true")]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_rows_may_come_in_any_order_and_in_any_blocks(name, method, request):
    est, X, y, X_val, y_val = request.getfixturevalue(name)
    scores = influence_scores(est, X, y, X_val, y_val, method=method)
    order = np.random.RandomState(0).permutation(len(X))
    np.testing.assert_allclose(
        influence_scores(est, X[order], y[order], X_val, y_val, method=method), scores[order], rtol=1e-7, atol=1e-12
    )
    with config_context(working_memory=1e-3):
        np.testing.assert_allclose(
            influence_scores(est, X, y, X_val, y_val, method=method), scores, rtol=1e-7, atol=1e-12
        )


@pytest.mark.parametrize("name", ["binary", "regression"])
def test_draws_do_not_matter_where_there_is_one_output(name, request):
    est, X, y, X_val, y_val = request.getfixturevalue(name)
    scores = influence_scores(est, X, y, X_val, y_val, method=EKFAC(), random_state=0)
    order = np.random.RandomState(0).permutation(len(X))
    other = influence_scores(est, X[order], y[order], X_val, y_val, method=EKFAC(), random_state=1)
    np.testing.assert_allclose(other, scores[order], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_containers_agree(name, method, request):
    est, X, y, X_val, y_val = request.getfixturevalue(name)
    scores = influence_scores(est, X, y, X_val, y_val, method=method)
    for container in (sp.csr_matrix, sp.csc_array):
        sparse = influence_scores(est, container(X), y, container(X_val), y_val, method=method)
        np.testing.assert_allclose(sparse, scores, rtol=1e-8, atol=1e-12)
        with config_context(working_memory=1e-3):
            blocks = influence_scores(est, container(X), y, container(X_val), y_val, method=method)
        np.testing.assert_allclose(blocks, scores, rtol=1e-7, atol=1e-12)
    single = influence_scores(est, X.astype("f4"), y, X_val.astype("f4"), y_val, method=method)
    np.testing.assert_allclose(single, scores, rtol=2e-2, atol=2e-3 * np.abs(scores).max())


@pytest.mark.parametrize("container", [sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("method", ["ekfac", "tda", "datainf"])
def test_sparse_rows_are_never_all_dense(method, container):
    X = sp.csr_array(sp.random(30_000, 200, density=0.01, format="csr", random_state=0))
    y = np.arange(30_000) % 2
    est, X = LogisticRegression(max_iter=20, C=0.01).fit(X, y), container(X)
    of_dense = 8 * X.shape[0] * X.shape[1]
    tracemalloc.start()
    try:
        influence_scores(est, X, y, method=method, random_state=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < peak < of_dense / 4, (peak, of_dense)


@pytest.mark.parametrize("method", ["ekfac", "tda"])
def test_a_factor_that_takes_too_much_memory_is_refused_before_any_work(method):
    d = 20_000
    X, y = sp.csr_array((np.ones(4), ([0, 1, 2, 3], [0, 5, 9, d - 1])), shape=(4, d)), np.array([0, 1, 0, 1])
    est = LogisticRegression().fit(X, y)
    X.data[:] = np.nan  # which the first pass would find
    with pytest.raises(ValueError, match=r"20001 x 20001 numbers .* working_memory=1024 MiB.*'ip', .*'cg'"):
        influence_scores(est, X, y, method=method)
    X.data[:] = 1.0
    for other in ("ip", "ip_ensemble", "datainf", "cg", "lissa"):
        assert np.isfinite(influence_scores(est, X, y, method=other, random_state=0)).all()
    width = 51
    est = LogisticRegression().fit(X[:, : width - 1], y)
    for n_bytes, outcome in (
        (8 * width**2, nullcontext()),
        (8 * width**2 - 1, pytest.raises(ValueError, match="51 x 51 numbers")),
    ):
        with config_context(working_memory=n_bytes / 2**20), outcome:
            influence_scores(est, X[:, : width - 1], y, method=method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_row_of_weight_two_is_a_row_twice(binary, method):
    est, X, y, X_val, y_val = binary
    twice = np.concatenate([X, X[:20]]), np.concatenate([y, y[:20]])
    weight = np.ones(len(X))
    weight[:20] = 2
    by_weight = influence_scores(est, X, y, X_val, y_val, method=method, sample_weight=weight)
    doubled = influence_scores(est, *twice, X_val, y_val, method=method)
    np.testing.assert_allclose(by_weight[:20], 2 * doubled[:20], rtol=1e-7)
    np.testing.assert_allclose(by_weight[20:], doubled[20:200], rtol=1e-7)


def test_l1_keeps_what_does_not_move(regression):
    _, X, y, X_val, y_val = regression
    est = Lasso(alpha=0.1).fit(X, y)
    assert (est.coef_ == 0).any()
    for method in (DataInf(), EKFAC(labels="true")):
        scores = influence_scores(est, X, y, X_val, y_val, method=method)
        kept = np.flatnonzero(est.coef_)
        small = Lasso(alpha=0.1).fit(X[:, kept], y)
        wanted = influence_scores(small, X[:, kept], y, X_val[:, kept], y_val, method=method)
        if isinstance(method, DataInf):
            # λ is a mean over all the layer's entries, which there are fewer of.
            assert np.corrcoef(scores, wanted)[0, 1] > 0.99
        else:
            assert np.corrcoef(scores, wanted)[0, 1] > 0.9


def test_seeded_labels(multinomial):
    one, two = (influence_scores(*multinomial, method="ekfac", random_state=3) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, influence_scores(*multinomial, method="ekfac", random_state=4))


# --- TDA --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(binary):
    _, X, y, *_ = binary
    est = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, alpha=0.01, random_state=0)
    return est, record_partial_fit(est, X, y, n_epochs=6)


def test_tda_without_checkpoints_is_ekfac(binary):
    np.testing.assert_allclose(
        influence_scores(*binary, method="tda", random_state=0),
        influence_scores(*binary, method="ekfac", random_state=0),
    )
    _, X, y, *_ = binary
    (note,) = InfluenceSelector(method="tda", cv=3, random_state=0).fit(X, y).notes_
    assert "those of 'ekfac'" in note


def test_tda_ensemble_is_the_mean_over_checkpoints(binary, history):
    est, kept = history
    _, X, y, X_val, y_val = binary
    found = influence_scores(est, X, y, X_val, y_val, method=TDA(checkpoints=kept, labels="true"))
    parts = []
    for params in kept.params:
        at_checkpoint = Checkpoints([params])
        method = GradientMethod(at_checkpoint, EKFACInverse(labels="true"))
        parts.append(influence_scores(est, X, y, X_val, y_val, method=method))
    np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-8)


def test_source_of_one_segment_and_a_long_way_is_ekfac(binary):
    est, X, y, X_val, y_val = binary
    params = as_model(est).model.params
    # The intercept has no penalty; without damping a direction of no curvature would never settle.
    method = TDA("source", [params], weights=[1e9], n_segments=1, labels="true")
    wanted = influence_scores(est, X, y, X_val, y_val, method=EKFAC(damping=0.0, labels="true"))
    np.testing.assert_allclose(influence_scores(est, X, y, X_val, y_val, method=method), wanted, rtol=1e-6)


def test_source_over_a_short_way_is_ip(binary):
    est, X, y, X_val, y_val = binary
    params = as_model(est).model.params
    method = TDA("source", [params], weights=[1e-7], n_segments=1, labels="true")
    found = influence_scores(est, X, y, X_val, y_val, method=method) / 1e-7
    np.testing.assert_allclose(found, influence_scores(est, X, y, X_val, y_val, method=IP()), rtol=1e-5)


def test_source_unrolls_gradient_descent():
    # Ridge by gradient descent: the run itself can be repeated without a row, and SOURCE is told how far it came.
    rng = np.random.RandomState(0)
    X, y = rng.randn(40, 3), rng.randn(40)
    X_val, y_val = rng.randn(30, 3), rng.randn(30)
    rate, n_steps = 0.05, 40

    def run(weight):
        theta, kept = np.zeros(3), []
        for step in range(n_steps):
            theta = theta - rate * X.T @ (weight * (X @ theta - y)) / len(y)
            if (step + 1) % 10 == 0:
                kept.append(theta.copy())
        return theta, kept

    theta, kept = run(np.ones(40))
    est = Ridge(alpha=1e-12, fit_intercept=False).fit(X, y)
    est.coef_ = theta

    def value(t):
        return np.mean((X_val @ t - y_val) ** 2) / 2

    truth = []
    for i in range(40):
        without = np.ones(40)
        without[i] = 0
        truth.append(value(run(without)[0]) - value(theta))
    scores = {}
    for n_segments in (1, 4):
        method = TDA("source", kept, weights=[10 * rate] * 4, n_segments=n_segments, labels="true")
        scores[n_segments] = influence_scores(est, X, y, X_val, y_val, method=method)
    assert np.corrcoef(scores[4], truth)[0, 1] > 0.95
    assert np.corrcoef(scores[4], truth)[0, 1] >= np.corrcoef(scores[1], truth)[0, 1] - 0.01
    assert 0.6 < np.polyfit(truth, scores[4], 1)[0] < 1.5


@pytest.mark.parametrize(
    ("method", "error", "match"),
    [
        (TDA("other"), ValueError, "'ensemble' or 'source'"),
        (TDA("source"), ValueError, "needs checkpoints"),
        (TDA("source", [np.zeros(9)]), ValueError, "how far descent came"),
        (TDA("source", [np.zeros(9)], weights=[1.0], n_segments=2), ValueError, "more than the 1 checkpoints"),
        (EKFAC(labels="wrong"), ValueError, "'sampled' or 'true'"),
        (EKFAC(uncovered="wrong"), ValueError, "'raise', 'diagonal' or 'leave_out'"),
        (EKFAC(damping=-1), ValueError, "damping"),
        (DataInf(damping=0), ValueError, "damping"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_mistakes_are_named(binary, method, error, match):
    with pytest.raises(error, match=match):
        influence_scores(*binary, method=method)


@pytest.mark.parametrize("name", ["datainf", "ekfac", "tda"])
def test_each_works_in_a_curator(binary, name):
    _, X, y, *_ = binary
    one = InfluenceSelector(method=name, removal_rate=0.1, random_state=0, cv=3).fit(X, y)
    two = InfluenceSelector(method=name, removal_rate=0.1, random_state=0, cv=3, n_jobs=2).fit(X, y)
    assert one.support_.sum() == 180
    np.testing.assert_array_equal(one.scores_, two.scores_)
