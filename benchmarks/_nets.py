"""The nets that the benchmarks of speed score, with drawn rows, and what is timed of them. Needs torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import nn

MATRICES = (nn.Linear, nn.Conv2d)
#: Which of a net's parameters a score is taken in.
ALL, PRODUCTS, HEAD, HEAD_WEIGHT = "all", "linear and convolutional", "last layer", "last weight"


@dataclass(frozen=True)
class NetCase:
    """A net in evaluation mode, its loss, training and validation rows, and batch sizes to try."""

    name: str
    module: nn.Module
    loss: nn.Module
    X: torch.Tensor
    y: torch.Tensor
    X_val: torch.Tensor
    y_val: torch.Tensor
    batches: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.X)

    @property
    def n_params(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def first(self, n: int, m: int | None = None) -> NetCase:
        """The same net with the first n training and m validation rows."""
        m = len(self.X_val) if m is None else m
        return replace(self, X=self.X[:n], y=self.y[:n], X_val=self.X_val[:m], y_val=self.y_val[:m])

    def to(self, device: torch.device) -> NetCase:
        """The case on a device; the module itself is moved."""
        rows = {name: getattr(self, name).to(device) for name in ("X", "y", "X_val", "y_val")}
        return replace(self, module=self.module.to(device), **rows)

    def per_row_loss(self) -> nn.Module:
        """The loss with one number for each row."""
        return type(self.loss)(reduction="none")

    def summed_loss(self) -> nn.Module:
        return type(self.loss)(reduction="sum")

    def names(self, covered: str) -> list[str]:
        """Names of the parameters that are covered."""
        every = [name for name, _ in self.module.named_parameters()]
        if covered == ALL:
            return every
        layers = matrices(self.module)
        if covered == HEAD_WEIGHT:
            return [f"{layers[-1]}.weight"]
        if covered == HEAD:
            return [f"{layers[-1]}.weight", f"{layers[-1]}.bias"]
        return [name for name in every if name.rpartition(".")[0] in layers]


def matrices(module: nn.Module) -> list[str]:
    """Names of the linear and convolutional layers."""
    return [name for name, part in module.named_modules() if isinstance(part, MATRICES)]


# --- nets -------------------------------------------------------------------------------------------------------------


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_cnn() -> nn.Sequential:
    """Three convolutions with batch normalisation, for images of 3 channels."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class ResidualBlock(nn.Module):
    """Two convolutions and what they are added to."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.short = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(found + self.short(x))


def resnet18() -> nn.Sequential:
    """ResNet-18 for images of 32 × 32: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016."""
    blocks = [
        ResidualBlock(before, after, stride)
        for before, after, stride in (
            (64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1),
            (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1),
        )
    ]  # fmt: skip
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class EncoderBlock(nn.Module):
    """Attention and two linear layers, normalised beforehand, each added to what goes in.

    Attention is made of linear layers that are modules, so that packages that look for those find them.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, steps, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nnf.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, steps, width)
        x = x + self.out(mixed)
        return x + self.narrow(nnf.gelu(self.wide(self.norm2(x))))


class Encoder(nn.Module):
    """A transformer encoder over sequences of vectors, pooled by their mean."""

    def __init__(self, inputs: int, width: int, heads: int, depth: int, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.blocks = nn.Sequential(*[EncoderBlock(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.embed(x))).mean(dim=1))


# --- cases ------------------------------------------------------------------------------------------------------------


def make_case(
    name: str, module: nn.Module, shape: tuple[int, ...], n: int, batches: tuple[int, ...], *, binary: bool = False
) -> NetCase:
    """Seeded rows for a net, which is trained a little so that its gradients are those of a net and not of a draw."""
    m = n // 20
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n + m, *shape, generator=generator)
    signal = X.reshape(n + m, -1) @ torch.randn(X[0].numel(), 1 if binary else 10, generator=generator)
    y = (signal > 0).float() if binary else signal.argmax(dim=1)
    loss: nn.Module = nn.BCEWithLogitsLoss() if binary else nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module.train()
    for step in range(5):
        rows = slice(step * 64 % n, step * 64 % n + 64)
        optimizer.zero_grad()
        loss(module(X[rows]), y[rows]).backward()
        optimizer.step()
    module.zero_grad()
    return NetCase(name, module.eval(), loss, X[:n], y[:n], X[n:], y[n:], batches)


def cases(small: bool) -> list[Callable[[], NetCase]]:
    """The nets of the table; `small` is a few rows of the quick ones."""
    torch.manual_seed(0)
    n, images = (400, 40) if small else (20_000, 400)
    wide, usual = (256, 1024, 4096), (64,) if small else (64, 256, 1024)
    made = [
        lambda: make_case("MLP 100–256–256–10", mlp(100, 256, 256, 10), (100,), n, usual),
        lambda: make_case("CNN with BatchNorm", small_cnn(), (3, 8, 8) if small else (3, 32, 32), images, (32, 128)),
    ]
    if not small:
        made.insert(0, lambda: make_case("MLP 2–32–32–1", mlp(2, 32, 32, 1), (2,), n, wide, binary=True))
        made.append(lambda: make_case("transformer encoder", Encoder(48, 128, 4, 2), (16, 48), n, (32, 128)))
        made.append(lambda: make_case("ResNet-18", resnet18(), (3, 32, 32), 200, (4, 16)))
    return made


# --- what is timed beside the package ---------------------------------------------------------------------------------


def forward_pass(case: NetCase, batch: int) -> torch.Tensor:
    """Outputs of the training rows: the unit of all costs."""
    with torch.no_grad():
        return torch.cat([case.module(case.X[i : i + batch]) for i in range(0, case.n, batch)])


@contextmanager
def math_attention():
    """Attention as plain products, which `vmap` has rules for."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


def row_gradients(case: NetCase, covered: str = ALL) -> tuple[dict[str, torch.Tensor], Callable]:
    """Parameters, and ``(parameters, X, y) -> gradients of the rows`` by `torch.func`."""
    from torch.func import functional_call, grad, vmap

    own = dict(case.module.named_parameters())
    chosen = {name: own[name].detach() for name in case.names(covered)}

    def loss(parameters: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return case.loss(functional_call(case.module, parameters, (x[None],)), y[None])

    return chosen, vmap(grad(loss), in_dims=(None, 0, 0))


def validation_gradient(case: NetCase, names: list[str], batch: int = 256) -> dict[str, torch.Tensor]:
    """Gradient of the mean loss of the validation rows."""
    own = dict(case.module.named_parameters())
    total = {name: torch.zeros_like(own[name]) for name in names}
    for i in range(0, len(case.X_val), batch):
        value = case.summed_loss()(case.module(case.X_val[i : i + batch]), case.y_val[i : i + batch])
        for name, g in zip(names, torch.autograd.grad(value, [own[name] for name in names]), strict=True):
            total[name] += g / len(case.X_val)
    return total


def by_vmap(case: NetCase, batch: int, covered: str = ALL) -> torch.Tensor:
    """IP by per-row gradients."""
    parameters, gradients = row_gradients(case, covered)
    g = validation_gradient(case, list(parameters))
    scores = []
    with math_attention():
        for i in range(0, case.n, batch):
            rows = gradients(parameters, case.X[i : i + batch], case.y[i : i + batch])
            scores.append(sum(rows[name].flatten(1) @ g[name].flatten() for name in parameters))
    return torch.cat(scores) / case.n


def self_by_vmap(case: NetCase, batch: int, covered: str = ALL) -> torch.Tensor:
    """Squared norms of per-row gradients."""
    parameters, gradients = row_gradients(case, covered)
    norms = []
    with math_attention():
        for i in range(0, case.n, batch):
            rows = gradients(parameters, case.X[i : i + batch], case.y[i : i + batch])
            norms.append(sum(rows[name].flatten(1).square().sum(dim=1) for name in parameters))
    return -torch.cat(norms) / case.n


def reference(case: NetCase, covered: str, of_itself: bool) -> torch.Tensor:
    """The scores by a backward pass for each row, in double precision."""
    return row_by_row(doubled(case), covered, of_itself)


def row_by_row(case: NetCase, covered: str, of_itself: bool) -> torch.Tensor:
    """The scores by a backward pass for each row, in the case's own precision."""
    module, names = case.module, case.names(covered)
    own = dict(module.named_parameters())
    g = validation_gradient(case, names)
    found = []
    for i in range(case.n):
        value = case.loss(module(case.X[i : i + 1]), case.y[i : i + 1])
        rows = dict(zip(names, torch.autograd.grad(value, [own[name] for name in names]), strict=True))
        found.append(sum((rows[name] * (-rows[name] if of_itself else g[name])).sum() for name in names))
    return torch.stack(found) / case.n


def doubled(case: NetCase) -> NetCase:
    """The case in double precision."""
    y, y_val = (part.double() if part.is_floating_point() else part for part in (case.y, case.y_val))
    module = copy.deepcopy(case.module).double()
    return replace(case, module=module, X=case.X.double(), y=y, X_val=case.X_val.double(), y_val=y_val)


# --- dense formulas, for an MLP of linear layers ----------------------------------------------------------------------


def layer_gradients(case: NetCase) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each linear layer the rows' gradients ``(n, out, in + 1)``, the bias last, and the validation gradient's."""
    case = doubled(case)
    own = dict(case.module.named_parameters())
    names = case.names(PRODUCTS)
    rows = []
    for i in range(case.n):
        value = case.loss(case.module(case.X[i : i + 1]), case.y[i : i + 1])
        rows.append(dict(zip(names, torch.autograd.grad(value, [own[name] for name in names]), strict=True)))
    g = validation_gradient(case, names)

    def joined(parts: dict[str, torch.Tensor], layer: str) -> np.ndarray:
        weight, bias = parts[f"{layer}.weight"], parts[f"{layer}.bias"]
        return torch.cat([weight, bias[:, None]], dim=1).numpy()

    layers = matrices(case.module)
    return [np.stack([joined(row, layer) for row in rows]) for layer in layers], [joined(g, layer) for layer in layers]


def dense_datainf(case: NetCase) -> np.ndarray:
    """Kwon et al., ICLR 2024, Eq. 5: the mean of the inverses of single rows' damped squares, for each layer."""
    scores = np.zeros(case.n)
    for rows, wanted in zip(*layer_gradients(case), strict=True):
        G, g = rows.reshape(case.n, -1), wanted.ravel()
        damping = 0.1 * (G**2).mean()
        u = (g - (G * ((G @ g) / (damping + (G**2).sum(axis=1)))[:, None]).mean(axis=0)) / damping
        scores += G @ u / case.n
    return scores


def dense_ekfac(
    case: NetCase, *, labels: str = "true", curved: NetCase | None = None, damping: float | None = None
) -> np.ndarray:
    """George et al., NeurIPS 2018, for each layer: of the empirical Fisher matrix (``labels="true"``), or of the
    Fisher matrix itself, the expectation over the labels that the net predicts (``labels="expected"``).

    Given ``curved``, the same rows with other labels or another loss, it is of the squares of the gradients there. The
    damping is a tenth of a layer's mean eigenvalue, or one number for all.
    """
    inputs = []
    case = doubled(case)
    x = case.X
    for part in case.module:
        if isinstance(part, nn.Linear):
            inputs.append(np.column_stack([x.detach().numpy(), np.ones(case.n)]))
        x = part(x)
    own, wanted = layer_gradients(case)
    # Gradients of the rows under the labels that they could have, and the labels' probabilities.
    draws = [(np.ones(case.n), own if curved is None else layer_gradients(curved)[0])]
    if labels == "expected":
        chances = torch.softmax(x.detach(), dim=1).numpy()
        draws = [(p, layer_gradients(replace(case, y=torch.full_like(case.y, k)))[0]) for k, p in enumerate(chances.T)]
    scores = np.zeros(case.n)
    for layer, (A, rows, g) in enumerate(zip(inputs, own, wanted, strict=True)):
        # The bias's gradient is that of the layer's output.
        moment = sum((p * drawn[layer][:, :, -1].T) @ drawn[layer][:, :, -1] for p, drawn in draws)
        Q_A, Q_B = np.linalg.eigh(A.T @ A)[1], np.linalg.eigh(moment)[1]
        spectrum = sum((p[:, None, None] * (Q_B.T @ drawn[layer] @ Q_A) ** 2).sum(axis=0) for p, drawn in draws)
        spectrum /= case.n
        turned = Q_B.T @ g @ Q_A / (spectrum + (0.1 * spectrum.mean() if damping is None else damping))
        scores += ((Q_B.T @ rows @ Q_A) * turned).sum(axis=(1, 2)) / case.n
    return scores


def with_drawn_labels(case: NetCase, seed: int) -> NetCase:
    """With the labels that `EKFACInverse(random_state=seed)` draws from a net of class scores."""
    seed = np.random.RandomState(seed).randint(np.iinfo(np.int32).max)
    draws = torch.from_numpy(np.random.RandomState(seed).random_sample((case.n, 1)))
    with torch.no_grad():
        below = torch.softmax(case.module(case.X), dim=1).double().cumsum(dim=1)
    return replace(case, y=(below < draws).sum(dim=1).clamp(max=below.shape[1] - 1))


def dense_gauss_newton(case: NetCase, damping: float) -> np.ndarray:
    """The damped Gauss-Newton matrix of a net of class scores, solved in the space of outputs by Woodbury."""
    rows, wanted = layer_gradients(case)
    G = np.concatenate([part.reshape(case.n, -1) for part in rows], axis=1)
    g = np.concatenate([part.ravel() for part in wanted])
    case = doubled(case)
    names = case.names(PRODUCTS)
    own = dict(case.module.named_parameters())
    roots = []
    for i in range(case.n):
        (F,) = case.module(case.X[i : i + 1])
        J = np.stack([_in_layers(torch.autograd.grad(f, [own[n] for n in names], retain_graph=True)) for f in F])
        p = torch.softmax(F.detach(), dim=0).numpy()
        # diag(p) - p p^T = R R^T
        R = np.diag(np.sqrt(p)) - np.outer(p, np.sqrt(p))
        roots.append(R.T @ J / np.sqrt(case.n))
    V = np.concatenate(roots)
    solved = (g - V.T @ np.linalg.solve(damping * np.eye(len(V)) + V @ V.T, V @ g)) / damping
    found: np.ndarray = G @ solved / case.n
    return found


def _in_layers(grads: Sequence[torch.Tensor]) -> np.ndarray:
    """Weights and biases in turn, as `layer_gradients` has them."""
    pairs = zip(grads[::2], grads[1::2], strict=True)
    return np.concatenate([torch.cat([W, b[:, None]], dim=1).numpy().ravel() for W, b in pairs])
