"""The user's net is exactly as before afterwards, also after an exception; blocks and memory change no score."""

from __future__ import annotations

import copy
import gc
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
from sklearn.utils import gen_batches

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import influence_scores  # noqa: E402
from skinfluence.methods import IPEnsemble  # noqa: E402
from skinfluence.models import as_model  # noqa: E402
from skinfluence.models.nets._memory import is_out_of_memory  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402
from skinfluence.snapshots import _base as snapshots_base  # noqa: E402

from .cases import CASES  # noqa: E402

METHODS = ["ip", "self_tracin", "ip_ensemble", "datainf", "cg"]


def state_of(module):
    """All that must not move, as comparable values."""
    return {
        "training": [part.training for part in module.modules()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "tensors": {name: t.clone() for name, t in module.state_dict().items()},
        "identity": [id(p) for p in module.parameters()],
        "attributes": [sorted(vars(part)) for part in module.modules()],
        "hooks": [len(part._forward_hooks) for part in module.modules()],
        "torch": torch.get_rng_state(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "threads": torch.get_num_threads(),
        "grad_enabled": torch.is_grad_enabled(),
        "fastpath": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_same(before, after):
    assert before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        if isinstance(old, dict):
            assert_same(old, new)
        elif isinstance(old, torch.Tensor):
            assert torch.equal(old, new), name
        elif isinstance(old, np.ndarray):
            np.testing.assert_array_equal(old, new, err_msg=name)
        elif name == "grad":
            for a, b in zip(old, new, strict=True):
                assert (a is None) == (b is None)
                assert a is None or torch.equal(a, b)
        else:
            assert old == new, name


def mixed_net():
    """BatchNorm with statistics, dropout, a frozen layer, gradients left from training, parts in both modes."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Linear(5, 3)
    ).double()
    rows = torch.randn(20, 4, dtype=torch.float64)
    nn.functional.cross_entropy(net(rows), torch.arange(20) % 3).backward()
    net[4].requires_grad_(False)
    net.train()
    net[1].eval()
    return net


@pytest.fixture
def rows(rng):
    return rng.standard_normal((30, 4)), rng.randint(0, 3, 30)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_net_moves(method, rows):
    net = mixed_net()
    before = state_of(net)
    scores = influence_scores((net, nn.CrossEntropyLoss()), *rows, method=method, random_state=0)
    assert_same(before, state_of(net))
    assert np.isfinite(scores).all()
    again = influence_scores((net, nn.CrossEntropyLoss()), *rows, method=method, random_state=0)
    np.testing.assert_array_equal(scores, again)
    # Evaluation mode always: the mode that the net happens to be in makes no difference.
    np.testing.assert_array_equal(
        influence_scores((net.eval(), nn.CrossEntropyLoss()), *rows, method=method, random_state=0), scores
    )


NAMED = ("res_block", "lstm", "encoder", "custom", "spectral_norm")


@pytest.mark.parametrize("case", [c for c in CASES if c.name in NAMED],
                         ids=lambda case: case.name)  # fmt: skip
def test_nothing_moves_whatever_the_engine(case):
    module, X = case.build()
    module.train()
    before = state_of(module)
    influence_scores((module, nn.CrossEntropyLoss()), X, np.arange(len(X)) % 2, random_state=0)
    assert_same(before, state_of(module))


class Fails(nn.Module):
    """Breaks on rows whose first entry is large, after it drew random numbers."""

    def __init__(self):
        super().__init__()
        self.inner = mixed_net()

    def forward(self, x):
        torch.rand(1)
        np.random.rand()
        if bool((x[:, 0] > 100).any()):
            raise RuntimeError("a large entry")
        return self.inner(x)


@pytest.mark.parametrize("method", ["ip", "self_tracin", "datainf"])
def test_nothing_moves_when_the_net_raises(method, rows):
    X, y = rows
    X = X.copy()
    X[11, 0] = 1000  # not one of the first rows, nor of those that are tried
    net = Fails()
    before = state_of(net)
    with pytest.raises(Exception, match="a large entry"):
        influence_scores((net, nn.CrossEntropyLoss()), X, y, method=method, random_state=0)
    assert_same(before, state_of(net))


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ip", "self_tracin", "ip_ensemble", "cg"])
@pytest.mark.parametrize("name", ["cnn_batch_norm", "encoder", "lstm"])
def test_the_block_size_changes_nothing(name, method):
    (case,) = [case for case in CASES if case.name == name]
    module, X = case.build()
    y = np.arange(len(X)) % 2
    pair = (module, nn.CrossEntropyLoss())
    whole = influence_scores(DifferentiableNet(pair, block_rows=1000), X, y, method=method, random_state=0)
    for block in (1, 2, 3):
        cut = influence_scores(DifferentiableNet(pair, block_rows=block), X, y, method=method, random_state=0)
        np.testing.assert_allclose(cut, whole, rtol=1e-7, atol=1e-9 * np.abs(whole).max())


class Little(nn.Module):
    """A device that holds so many rows at once."""

    def __init__(self, most, error=None):
        super().__init__()
        self.inner, self.most = nn.Linear(4, 3), most
        self.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much") if error is None else error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize("method", ["ip", "self_tracin", "cg", "datainf"])
def test_out_of_memory_halves_the_block_and_goes_on(method, rng):
    torch.manual_seed(0)
    net = Little(7).double()
    X, y = rng.standard_normal((50, 4)), rng.randint(0, 3, 50)
    options = {"block_rows": 40}
    found = influence_scores(DifferentiableNet((net, nn.CrossEntropyLoss()), **options), X, y, method=method)
    wanted = influence_scores((net.inner, nn.CrossEntropyLoss()), X, y, method=method)
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-10 * np.abs(wanted).max())


# Word for word what torch raises, each as a plain RuntimeError.
OUT_OF_MEMORY = {
    "linux": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)",
    "windows": "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried to allocate "
    "4000000000000000 bytes.",
    "mps": "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB, max allowed: 9.07 GB). "
    "Tried to allocate 1.00 GB on private pool.",
    "driver": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call.",
}


@pytest.mark.parametrize("said", OUT_OF_MEMORY.values(), ids=OUT_OF_MEMORY)
def test_out_of_memory_is_known_by_what_torch_says(said, rng):
    torch.manual_seed(0)
    net = Little(7, RuntimeError(said)).double()
    X, y = rng.standard_normal((50, 4)), rng.randint(0, 3, 50)
    model = as_model(DifferentiableNet((net, nn.CrossEntropyLoss()), block_rows=40)).model
    np.testing.assert_allclose(model.outputs(X), net.inner(torch.as_tensor(X)).detach(), rtol=1e-12)
    found = influence_scores(DifferentiableNet((net, nn.CrossEntropyLoss()), block_rows=40), X, y)
    np.testing.assert_allclose(found, influence_scores((net.inner, nn.CrossEntropyLoss()), X, y), rtol=1e-7)


@pytest.mark.skipif(sys.platform != "linux", reason="where more than an address space is never lent")
def test_what_torch_says_here_where_memory_runs_out():
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(10**15)
    assert is_out_of_memory(caught.value)


def test_other_errors_are_not_taken_for_it(rng):
    net = Little(7, RuntimeError("mat1 and mat2 shapes cannot be multiplied")).double()
    model = as_model(DifferentiableNet((net, nn.CrossEntropyLoss()), block_rows=40)).model
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model.outputs(rng.standard_normal((50, 4)))


def test_a_row_that_is_too_large_raises(rng):
    net = Little(0).double()
    with pytest.raises(Exception, match="out of memory"):
        influence_scores((net, nn.CrossEntropyLoss()), rng.standard_normal((5, 4)), [0, 1, 2, 0, 1])


def tf32():
    """What is set of it, by the names of every torch."""
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):
        return [owner.fp32_precision for owner in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)]
    return [backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32]


class Watched(nn.Module):
    """Notes the settings that it is asked under."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = nn.Linear(4, 3), []

    def __deepcopy__(self, memo):
        made = Watched()
        made.inner, made.seen = copy.deepcopy(self.inner, memo), self.seen
        return made

    def forward(self, x):
        self.seen.append((len(x), tf32()))
        return self.inner(x)


def test_derivatives_are_compared_in_full_precision_and_scores_taken_as_the_user_says(rng):
    before = tf32()
    assert before[0] in (True, "tf32")  # torch's own setting for convolutions
    net = Watched().double()
    influence_scores((net, nn.CrossEntropyLoss()), rng.standard_normal((50, 4)), rng.randint(0, 3, 50))
    assert tf32() == before
    probed = [settings for n, settings in net.seen if n < 10]
    full = [False, False] if len(before) == 2 else ["ieee"] * 3
    assert full in probed
    assert [settings for n, settings in net.seen if n == 50] == [
        before
    ] * 2  # the pass forward and that on dual numbers
    net.seen.clear()
    with pytest.raises(ValueError, match="fails on these rows"):
        influence_scores((net, nn.CrossEntropyLoss()), rng.standard_normal((50, 5)), rng.randint(0, 3, 50))
    assert tf32() == before


def test_rows_are_scored_alike_in_parts(rows):
    """A row's score depends on the others by their number alone."""
    X, y = rows
    pair = (mixed_net(), nn.CrossEntropyLoss())
    whole = influence_scores(pair, X, y, X[:10], y[:10])
    parts = [influence_scores(pair, X[at], y[at], X[:10], y[:10]) / 3 for at in gen_batches(30, 10)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-9)


def test_members_of_an_ensemble_cost_one_copy_of_the_parameters_each():
    module = nn.Sequential(nn.Linear(300, 500), nn.ReLU(), nn.Linear(500, 300), nn.ReLU(), nn.Linear(300, 3))
    size = 8 * sum(p.numel() for p in module.parameters())  # in float64, as vectors are
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 300)).astype(np.float32), rng.integers(0, 3, 40)
    net = DifferentiableNet((module, nn.CrossEntropyLoss()))
    influence_scores(net, X, y)

    def peak(n_members):
        tracemalloc.start()
        try:
            influence_scores(net, X, y, method=IPEnsemble(n_members=n_members), random_state=0)
            return tracemalloc.get_traced_memory()[1] / size
        finally:
            tracemalloc.stop()

    assert (peak(14) - peak(4)) / 10 < 1.2


@pytest.mark.parametrize("method", [IPEnsemble(3, 0.1), "ekfac"])
def test_scores_of_members_are_the_same_whatever_n_jobs(method):
    rng = np.random.default_rng(0)
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    X, y, weight = rng.standard_normal((40, 5)).astype(np.float32), rng.integers(0, 3, 40), rng.random(40)
    net = DifferentiableNet((module, nn.CrossEntropyLoss()))
    first, second = (
        influence_scores(net, X, y, X[:9], y[:9], method=method, sample_weight=weight, random_state=0, n_jobs=n_jobs)
        for n_jobs in (None, 2)
    )
    np.testing.assert_array_equal(first, second)


GONE = {
    "mlp": ("ip", "self_tracin", "ip_ensemble", "datainf", "cg", "ekfac", "lissa", "arnoldi", "trak", "gex"),
    "encoder": ("ip", "self_tracin", "datainf", "ekfac"),
}


@pytest.mark.parametrize(("name", "method"), [(name, method) for name, methods in GONE.items() for method in methods])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning", "ignore:.*minimum:UserWarning")
def test_what_a_call_has_made_is_gone_with_it(name, method, rng):
    """What refers to itself waits for the collector, and with it copies of the parameters on a device."""
    X, y = rng.standard_normal((60, 5)).astype(np.float32), rng.randint(0, 3, 60)
    module = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    if name == "encoder":
        X = rng.standard_normal((60, 3, 4)).astype(np.float32)
        layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        module = nn.Sequential(layer, nn.Flatten(), nn.Linear(12, 3))
    pair = module.eval(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0]))
    influence_scores(pair, X, y, method=method, random_state=0)  # what is made once
    gc.collect()
    gc.disable()
    try:
        there = {id(part) for part in gc.get_objects()}
        influence_scores(pair, X, y, method=method, random_state=0)
        left = [part for part in gc.get_objects() if id(part) not in there]
    finally:
        gc.enable()
    ours = [part for part in left if isinstance(part, torch.Tensor) or type(part).__module__.startswith("skinfluence")]
    assert not ours


def test_members_of_an_ensemble_are_in_memory_one_at_a_time(monkeypatch):
    alive, before = [], []
    make = snapshots_base._Members.__getitem__

    def noted(self, at):
        before.append(sum(ref() is not None for ref in alive))
        weight, params = make(self, at)
        alive.append(weakref.ref(params))
        return weight, params

    monkeypatch.setattr(snapshots_base._Members, "__getitem__", noted)
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((30, 4)).astype(np.float32), rng.randint(3, size=30)
    influence_scores((module, nn.CrossEntropyLoss()), X, y, X, y, method=IPEnsemble(4), random_state=0)
    assert before == [0] * 4
