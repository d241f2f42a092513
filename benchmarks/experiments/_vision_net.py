"""Nets trained on images of CIFAR-10 with human labels, all of their parameters scored: from scratch, and a pretrained
one fine-tuned.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import CG, GEX, TRAK, Arnoldi, LiSSA, SelfLiSSA

from . import _vision_data, _vision_features
from ._vision_data import Home, Split
from ._vision_linear import (
    CLEANLAB,
    CLEANLAB_5,
    CROSS,
    ENSEMBLE,
    LOSS,
    NONE,
    ORACLE,
    RANDOM,
    RATE,
    TRUSTED,
    detection,
    label_quality,
    lowest_removed,
    random_scores,
    row_loss,
)

#: The others follow from the name alone; these are cut down to a few times the cost of the rest.
CUT = {
    "cg": CG(max_iter=10),
    "lissa": LiSSA(depth=15, batch_size=200),
    "arnoldi": Arnoldi(rank=10, n_iter=12),
    "trak": TRAK(n_projections=16),
    "gex": GEX(n_members=4, n_steps=50, lr=0.01),
}
#: Of a method that scores by the gradients of the last layer alone.
LAST = ", last layer"
#: It solves a system for every row, which is dear for all of a net's parameters: in a part of its own.
SELF_LISSA = f"self_lissa{LAST}"
#: The last layer of the pretrained net has twenty times the parameters of another's: a product a row and step.
#: In a hundred steps its AUROC on a draw was the same to a thousandth.
CUT_OF_PRETRAINED = {"self_lissa": SelfLiSSA(depth=20)}
#: The pretrained net's last layer begins as a logistic regression with this C, of four the best with wrong labels.
HEAD_C = 0.001
METHODS = (
    "ip", "ip_ensemble", "cg", "lissa", "arnoldi", "datainf", "ekfac", "trak", "tracin", "tda", "gex", "self_tracin",
    "knn_shapley",
)  # fmt: skip


Score = Callable[[], np.ndarray]


#: Run for the pretrained net too, in parts of their own for what they cost.
OTHERS = ("datainf", "ekfac", "gex", "knn_shapley")
SOLVERS = ("cg", "arnoldi", "trak")
#: Cross-fitted, for which a net is trained five times.
CROSS_METHODS = ("ip", ENSEMBLE)


@dataclass(frozen=True)
class NetSizes:
    """Rows taken (None: all), epochs, epochs between two checkpoints, and where the net runs (None: a GPU if there)."""

    train: int | None = 4000
    val: int = 1000
    test: int = 4000
    epochs: int = 12
    every: int = 4
    methods: tuple[str, ...] = METHODS
    device: str | None = None
    lr: float = 0.05
    batch: int = 100


def draw(noise: str, seed: int, data_home: Home, sizes: NetSizes) -> Split:
    """Training images drawn by seed, with human labels; test images parted by seed into validation and test rows."""
    given, true = _vision_data.load_human_labels(noise, data_home)
    y_test = _vision_data.load_labels("test", data_home)
    rng = np.random.default_rng(seed)
    train = np.sort(rng.permutation(len(true))[: sizes.train])
    order = rng.permutation(len(y_test))
    val, test = np.sort(order[: sizes.val]), np.sort(order[sizes.val : sizes.val + sizes.test])
    parts = [("train", train), ("test", val), ("test", test)]
    X, X_val, X_test = (_vision_data.load_images(part, data_home, rows) for part, rows in parts)
    mean, std = X.mean(axis=(0, 1, 2)), X.std(axis=(0, 1, 2))

    def scaled(images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(((images - mean) / std).astype(np.float32).transpose(0, 3, 1, 2))

    return Split(
        scaled(X), given[train], (given != true)[train], scaled(X_val), y_test[val], scaled(X_test), y_test[test]
    )


def resnet() -> Any:
    """Patches of 4 × 4 pixels, then three residual blocks of 16, 32 and 64 channels at 8 × 8, 4 × 4 and 2 × 2."""
    from torch import nn

    from .._nets import ResidualBlock

    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def mixer() -> Any:
    """An MLP-Mixer: patches of 8 × 8 pixels, two blocks of width 64 (Tolstikhin et al., NeurIPS 2021)."""
    from torch import nn

    class Turned(nn.Module):
        """Images as patches (n, 16, 64), or patches and channels exchanged."""

        def forward(self, x: Any) -> Any:
            return (x.flatten(2) if x.ndim == 4 else x).transpose(1, 2)

    class Added(nn.Sequential):
        """What goes in, added to what comes out."""

        def forward(self, x: Any) -> Any:
            return x + super().forward(x)

    def block() -> list[nn.Module]:
        over_patches = [nn.LayerNorm(64), Turned(), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16), Turned()]
        over_channels = [nn.LayerNorm(64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)]
        return [Added(*over_patches), Added(*over_channels)]

    class Pooled(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean(dim=1)

    return nn.Sequential(
        nn.Conv2d(3, 64, 8, 8), Turned(), *block(), *block(), nn.LayerNorm(64), Pooled(), nn.Linear(64, 10)
    )


def pretrained() -> Any:
    """EfficientNet-Lite0 as it was trained on ImageNet, for images of 64 pixels, with a last layer that is not fitted.

    At that size a step costs 12 ms an image on one core, at the 96 pixels of the linear head's features twice as much.
    """
    import torch
    from torch import nn

    network = _vision_features.pretrained()
    network._fc = nn.Identity()  # the thousand classes of ImageNet

    class Enlarged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.head = network, nn.Linear(1280, 10)

        def train(self, mode: bool = True) -> Any:
            # Batch statistics of a few steps would make worse what it has from ImageNet.
            super().train(mode)
            self.network.eval()
            return self

        def features(self, x: Any) -> Any:
            # Channels come with variance one; it was trained on those of (x - 127) / 128, which is about a half.
            x = nn.functional.interpolate(x / 2, size=(64, 64), mode="bilinear", align_corners=False)
            return self.network.extract_features(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3))

        def forward(self, x: Any) -> Any:
            return self.head(self.features(x))

    return Enlarged().to(memory_format=torch.channels_last)


def with_fitted_head(net: Any, X: np.ndarray, y: np.ndarray) -> Any:
    """The last layer fitted to the features that the rest gives: then all of the net is fine-tuned from there."""
    import torch

    net.eval()
    with torch.no_grad():
        parts = [net.features(torch.from_numpy(X[i : i + 50])) for i in range(0, len(X), 50)]
        fitted = LogisticRegression(C=HEAD_C, max_iter=500).fit(torch.cat(parts).double().numpy(), y)
        net.head.weight.zero_()
        net.head.weight[fitted.classes_] = torch.from_numpy(fitted.coef_).float()
        net.head.bias.fill_(-10.0)
        net.head.bias[fitted.classes_] = torch.from_numpy(fitted.intercept_).float()
    return net


PRETRAINED = "EfficientNet"
NETS: dict[str, Callable[[], Any]] = {"ResNet": resnet, "MLP-Mixer": mixer, PRETRAINED: pretrained}
#: The net for all images, which is trained in a way of its own.
LARGE = "ResNet-9"


def fit_net(name: str, X: np.ndarray, y: np.ndarray, seed: int, sizes: NetSizes) -> Any:
    """A net trained by SGD with momentum at a rate that falls to 0, its run recorded."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    device = device_of(sizes)
    if name == LARGE:
        from . import _vision_large

        every = min(sizes.every, sizes.epochs)
        return _vision_large.make_net(len(y), sizes.epochs, sizes.batch, sizes.lr, every, device).fit(X, y)
    net = NETS[name]()
    if name == PRETRAINED:
        with_fitted_head(net, X, y)
    return unfitted(net, sizes, device).fit(X, y)


def unfitted(module: Any, sizes: NetSizes, device: str) -> Any:
    """A net, or one that a function makes anew for each fit."""
    import torch
    from skorch import NeuralNetClassifier
    from skorch.callbacks import LRScheduler

    from skinfluence.snapshots import CheckpointRecorder

    return NeuralNetClassifier(
        module, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=sizes.lr, optimizer__momentum=0.9,
        optimizer__weight_decay=5e-4, max_epochs=sizes.epochs, batch_size=sizes.batch, iterator_train__shuffle=True,
        train_split=None, verbose=0, device=device, classes=np.arange(10),
        callbacks=[
            ("rate", LRScheduler(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=sizes.epochs)),
            ("keep", CheckpointRecorder(every=min(sizes.every, sizes.epochs))),
        ],
    )  # fmt: skip


def device_of(sizes: NetSizes) -> str:
    import torch

    return sizes.device or ("cuda" if torch.cuda.is_available() else "cpu")


def one_seed(net: str, noise: str, seed: int, data_home: Home, sizes: NetSizes) -> list[dict[str, Any]]:
    """What every method does with one draw of the rows and one start of the net."""
    split = draw(noise, seed, data_home, sizes)
    began = time.perf_counter()
    fitted = fit_net(net, split.X, split.y, seed, sizes)
    common = {"part": net, "noise": noise, "protocol": TRUSTED, "seed": seed, "rows": len(split.y)}
    common |= {"fit_seconds": time.perf_counter() - began, "wrong": split.wrong.mean()}
    judge = Judge(net, split, seed, sizes, fitted)
    training = float(np.mean(fitted.predict(split.X) == split.y))
    none = {"method": NONE, "accuracy": judge.outcomes[NONE].mean(), "training_accuracy": training, "removed": 0.0}
    rows = [common | none, common | {"method": ORACLE} | judge.of(ORACLE, ~split.wrong)]
    baselines: dict[str, Score] = {
        RANDOM: lambda: random_scores(split, seed),
        LOSS: lambda: -row_loss(softmax(fitted.forward(split.X).cpu().numpy()), split.y),
    }
    return rows + judged(judge, baselines | scorers(net, split, fitted, seed, sizes.methods), common)


def others(
    net: str, noise: str, seed: int, data_home: Home, sizes: NetSizes, methods: tuple[str, ...]
) -> list[dict[str, Any]]:
    """What methods do that `one_seed` leaves out for their cost, with the same draw and start."""
    split = draw(noise, seed, data_home, sizes)
    fitted = fit_net(net, split.X, split.y, seed, sizes)
    common = {"part": net, "noise": noise, "protocol": TRUSTED, "seed": seed, "rows": len(split.y)}
    return judged(Judge(net, split, seed, sizes, fitted), scorers(net, split, fitted, seed, methods), common)


def judged(judge: Judge, scores_of: dict[str, Score], common: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a method: how long it scored, how well, and what the net does without the rows of lowest score."""
    rows = []
    for method, score in scores_of.items():
        began = time.perf_counter()
        row, what = common | {"method": method}, (common["part"], common["noise"], common["seed"], method)
        rows.append(row)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a net is away from its minimum, and the methods say so
                scores = score()
        except (TypeError, ValueError, RuntimeError) as error:
            row["refused"] = str(error)
            print(*what, "refused:", error, flush=True)
            continue
        row["seconds"] = time.perf_counter() - began
        row |= judge.of(method, lowest_removed(scores, RATE)) | detection(scores, judge.split.wrong)
        print(*what, f"{row['seconds']:.1f} s {row['accuracy']:.4f} {row['auroc']:.3f}", flush=True)
    outcomes = judge.outcomes
    for row in rows:
        if row["method"] in outcomes and ENSEMBLE in outcomes:
            row["apart_ensemble"] = (outcomes[row["method"]] != outcomes[ENSEMBLE]).mean()
    return rows


class Judge:
    """Trains a net again on the rows kept, from the same start, and tests it; ``outcomes`` is on which test rows each
    method's net was right.
    """

    def __init__(self, net: str, split: Split, seed: int, sizes: NetSizes, fitted: Any) -> None:
        self.net, self.split, self.seed, self.sizes = net, split, seed, sizes
        self.outcomes = {NONE: self._right(fitted)}

    def of(self, method: str, keep: np.ndarray) -> dict[str, Any]:
        """Accuracy, how it is ``apart`` from that of all rows, and share of rows removed and of wrong ones therein."""
        split = self.split
        right = self._right(fit_net(self.net, split.X[keep], split.y[keep], self.seed, self.sizes))
        self.outcomes[method] = right
        found = {"accuracy": right.mean(), "apart": (right != self.outcomes[NONE]).mean()}
        return found | {"removed": 1 - keep.mean(), "hit": split.wrong[~keep].mean()}

    def _right(self, net: Any) -> np.ndarray:
        found: np.ndarray = net.predict(self.split.X_test) == self.split.y_test
        return found


def folds(net: str, noise: str, seed: int, data_home: Home, sizes: NetSizes) -> list[dict[str, Any]]:
    """What the per-row loss and cleanlab do, with the probabilities that nets of five folds give to rows left out."""
    split = draw(noise, seed, data_home, sizes)
    judge = Judge(net, split, seed, sizes, fit_net(net, split.X, split.y, seed, sizes))
    began = time.perf_counter()
    probabilities = np.empty((len(split.y), 10))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(split.y, split.y):
        fold = fit_net(net, split.X[train], split.y[train], seed, sizes)
        probabilities[test] = softmax(fold.forward(split.X[test]).cpu().numpy())
    seconds = time.perf_counter() - began
    loss = -row_loss(probabilities, split.y)
    scored = {LOSS: (loss, lowest_removed(loss, RATE))}
    try:
        from cleanlab.filter import find_label_issues
    except ModuleNotFoundError:
        print("cleanlab is not installed: left out.")
    else:
        quality = label_quality(split, probabilities)
        scored[CLEANLAB_5] = quality, lowest_removed(quality, RATE)
        scored[CLEANLAB] = quality, ~find_label_issues(split.y, probabilities, n_jobs=1)
    common = {"part": net, "noise": noise, "protocol": CROSS, "seed": seed, "rows": len(split.y), "seconds": seconds}
    rows = []
    for method, (scores, keep) in scored.items():
        rows.append(common | {"method": method} | judge.of(method, keep) | detection(scores, split.wrong))
        print(net, noise, seed, CROSS, method, f"{rows[-1]['accuracy']:.4f} {rows[-1]['auroc']:.3f}", flush=True)
    return rows


def cross_fitted(net: str, noise: str, seed: int, data_home: Home, sizes: NetSizes) -> list[dict[str, Any]]:
    """What influence does without a true label: the package's default, each row scored by a net of the other folds."""
    split = draw(noise, seed, data_home, sizes)
    judge = Judge(net, split, seed, sizes, fit_net(net, split.X, split.y, seed, sizes))
    anew = unfitted(NETS[net], sizes, device_of(sizes))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)

    def scores(method: str) -> np.ndarray:
        selector = InfluenceSelector(anew, method=method, removal_rate=RATE, cv=folds, random_state=seed)
        found: np.ndarray = selector.fit(split.X, split.y).scores_
        return found

    common = {"part": net, "noise": noise, "protocol": CROSS, "seed": seed, "rows": len(split.y)}
    return judged(judge, {method: partial(scores, method) for method in CROSS_METHODS}, common)


def scorers(net: str, split: Split, fitted: Any, seed: int, methods: tuple[str, ...]) -> dict[str, Score]:
    """Method -> what scores the training rows."""
    from skinfluence.nets import DifferentiableNet

    rows = split.X, split.y, split.X_val, split.y_val
    cut = CUT | (CUT_OF_PRETRAINED if net == PRETRAINED else {})
    found = {}
    for name in methods:
        method = name.removesuffix(LAST)
        scored = fitted if method == name else DifferentiableNet(fitted, parameters="last_layer")
        found[name] = partial(influence_scores, scored, *rows, method=cut.get(method, method), random_state=seed)
    return found


def softmax(F: np.ndarray) -> np.ndarray:
    # In double precision: a net that has memorised a row gives it a loss near 1e-6.
    E = np.exp((F - F.max(axis=1, keepdims=True)).astype(np.float64))
    return E / E.sum(axis=1, keepdims=True)
