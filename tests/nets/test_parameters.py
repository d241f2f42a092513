"""Which parameters influence is taken in: frozen and tied ones, and every form of ``parameters``."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence import influence_scores  # noqa: E402
from skinfluence.models import as_model  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from .cases import Frozen, Reused, Tied  # noqa: E402
from .reference import outputs_and_jacobian  # noqa: E402


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture
def rows(rng):
    return rng.standard_normal((20, 4)), rng.randint(0, 3, 20)


def by_rows(module, X, y, chosen):
    """IP (of the first ten rows) and self-influence by a backward pass for each row."""
    own = dict(module.named_parameters())
    params = [own[name] for name in chosen]
    grads = []
    for i in range(len(X)):
        value = nn.functional.cross_entropy(module(torch.as_tensor(X[i : i + 1])), torch.as_tensor(y[i : i + 1]))
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, params)]).numpy())
    G = np.stack(grads)
    return G @ G[:10].mean(axis=0) / len(X), -(G**2).sum(axis=1) / len(X)


EVERY = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("parameters", "chosen"),
    [
        ("all", EVERY),
        ("last_layer", ["3.weight", "3.bias"]),
        (r"^(0|1)\.", EVERY[:4]),
        ("bias", ["0.bias", "1.bias", "3.bias"]),
        (["3.bias", "0.weight"], ["0.weight", "3.bias"]),
        (("1.weight",), ["1.weight"]),
        (lambda name, tensor: tensor.dim() == 2, ["0.weight", "3.weight"]),
    ],
    ids=["all", "last_layer", "regex", "part", "names", "tuple", "callable"],
)
def test_every_form_of_parameters(parameters, chosen, rows):
    module, (X, y) = net(), rows
    asked = DifferentiableNet((module, nn.CrossEntropyLoss()), parameters=parameters)
    ip, norms = by_rows(module, X, y, chosen)
    own = dict(module.named_parameters())
    assert as_model(asked).model.params.size == sum(own[name].numel() for name in chosen)
    np.testing.assert_allclose(influence_scores(asked, X, y, X[:10], y[:10]), ip, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(influence_scores(asked, X, y, method="self_tracin"), norms, rtol=1e-8)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ("nowhere", ValueError, "chooses none of"),
        ("(", ValueError, "no regular expression"),
        (["nowhere"], ValueError, "none of its parameters"),
        (lambda name, tensor: False, ValueError, "chooses none of"),
        (3, TypeError, "parameters must be"),
    ],
    ids=["none", "bad_regex", "unknown", "never", "number"],
)
def test_parameters_that_mean_nothing_are_refused(parameters, error, message, rows):
    with pytest.raises(error, match=message):
        influence_scores(DifferentiableNet((net(), nn.CrossEntropyLoss()), parameters=parameters), *rows)


def test_frozen_parameters_stay_out(rows):
    torch.manual_seed(0)
    module, (X, y) = Frozen().double(), rows
    y = y % 2
    assert as_model((module, nn.CrossEntropyLoss())).model.params.size == 6 * 2 + 2
    ip, _ = by_rows(module, X, y, ["head.weight", "head.bias"])
    np.testing.assert_allclose(influence_scores((module, nn.CrossEntropyLoss()), X, y, X[:10], y[:10]), ip, rtol=1e-8)
    asked = DifferentiableNet((module, nn.CrossEntropyLoss()), parameters=["backbone.0.weight"])
    with pytest.raises(ValueError, match="is frozen"):
        influence_scores(asked, X, y)
    with pytest.raises(ValueError, match="no parameter with requires_grad=True"):
        influence_scores((module.requires_grad_(False), nn.CrossEntropyLoss()), X, y)


@pytest.mark.parametrize("kind", [Tied, Reused])
def test_shared_parameters_are_counted_once(kind, rng):
    torch.manual_seed(0)
    module = kind().double()
    X = rng.randint(1, 9, (20, 5)) if kind is Tied else rng.standard_normal((20, 4))
    y = rng.randint(0, 2, 20)
    pair = (module, nn.CrossEntropyLoss())
    names = list(dict(module.named_parameters()))
    assert as_model(pair).model.params.size == sum(p.numel() for p in module.parameters())
    assert as_model(pair).model.params.size == outputs_and_jacobian(module, X[:1])[1].shape[2]
    ip, norms = by_rows(module, X, y, names)
    np.testing.assert_allclose(influence_scores(pair, X, y, X[:10], y[:10]), ip, rtol=1e-8, atol=1e-12)
    # Ghost norms layer by layer are wrong here: the uses of a weight must be added before they are squared.
    np.testing.assert_allclose(influence_scores(pair, X, y, method="self_tracin"), norms, rtol=1e-8)
