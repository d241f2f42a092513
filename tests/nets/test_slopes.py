"""Derivatives of losses that are written down are those that torch takes; all other losses are left to torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence.models.nets._losses import RowLoss  # noqa: E402
from skinfluence.models.nets._slopes import slope_of  # noqa: E402

N = 7
REDUCTIONS = ["mean", "sum", "none"]


def ask(criterion, out, y):
    return criterion(out, y)


def outputs(*shape, dtype=torch.float64):
    return 3 * torch.randn(N, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def by_torch(loss, out, y):
    out = out.clone().requires_grad_()
    return torch.autograd.grad(loss.total(out, y), out)[0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("kind", [nn.BCEWithLogitsLoss, nn.MSELoss])
def test_losses_of_numbers(kind, shape, reduction):
    out = outputs(*shape)
    y = (outputs(*shape) > 0).to(out.dtype) if kind is nn.BCEWithLogitsLoss else outputs(*shape).flip(0)
    loss = RowLoss(kind(reduction=reduction), ask, asked_plainly=True)
    torch.testing.assert_close(loss.slope(out, y), by_torch(loss, out, y))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy(dtype, reduction):
    out, y = outputs(4, dtype=dtype), torch.tensor([0, 1, 2, 3, 3, 1, 0])
    loss = RowLoss(nn.CrossEntropyLoss(reduction=reduction), ask, asked_plainly=True)
    torch.testing.assert_close(loss.slope(out, y), by_torch(loss, out, y))


class OwnLoss(nn.MSELoss):
    def forward(self, out, y):
        return super().forward(2 * out, y)


def hooked():
    loss = nn.MSELoss()
    loss.register_forward_pre_hook(lambda module, args: (2 * args[0], args[1]))
    return loss


def patched():
    loss = nn.MSELoss()
    loss.forward = lambda out, y: (2 * out - y) ** 2
    return loss


@pytest.mark.parametrize(
    "criterion",
    [
        nn.BCEWithLogitsLoss(weight=torch.ones(N, 1)),
        nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)),
        nn.CrossEntropyLoss(weight=torch.ones(4)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.HuberLoss(),
        nn.functional.mse_loss,
        OwnLoss(),
        hooked(),
        patched(),
    ],
    ids=lambda criterion: getattr(type(criterion), "__name__", ""),
)
def test_whatever_is_not_plain_is_left_to_torch(criterion):
    assert slope_of(criterion) is None


def test_rows_and_targets_of_other_forms_are_left_to_torch():
    entropy = RowLoss(nn.CrossEntropyLoss(), ask, asked_plainly=True)
    out, y = outputs(4), torch.arange(N) % 4
    assert entropy.slope(out, y) is not None
    assert entropy.slope(out, torch.softmax(out, dim=1)) is None  # probabilities of classes
    assert entropy.slope(outputs(4, 2), torch.zeros(N, 2, dtype=torch.long)) is None
    assert entropy.slope({"a": out}, y) is None
    for reduction in REDUCTIONS:
        ignoring = RowLoss(nn.CrossEntropyLoss(ignore_index=2, reduction=reduction), ask, asked_plainly=True)
        assert ignoring.slope(out, y) is None
    squares = RowLoss(nn.MSELoss(), ask, asked_plainly=True)
    assert squares.slope(outputs(1), outputs()) is None  # torch spreads one over the other
    assert squares.slope(outputs(), torch.arange(N)) is None
    squares.by_mean = True
    assert squares.slope(outputs(), outputs()) is None


def test_a_loss_that_is_asked_in_a_way_of_its_own_is_left_to_torch():
    assert RowLoss(nn.MSELoss(), lambda criterion, out, y: criterion(2 * out, y)).slope(outputs(), outputs()) is None


@pytest.mark.parametrize("plain", [True, False])
def test_skorch_nets_with_a_loss_of_their_own(plain):
    skorch = pytest.importorskip("skorch")
    from skinfluence.models import as_model

    class Doubled(skorch.NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, *args, **kwargs):
            return super().get_loss(2 * y_pred, y_true, *args, **kwargs)

    kind = skorch.NeuralNetClassifier if plain else Doubled
    X, y = np.random.default_rng(0).standard_normal((N, 3)).astype(np.float32), np.arange(N) % 3
    net = kind(nn.Linear(3, 3), criterion=nn.CrossEntropyLoss, train_split=None, verbose=0, max_epochs=1).fit(X, y)
    fitted = as_model(net)
    fitted.model.rows(X)
    F = np.random.default_rng(1).standard_normal((N, 3)).astype(np.float32)
    scale = 1 if plain else 2
    P = np.exp(scale * F) / np.exp(scale * F).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.loss.gradient(F, y), scale * (P - np.eye(3)[y]), rtol=1e-4, atol=1e-6)
