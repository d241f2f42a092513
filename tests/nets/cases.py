"""The nets that every test of conformance runs over, with rows for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as nnf  # noqa: E402

N = 7
FORWARD = ("forward", "forward_math")


@dataclass(frozen=True)
class Case:
    """A net, its rows, and the engine that "auto" is to find for it."""

    name: str
    module: Callable[[], nn.Module]
    rows: Callable[[np.random.RandomState], Any]
    engine: str = "forward"
    refuses: tuple[str, ...] = ()  # engines that torch cannot do, or does wrong
    smooth: bool = True  # whether finite differences of gradients may be taken

    def build(self, dtype: Any = torch.float64) -> tuple[nn.Module, Any]:
        torch.manual_seed(0)
        module = self.module().to(dtype).eval()
        X = cast(self.rows(np.random.RandomState(0)), dtype)
        return module, X


def cast(X: Any, dtype: Any) -> Any:
    """Floating arrays in the dtype of a net; NumPy has no bfloat16."""
    if isinstance(X, dict):
        return {name: cast(part, dtype) for name, part in X.items()}
    if isinstance(X, tuple):
        return tuple(cast(part, dtype) for part in X)
    return X.astype(np.float64 if dtype == torch.float64 else np.float32) if X.dtype.kind == "f" else X


def numbers(*shape: int) -> Callable[[np.random.RandomState], np.ndarray]:
    return lambda rng: rng.standard_normal((N, *shape))


def tokens(length: int, vocabulary: int, padded: bool = False) -> Callable[[np.random.RandomState], np.ndarray]:
    def draw(rng: np.random.RandomState) -> np.ndarray:
        index = rng.randint(1, vocabulary, size=(N, length))
        if padded:
            index[::2, -2:] = 0
        return index

    return draw


def untrained_statistics(module: nn.Module) -> nn.Module:
    """Running statistics that are neither zero nor one, and affine parameters too."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module


def then_linear(width: int, n_outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(width, n_outputs))


def wrapped(make: Callable[[], nn.Module], width: int) -> Callable[[], nn.Module]:
    """A layer between its input and a small head."""
    return lambda: nn.Sequential(make(), nn.Tanh(), then_linear(width, 2))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5, bias=False), nn.SiLU(), nn.Linear(5, 3))


def mlp_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.LayerNorm(8), nn.Linear(8, 1))


def cnn_batch_norm() -> nn.Module:
    return untrained_statistics(
        nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        )
    )


def batch_norms() -> nn.Module:
    """With no weights of its own, and with one of the two frozen."""
    of_bias, of_weight = nn.BatchNorm1d(5), nn.BatchNorm1d(4)
    net = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, affine=False), nn.Tanh(), nn.Linear(6, 5), of_bias, nn.Tanh(),
        nn.Linear(5, 4), of_weight, nn.Linear(4, 2),
    )  # fmt: skip
    untrained_statistics(net)
    of_bias.weight.requires_grad_(False)
    of_weight.bias.requires_grad_(False)
    return net


class OwnStatistics(nn.Module):
    """Each row normalised by its own statistics, through the function that batches are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Conv1d(3, 4, 2), nn.Linear(4, 2)
        self.weight, self.bias = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

    def forward(self, x):
        h = self.inner(x)
        n, channels, length = h.shape
        h = h.reshape(1, n * channels, length)
        h = nnf.batch_norm(h, None, None, self.weight.repeat(n), self.bias.repeat(n), training=True)
        return self.head(torch.tanh(h).view(n, channels, length).mean(dim=2))


def cnn_group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True), nn.AvgPool2d(2), then_linear(36, 3)
    )


class ResBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.short = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4))
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 2)
        untrained_statistics(self)

    def forward(self, x):
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += self.short(x)
        return self.head(self.relu(out).mean(dim=(2, 3)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.inner = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, 2)

    def forward(self, x):
        return self.head(self.inner(x)[0][:, -1])


class Encoder(nn.Module):
    """Sequences first inside, if not ``batch_first``."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed, self.where = nn.Embedding(11, 8), nn.Embedding(6, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        padding = x == 0
        h = self.embed(x) + self.where(torch.arange(x.shape[1], device=x.device))[None]
        h = h if self.batch_first else h.transpose(0, 1)
        h = self.encoder(h, src_key_padding_mask=padding)
        h = h if self.batch_first else h.transpose(0, 1)
        return self.head(h[:, 0])


class ClassToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.where = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.attention, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        h = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.where
        return self.head(self.attention(h, h, h, need_weights=False)[0][:, 0])


class Tied(nn.Module):
    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5, padding_idx=padding_idx)
        self.middle, self.out = nn.Linear(5, 5), nn.Linear(5, 9)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(torch.tanh(self.middle(self.embed(x))).mean(dim=1))


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


def bag_of(kind: type[nn.Module], **options: Any) -> Callable[[], nn.Module]:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = kind(11, 4, **options), nn.Linear(4, 2)

        def forward(self, x):
            h = self.bag(x)
            return self.head(torch.tanh(h if h.dim() == 2 else h.mean(dim=1)))

    return Bag


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class CubeOnce(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Custom(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.function.apply(self.first(x)))


class Branching(nn.Module):
    """Each row goes its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        return torch.stack([self.a(row) if row.sum() > 0 else torch.tanh(self.b(row)) for row in x])


class Item(nn.Module):
    """A number that leaves torch is a constant to every derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        scale = 1.0 + self.first.weight.abs().mean().item()
        return self.head(torch.tanh(self.first(x) * scale))


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 2)
        self.backbone.requires_grad_(False)

    def forward(self, x):
        return self.head(self.backbone(x))


class Several(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind
        self.body, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2), nn.Linear(5, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return {"a": self.a(h), "b": self.b(h)} if self.kind is dict else (self.a(h), self.b(h))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.dense, self.head = nn.Embedding(7, 3), nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, code, numbers):
        return self.head(torch.tanh(self.embed(code) + self.dense(numbers)))


class Centres(nn.Module):
    """Distances to learnt centres, which have no forward-mode derivative, and a scalar parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.centres, self.scale = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.tensor(0.7))
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(torch.exp(-self.scale * torch.cdist(x, self.centres)))


class Warped(nn.Module):
    """A learnt sampling grid."""

    def __init__(self) -> None:
        super().__init__()
        self.theta, self.head = nn.Parameter(torch.tensor([[0.9, 0.1, 0.05], [-0.1, 0.8, 0.02]])), nn.Linear(25, 2)

    def forward(self, x):
        grid = nnf.affine_grid(self.theta.expand(len(x), -1, -1), list(x.shape), align_corners=False)
        return self.head(nnf.grid_sample(x, grid, align_corners=False).flatten(1))


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(4, 5))
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 2))


def new_weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2))


def spectral_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2))


CASES = [
    Case("mlp", mlp, numbers(4)),
    Case("mlp_relu", mlp_relu, numbers(4), smooth=False),
    Case("cnn_batch_norm", cnn_batch_norm, numbers(2, 6, 6), smooth=False),
    Case("batch_norms", batch_norms, numbers(4)),
    Case("own_statistics", OwnStatistics, numbers(3, 6)),
    Case("cnn_group_norm", cnn_group_norm, numbers(2, 6, 6), smooth=False),
    Case("res_block", ResBlock, numbers(3, 6, 6), smooth=False),
    Case("depthwise", wrapped(lambda: nn.Conv2d(4, 8, 3, groups=4), 72), numbers(4, 5, 5)),
    Case("many_groups", wrapped(lambda: nn.Conv2d(10, 10, 3, groups=10), 40), numbers(10, 4, 4)),
    Case("strided", wrapped(lambda: nn.Conv2d(4, 6, 3, groups=2, stride=2, padding=1), 54), numbers(4, 5, 5)),
    Case("dilated", wrapped(lambda: nn.Conv2d(2, 3, (2, 3), dilation=2, padding="same"), 108), numbers(2, 6, 6)),
    Case("circular", wrapped(lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 48), numbers(2, 4, 4)),
    Case("conv1d", wrapped(lambda: nn.Conv1d(3, 4, 3, padding=1), 20), numbers(3, 5)),
    Case("conv3d", wrapped(lambda: nn.Conv3d(1, 2, 2), 16), numbers(1, 3, 3, 3)),
    Case("conv_transpose", wrapped(lambda: nn.ConvTranspose2d(2, 3, 3), 75), numbers(2, 3, 3)),
    Case("lstm", lambda: Recurrent(nn.LSTM), numbers(4, 3), refuses=("per_row",)),
    Case("bidirectional_gru", lambda: Recurrent(nn.GRU, bidirectional=True), numbers(4, 3), refuses=("per_row",)),
    Case("rnn", lambda: Recurrent(nn.RNN), numbers(4, 3), refuses=("per_row",)),
    Case(
        "encoder",
        lambda: Encoder(True),
        tokens(6, 11, padded=True),
        engine="forward_math",
        smooth=False,
        refuses=("forward",),
    ),
    Case(
        "sequence_first",
        lambda: Encoder(False),
        tokens(6, 11, padded=True),
        engine="forward_math",
        smooth=False,
        refuses=("forward",),
    ),
    Case("class_token", ClassToken, numbers(3, 4), engine="forward_math", refuses=("forward",)),
    Case("padding", bag_of(nn.Embedding, padding_idx=0), tokens(5, 11, padded=True)),
    Case("tied", Tied, tokens(5, 9)),
    Case("tied_padding", lambda: Tied(0), tokens(5, 9, padded=True), smooth=False),
    Case("reused", Reused, numbers(4)),
    Case("weight_norm_old", old_weight_norm, numbers(4)),
    Case("weight_norm", new_weight_norm, numbers(4)),
    Case("spectral_norm", spectral_norm, numbers(4)),
    Case("embedding_bag", bag_of(nn.EmbeddingBag, mode="mean"), tokens(5, 11)),
    Case(
        "embedding_bag_max",
        bag_of(nn.EmbeddingBag, mode="max"),
        tokens(5, 11),
        engine="per_row",
        smooth=False,
        refuses=(*FORWARD, "double_backward"),
    ),
    Case("embedding_bag_padded", bag_of(nn.EmbeddingBag, mode="sum", padding_idx=0), tokens(5, 11, padded=True)),
    Case("custom", lambda: Custom(Cube), numbers(4), engine="double_backward", refuses=(*FORWARD, "per_row")),
    Case(
        "custom_once",
        lambda: Custom(CubeOnce),
        numbers(4),
        engine="row_loop",
        refuses=(*FORWARD, "double_backward", "per_row"),
    ),
    Case("branching", Branching, numbers(4), refuses=("per_row",)),
    Case("item", Item, numbers(4), smooth=False),
    Case("frozen", Frozen, numbers(4)),
    Case("tuple", lambda: Several(tuple), numbers(4)),
    Case("dict", lambda: Several(dict), numbers(4)),
    Case("two_inputs", TwoInputs, lambda rng: {"code": rng.randint(7, size=N), "numbers": rng.standard_normal((N, 4))}),
    Case(
        "centres",
        Centres,
        numbers(4),
        engine="row_loop",
        smooth=False,
        refuses=(*FORWARD, "double_backward", "per_row"),
    ),
    Case("warped", Warped, numbers(1, 5, 5), engine="double_backward", refuses=FORWARD),
    Case(
        "prelu",
        wrapped(lambda: nn.Sequential(nn.Linear(4, 5), nn.PReLU()), 5),
        numbers(4),
        smooth=False,
        refuses=("per_row",),
    ),
    Case("linear", lambda: nn.Linear(4, 1), numbers(4)),
]
