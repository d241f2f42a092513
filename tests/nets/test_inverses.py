"""Methods that invert a net's curvature against dense algebra on the Jacobians of single rows' backward passes."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import influence_scores, methods  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .reference import outputs_and_jacobian, second_order  # noqa: E402

N, M, D, K = 23, 6, 4, 3
P = (D + 1) * 4 + (4 + 1) * K
DAMPING, DECAY = 0.5, 0.05  # more than the most negative curvature of the Hessian
MADE = {
    "exact": methods.Exact(damping=DAMPING),
    "cg": methods.CG(damping=DAMPING, tol=1e-12),
    "lissa": methods.LiSSA(damping=DAMPING, depth=5000, tol=1e-10),
    "arnoldi": methods.Arnoldi(rank=P, n_iter=P, damping=DAMPING),
    "trak": methods.TRAK(n_projections=P, damping=DAMPING),
}
# Relative to the largest score: what the solver was asked for, and what finite differences leave of the Hessian.
BOUND = {"exact": 1e-11, "cg": 1e-9, "lissa": 1e-8, "arnoldi": 1e-9, "trak": 1e-11}
DIFFERENCES = 1e-7


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, K)).double()


def drawn():
    """Training rows, validation rows and weights of the training rows."""
    rng = np.random.RandomState(0)
    X, X_val = rng.standard_normal((N, D)), rng.standard_normal((M, D))
    return X, rng.randint(K, size=N), X_val, rng.randint(K, size=M), rng.uniform(0.5, 2, size=N)


def residuals(F, y):
    """The derivative of cross-entropy in the outputs, and their probabilities."""
    p = np.exp(F - F.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return p - np.eye(K)[y], p


@cache
def dense(kind, weighted):
    """``(w_i / sum w) grad l_i . (C + damping I)^-1 g`` with C as said, each part from backward passes of its own."""
    module, (X, y, X_val, y_val, weight) = net(), drawn()
    share = (weight if weighted else np.ones(N)) / (weight.sum() if weighted else N)
    F, J = outputs_and_jacobian(module, X)
    R, p = residuals(F, y)
    G = np.einsum("nk,nkp->np", R, J)
    F_val, J_val = outputs_and_jacobian(module, X_val)
    g = np.einsum("nk,nkp->p", residuals(F_val, y_val)[0], J_val) / M
    if kind == "fisher":  # of the rows' losses alone
        C = np.einsum("n,np,nq->pq", share, G, G)
    else:
        curved = np.einsum("nk,kl->nkl", p, np.eye(K)) - np.einsum("nk,nl->nkl", p, p)
        C = np.einsum("n,nkp,nkl,nlq->pq", share, J, curved, J, optimize=True) + DECAY * np.eye(P)
    if kind == "hessian":
        C = C + np.stack([second_order(module, X, share[:, None] * R, v) for v in np.eye(P)])
    return share * (G @ np.linalg.solve((C + C.T) / 2 + DAMPING * np.eye(P), g))


def scores(name, *, weighted=False, order=None, curvature="gauss_newton", **options):
    X, y, X_val, y_val, weight = drawn()
    order = np.arange(N) if order is None else order
    asked = DifferentiableNet((net(), nn.CrossEntropyLoss()), weight_decay=DECAY, curvature=curvature, **options)
    found = np.empty(N)
    found[order] = influence_scores(
        asked, X[order], y[order], X_val, y_val, method=MADE[name], random_state=0,
        sample_weight=weight[order] if weighted else None,
    )  # fmt: skip
    return found


def assert_near(found, wanted, bound):
    assert np.abs(found - wanted).max() <= bound * np.abs(wanted).max()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", MADE)
def test_the_dense_answer(name, weighted):
    wanted = dense("fisher" if name == "trak" else "gauss_newton", weighted)
    assert_near(scores(name, weighted=weighted), wanted, BOUND[name])


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", ["exact", "cg", "lissa", "arnoldi"])
def test_the_dense_answer_with_the_hessian(name, weighted):
    assert_near(scores(name, weighted=weighted, curvature="hessian"), dense("hessian", weighted), DIFFERENCES)


def test_the_answers_are_apart():
    """By far more than the bounds: none of the tests above would pass with another's matrix, nor without weights."""
    kinds = ["fisher", "gauss_newton", "hessian"]
    answers = [dense(kind, weighted) for kind in kinds for weighted in (False, True)]
    for i, one in enumerate(answers):
        for other in answers[:i]:
            assert np.abs(one - other).max() > 1e-2 * np.abs(other).max()


@pytest.mark.parametrize("name", MADE)
def test_neither_blocks_nor_the_order_of_rows_matter(name):
    whole = scores(name, weighted=True, block_rows=1000)
    order = np.random.RandomState(1).permutation(N)
    for options in ({"block_rows": 7}, {"order": order, "block_rows": 9}):
        assert_near(scores(name, weighted=True, **options), whole, BOUND[name])


@pytest.mark.parametrize("seed", [1, 2])
def test_a_net_that_is_certain_of_its_rows_has_no_negative_curvature(seed):
    """Rounding makes its Gauss-Newton products asymmetric, by as much as they are themselves."""
    rng = np.random.RandomState(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(), nn.Linear(60, 3))
    centres, y = rng.standard_normal((3, 20)), rng.randint(0, 3, 8)
    X = (centres[y] + rng.standard_normal((8, 20))).astype(np.float32)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(torch.from_numpy(X)), torch.from_numpy(y)).backward()
        optimizer.step()
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        for dtype in ("float32", "float64"):
            pair = DifferentiableNet((net.eval(), nn.CrossEntropyLoss()), dtype=dtype)
            scores[dtype] = influence_scores(pair, X, y, method="lissa")
    assert np.linalg.norm(scores["float32"] - scores["float64"]) < np.linalg.norm(scores["float64"])
