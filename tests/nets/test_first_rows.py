"""What is found out on a net's first rows: once, and with nothing of the net or of its surroundings moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from torch import nn

from skinfluence import influence_scores
from skinfluence.models import as_model
from skinfluence.models.nets import _row_gradients
from skinfluence.models.nets._engines import written_out
from skinfluence.models.nets._net import Net
from skinfluence.nets import DifferentiableNet

N, D = 40, 3


@pytest.fixture
def data(rng):
    return rng.standard_normal((N, D)).astype(np.float32), rng.randint(2, size=N)


def net(width=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, width), nn.Tanh(), nn.Linear(width, 2))


@pytest.fixture
def passes(monkeypatch):
    """How many rows had a backward pass of their own."""
    made = []
    loop = _row_gradients.row_gradients_by_loop

    def counted(*args):
        for found in loop(*args):
            made.append(1)
            yield found

    monkeypatch.setattr(_row_gradients, "row_gradients_by_loop", counted)
    return made


def test_the_engine_and_the_layers_are_held_to_the_same_backward_passes(data, passes):
    influence_scores((net(), nn.CrossEntropyLoss()), *data, method="self_tracin")
    assert len(passes) == 5


def test_passes_of_a_large_net_are_not_kept(data, passes, monkeypatch):
    monkeypatch.setattr(_row_gradients, "_KEPT_BYTES", 0)
    influence_scores((net(), nn.CrossEntropyLoss()), *data, method="self_tracin")
    assert len(passes) == 10


def test_passes_at_other_parameters_are_others(data):
    model = as_model((net(), nn.CrossEntropyLoss())).model
    rows = model.rows(data[0])
    model.probe(rows)
    kept = model._own(rows)
    assert model._own(rows) is kept
    moved = model.at(2 * model.params)._own(rows)
    assert moved is not kept
    for (g, _), (other, _) in zip(kept, moved, strict=True):
        assert not torch.allclose(g, other)
    for (g, _), (again, _) in zip(kept, model._own(rows), strict=True):
        assert_array_equal(g, again)


def test_parameters_are_put_back_where_the_module_fails(data):
    module = net()
    asked = Net(module, "all")
    own = dict(asked.module.named_parameters())
    with pytest.raises(RuntimeError, match="shape"):
        asked.raw({name: tensor + 1 for name, tensor in asked.theta.items()}, torch.zeros(2, D + 1))
    for name, tensor in asked.module.named_parameters():
        assert tensor is own[name]


def test_a_parameter_of_several_modules_moves_in_all_of_them():
    module = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))
    module[2].weight = module[0].weight
    asked, x = Net(module, "all"), torch.randn(2, D)
    theta = {name: 2 * tensor for name, tensor in asked.theta.items()}
    W, b, c = (theta[f"inner.{name}"] for name in ("0.weight", "0.bias", "2.bias"))
    assert_allclose(asked.raw(theta, x), torch.relu(x @ W.T + b) @ W.T + c, rtol=1e-5)


def test_random_numbers_are_put_back_by_the_outermost():
    asked = Net(net(), "all")
    np.random.seed(0)
    torch.manual_seed(0)
    first = np.random.uniform(), float(torch.rand(()))
    np.random.seed(0)
    torch.manual_seed(0)
    with asked.still():
        with asked.still():
            np.random.uniform()
            torch.rand(())
        assert asked.is_still
        np.random.uniform()
        torch.rand(())
    assert not asked.is_still
    assert (np.random.uniform(), float(torch.rand(()))) == first


@pytest.mark.parametrize(("n", "sizes"), [(40, [40]), (41, [21, 20]), (100, [34, 33, 33])])
def test_blocks_are_of_one_size(rng, n, sizes):
    model = as_model(DifferentiableNet((net(), nn.CrossEntropyLoss()), block_rows=40)).model
    rows = model.rows(rng.standard_normal((n, D)).astype(np.float32))
    assert [at.stop - at.start for at, _ in model._over_blocks(rows, lambda batch, at: None)] == sizes


class Places(nn.Module):
    """A table's rows for whole numbers, a linear layer for others."""

    def __init__(self):
        super().__init__()
        self.table, self.linear, self.asked = nn.Embedding(4, D), nn.Linear(D, 2), []

    def forward(self, x):
        self.asked.append(len(x))
        return self.linear(x if x.is_floating_point() else self.table(x).mean(dim=1))


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_further_rows_are_looked_at_unless_they_are_real_numbers_of_the_same_form(dtype):
    intake = as_model((Places(), nn.CrossEntropyLoss())).intake
    X = np.arange(3 * D).reshape(-1, D) % 4
    intake.rows(X.astype(dtype))
    asked = intake.model.net.module.inner.asked
    asked.clear()
    intake.rows(X.astype(dtype))
    assert asked == ([] if dtype is np.float32 else [2])
    if dtype is np.int64:
        with pytest.raises(ValueError, match="fails on these rows"):
            intake.rows(X + 4)
    with pytest.raises(ValueError, match="fails on these rows"):
        intake.rows(X[:, :2].astype(np.float32))


def test_attention_is_written_out_once_and_put_back_by_the_outermost():
    asked = Net(net(), "all")
    before = torch.backends.mha.get_fastpath_enabled()
    with written_out(asked, rules=False):
        with written_out(asked):
            assert not torch.backends.mha.get_fastpath_enabled()
        assert asked.is_written_out
        assert not torch.backends.mha.get_fastpath_enabled()
    assert not asked.is_written_out
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_a_parameter_without_numbers_has_a_norm_of_zero(data):
    module = net()
    module[0].register_parameter("none", nn.Parameter(torch.zeros(0)))
    module[2].register_parameter("none", nn.Parameter(torch.zeros(0)))
    X, y = data
    scores = influence_scores((module, nn.CrossEntropyLoss()), X, y, method="self_tracin")
    assert_allclose(scores, influence_scores((net(), nn.CrossEntropyLoss()), X, y, method="self_tracin"), rtol=1e-5)


@pytest.mark.parametrize(
    ("width", "working_memory", "rows"),
    [(4, 1024, 1 << 14), (1 << 10, 1024, 512), (1 << 16, 1024, 16), (1 << 16, 8, 4), (1 << 16, 1, 1)],
)
def test_the_size_of_blocks(rng, width, working_memory, rows):
    with config_context(working_memory=working_memory):
        model = as_model((net(width), nn.CrossEntropyLoss())).model
        model.rows(rng.standard_normal((4, D)).astype(np.float32))
        assert model.state.block_rows == rows
