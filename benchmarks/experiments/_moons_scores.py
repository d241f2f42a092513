"""The half-moons: rows with flipped labels, the net, and all that scores the rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedKFold

from skinfluence import influence_scores
from skinfluence.datasets import make_noisy_moons
from skinfluence.methods import GEX, Exact, IPEnsemble, SelfLiSSA
from skinfluence.nets import DifferentiableNet

N_TRAIN, N_TEST, N_FLIPPED = 200, 100, 20
#: Folds for the out-of-fold probabilities, each of which takes another training of the net.
FOLDS = 3
#: Checkpoints kept of a training run.
CHECKPOINTS = 10
LOSS, RANDOM, CLEANLAB, UNDAMPED = "per-row loss", "random", "cleanlab", "H⁻¹, undamped"
#: Label -> (curvature, method).
SCORED: dict[str, tuple[str, Any]] = {
    "ip": ("gauss_newton", "ip"),
    "ip_ensemble": ("gauss_newton", "ip_ensemble"),
    "ip_ensemble, 100 members": ("gauss_newton", IPEnsemble(100)),
    "tracin": ("gauss_newton", "tracin"),
    "gex": ("gauss_newton", GEX(n_steps=100, lr=0.01, batch_size=32)),
    "exact, Hessian": ("hessian", "exact"),
    "exact, Hessian, λ = 0.1": ("hessian", Exact(0.1)),
    "exact, GN": ("gauss_newton", "exact"),
    "exact, GN, λ = 0.1": ("gauss_newton", Exact(0.1)),
    "cg, GN": ("gauss_newton", "cg"),
    "lissa, GN": ("gauss_newton", "lissa"),
    "arnoldi, GN": ("gauss_newton", "arnoldi"),
    "ekfac": ("gauss_newton", "ekfac"),
    "datainf": ("gauss_newton", "datainf"),
    "tda": ("gauss_newton", "tda"),
    "trak": ("gauss_newton", "trak"),
    "self_tracin": ("gauss_newton", "self_tracin"),
    "self_lissa, λ = 0.1": ("gauss_newton", SelfLiSSA(damping=0.1, depth=50)),
    "knn_shapley": ("gauss_newton", "knn_shapley"),
}
#: Of these the sign means nothing.
UNSIGNED = ("self_tracin", "self_lissa, λ = 0.1")


@dataclass(frozen=True)
class Moons:
    """Training rows, some with flipped labels, and clean test rows; float32, labels 0 and 1."""

    X: np.ndarray
    y: np.ndarray
    flipped: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


class Judged(NamedTuple):
    """Scores, low for rows that look wrong, and the rows that are said to harm; None where nothing is said."""

    scores: np.ndarray
    harmful: np.ndarray | None


class Target(NamedTuple):
    """What scores are taken for: a function, in torch, of the net's raw outputs on rows."""

    X: np.ndarray
    value: Callable[[Any], Any]


def draw_moons(seed: int, noise: float) -> Moons:
    """Two seeded half-moons, with as many labels of each class flipped in the training part."""
    X, y, flipped = make_noisy_moons(
        N_TRAIN, n_clean=N_TEST, flip_share=N_FLIPPED / N_TRAIN, noise=noise, random_state=seed
    )
    X, y = X.astype(np.float32), y.astype(np.float32)
    train, test = slice(N_TRAIN), slice(N_TRAIN, None)
    return Moons(X[train], y[train], flipped[train], X[test], y[test])


def fit_net(moons: Moons, epochs: int, seed: int) -> Any:
    """The net of the study as a fitted skorch net, on one thread, its run recorded."""
    import torch
    from skorch import NeuralNetBinaryClassifier
    from torch import nn

    from skinfluence.snapshots import CheckpointRecorder

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    module = nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0)
    )  # fmt: skip
    net = NeuralNetBinaryClassifier(
        module, optimizer=torch.optim.Adam, lr=0.01, max_epochs=epochs, batch_size=-1, train_split=None, verbose=0,
        callbacks=[("keep", CheckpointRecorder(every=max(epochs // CHECKPOINTS, 1)))],
    )  # fmt: skip
    return net.fit(moons.X, moons.y)


def scorers(net: Any, moons: Moons, seed: int) -> dict[str, Callable[[], Judged]]:
    """Label -> what scores the training rows."""
    found: dict[str, Callable[[], Judged]] = {
        RANDOM: lambda: Judged(np.random.default_rng(seed).random(len(moons.y)), None),
        LOSS: lambda: Judged(-losses(net, moons), None),
    }
    if find_spec("cleanlab"):
        found[CLEANLAB] = partial(by_cleanlab, net, moons, seed)
    for label in SCORED:
        found[label] = partial(by_method, label, net, moons, seed)
        if label == "gex":
            found[UNDAMPED] = lambda: _signed(undamped(net, moons))
    return found


def losses(net: Any, moons: Moons) -> np.ndarray:
    """The net's log-loss on each training row."""
    p = np.clip(net.predict_proba(moons.X)[:, 1].astype(np.float64), 1e-12, 1 - 1e-12)
    return -np.where(moons.y == 1, np.log(p), np.log1p(-p))


def by_method(label: str, net: Any, moons: Moons, seed: int, **objective: Any) -> Judged:
    """A method of the package; `objective` goes to `influence_scores`, utility where nothing is said."""
    curvature, method = SCORED[label]
    rows = moons.X, moons.y, moons.X_test, moons.y_test
    model = DifferentiableNet(net, curvature=curvature)
    scores = influence_scores(model, *rows, method=method, random_state=seed, **objective)
    return Judged(scores, None) if label in UNSIGNED else _signed(scores)


def by_cleanlab(net: Any, moons: Moons, seed: int) -> Judged:
    """cleanlab's label quality, and the rows that its `find_label_issues` names, from out-of-fold probabilities."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    probabilities = np.empty((len(moons.y), 2))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(moons.X, moons.y):
        # A net made anew: a clone of this one would begin with the weights it has learned.
        fitted = fit_net(replace(moons, X=moons.X[train], y=moons.y[train]), net.max_epochs, seed)
        probabilities[test] = fitted.predict_proba(moons.X[test])
    probabilities = np.clip(probabilities, 1e-12, 1)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = moons.y.astype(int)
    quality = get_label_quality_scores(labels, probabilities, method="normalized_margin")
    return Judged(quality, find_label_issues(labels, probabilities, n_jobs=1))


def undamped(net: Any, moons: Moons) -> np.ndarray:
    """`undamped_for` the mean loss on the test rows."""
    (scores,) = undamped_for(net, moons, [mean_loss(moons.X_test, moons.y_test)])
    return scores


def undamped_for(net: Any, moons: Moons, targets: Sequence[Target]) -> list[np.ndarray]:
    """Eq. (1) of the paper, ``(1/n) grad loss_i . H^-1 g``, H the dense Hessian of the training loss as it is.

    One array of scores for each target, whose gradient is g.
    """
    J, gradients, H = derivatives(net, moons, targets)
    values, vectors = np.linalg.eigh(H)
    used = np.abs(values) > 1e-9
    return [J @ (vectors[:, used] @ ((vectors[:, used].T @ g) / values[used])) / len(J) for g in gradients]


def mean_loss(X: np.ndarray, y: np.ndarray) -> Target:
    """The mean log-loss on rows."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    labels = torch.from_numpy(y).double()
    return Target(X, lambda F: binary_cross_entropy_with_logits(F, labels))


def derivatives(net: Any, moons: Moons, targets: Sequence[Target]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """In double precision: gradients of the training rows' losses, of each target, and the training loss's Hessian."""
    import copy

    import torch
    from torch.func import functional_call, grad, hessian, jacrev
    from torch.nn.functional import binary_cross_entropy_with_logits

    module = copy.deepcopy(net.module_).double().eval()
    own = dict(module.named_parameters())
    flat = torch.cat([p.detach().reshape(-1) for p in own.values()])

    def outputs(flat, X):
        parts = flat.split([p.numel() for p in own.values()])
        named = {name: part.reshape(p.shape) for (name, p), part in zip(own.items(), parts, strict=True)}
        return functional_call(module, named, torch.from_numpy(X).double())

    def row_losses(flat):
        labels = torch.from_numpy(moons.y).double()
        return binary_cross_entropy_with_logits(outputs(flat, moons.X), labels, reduction="none")

    J = jacrev(row_losses)(flat).numpy()
    gradients = [grad(lambda flat, of=of: of.value(outputs(flat, of.X)))(flat).numpy() for of in targets]
    return J, gradients, hessian(lambda flat: row_losses(flat).mean())(flat).numpy()


def _signed(scores: np.ndarray) -> Judged:
    return Judged(scores, scores < 0)
