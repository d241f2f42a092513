"""Precisions and devices: how far scores are from those in float64, and that they rank alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from skinfluence import influence_scores  # noqa: E402
from skinfluence.models.nets._losses import RowLoss  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .cases import cnn_batch_norm  # noqa: E402

N = 40
# Relative to the largest score: what rounding of the dtype makes of it on these nets, with room.
BOUNDS = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def mlp():
    return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.LayerNorm(12), nn.Linear(12, 3))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(9, 8, padding_idx=0), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.norm(self.embed(x)).mean(dim=1))


NETS = {
    "mlp": (mlp, lambda rng: rng.standard_normal((N, 5))),
    "cnn": (cnn_batch_norm, lambda rng: rng.standard_normal((N, 2, 6, 6))),
    "words": (Words, lambda rng: rng.randint(9, size=(N, 6))),
}


def some_ignored(rng):
    return np.where(rng.rand(N) < 0.3, -100, rng.randint(3, size=N))


WEIGHT = torch.tensor([0.5, 1.0, 2.0])
LOSSES = {
    "cross_entropy": (nn.CrossEntropyLoss(), lambda rng: rng.randint(3, size=N)),
    "class_weights": (nn.CrossEntropyLoss(WEIGHT), lambda rng: rng.randint(3, size=N)),
    "ignored": (nn.CrossEntropyLoss(), some_ignored),
    "ignored_weights": (nn.CrossEntropyLoss(WEIGHT), some_ignored),
    "squared": (nn.MSELoss(), lambda rng: rng.standard_normal((N, 3))),
}


def drawn(net, loss):
    torch.manual_seed(0)
    rng = np.random.RandomState(0)
    make, rows = NETS[net]
    criterion, targets = LOSSES[loss]
    # Parameters and rows are given in float32, so that float64 starts from the same.
    module, X = make().float(), rows(rng)
    X = X.astype(np.float32) if X.dtype.kind == "f" else X
    return module, criterion, X, targets(rng)


def assert_near(found, wanted, bound):
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() <= bound * np.abs(wanted).max()
    assert spearmanr(found, wanted).statistic >= 1 - bound


def scored(net, loss, dtype, method):
    module, criterion, X, y = drawn(net, loss)
    asked = DifferentiableNet((module, criterion), dtype=dtype)
    return influence_scores(asked, X, y, X[:15], y[:15], method=method, random_state=0)


KINDS = [
    *((net, "cross_entropy", method) for net in NETS for method in ("ip", "self_tracin")),
    *(("mlp", loss, "ip") for loss in ("class_weights", "squared")),
    ("mlp", "cross_entropy", "ip_ensemble"),
]


@pytest.mark.parametrize(("net", "loss", "method"), KINDS)
def test_a_precision_is_as_near_as_its_rounding(net, loss, method):
    wanted = scored(net, loss, "float64", method)
    for dtype, bound in BOUNDS.items():
        assert_near(scored(net, loss, dtype, method), wanted, bound)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_module_in_a_precision_of_its_own(dtype):
    """Without dtype= a net computes in what it is in; a bare one is given its rows in that."""
    module, criterion, X, y = drawn("mlp", "cross_entropy")
    wanted = influence_scores(DifferentiableNet((module, criterion), dtype="float64"), X, y, X[:15], y[:15])
    found = influence_scores((mlp_like(module, dtype), criterion), X, y, X[:15], y[:15])
    assert_near(found, wanted, BOUNDS.get(str(dtype).removeprefix("torch."), 1e-12))


def mlp_like(module, dtype):
    copied = mlp()
    copied.load_state_dict(module.state_dict())
    return copied.to(dtype)


@pytest.mark.parametrize("method", ["exact", "datainf", "ekfac"])
def test_methods_that_invert_in_float32(method):
    module, criterion, X, y = drawn("mlp", "cross_entropy")

    def inverted(dtype):
        asked = DifferentiableNet((module, criterion), dtype=dtype, weight_decay=0.1)
        return influence_scores(asked, X, y, X[:15], y[:15], method=method, random_state=0)

    assert_near(inverted("float32"), inverted("float64"), 1e-3)


def test_the_users_module_and_criterion_keep_their_precision():
    module, criterion, X, y = drawn("mlp", "class_weights")
    for dtype in ("float64", "bfloat16"):
        influence_scores(DifferentiableNet((module, criterion), dtype=dtype), X, y)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert criterion.weight.dtype == torch.float32


def test_parameters_of_two_precisions_are_refused():
    module, criterion, X, y = drawn("mlp", "cross_entropy")
    module[0].half()
    with pytest.raises(TypeError, match=r"one real floating dtype, got \['torch\.float16', 'torch\.float32'\]"):
        influence_scores((module, criterion), X, y)


# --- devices ----------------------------------------------------------------------------------------------------------

DEVICES = [
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    pytest.param(
        "mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs Apple's GPU (MPS)")
    ),
]


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_gives_the_scores_of_the_processor(device, net):
    module, criterion, X, y = drawn(net, "cross_entropy")

    def placed(method):
        asked = DifferentiableNet((module, criterion), weight_decay=0.1)
        return influence_scores(asked, X, y, X[:15], y[:15], method=method, random_state=0)

    methods = ["ip", "ip_ensemble", "self_tracin", "datainf", "ekfac", "cg"]
    wanted = {method: placed(method) for method in methods}
    module.to(device)
    drawn_before = torch.get_rng_state()
    for method in methods:
        # Convolutions there may be done in TF32.
        assert_near(placed(method), wanted[method], 5e-3)
    assert {p.device.type for p in module.parameters()} == {device}
    assert torch.equal(drawn_before, torch.get_rng_state())


@pytest.mark.parametrize("loss", ["class_weights", "ignored", "ignored_weights", "squared"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_weighs_rows_as_the_processor_does(device, loss):
    module, criterion, X, y = drawn("mlp", loss)
    methods = ["ip", "self_tracin", "ekfac"]

    def placed():
        return [influence_scores((module, criterion), X, y, X[:15], y[:15], method=m, random_state=0) for m in methods]

    wanted = placed()
    module.to(device)
    for on_device, on_processor in zip(placed(), wanted, strict=True):
        assert_near(on_device, on_processor, 5e-3)


class NoDoubles(TorchDispatchMode):
    """A device without float64, as Apple's GPU is, for what is computed within."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and found.dtype == torch.float64:
            raise TypeError(f"{function} makes float64, which the device has not.")
        return found


@pytest.mark.parametrize("loss", ["cross_entropy", "class_weights", "ignored", "ignored_weights"])
def test_losses_of_rows_need_no_doubles(loss):
    module, criterion, X, y = drawn("mlp", loss)
    rowwise = RowLoss(criterion, lambda criterion, out, y: criterion(out, y))
    out, target = module(torch.from_numpy(X)).detach(), torch.from_numpy(y)
    wanted = nn.functional.cross_entropy(out, target, reduction="none")  # 0 where ignored
    with NoDoubles():
        found = rowwise.values(out, target)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_may_be_on_the_device_already(device):
    module, criterion, X, y = drawn("mlp", "cross_entropy")
    wanted = influence_scores((module, criterion), X, y, X[:15], y[:15])
    module.to(device)
    there, labels = torch.from_numpy(X).to(device), torch.from_numpy(y).to(device)
    found = influence_scores((module, criterion), there, labels, there[:15], labels[:15])
    assert_near(found, wanted, 1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_a_device(device, dtype):
    module, criterion, X, y = drawn("mlp", "cross_entropy")
    wanted = influence_scores((module, criterion), X, y, X[:15], y[:15])
    module.to(device)
    found = influence_scores(DifferentiableNet((module, criterion), dtype=dtype), X, y, X[:15], y[:15])
    assert_near(found, wanted, BOUNDS[dtype])


@pytest.mark.parametrize("device", DEVICES)
def test_a_skorch_net_on_a_device(device):
    skorch = pytest.importorskip("skorch")
    _, _, X, y = drawn("mlp", "cross_entropy")
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(
        mlp, criterion=nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0, device=device
    ).fit(X, y)
    wanted = influence_scores((net.module_.cpu(), nn.CrossEntropyLoss()), X, y, X[:15], y[:15])
    net.module_.to(device)
    assert_near(influence_scores(net, X, y, X[:15], y[:15]), wanted, 1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_parameters_on_two_devices_are_refused():
    module, criterion, X, y = drawn("mlp", "cross_entropy")
    module[0].to("cuda:0")
    module[3].to("cuda:1")
    with pytest.raises(TypeError, match="on one device"):
        influence_scores((module, criterion), X, y)


def test_parameters_without_values_are_refused():
    module, criterion, X, y = drawn("mlp", "cross_entropy")
    module[3] = nn.Linear(12, 3, device="meta")
    with pytest.raises(TypeError, match=r"on one device.*parameters=\.\.\."):
        influence_scores((module, criterion), X, y)
