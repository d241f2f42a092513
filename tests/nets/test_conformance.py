"""Every engine on every net, against backward passes of single rows."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.exceptions import EfficiencyWarning  # noqa: E402

from skinfluence import influence_scores  # noqa: E402
from skinfluence.models import as_model  # noqa: E402
from skinfluence.models.nets import _probe  # noqa: E402
from skinfluence.models.nets._engines import ENGINES, GRAPHED  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from . import reference  # noqa: E402
from .cases import CASES, N  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*row by row:sklearn.exceptions.EfficiencyWarning")
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
_TRUTH: dict = {}


def truth(case, dtype=torch.float64):
    """Module, rows, outputs and Jacobian, made once."""
    if (case.name, dtype) not in _TRUTH:
        module, X = case.build(dtype)
        _TRUTH[case.name, dtype] = (module, X, *reference.outputs_and_jacobian(module, X))
    return _TRUTH[case.name, dtype]


def model_of(module, **options):
    return as_model(DifferentiableNet((module, lambda out, y: (out * y).sum()), **options)).model


def drawn(F, J, seed=0):
    """Cotangents ``(n, K)``, parameters and directions."""
    rng = np.random.RandomState(seed)
    return rng.standard_normal(F.shape), rng.standard_normal(J.shape[2])


@EACH
def test_everything_that_a_model_has(case):
    module, X, F, J = truth(case)
    model = model_of(module)
    D, v = drawn(F, J)
    close = {"rtol": 1e-8, "atol": 1e-8}
    np.testing.assert_allclose(model.outputs(X), F, **close)
    assert model.n_outputs == F.shape[1]
    assert model.params.shape == (J.shape[2],)
    np.testing.assert_allclose(model.jvp(X, v), J @ v, **close)
    assert model.engine == case.engine, model.state.refused
    np.testing.assert_allclose(model.vjp(X, D), np.einsum("ik,ikp->p", D, J), **close)
    (pulled,) = model.pull_back(X, [model.params], lambda F, at, member: F * D[at])
    np.testing.assert_allclose(pulled, np.einsum("ik,ik,ikp->p", F, D, J), **close)
    Fs, Ts = model.outputs_and_jvps(X, [model.params], [v])
    np.testing.assert_allclose(Fs[0], F, **close)
    np.testing.assert_allclose(Ts[0], J @ v, **close)
    np.testing.assert_allclose(np.concatenate(list(model.jacobians(X))), J, **close)


@EACH
def test_along_a_direction_and_back(case):
    """The Gauss-Newton product in one pass on dual numbers, and in two."""
    module, X, F, J = truth(case)
    model = model_of(module)
    D, v = drawn(F, J)
    wanted = np.einsum("ik,ikp->p", D * (J @ v) + F, J)
    seen = []

    def cotangents(F, T, at):
        seen.append(at)
        return D[at] * T + F

    np.testing.assert_allclose(model.push_and_pull(X, v, cotangents), wanted, rtol=1e-8, atol=1e-8)
    assert model.state.one_pass is (case.engine in GRAPHED and not model.net.recurrent)
    assert [at.start for at in seen] == [0, *(at.stop for at in seen[:-1])]
    assert seen[-1].stop == N
    model.state.one_pass = False
    np.testing.assert_allclose(model.push_and_pull(X, v, cotangents), wanted, rtol=1e-8, atol=1e-8)


@EACH
def test_norms_and_layers(case):
    module, X, F, J = truth(case)
    model = model_of(module)
    D, v = drawn(F, J)
    G = np.einsum("ik,ikp->ip", D, J)
    free = np.ones(J.shape[2], dtype=bool)
    np.testing.assert_allclose(model.squared_row_norms(X, lambda F, at, m: D[at], free), (G**2).sum(axis=1), rtol=1e-8)
    if case.name == "branching":
        return
    products, total, covered = np.zeros(N), np.zeros(J.shape[2]), np.zeros(J.shape[2])
    weights = np.arange(1.0, N + 1)
    for at, layers in model.layers(X, lambda F, at, m: D[at], free):
        for layer in layers:
            products[at] += layer.products(layer.like(layer.layer.matrix(v)))
            layer.layer.add(layer.total(weights[at]), total)
            layer.layer.add(np.ones(layer.layer.shape), covered)
    np.testing.assert_array_equal(covered, 1)
    np.testing.assert_allclose(products, G @ v, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(total, weights @ G, rtol=1e-8, atol=1e-8)


@EACH
def test_only_the_slowest_engine_is_warned_of(case, recwarn):
    module, X, F, J = truth(case)
    model_of(module).jvp(X, drawn(F, J)[1])
    assert [w.category for w in recwarn] == [EfficiencyWarning] * (case.engine == "row_loop")
    assert all("fail or are wrong for it (forward: " in str(w.message) for w in recwarn)


@EACH
@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_engine_is_right_or_says_that_it_cannot(case, engine):
    module, X, F, J = truth(case)
    model = model_of(module, engine=engine)
    _, v = drawn(F, J)
    if engine in case.refuses:
        with pytest.raises(TypeError, match=f"cannot be differentiated by '{engine}'.*Leave engine at 'auto'"):
            model.jvp(X, v)
        return
    np.testing.assert_allclose(model.jvp(X, v), J @ v, rtol=1e-8, atol=1e-8)
    assert model.engine == engine


@EACH
def test_float32_is_near_float64(case):
    module, X, _, _ = truth(case, torch.float32)
    doubled, X64 = case.build()
    doubled.load_state_dict(module.state_dict())
    F, J = reference.outputs_and_jacobian(doubled, X64)
    model = model_of(module)
    D, v = drawn(F, J)
    G = np.einsum("ik,ikp->ip", D, J)
    T = model.jvp(X, v)
    assert T.dtype == np.float32
    np.testing.assert_allclose(T, J @ v, atol=1e-4 * np.abs(J @ v).max())
    np.testing.assert_allclose(
        model.vjp(X, D.astype(np.float32)), G.sum(axis=0), atol=1e-4 * np.abs(G).sum(axis=0).max()
    )
    norms = model.squared_row_norms(X, lambda F, at, m: D[at], np.ones(J.shape[2], dtype=bool))
    np.testing.assert_allclose(norms, (G**2).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda case: case.name)
def test_second_order(case):
    module, X, F, J = truth(case)
    model = model_of(module)
    D, v = drawn(F, J)
    v = v * model.net.padding().__invert__()  # padding does not move
    if case.name == "custom_once":
        with pytest.raises(TypeError, match=r"not symmetric.*gauss_newton"):
            model.second_order(X, D, v)
        return
    wanted = reference.second_order(module, X, D, v)
    found = model.second_order(X, D, v)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * max(np.abs(wanted).max(), 1e-3))


@pytest.mark.parametrize("name", ["mlp", "reused", "custom_once", "weight_norm", "centres"])
def test_input_gradient(name):
    (case,) = [case for case in CASES if case.name == name]
    module, X, F, J = truth(case)
    D, _ = drawn(F, J)
    np.testing.assert_allclose(
        model_of(module).input_gradient(X, D), reference.input_gradients(module, X, D), rtol=1e-8
    )


@pytest.mark.parametrize("name", ["cnn_batch_norm", "encoder", "two_inputs"])
def test_only_tables_of_numbers_have_input_gradients(name):
    (case,) = [case for case in CASES if case.name == name]
    module, X, F, J = truth(case)
    with pytest.raises(TypeError, match="one table of real numbers"):
        model_of(module).input_gradient(X, drawn(F, J)[0])


@EACH
def test_other_parameters(case):
    """At other parameters everything is as if the module had them."""
    module, X, F, J = truth(case)
    model = model_of(module)
    D, v = drawn(F, J)
    moved = model.at(model.params * 1.1)
    Fs, Ts = model.outputs_and_jvps(X, [model.params, moved.params], [v, 2 * v])
    np.testing.assert_allclose(Fs[0], F, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(Fs[1], moved.outputs(X), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(Ts[1], moved.jvp(X, 2 * v), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(model.outputs(X), F, rtol=1e-8, atol=1e-8)
    assert np.abs(Fs[1] - Fs[0]).max() > 1e-4
    # <J v, D> = <v, J' D>
    assert np.sum(moved.jvp(X, v) * D) == pytest.approx(moved.vjp(X, D) @ v, rel=1e-7)


@pytest.mark.parametrize("name", ["mlp", "cnn_batch_norm", "encoder", "lstm"])
def test_bfloat16_is_roughly_right(name):
    (case,) = [case for case in CASES if case.name == name]
    module, X, F, J = truth(case)
    model = model_of(module, dtype="bfloat16")
    _, v = drawn(F, J)
    T = model.jvp(X, v)
    assert T.dtype == np.float32
    assert np.corrcoef(T.ravel(), (J @ v).ravel())[0, 1] > 0.99


def test_a_net_is_told_by_what_its_rows_are_alone():
    """Batch statistics make rows depend on one another: no row has a gradient of its own."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(TypeError, match="together with others"):
        model_of(net).jvp(np.random.RandomState(0).standard_normal((6, 3)), np.zeros(24))


class Renormed(torch.nn.Module):
    """Writes to a parameter in its forward pass, as Embedding does with ``max_norm``."""

    def __init__(self):
        super().__init__()
        self.table, self.last = (
            torch.nn.Embedding(9, 4, max_norm=0.7, dtype=torch.float64),
            torch.nn.Linear(4, 3).double(),
        )

    def forward(self, x):
        return self.last(self.table(x).mean(dim=1))


class Masked(torch.nn.Module):
    """Changes in place what rows of one kind alone give; the few rows that are probed are of the other."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 5).double(), torch.nn.Linear(5, 2).double()

    def forward(self, x):
        h = self.first(x)
        far = x.mean(dim=(1, 2)) > 1
        if far.any():
            h[far] *= 2.0
        return self.last(h.tanh().sum(dim=1))


def far_rows():
    X = np.random.default_rng(0).standard_normal((40, 3, 4)) / 9
    X[7] += 2
    return X


@pytest.mark.parametrize(
    ("module", "X"),
    [
        (Renormed, np.random.default_rng(0).integers(0, 9, (20, 5))),
        (Masked, far_rows()),
        (lambda: torch.nn.Embedding(9, 4, sparse=True, dtype=torch.float64), np.arange(8)),
        (lambda: torch.nn.Embedding(9, 4, scale_grad_by_freq=True, dtype=torch.float64), np.arange(12) % 5),
    ],
    ids=["written in place", "another way for other rows", "sparse", "scaled by frequency"],
)
def test_nets_that_pull_back_in_unusual_ways(module, X):
    torch.manual_seed(0)
    module = module()
    F, J = reference.outputs_and_jacobian(module, X)
    model = model_of(module)
    D, v = drawn(F, J)
    close = {"rtol": 1e-8, "atol": 1e-8}
    np.testing.assert_allclose(model.vjp(X, D), np.einsum("ik,ikp->p", D, J), **close)
    found = model.push_and_pull(X, v, lambda F, T, at: D[at] * T)
    np.testing.assert_allclose(found, np.einsum("ik,ikp->p", D * (J @ v), J), **close)


class Scaled(torch.nn.Module):
    """Has parameters that belong to no layer and that rows of one kind alone use."""

    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(4, 5).double(), torch.nn.Linear(5, 2).double()
        self.scale = torch.nn.Parameter(torch.rand(5, dtype=torch.float64))

    def forward(self, x):
        h = self.first(x).tanh()
        far = x.mean(dim=1) > 0
        return self.last(h.index_copy(0, far.nonzero()[:, 0], h[far] * self.scale) if far.any() else h)


def test_some_parameters_that_some_rows_do_not_use():
    torch.manual_seed(0)
    module, X = Scaled(), np.random.default_rng(0).standard_normal((30, 4))
    F, J = reference.outputs_and_jacobian(module, X)
    assert 0 < (J[..., :5] == 0).all(axis=(1, 2)).sum() < len(X)
    model = model_of(module)
    D, _ = drawn(F, J)
    G = np.einsum("ik,ikp->ip", D, J)
    norms = model.squared_row_norms(X, lambda F, at, member: D[at], np.ones(J.shape[2], dtype=bool))
    np.testing.assert_allclose(norms, (G**2).sum(axis=1), rtol=1e-8)
    for method in ("self_tracin", "datainf"):
        y = np.zeros(len(X), dtype=int)
        assert np.isfinite(
            influence_scores((module, torch.nn.CrossEntropyLoss()), X, y + (X[:, 0] > 0), method=method)
        ).all()


def test_a_direction_is_not_written_to():
    """A bias's tangent is the same for all rows; what follows it in place must not change the direction."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(inplace=True), torch.nn.Linear(5, 2)).double()
    X = np.random.default_rng(0).standard_normal((22, 4))
    F, J = reference.outputs_and_jacobian(module, X)
    model = model_of(module, parameters=["0.bias"])
    model.rows(X)
    model.state.block_rows = 1
    D, v = drawn(F, J)
    bias = slice(20, 25)
    np.testing.assert_allclose(model.jvp(X, v[bias]), J[..., bias] @ v[bias], atol=1e-12)
    found = model.push_and_pull(X, v[bias], lambda F, T, at: D[at] * T)
    np.testing.assert_allclose(found, np.einsum("ik,ikp->p", D * (J[..., bias] @ v[bias]), J[..., bias]), atol=1e-12)
    assert model.state.one_pass


def test_a_net_that_gives_nan_is_no_proof(monkeypatch):
    module, X, F, J = truth(CASES[0])
    model = model_of(module)
    forward_graph = _probe.forward_graph
    monkeypatch.setattr(_probe, "forward_graph", lambda *given: [part * float("nan") for part in forward_graph(*given)])
    model.push_and_pull(X, drawn(F, J)[1], lambda F, T, at: T)
    assert model.state.one_pass is False
