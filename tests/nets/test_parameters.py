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


class BareTied(Tied):
    """A head without a bias: its only parameter is the embedding's."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 9, bias=False)
        self.out.weight = self.embed.weight


class Repeated(nn.Module):
    """One layer in two places, the last of all among them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.middle = nn.Linear(4, 4)
        self.last = self.first

    def forward(self, x):
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(x)))))


SHARED = {
    "tied": (Tied, "last_layer", ["embed.weight", "out.bias"]),
    "no_bias": (BareTied, "last_layer", ["embed.weight"]),
    "repeated": (Repeated, "last_layer", ["first.weight", "first.bias"]),
    "named": (Tied, ["out.weight"], ["embed.weight"]),
    "named_twice": (Tied, ["out.weight", "embed.weight", "out.bias"], ["embed.weight", "out.bias"]),
    "regex": (Tied, r"^out\.", ["embed.weight", "out.bias"]),
    "first_regex": (Tied, "embed", ["embed.weight"]),
    "callable": (Tied, lambda name, tensor: name.startswith("out"), ["embed.weight", "out.bias"]),
}


@pytest.mark.parametrize("name", SHARED)
def test_any_name_of_a_shared_parameter_means_the_one_tensor(name, rng):
    kind, parameters, chosen = SHARED[name]
    torch.manual_seed(0)
    module = kind().double()
    X = rng.standard_normal((20, 4)) if kind is Repeated else rng.randint(1, 9, (20, 5))
    y = rng.randint(0, 4, 20)
    asked = DifferentiableNet((module, nn.CrossEntropyLoss()), parameters=parameters)
    own = dict(module.named_parameters())
    assert as_model(asked).model.params.size == sum(own[name].numel() for name in chosen)
    ip, norms = by_rows(module, X, y, chosen)
    np.testing.assert_allclose(influence_scores(asked, X, y, X[:10], y[:10]), ip, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(influence_scores(asked, X, y, method="self_tracin"), norms, rtol=1e-8)


def test_a_frozen_tensor_is_frozen_by_any_of_its_names(rng):
    module = Tied().double()
    module.embed.weight.requires_grad_(False)
    pair = module, nn.CrossEntropyLoss()
    assert as_model(DifferentiableNet(pair, parameters="last_layer")).model.params.size == 9  # the bias is left
    with pytest.raises(ValueError, match=r"'out\.weight', which is frozen"):
        as_model(DifferentiableNet(pair, parameters=["out.weight"]))
