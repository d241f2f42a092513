"""Many products with the Hessian of a net's last layer: what comes before the layer is run once."""

from __future__ import annotations

import warnings
from types import MethodType

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import influence_scores, methods  # noqa: E402
from skinfluence.models import LinearModel, as_model  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402
from skinfluence.operators import TrainingProblem  # noqa: E402
from skinfluence.preconditioners import LiSSAInverse, lissa  # noqa: E402

from .reference import outputs_and_jacobian, second_order  # noqa: E402

N, M, D, K = 23, 6, 4, 3
METHODS = {
    "exact": methods.Exact(damping=0.3), "cg": methods.CG(damping=0.3, tol=1e-12),
    "lissa": methods.LiSSA(damping=0.3, depth=3000, tol=1e-12), "arnoldi": methods.Arnoldi(damping=0.3, rank=18),
    "self_lissa": methods.SelfLiSSA(damping=0.3, depth=3000, tol=1e-12),
    "lissa by mini-batches": methods.LiSSA(damping=0.3, depth=5, batch_size=5),
}  # fmt: skip


class Plain(nn.Module):
    """A body, and a last layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(D, 5), nn.Tanh())
        self.last = nn.Linear(5, K)

    def forward(self, x):
        return self.last(self.body(x))


class ByName(Plain):
    def forward(self, x):
        return {"logits": super().forward(x)}


class OverPositions(Plain):
    """The same layer for each of several positions, of which there is an output each."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 1)

    def forward(self, x):
        return self.last(self.body(x)[:, :K, None])


class Scaled(Plain):
    """Something is done to what the last layer gives."""

    def forward(self, x):
        return super().forward(x) / 8


class Shifted(Plain):
    """The outputs are as many as the last layer's, and others."""

    def forward(self, x):
        return super().forward(x) + x[:, :K]


class Tied(Plain):
    """The last layer's weights are used before it too, without its being called."""

    def forward(self, x):
        return self.last(torch.tanh(nn.functional.linear(self.body(x), self.last.weight) @ self.last.weight))


class Twice(Plain):
    """The last layer is called twice."""

    def forward(self, x):
        z = self.body(x)
        return self.last(torch.tanh(self.last(z) @ torch.ones(K, 5, dtype=x.dtype)))


class ByKeyword(Plain):
    """The last layer is told its inputs by name."""

    def forward(self, x):
        return self.last(input=self.body(x))


class Hooked(Plain):
    """Something is done to what goes into the last layer, by a hook."""

    def __init__(self):
        super().__init__()
        self.last.register_forward_pre_hook(lambda module, args: (2 * args[0],))


class Own(nn.Linear):
    """Not what a linear layer of torch's gives."""

    def forward(self, x):
        return super().forward(x) ** 3


class OwnLayer(Plain):
    """The last layer is of a class that inherits from the linear one."""

    def __init__(self):
        super().__init__()
        self.last = Own(5, K)


class NoBias(Plain):
    """The last layer has no bias."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(5, K, bias=False)


class OnlyLayer(Plain):
    """There is nothing before the last layer."""

    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Identity(), nn.Linear(D, K)


class Patched(Plain):
    """The last layer's forward is another than its class's."""

    def __init__(self):
        super().__init__()
        self.last.forward = MethodType(lambda own, x: 4 * nn.functional.linear(x, own.weight) + own.bias, self.last)


class InPlace(Plain):
    """What the last layer gives is changed where it lies."""

    def forward(self, x):
        return super().forward(x).div_(8)


class Warm(Plain):
    """The last layer has one more parameter."""

    def __init__(self):
        super().__init__()
        self.last.register_parameter("unused", nn.Parameter(torch.ones(())))


class BiasIsBuffer(Plain):
    """The last layer's bias is no parameter."""

    def __init__(self):
        super().__init__()
        bias = self.last.bias.detach().clone()
        del self.last.bias
        self.last.register_buffer("bias", bias)


LINEAR = {"plain": Plain, "by name": ByName, "no bias": NoBias, "only layer": OnlyLayer}
REDUCED = LINEAR | {
    "over positions": OverPositions, "own layer": OwnLayer, "one more parameter": Warm,
    "bias is a buffer": BiasIsBuffer,
}  # fmt: skip
WHOLE = {
    "scaled": Scaled, "shifted": Shifted, "tied": Tied, "called twice": Twice, "by keyword": ByKeyword,
    "hooked": Hooked, "patched": Patched, "in place": InPlace,
}  # fmt: skip
NETS = REDUCED | WHOLE


class Loss(nn.Module):
    """The mean cross-entropy of logits, however they come."""

    def forward(self, out, y):
        out = out["logits"] if isinstance(out, dict) else out
        return nn.functional.cross_entropy(out.flatten(1), y)


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = NETS[name]().double()
    module.body.requires_grad_(False)  # the last layer is all that the reference takes gradients in
    return module


def drawn():
    rng = np.random.RandomState(0)
    return rng.standard_normal((N, D)), np.arange(N) % K, rng.standard_normal((M, D)), rng.randint(K, size=M)


def problem_of(module, curvature="gauss_newton", **options):
    asked = DifferentiableNet((module, Loss()), parameters="last_layer", curvature=curvature, **options)
    X, y, *_ = drawn()
    return TrainingProblem(as_model(asked), X, y)


def reference(module, curvature):
    """The Hessian of the mean loss from single rows' backward passes."""
    X, y, *_ = drawn()
    F, J = outputs_and_jacobian(module, X)
    p = np.exp(F) / np.exp(F).sum(axis=1, keepdims=True)
    curved = np.einsum("nk,kl->nkl", p, np.eye(K)) - np.einsum("nk,nl->nkl", p, p)
    H = np.einsum("nkp,nkl,nlq->pq", J, curved, J) / N
    if curvature == "hessian":
        R = (p - np.eye(K)[y]) / N
        H += np.stack([second_order(module, X, R, v) for v in np.eye(len(H))])
    return H


def is_reduced(problem):
    return problem.fitted.model.reduced(problem.rows.X, 10**9) is not None


def is_linear(problem):
    return is_reduced(problem) and isinstance(problem.fitted.model.reduced(problem.rows.X, 10**9).model, LinearModel)


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("name", NETS)
def test_products_are_those_of_the_dense_hessian(name, curvature):
    problem = problem_of(made(name), curvature)
    found = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    wanted = reference(made(name), curvature)
    bound = 1e-8 * np.abs(wanted).max() if curvature == "hessian" else 1e-14
    assert_allclose(found, wanted, atol=bound)
    assert_allclose(problem.dense_hessian(problem.params), wanted, atol=bound)
    assert is_reduced(problem) == (name in REDUCED)
    assert is_linear(problem) == (name in LINEAR)


@pytest.mark.parametrize("how", [{}, {"block_rows": 5}, {"engine": "forward"}], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_scores_are_those_of_the_whole_net(name, how):
    asked = DifferentiableNet((made("plain"), Loss()), parameters="last_layer", **how)

    def scores():
        return influence_scores(asked, *drawn(), method=METHODS[name], random_state=0)

    found = scores()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skinfluence.models.nets._model.head_of", lambda net: None)
        wanted = scores()
    assert_allclose(found, wanted, rtol=1e-9, atol=1e-12 * np.abs(wanted).max())


def counted(asked):
    """The rows of each run of what comes before the last layer."""
    runs = []
    asked.fitted.model.net.module.inner.body.register_forward_hook(lambda part, args, out: runs.append(len(out)))
    return runs


def test_the_body_runs_once_however_many_products_there_are():
    asked = problem_of(made("plain"))
    runs = counted(asked)
    H = asked.hessian(asked.params)
    before = len(runs)
    assert before > 0
    for v in np.eye(asked.n_params):
        H.matvec(v)
    assert len(runs) == before


def test_the_body_runs_once_however_many_mini_batches_there_are():
    asked = problem_of(made("plain"))
    asked.hessian(asked.params)  # what is found out about the net
    runs = counted(asked)
    for depth in (2, 40):
        solve, _ = LiSSAInverse(damping=0.3, depth=depth, batch_size=5, n_repeats=3, random_state=0).at(
            asked, asked.params
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solve(np.ones(asked.n_params))
    assert sum(runs) == 2 * N


def test_mini_batches_are_of_the_layers_inputs():
    problem = problem_of(made("plain"))
    reduced = problem.reduced(problem.params)
    some = np.array([3, 3, 8, 20])
    batch = lissa._batch(problem, reduced.rows.take(some)).hessian(reduced.take(some))
    X, y, *_ = drawn()
    rows = TrainingProblem(problem.fitted, X[some], y[some])
    wanted = rows.dense_hessian(problem.params)
    assert_allclose(batch @ np.eye(problem.n_params), wanted, atol=1e-14)


def test_other_parameters_of_the_layer_make_other_products():
    problem = problem_of(made("plain"))
    other = made("plain")
    with torch.no_grad():
        other.last.weight.mul_(3)
    params = np.concatenate([part.detach().numpy().ravel() for part in other.last.parameters()])
    at_first = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    found = problem.hessian(params).matmat(np.eye(problem.n_params))
    assert_allclose(found, reference(other, "gauss_newton"), atol=1e-14)
    assert np.abs(found - at_first).max() > 1e-3


def test_inputs_that_are_large_are_not_kept():
    problem = problem_of(made("plain"))
    n_bytes = N * 5 * 8
    assert problem.fitted.model.reduced(problem.rows.X, n_bytes) is not None
    assert problem.fitted.model.reduced(problem.rows.X, n_bytes - 1) is None
    found = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    with config_context(working_memory=4 * (n_bytes - 1) / 2**20):
        wanted = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    assert_allclose(found, wanted, atol=1e-14)


@pytest.mark.parametrize("engine", ["forward", "double_backward", "row_loop"])
def test_the_engine_and_the_blocks_that_were_asked_for_are_those_of_the_layer_too(engine):
    problem = problem_of(made("plain"), engine=engine, block_rows=4)
    found = problem.fitted.model.reduced(problem.rows.X, 10**9)
    found.model.probe(found.X)
    assert (found.model.engine, found.model.state.block_rows) == (engine, 4)
    found = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    assert_allclose(found, reference(made("plain"), "gauss_newton"), atol=1e-14)


def test_parameters_of_two_layers_or_of_the_only_one_have_no_head():
    two = TrainingProblem(as_model(DifferentiableNet((Plain().double(), Loss()))), *drawn()[:2])
    only = TrainingProblem(as_model(DifferentiableNet((Own(D, K).double(), Loss()))), *drawn()[:2])
    assert not is_reduced(two)
    assert not is_reduced(only)


def test_a_net_that_is_a_linear_layer_is_a_linear_model():
    module = nn.Linear(D, K).double()
    problem = TrainingProblem(as_model(DifferentiableNet((module, Loss()))), *drawn()[:2])
    assert is_linear(problem)
    found = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    assert_allclose(found, reference(module, "gauss_newton"), atol=1e-14)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_some_parameters_of_the_layer_are_enough(frozen):
    module = made("plain")
    getattr(module.last, frozen).requires_grad_(False)
    problem = problem_of(module)
    assert problem.n_params == {"bias": 5 * K, "weight": K}[frozen]
    found = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    assert_allclose(found, reference(module, "gauss_newton"), atol=1e-14)
    assert is_reduced(problem)
    assert not is_linear(problem)  # its outputs are not those of the parameters alone


def test_a_class_that_says_it_is_linear_and_is_not_is_seen(monkeypatch):
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: nn.functional.linear(x, self.weight, self.bias) ** 3)
    problem = problem_of(made("plain"))
    assert is_reduced(problem)
    assert not is_linear(problem)


def test_a_linear_layer_over_positions_is_left_whole():
    module = nn.Sequential(nn.Linear(1, 1)).double()
    X, y, *_ = drawn()
    whole = TrainingProblem(as_model(DifferentiableNet((module[0], Loss()))), X[:, :K, None], y)
    assert not is_reduced(whole)
    assert not is_reduced(whole)


def test_outputs_that_are_not_finite_are_not_blamed_on_the_rows():
    module = made("plain").float()
    module.body = nn.Sequential(nn.Linear(D, 5), nn.ReLU()).requires_grad_(False)
    module.body[0].weight.fill_(10)
    X, y, *_ = drawn()
    asked = DifferentiableNet((module, Loss()), parameters="last_layer")
    far = X.astype(np.float32)
    far[3] = 3e38
    with pytest.raises(ValueError, match="The model's raw outputs are not finite"):
        influence_scores(asked, far, y, X[:5].astype(np.float32), y[:5], method=METHODS["exact"])


@pytest.mark.parametrize("name", ["plain", "scaled"])
def test_no_columns_have_no_products(name):
    problem = problem_of(made(name))
    assert problem.hessian(problem.params).matmat(np.empty((problem.n_params, 0))).shape == (problem.n_params, 0)


def test_the_dense_hessian_of_a_layer_in_single_precision_is_summed_in_double():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(D, 60), nn.ReLU(), nn.Linear(60, 2))
    X, y, *_ = drawn()
    problem = TrainingProblem(as_model(DifferentiableNet((module, Loss()), parameters="last_layer")), X, y % 2)
    assert np.linalg.eigvalsh(problem.dense_hessian(problem.params))[0] > -1e-14


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_of_less_precision(dtype):
    bound = {"float32": 1e-5, "bfloat16": 3e-2}[dtype]
    problem = problem_of(made("plain"), dtype=dtype)
    found = problem.hessian(problem.params).matmat(np.eye(problem.n_params))
    wanted = reference(made("plain"), "gauss_newton")
    assert_allclose(found, wanted, atol=bound * np.abs(wanted).max())
    assert is_reduced(problem)
    assert is_linear(problem) == (dtype == "float32")
