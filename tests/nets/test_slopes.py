"""Derivatives of losses that are written down are those that torch takes; all other losses are left to torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence.models.nets._losses import RowLoss  # noqa: E402
from skinfluence.models.nets._slopes import derivatives_of  # noqa: E402

N = 7
REDUCTIONS = ["mean", "sum", "none"]


def ask(criterion, out, y):
    return criterion(out, y)


def outputs(*shape, dtype=torch.float64):
    return 3 * torch.randn(N, *shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def assert_is_torchs(loss, out, y):
    x = out.clone().requires_grad_()
    V = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    (slope,) = torch.autograd.grad(loss.total(x, y), x, create_graph=True)
    (curved,) = torch.autograd.grad((slope * V).sum(), x)
    torch.testing.assert_close(loss.slope(out, y), slope.detach())
    torch.testing.assert_close(loss.curved(out, y, V), curved)


def is_written(loss, out, y):
    found = loss.slope(out, y)
    assert (found is None) == (loss.curved(out, y, out) is None)
    return found is not None


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
@pytest.mark.parametrize("kind", [nn.BCEWithLogitsLoss, nn.MSELoss])
def test_losses_of_numbers(kind, shape, reduction):
    out = outputs(*shape)
    y = (outputs(*shape) > 0).to(out.dtype) if kind is nn.BCEWithLogitsLoss else outputs(*shape).flip(0)
    loss = RowLoss(kind(reduction=reduction), ask, asked_plainly=True)
    assert_is_torchs(loss, out, y)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy(dtype, reduction):
    out, y = outputs(4, dtype=dtype), torch.tensor([0, 1, 2, 3, 3, 1, 0])
    loss = RowLoss(nn.CrossEntropyLoss(reduction=reduction), ask, asked_plainly=True)
    assert_is_torchs(loss, out, y)


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
    assert derivatives_of(criterion) is None


def test_rows_and_targets_of_other_forms_are_left_to_torch():
    entropy = RowLoss(nn.CrossEntropyLoss(), ask, asked_plainly=True)
    out, y = outputs(4), torch.arange(N) % 4
    assert is_written(entropy, out, y)
    assert not is_written(entropy, out, torch.softmax(out, dim=1))  # probabilities of classes
    assert not is_written(entropy, outputs(4, 2), torch.zeros(N, 2, dtype=torch.long))
    assert not is_written(entropy, {"a": out}, y)
    for reduction in REDUCTIONS:
        ignoring = RowLoss(nn.CrossEntropyLoss(ignore_index=2, reduction=reduction), ask, asked_plainly=True)
        assert not is_written(ignoring, out, y)
    squares = RowLoss(nn.MSELoss(), ask, asked_plainly=True)
    assert not is_written(squares, outputs(1), outputs())  # torch spreads one over the other
    assert not is_written(squares, outputs(), torch.arange(N))
    squares.by_mean = True
    assert not is_written(squares, outputs(), outputs())


def test_a_loss_that_is_asked_in_a_way_of_its_own_is_left_to_torch():
    assert not is_written(RowLoss(nn.MSELoss(), lambda criterion, out, y: criterion(2 * out, y)), outputs(), outputs())


@pytest.mark.parametrize("logit", [40.0, -40.0])
def test_the_curvature_of_a_certain_row_is_small_and_not_zero(logit):
    loss = RowLoss(nn.BCEWithLogitsLoss(), ask, asked_plainly=True)
    out = torch.tensor([logit], dtype=torch.float64)
    found = loss.curved(out, torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(found, torch.exp(-out.abs()), rtol=1e-12, atol=0)


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
    V = F[::-1]
    curved = scale**2 * P * (V - (P * V).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(fitted.loss.hessian_product(F, y, V), curved, rtol=1e-4, atol=1e-6)
