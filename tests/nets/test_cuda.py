"""Every engine on every net on a CUDA device, against backward passes of single rows on the processor."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import InfluenceSelector, Pipeline, influence_scores  # noqa: E402
from skinfluence.models import as_model  # noqa: E402
from skinfluence.models.nets._engines import ENGINES  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .cases import CASES  # noqa: E402
from .test_conformance import drawn, model_of, truth  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*row by row:sklearn.exceptions.EfficiencyWarning"),
    # Torch's own, of the first product in a thread that it takes derivatives in; and of its compiler.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*TensorFloat32 tensor cores:UserWarning"),
]
EACH = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# The device's kernel of weight_norm is 5e-7 off.
CLOSE = {"rtol": 2e-6, "atol": 1e-8}


def on_device(case, dtype=torch.float64, **options):
    """The model of a case on the device, its rows, and the truth of the processor."""
    _, X, F, J = truth(case, dtype)
    return model_of(case.build(dtype)[0].to("cuda"), **options), X, F, J


@EACH
def test_what_a_model_has(case):
    model, X, F, J = on_device(case)
    D, v = drawn(F, J)
    G = np.einsum("ik,ikp->ip", D, J)
    np.testing.assert_allclose(model.outputs(X), F, **CLOSE)
    np.testing.assert_allclose(model.jvp(X, v), J @ v, **CLOSE)
    np.testing.assert_allclose(model.vjp(X, D), G.sum(axis=0), **CLOSE)
    norms = model.squared_row_norms(X, lambda F, at, m: D[at], np.ones(J.shape[2], dtype=bool))
    np.testing.assert_allclose(norms, (G**2).sum(axis=1), **CLOSE)
    wanted = np.einsum("ik,ikp->p", D * (J @ v) + F, J)
    np.testing.assert_allclose(model.push_and_pull(X, v, lambda F, T, at: D[at] * T + F), wanted, **CLOSE)


@EACH
@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_engine_is_right_or_says_that_it_cannot(case, engine):
    model, X, F, J = on_device(case, engine=engine)
    _, v = drawn(F, J)
    try:
        found = model.jvp(X, v)
    except TypeError as error:
        if f"cannot be differentiated by '{engine}'" not in str(error):
            raise
        # A kernel of the device may lack a derivative that the processor's has; the last engine needs none but the
        # first derivative.
        assert engine != "row_loop"
        return
    np.testing.assert_allclose(found, J @ v, **CLOSE)


@EACH
def test_single_precision_is_near_double(case):
    module, _, _, _ = truth(case, torch.float32)
    doubled, X = case.build()
    doubled.load_state_dict(module.state_dict())
    exact, model = model_of(doubled), model_of(case.build(torch.float32)[0].to("cuda"))
    v = np.random.RandomState(0).standard_normal(len(exact.params))
    wanted = exact.jvp(X, v)
    # The device's convolutions and recurrences may be done in TF32, of ten bits.
    np.testing.assert_allclose(model.jvp(X, v), wanted, atol=1e-2 * np.abs(wanted).max())


class Hungry(nn.Module):
    """A net that takes 64 MiB of the device for each row that goes through at once."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return self.inner(x) + x.new_zeros(len(x), 1 << 24).sum(dim=1, keepdim=True)


@pytest.mark.parametrize("method", ["ip", "self_tracin", "cg", "datainf"])
def test_where_memory_runs_out_the_block_is_halved(method):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    torch.manual_seed(0)
    net = Hungry()
    wanted = influence_scores((copy.deepcopy(net.inner), nn.CrossEntropyLoss()), X, y, method=method)
    net.to("cuda")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((4 << 30) / total)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            net(torch.zeros(300, 4, device="cuda"))
        asked = DifferentiableNet((net, nn.CrossEntropyLoss()), block_rows=300)
        found = influence_scores(asked, X, y, method=method)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("method", ["ip", "ip_ensemble", "self_tracin", "ekfac"])
def test_the_devices_random_numbers_and_memory_are_left_alone(method):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 20)).astype(np.float32), rng.integers(0, 3, 200)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3)).to("cuda").train()
    pair = (net, nn.CrossEntropyLoss())
    influence_scores(pair, X, y, method=method, random_state=0)  # handles of libraries are made, and stay
    gc.collect()  # of what was before this test
    before, taken = torch.cuda.get_rng_state(), torch.cuda.memory_allocated()
    influence_scores(pair, X, y, method=method, random_state=0)
    assert torch.equal(before, torch.cuda.get_rng_state())
    assert torch.cuda.memory_allocated() == taken
    assert net.training


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own, of its compiler
def test_compiled_scores_are_those_of_the_plain_net():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((500, 20)).astype(np.float32), rng.integers(0, 3, 500)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 3)).to("cuda")
    wanted = influence_scores((net, nn.CrossEntropyLoss()), X, y)
    asked = DifferentiableNet((net, nn.CrossEntropyLoss()), compile=True)
    np.testing.assert_allclose(influence_scores(asked, X, y), wanted, atol=5e-3 * np.abs(wanted).max())
    model = as_model(asked).model
    model.jvp(X, np.ones(len(model.params)))
    assert model.engine == "compiled"


def test_a_selector_of_nets_in_a_pipeline():
    skorch = pytest.importorskip("skorch")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 6)).astype(np.float32)
    y = (X[:, 0] > 0).astype(np.int64)

    def fitted(device):
        torch.manual_seed(0)
        net = skorch.NeuralNetClassifier(
            nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), criterion=nn.CrossEntropyLoss, lr=0.1,
            max_epochs=5, train_split=None, verbose=0, device=device, iterator_train__shuffle=False,
        )  # fmt: skip
        selector = InfluenceSelector("final", method="ip", removal_rate=0.1, cv=3, random_state=0)
        return Pipeline([("curate", selector), ("net", net)]).fit(X, y)

    on_processor, on_gpu = fitted("cpu"), fitted("cuda")
    scores = on_processor["curate"].scores_
    np.testing.assert_allclose(on_gpu["curate"].scores_, scores, atol=1e-2 * np.abs(scores).max())
    assert (on_gpu.predict(X) == on_processor.predict(X)).mean() > 0.95
