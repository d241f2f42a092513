"""Gradients of rows in a convolution, without unfolding, against a backward pass for each row."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from skinfluence.models._layers import Layer  # noqa: E402
from skinfluence.models.nets import _convolutions  # noqa: E402
from skinfluence.models.nets._convolutions import ConvRows, _Flat, padded  # noqa: E402

# torch warns that an odd number of rows to add needs a copy; that there are more on one side is the point.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")

N = 5
SHAPES = {
    "3 x 3": (nn.Conv2d, (14, 6, 3), {"padding": 1}, (7, 7)),
    "strided": (nn.Conv2d, (14, 6, 3), {"stride": 2, "padding": 1}, (8, 9)),
    "strided by more than the kernel": (nn.Conv2d, (14, 6, 2), {"stride": 3}, (9, 8)),
    "dilated and strided": (nn.Conv2d, (14, 6, 3), {"stride": 2, "dilation": 3, "padding": 2}, (11, 10)),
    "same": (nn.Conv2d, (14, 6, (2, 3)), {"padding": "same", "dilation": (3, 1)}, (6, 5)),
    "not square": (nn.Conv2d, (14, 6, (1, 4)), {"padding": (0, 2), "stride": (2, 1), "bias": False}, (5, 9)),
    "one position": (nn.Conv2d, (14, 6, 4), {}, (4, 4)),
    "one dimension": (nn.Conv1d, (14, 6, 3), {"stride": 2, "padding": 1}, (9,)),
    "few channels": (nn.Conv2d, (3, 6, 3), {"padding": 1}, (7, 7)),
}


@pytest.fixture(params=SHAPES)
def made(request):
    """Rows in a convolution, and their gradients ``(n, b, a)`` by backward passes."""
    kind, sizes, options, shape = SHAPES[request.param]
    torch.manual_seed(0)
    module = kind(*sizes, **options).double()
    x = torch.randn(N, sizes[0], *shape, dtype=torch.float64)
    out = module(x)
    B = torch.randn_like(out)
    G = []
    for i in range(N):
        found = torch.autograd.grad(module(x[i : i + 1]), list(module.parameters()), B[i : i + 1])
        G.append(torch.cat([g.reshape(len(g), -1) for g in found], dim=1).numpy())
    bias = module.bias is not None
    arguments = {name: getattr(module, name) for name in ("stride", "padding", "dilation")}
    x, geometry = padded(x, {**arguments, "kernel": module.kernel_size})
    b, a = G[0].shape[0], G[0].shape[1] - bias
    slices = [(slice(0, b * a), (b, a)), (slice(b * a, b * a + b), (b, 1))][: 1 + bias]
    rows = ConvRows(Layer("conv", tuple(slices)), x, B if B.dim() == 4 else B.unsqueeze(2), geometry, bias)
    return rows, np.stack(G)


def test_norms_by_either_rule(made, monkeypatch):
    rows, G = made
    wanted = (G**2).sum(axis=(1, 2))
    np.testing.assert_allclose(rows.squared_norms(), wanted, rtol=1e-10)
    monkeypatch.setattr(_convolutions, "_FEW_CHANNELS", 1)
    for gram in (True, False):
        monkeypatch.setattr(_Flat, "gram_is_cheaper", lambda flat, gram=gram: gram)
        np.testing.assert_allclose(rows.squared_norms(), wanted, rtol=1e-10)


def test_norms_in_parts(made, monkeypatch):
    rows, G = made
    monkeypatch.setattr("skinfluence.models._layers._CACHE_BYTES", 1)
    monkeypatch.setattr(_Flat, "gram_is_cheaper", lambda flat: True)
    np.testing.assert_allclose(rows.squared_norms(), (G**2).sum(axis=(1, 2)), rtol=1e-10)


def test_products_and_sums(made):
    rows, G = made
    rng = np.random.RandomState(0)
    V, weights = rng.standard_normal(G.shape[1:]), rng.random_sample(N)
    close = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(rows.products(rows.like(V)), (G * V).sum(axis=(1, 2)), **close)
    np.testing.assert_allclose(rows.total(weights), np.einsum("n,nba->ba", weights, G), **close)
    Q_A, Q_B = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (G.shape[2], G.shape[1]))
    np.testing.assert_allclose(
        rows.rotated_squares(rows.like(Q_A), rows.like(Q_B), weights),
        np.einsum("n,nba->ba", weights, (Q_B.T @ G @ Q_A) ** 2),
        **close,
    )


def test_moments_are_those_of_its_positions(made):
    rows, G = made
    weights = np.arange(1.0, N + 1)
    A, B = rows.unfolded.A.numpy(), rows.unfolded.B.numpy()
    if rows.bias:
        A = np.concatenate([A, np.ones((*A.shape[:2], 1))], axis=2)
    np.testing.assert_allclose(np.einsum("nta,ntb->nba", A, B), G, rtol=1e-9, atol=1e-9)
    for found, parts in zip(rows.second_moments(weights), (A, B), strict=True):
        np.testing.assert_allclose(found, np.einsum("n,nta,ntc->ac", weights, parts, parts), rtol=1e-9, atol=1e-9)


def test_the_cheaper_rule_is_taken():
    """Few positions and many channels go by Gram matrices, many positions by taps."""

    def flat(channels, side):
        x = torch.zeros(1, channels, side + 2, side + 2)
        geometry = padded(x, {"kernel": (3, 3), "stride": 1, "padding": 0, "dilation": 1})[1]
        layer = Layer("conv", ((slice(0, channels * channels * 9), (channels, channels * 9)),))
        return _Flat.of(ConvRows(layer, x, torch.zeros(1, channels, side, side), geometry, False))

    assert flat(256, 8).gram_is_cheaper()
    assert not flat(64, 32).gram_is_cheaper()
