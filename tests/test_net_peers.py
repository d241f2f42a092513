"""Other packages' scores of the same nets: equal where they are right, and where not, a dense reference says so.

They are no dependencies: a test of one that is not installed is skipped. ``make test-peers`` runs all, in an
environment that has the extra ``peers``.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from skinfluence import influence_scores, methods
from skinfluence.nets import DifferentiableNet
from skinfluence.preconditioners import EKFACInverse

torch = pytest.importorskip("torch", reason="nets need torch")

from torch import nn  # noqa: E402 - below what skips without torch
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402 - as above

from benchmarks import _net_peers, _nets  # noqa: E402 - as above

N, M, DAMPING = 40, 8, 0.1
PLAIN = [peer for peer in _net_peers.PEERS if peer.kind in ("ip", "self_tracin")]


def trained(module: nn.Sequential, n: int = N) -> _nets.NetCase:
    """A net near a minimum, in double precision, with a few rows."""
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(n + M, 5, generator=generator)
    noise = torch.randn(n + M, 3, generator=generator)
    y = (X @ torch.randn(5, 3, generator=generator) + 0.5 * noise).argmax(dim=1)
    optimizer, loss = torch.optim.LBFGS(module.parameters(), max_iter=30), nn.CrossEntropyLoss()

    def closure():
        optimizer.zero_grad()
        value = loss(module(X[:n]), y[:n]) + 0.01 * sum((p**2).sum() for p in module.parameters())
        value.backward()
        return value

    optimizer.step(closure)
    module.zero_grad()
    return _nets.doubled(_nets.NetCase("net", module.eval(), loss, X[:n], y[:n], X[n:], y[n:], (8,)))


@pytest.fixture(scope="module")
def nets() -> dict[str, _nets.NetCase]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = {"linear": trained(nn.Sequential(nn.Linear(5, 3))), "MLP": trained(_nets.mlp(5, 6, 3))}
        return made | {"MLP, more rows": trained(_nets.mlp(5, 6, 3), 5 * N)}


def ours(
    case: _nets.NetCase, method: object, covered: str = _nets.ALL, curvature: str = "hessian", seed: int = 0
) -> np.ndarray:
    names = "all" if covered == _nets.ALL else case.names(covered)
    net = DifferentiableNet((case.module, case.loss), parameters=names, curvature=curvature)
    rows = [part.numpy() for part in (case.X, case.y, case.X_val, case.y_val)]
    return influence_scores(net, *rows, method=method, random_state=seed)


def single(case: _nets.NetCase) -> _nets.NetCase:
    """The case in single precision, for packages that work in no other."""
    X, X_val = case.X.float(), case.X_val.float()
    return replace(case, module=copy.deepcopy(case.module).float(), X=X, X_val=X_val)


def off(found: object, wanted: np.ndarray) -> float:
    """The largest difference by the largest score."""
    found = found.detach().numpy() if hasattr(found, "detach") else found
    return float(np.abs(np.asarray(found, dtype=np.float64) - wanted).max() / np.abs(wanted).max())


def installed(package: str) -> None:
    peer = _net_peers.Peer(package, package, lambda case, batch: case)
    if peer.missing:
        pytest.skip(f"{package} is {peer.missing}")


# --- no Hessian -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", ["linear", "MLP"])
@pytest.mark.parametrize(
    "peer", [p for p in _net_peers.PEERS if p.kind in ("ip", "self_tracin")], ids=lambda p: p.label
)
def test_inner_products_and_norms_are_those_of_every_package(nets, net, peer):
    if peer.missing:
        pytest.skip(f"{peer.package} is {peer.missing}")
    # captum and pyDVL work in the net's own precision, the others in single.
    tolerance = 1e-12 if peer.package.startswith(("captum", "pydvl")) else 1e-5
    assert off(peer(nets[net], 8), ours(nets[net], peer.kind, peer.covered)) < tolerance


# --- the influence function -------------------------------------------------------------------------------------------


def exact(case: _nets.NetCase) -> np.ndarray:
    return ours(case, methods.Exact(damping=DAMPING))


def captum(case: _nets.NetCase, name: str, **options: object) -> np.ndarray:
    from captum.influence._core import arnoldi_influence_function, influence_function

    made = {
        "naive": influence_function.NaiveInfluenceFunction,
        "arnoldi": arnoldi_influence_function.ArnoldiInfluenceFunction,
    }[name]
    with tempfile.TemporaryDirectory() as folder, _net_peers._quiet():
        path = f"{folder}/checkpoint.pt"
        torch.save(case.module.state_dict(), path)
        # Its Hessian is that of the sum of losses, and so is what is added to it.
        found = made(
            copy.deepcopy(case.module), TensorDataset(case.X, case.y), path, _net_peers._load,
            loss_fn=_net_peers._flat_losses(case), batch_size=8, projection_dim=case.n_params,
            hessian_reg=DAMPING * case.n, **options,
        )  # fmt: skip
        return found.influence((case.X_val, case.y_val)).sum(dim=0).numpy() / len(case.X_val)


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_captum_with_all_eigenvectors_is_exact(nets, net):
    installed("captum.influence")
    assert off(captum(nets[net], "naive"), exact(nets[net])) < 1e-10


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_captums_arnoldi_at_full_rank_is_not_the_answer_and_ours_is(nets, net):
    installed("captum.influence")
    case = nets[net]
    wanted = exact(case)
    assert off(captum(case, "arnoldi", arnoldi_dim=case.n_params), wanted) > 1e-3
    full = methods.Arnoldi(rank=case.n_params, n_iter=case.n_params, damping=DAMPING)
    assert off(ours(case, full), wanted) < 1e-8


def pydvl(case: _nets.NetCase, made: object, batch: int = 8) -> np.ndarray:
    with _net_peers._quiet():
        fitted = made.fit(DataLoader(TensorDataset(case.X, case.y), batch_size=batch))
        found = fitted.influences(case.X_val, case.y_val, case.X, case.y)
    return found.detach().numpy().sum(axis=0) / (len(case.X_val) * case.n)


@pytest.mark.parametrize("net", ["linear", "MLP"])
@pytest.mark.parametrize("name", ["DirectInfluence", "CgInfluence", "ArnoldiInfluence"])
def test_pydvls_solvers_are_exact(nets, net, name):
    installed("pydvl.influence.torch")
    import pydvl.influence.torch as package

    case = nets[net]
    more = {
        "CgInfluence": {"rtol": 1e-10, "atol": 1e-12, "maxiter": 500},
        "ArnoldiInfluence": {"rank": case.n_params - 2},
    }
    made = getattr(package, name)
    found = pydvl(case, made(copy.deepcopy(case.module), case.loss, regularization=DAMPING, **more.get(name, {})))
    assert off(found, exact(case)) < 1e-8
    assert off(ours(case, methods.CG(damping=DAMPING, tol=1e-10)), exact(case)) < 1e-8


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_lissa_comes_to_the_answer_and_pydvls_to_its_neighbourhood(nets, net):
    installed("pydvl.influence.torch")
    from pydvl.influence.torch import LissaInfluence

    case = nets[net]
    wanted = exact(case)
    assert off(ours(case, methods.LiSSA(damping=DAMPING, depth=5000, tol=1e-9)), wanted) < 1e-5
    options = {"regularization": DAMPING, "maxiter": 3000, "dampen": 0.0, "scale": 3.0, "rtol": 1e-9}
    with torch.random.fork_rng():  # it draws its batches
        torch.manual_seed(0)
        found = pydvl(case, LissaInfluence(copy.deepcopy(case.module), case.loss, **options))
    assert 1e-4 < off(found, wanted) < 0.7
    assert np.corrcoef(found, wanted)[0, 1] > 0.85


def dattri_task(case: _nets.NetCase, function: object = None) -> object:
    """The task of a function ``(outputs, labels) -> number``, the loss unless given."""
    from dattri.task import AttributionTask
    from torch.func import functional_call

    module, function = copy.deepcopy(case.module), function or case.loss

    def of_rows(parameters, data):
        x, y = data
        x, y = (x[None], y[None]) if x.dim() == 1 else (x, y)
        return function(functional_call(module, parameters, (x,)), y)

    return AttributionTask(loss_func=of_rows, model=module, checkpoints=case.module.state_dict(), target_func=of_rows)


def dattri(case: _nets.NetCase, name: str, **options: object) -> np.ndarray:
    with _net_peers._quiet():
        from dattri.algorithm import influence_function

    case = single(case)
    training = DataLoader(TensorDataset(case.X, case.y), batch_size=case.n)
    validation = DataLoader(TensorDataset(case.X_val, case.y_val), batch_size=len(case.X_val))
    with _net_peers._quiet():
        made = getattr(influence_function, name)(task=dattri_task(case), device="cpu", **options)
        made.cache(training)
        found = made.attribute(training, validation)
    return found.detach().numpy().sum(axis=1) / (len(case.X_val) * case.n)


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_dattris_explicit_inverse_is_exact(nets, net):
    installed("dattri.task")
    assert off(dattri(nets[net], "IFAttributorExplicit", regularization=DAMPING), exact(nets[net])) < 1e-4


# --- approximations of it ---------------------------------------------------------------------------------------------


def dense_datainf(case: _nets.NetCase, damping: float, *, by_layer: bool = True) -> np.ndarray:
    """Kwon et al., ICLR 2024, Eq. 5 with one damping for all, layer by layer or for all parameters together."""
    rows, wanted = _nets.layer_gradients(case)
    Gs, gs = [part.reshape(case.n, -1) for part in rows], [part.ravel() for part in wanted]
    if not by_layer:
        Gs, gs = [np.concatenate(Gs, axis=1)], [np.concatenate(gs)]
    scores = np.zeros(case.n)
    for G, g in zip(Gs, gs, strict=True):
        u = (g - (G * ((G @ g) / (damping + (G**2).sum(axis=1)))[:, None]).mean(axis=0)) / damping
        scores += G @ u / case.n
    return scores


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_dattris_datainf_is_the_formula(nets, net):
    installed("dattri.task")
    found = dattri(nets[net], "IFAttributorDataInf", regularization=DAMPING)
    assert off(found, dense_datainf(nets[net], DAMPING)) < 1e-4


def test_datainf_of_one_layer_is_dattris_at_the_published_damping(nets):
    installed("dattri.task")
    case = nets["linear"]
    (rows,), _ = _nets.layer_gradients(case)
    found = dattri(case, "IFAttributorDataInf", regularization=0.1 * float((rows**2).mean()))
    assert off(found, ours(case, "datainf")) < 1e-3


def test_datainf_does_not_depend_on_batches_and_pydvls_does(nets):
    installed("pydvl.influence.torch")
    from pydvl.influence.torch import BlockMode
    from pydvl.influence.torch.influence_function_model import InverseHarmonicMeanInfluence

    case = nets["MLP"]
    wanted = dense_datainf(case, DAMPING, by_layer=False)
    found = [
        pydvl(case, InverseHarmonicMeanInfluence(copy.deepcopy(case.module), case.loss, DAMPING, BlockMode.FULL), b)
        for b in (1, 8, N)
    ]
    assert off(found[0], wanted) < 0.05  # nearly the formula in batches of one row
    assert off(found[1], wanted) > 0.1
    assert off(N * found[2], wanted) < 1e-10  # in one batch the right ranking, n times too small
    assert off(ours(case, "datainf"), _nets.dense_datainf(case)) < 1e-8


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_ekfac_is_kronfluences(nets, net):
    installed("kronfluence.analyzer")
    case = nets[net]
    with _net_peers._quiet():
        found = _net_peers.kronfluence(case, 8, strategy="ekfac", empirical=True)
    wanted = ours(case, methods.EKFAC(labels="true"))
    assert off(wanted, _nets.dense_ekfac(case)) < 1e-8
    assert off(found, wanted) < 1e-4


def repeated(case: _nets.NetCase, times: int) -> _nets.NetCase:
    """The same rows several times: as many labels are then drawn for each of them."""
    return replace(case, X=case.X.repeat(times, 1), y=case.y.repeat(times))


def sampled_ekfac(case: _nets.NetCase, package: str, times: int, seed: int) -> np.ndarray:
    """Scores of the rows by EKFAC with so many labels for each, drawn from the net's predictions."""
    many = repeated(case, times)
    if package == "ours":
        net = DifferentiableNet((many.module, many.loss))
        rows = [part.numpy() for part in (many.X, many.y, many.X_val, many.y_val)]
        found = influence_scores(net, *rows, method=methods.EKFAC(), random_state=seed)
    else:
        with _net_peers._quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            found = _net_peers.kronfluence(many, 500, strategy="ekfac").numpy()
    return found[: case.n] * times


@pytest.mark.parametrize(("package", "net"), [("ours", "linear"), ("ours", "MLP"), ("kronfluence", "MLP")])
def test_ekfac_with_drawn_labels_tends_to_that_of_the_fisher_matrix(nets, package, net):
    """Its expectation over labels, dense; not to that of the empirical one, of the rows' own labels."""
    if package != "ours":
        installed("kronfluence.analyzer")
    wanted, empirical = (_nets.dense_ekfac(nets[net], labels=labels) for labels in ("expected", "true"))
    found = sampled_ekfac(nets[net], package, times=200, seed=0)
    assert off(found, wanted) < 0.06
    assert np.corrcoef(found, wanted)[0, 1] > 0.999
    assert off(empirical, wanted) > 1


class RootsOfChances(nn.Module):
    """What pyDVL differentiates in the place of a loss: log probabilities, each times the root of its probability."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, F: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        logs = F.log_softmax(dim=1)
        found = (logs * logs.detach().exp().sqrt()).sum(dim=1)
        return found.sum() if self.reduction == "sum" else found.mean()


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_ekfac_is_of_the_fisher_matrix_and_pydvls_is_not(nets, net):
    """The Fisher matrix is ``sum_k p_k g_k g_k'``, of the labels' gradients. pyDVL's is ``s s'`` with ``s = sum_k
    sqrt(p_k) g_k``, whose products of two labels' gradients do not belong there; no setting of it has others.
    """
    installed("pydvl.influence.torch")
    case = nets[net]
    for damping in (1e-4, 0.1):
        with _net_peers._quiet():
            found = _net_peers.pydvl_ekfac(single(case), 8, damping)
        theirs = _nets.dense_ekfac(case, curved=replace(case, loss=RootsOfChances()), damping=damping)
        assert off(found, theirs) < 1e-5
        for labels in ("expected", "true"):
            assert off(found, _nets.dense_ekfac(case, labels=labels, damping=damping)) > 0.1
    assert off(ours(case, methods.EKFAC(labels="true")), _nets.dense_ekfac(case)) < 1e-8


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_ekfac_with_drawn_labels_is_the_formula_with_the_same_draws(nets, net):
    case = nets[net]
    drawn = methods.GradientMethod(preconditioner=EKFACInverse(random_state=3))
    assert off(ours(case, drawn), _nets.dense_ekfac(case, curved=_nets.with_drawn_labels(case, 3))) < 1e-8


# --- random projections -----------------------------------------------------------------------------------------------


class Margin(nn.Module):
    """The log odds of the label, whose gradients TRAK projects: Park et al., ICML 2023."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, F: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        own = y[:, None] == torch.arange(F.shape[1])
        odds = (F * own).sum(dim=1) - F.masked_fill(own, -torch.inf).logsumexp(dim=1)
        return odds.sum() if self.reduction == "sum" else odds.mean()


def dattri_trak(
    case: _nets.NetCase, kind: str, k: int, damping: float = 0.0, *, published: bool = False, seed: int = 0
) -> np.ndarray:
    """Its TRAK of the loss, as ours has it, or as published: of margins, and the rows' scores times ``1 - p``."""
    with _net_peers._quiet():
        from dattri.algorithm.trak import TRAKAttributor

    def chance(parameters, data):
        x, y = data
        if not published:
            return torch.zeros(1, dtype=x.dtype)  # and so a weight of one
        F = torch.func.functional_call(case.module, parameters, (x[None],))
        return (-case.loss(F, y[None])).exp()[None]

    task = dattri_task(replace(case, loss=Margin()) if published else case)
    options = {"proj_dim": k, "proj_max_batch_size": 32, "proj_seed": seed, "proj_type": kind, "device": "cpu"}
    with _net_peers._quiet():
        made = TRAKAttributor(task, chance, options, regularization=damping * case.n / case.n_params)
        made.cache(DataLoader(TensorDataset(case.X, case.y), batch_size=case.n))
        found = made.attribute(DataLoader(TensorDataset(case.X_val, case.y_val), batch_size=len(case.X_val)))
    return found.detach().numpy().sum(axis=1) / len(case.X_val)


def all_gradients(case: _nets.NetCase) -> tuple[np.ndarray, np.ndarray]:
    """Those of the rows ``(n, p)``, and the validation gradient ``(p,)``."""
    rows, wanted = _nets.layer_gradients(case)
    return np.concatenate([part.reshape(case.n, -1) for part in rows], axis=1), np.concatenate([*map(np.ravel, wanted)])


def dense_trak(case: _nets.NetCase, damping: float = 0.0) -> np.ndarray:
    """``G (G'G + n damping I)^+ g``: no projection."""
    G, g = all_gradients(case)
    return G @ np.linalg.pinv(G.T @ G + case.n * damping * np.eye(len(g)), rcond=1e-10, hermitian=True) @ g


@pytest.mark.parametrize("net", ["linear", "MLP", "MLP, more rows"])
def test_trak_without_projection_is_dattris(nets, net):
    installed("dattri.task")
    case = nets[net]
    wanted = dense_trak(case, DAMPING)
    assert off(ours(case, methods.TRAK(case.n_params, damping=DAMPING)), wanted) < 1e-10
    assert off(dattri_trak(case, "identity", case.n_params, DAMPING), wanted) < 1e-10


@pytest.mark.parametrize("net", ["linear", "MLP, more rows"])
def test_trak_in_any_subspace_that_loses_nothing_is_dattris_in_any_other(nets, net):
    """As many random directions as the gradients span: what they are drawn from then falls out of the formula."""
    installed("dattri.task")
    case = nets[net]
    rank = int(np.linalg.matrix_rank(all_gradients(case)[0]))
    assert rank < case.n_params
    wanted = dense_trak(case)
    assert off(ours(case, methods.TRAK(rank, damping=0.0)), wanted) < 1e-5
    for kind in ("normal", "rademacher"):
        assert off(dattri_trak(case, kind, rank), wanted) < 1e-5


def test_trak_in_fewer_directions_ranks_as_well_as_dattris(nets):
    installed("dattri.task")
    case = nets["MLP, more rows"]
    wanted = dense_trak(case)
    agreement = np.empty((3, 2))
    for i, k in enumerate((11, 22, 33)):
        found = [
            (ours(case, methods.TRAK(k, damping=0.0), seed=s), dattri_trak(case, "normal", k, seed=s))
            for s in range(20)
        ]
        agreement[i] = np.mean([[spearmanr(part, wanted)[0] for part in pair] for pair in found], axis=0)
    assert (np.diff(agreement, axis=0) > 0).all()
    assert_allclose(agreement[:, 0], agreement[:, 1], atol=0.1)
    assert (agreement[-1] > 0.5).all()


@pytest.mark.parametrize("net", ["linear", "MLP"])
def test_trak_as_published_is_dattris_and_ours_is_of_the_loss(nets, net):
    """Margins in the place of losses, a difference that our documentation names: a related ranking, not the same."""
    installed("dattri.task")
    case = nets[net]
    with torch.no_grad():
        p = torch.softmax(case.module(case.X), dim=1).numpy()[np.arange(case.n), case.y]
    published = (1 - p) * dense_trak(replace(case, loss=Margin()), DAMPING)
    assert off(dattri_trak(case, "identity", case.n_params, DAMPING, published=True), published) < 1e-10
    # The loss falls as the margin rises, in the row and in what is judged: the signs cancel.
    assert 0.2 < spearmanr(ours(case, methods.TRAK(case.n_params, damping=DAMPING)), published)[0] < 0.99


# --- neighbours -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_shapley_values_are_pydvls(k):
    installed("pydvl.valuation")
    with _net_peers._quiet():
        from pydvl.valuation import Dataset, KNNShapleyValuation

    rng = np.random.RandomState(0)
    X = rng.standard_normal((80, 4))
    y = (X[:, 0] + 0.5 * rng.standard_normal(80) > 0).astype(int) + (X[:, 1] > 1)
    with _net_peers._quiet():
        made = KNNShapleyValuation(KNeighborsClassifier(k), Dataset(X[60:], y[60:]), progress=False)
        result = made.fit(Dataset(X[:60], y[:60])).result
    wanted = np.empty(60)
    wanted[result.indices] = result.values
    fitted = LogisticRegression().fit(X[:60], y[:60])
    found = influence_scores(fitted, X[:60], y[:60], X[60:], y[60:], method=methods.KNNShapley(n_neighbors=k))
    assert off(found, wanted) < 1e-10
