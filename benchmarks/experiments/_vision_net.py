"""A small ResNet trained from scratch on a few thousand images of CIFAR-10, all of its parameters scored."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split

from skinfluence import influence_scores
from skinfluence.methods import CG, GEX, Arnoldi, LiSSA
from skinfluence.snapshots import CheckpointRecorder

from .. import _data
from ._vision_linear import LOSS, NONE, RANDOM, RATE, TRUSTED, Split, lowest_removed, row_loss

EPOCHS, KEPT_EVERY = 15, 5
#: The others follow from the name alone; these are cut down to what a processor does in about a minute.
CUT = {
    "cg": CG(max_iter=20),
    "lissa": LiSSA(depth=30, batch_size=200),
    "arnoldi": Arnoldi(rank=10, n_iter=20),
    "gex": GEX(n_members=4, n_steps=50),
}
METHODS = (
    "ip", "ip_ensemble", "cg", "lissa", "arnoldi", "datainf", "ekfac", "tracin", "tda", "gex", "trak", "self_tracin",
)  # fmt: skip


def draw(noise: str, seed: int, data_home: str | None, sizes: tuple[int, int, int]) -> Split:
    """Training rows with human labels, validation rows with true ones, drawn by seed; the first test rows."""
    n, m, n_test = sizes
    images = _data.load_cifar10(data_home)
    given, true = _data.load_cifar10n(noise, data_home)
    train, val = train_test_split(np.arange(len(true)), train_size=n, test_size=m, stratify=true, random_state=seed)
    mean, std = images.X_train[train].mean(axis=(0, 1, 2)), images.X_train[train].std(axis=(0, 1, 2))

    def scaled(X: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(((X - mean) / std).astype(np.float32).transpose(0, 3, 1, 2))

    return Split(
        scaled(images.X_train[train]), given[train], (given != true)[train],
        scaled(images.X_train[val]), true[val], scaled(images.X_test[:n_test]), images.y_test[:n_test],
    )  # fmt: skip


def fit_net(X: np.ndarray, y: np.ndarray, seed: int, epochs: int = EPOCHS) -> Any:
    """A ResNet of 78,000 parameters, trained by SGD with momentum at a rate that falls to 0, its run recorded."""
    import torch
    from skorch import NeuralNetClassifier
    from skorch.callbacks import LRScheduler

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return NeuralNetClassifier(
        resnet(), criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=0.05, optimizer__momentum=0.9,
        optimizer__weight_decay=5e-4, max_epochs=epochs, batch_size=50, iterator_train__shuffle=True, train_split=None,
        verbose=0,
        callbacks=[
            ("rate", LRScheduler(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs)),
            ("keep", CheckpointRecorder(every=min(KEPT_EVERY, epochs))),
        ],
    ).fit(X, y)  # fmt: skip


def resnet() -> Any:
    """Patches of 4 × 4 pixels, then three residual blocks of 16, 32 and 64 channels at 8 × 8, 4 × 4 and 2 × 2."""
    from torch import nn

    from .._nets import ResidualBlock

    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def one_seed(
    noise: str, seed: int, data_home: str | None, *, sizes: tuple[int, int, int], epochs: int = EPOCHS,
    methods: tuple[str, ...] = METHODS,
) -> list[dict[str, Any]]:  # fmt: skip
    """What every method does with one draw of the rows and one start of the net."""
    split = draw(noise, seed, data_home, sizes)
    began = time.perf_counter()
    net = fit_net(split.X, split.y, seed, epochs)
    common = {"part": "net", "noise": noise, "protocol": TRUSTED, "seed": seed, "rows": len(split.y)}
    common |= {"fit_seconds": time.perf_counter() - began, "wrong": split.wrong.mean()}
    rows = [common | {"method": NONE, "accuracy": accuracy(net, split)}]
    rows[0]["training_accuracy"] = float(np.mean(net.predict(split.X) == split.y))
    for method, score in scorers(split, net, seed, methods).items():
        began = time.perf_counter()
        row = common | {"method": method}
        rows.append(row)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a net is away from its minimum, and the methods say so
                scores = score()
        except (TypeError, ValueError, RuntimeError) as error:
            row["refused"] = str(error)
            print(noise, seed, method, "refused:", error, flush=True)
            continue
        row["seconds"] = time.perf_counter() - began
        keep = lowest_removed(scores, RATE)
        again = fit_net(split.X[keep], split.y[keep], seed, epochs)
        row |= {
            "accuracy": accuracy(again, split),
            "removed": 1 - keep.mean(),
            "hit": split.wrong[~keep].mean(),
            "auroc": roc_auc_score(split.wrong, -scores),
            "ap": average_precision_score(split.wrong, -scores),
        }
        print(
            noise, seed, method, f"{row['seconds']:.1f} s", f"{row['accuracy']:.4f}", f"{row['auroc']:.3f}", flush=True
        )
    return rows


def accuracy(net: Any, split: Split) -> float:
    return float(np.mean(net.predict(split.X_test) == split.y_test))


def scorers(split: Split, net: Any, seed: int, methods: tuple[str, ...]) -> dict[str, Callable[[], np.ndarray]]:
    """Method -> what scores the training rows."""
    found: dict[str, Callable[[], np.ndarray]] = {
        RANDOM: lambda: np.random.default_rng(seed).random(len(split.y)),
        LOSS: lambda: -row_loss(softmax(net.forward(split.X).numpy()), split.y),
    }

    def by(name: str) -> Callable[[], np.ndarray]:
        judges = () if name == "self_tracin" else (split.X_val, split.y_val)
        method = CUT.get(name, name)
        return lambda: influence_scores(net, split.X, split.y, *judges, method=method, random_state=seed)

    return found | {name: by(name) for name in methods}


def softmax(F: np.ndarray) -> np.ndarray:
    # In double precision: a net that has memorised a row gives it a loss near 1e-6.
    E = np.exp((F - F.max(axis=1, keepdims=True)).astype(np.float64))
    return E / E.sum(axis=1, keepdims=True)
