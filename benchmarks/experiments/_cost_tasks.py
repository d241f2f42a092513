"""What `cost` times: drawn tasks of two families, a linear model and a net, and the methods on them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neural_network import MLPClassifier

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import GEX, METHODS, TDA, BetaShapley, DataShapley, LiSSA, SelfLiSSA, TracIn
from skinfluence.models import as_model

LINEAR, NET = "logistic regression", "MLP"
N_CHECKPOINTS = 5
INPUTS = 100  # of the net
EPOCHS = 20  # of a training of the net, for what refits it
IP, SELF_LISSA = "ip", "self_lissa"
RANDOM, LOSS, CLEANLAB = BASELINES = ("random removal", "per-row loss", "cleanlab")
REFITS = ("leave_one_out", "data_shapley", "beta_shapley")
GRADIENTS = tuple(name for name in METHODS if name not in REFITS)
ORDERS, PERMUTATIONS = 2, 100  # of Shapley values: made here, and the package's default
#: A part of what a method does by default, where all of it takes too long: which part, and settings that do it.
SHORT: dict[str, tuple[str, Any]] = {
    "lissa": ("100 steps of 1,000", LiSSA(depth=100)),
    SELF_LISSA: ("10 steps of 1,000", SelfLiSSA(depth=10)),
    "gex": ("1 member of 8", GEX(n_members=1)),
    "data_shapley": (f"{ORDERS} orders of {PERMUTATIONS}", DataShapley(ORDERS)),
    "beta_shapley": (f"{ORDERS} orders of {PERMUTATIONS}", BetaShapley(n_permutations=ORDERS)),
}


@dataclass(frozen=True)
class Task:
    """A fitted model, its training and validation rows, and what can be fitted in its place."""

    family: str
    estimator: Any
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    unfitted: Any
    n_classes: int

    @property
    def n_params(self) -> int:
        return len(self._params())

    @property
    def label(self) -> str:
        return (
            f"{self.family}, {len(self.X):,} rows × {self.X.shape[1]} features, {self.n_classes} classes, "
            f"{self.n_params:,} parameters, {len(self.X_val):,} validation rows"
        )

    def refit(self) -> Any:
        """Fitted once more."""
        return _quietly(clone(self.unfitted).fit, self.X, self.y)

    def baseline(self, name: str) -> Callable[[], np.ndarray]:
        """What is timed of a baseline: a low score marks a row that would be removed."""
        if name == RANDOM:
            return lambda: np.random.default_rng(0).random(len(self.X))
        return self._row_loss if name == LOSS else self._label_quality

    def _row_loss(self) -> np.ndarray:
        """Of the fitted model, a bare module or an estimator."""
        if hasattr(self.estimator, "predict_proba"):
            return np.asarray(np.log(self.estimator.predict_proba(self.X)[np.arange(len(self.y)), self.y]))
        import torch

        module, _ = self.estimator.net
        with torch.no_grad():
            X, y = torch.from_numpy(self.X), torch.from_numpy(self.y)
            return np.asarray(-torch.nn.functional.cross_entropy(module(X), y, reduction="none").numpy())

    def _label_quality(self) -> np.ndarray:
        """cleanlab's normalised margin, with the probabilities of five folds."""
        from cleanlab.rank import get_label_quality_scores

        probabilities = _quietly(
            cross_val_predict, clone(self.unfitted), self.X, self.y, cv=StratifiedKFold(5), method="predict_proba"
        )
        return np.asarray(get_label_quality_scores(self.y, probabilities, method="normalized_margin"))

    def _params(self) -> np.ndarray:
        return np.asarray(as_model(self.estimator).model.params)

    def method(self, name: str, gex_steps: int, *, short: bool = False) -> Any:
        """The method of that name with the package's settings, or with a part of its work.

        Checkpoints, where it needs them, lie on the line from zero to the fitted parameters: what they cost does not
        depend on where they are.
        """
        if short and name in SHORT:
            method = clone(SHORT[name][1])
            return method.set_params(n_steps=gex_steps) if name == "gex" else method
        if name in ("tracin", "tda"):
            params = self._params()
            points = [params * share for share in np.linspace(0, 1, N_CHECKPOINTS + 1)[1:]]
            return TracIn(points) if name == "tracin" else TDA(checkpoints=points)
        return GEX(n_steps=gex_steps) if name == "gex" else name

    def call(self, name: str, gex_steps: int, *, short: bool = False) -> Callable[[], np.ndarray]:
        """What is timed: a call as a user would write it, every gradient included."""
        judges = () if name.startswith("self_") else (self.X_val, self.y_val)
        method = self.method(name, gex_steps, short=short)
        return partial(_quietly, influence_scores, self.estimator, self.X, self.y, *judges, method=method)

    def count_refits(self, name: str) -> int:
        """How many models a method fits that refits: Shapley values in few orders."""
        method = self.method(name, 0, short=True)
        selector = InfluenceSelector(FrozenEstimator(self.estimator), method=method, random_state=0)
        _quietly(selector.fit, self.X, self.y, X_val=self.X_val, y_val=self.y_val)
        return int(selector.diagnostics_[0]["n_refits"])


def _quietly(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """Call without warnings, of what did not converge: here it is the time that counts."""
    if function is influence_scores:
        kwargs["random_state"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def linear_task(n: int, d: int, n_classes: int) -> Task:
    """Logistic regression on normal rows with noisy linear labels."""
    X, outputs = _draw(n, d, n_classes)
    y = outputs.argmax(axis=1)
    model = LogisticRegression(max_iter=500).fit(X[:n], y[:n])
    return Task(LINEAR, model, X[:n], y[:n], X[n:], y[n:], clone(model), n_classes)


def net_task(n: int, width: int, n_classes: int) -> Task:
    """An MLP of two hidden layers on such rows; a few steps make its gradients those of a net and not of a draw."""
    import torch

    from skinfluence.nets import DifferentiableNet

    from .. import _nets

    X, outputs = _draw(n, INPUTS, n_classes)
    X, y = X.astype(np.float32), outputs.argmax(axis=1)
    torch.manual_seed(0)
    module, loss = _nets.mlp(INPUTS, width, width, n_classes), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        loss(module(torch.from_numpy(X[:256])), torch.from_numpy(y[:256])).backward()
        optimizer.step()
    module.zero_grad()
    net = DifferentiableNet((module.eval(), loss))
    return Task(NET, net, X[:n], y[:n], X[n:], y[n:], _trainable(n, width), n_classes)


def trained_net_task(n: int, width: int, n_classes: int) -> Task:
    """Such an MLP as an estimator that can be fitted again, for the methods that do."""
    X, outputs = _draw(n, INPUTS, n_classes)
    X, y = X.astype(np.float32), outputs.argmax(axis=1)
    net = _trainable(n, width)
    fitted = _quietly(clone(net).fit, X[:n], y[:n])
    return Task(NET, fitted, X[:n], y[:n], X[n:], y[n:], net, n_classes)


def _trainable(n: int, width: int) -> MLPClassifier:
    return MLPClassifier((width, width), max_iter=EPOCHS, batch_size=min(128, n), random_state=0)


def _draw(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, a twentieth more than n for validation, and their noisy outputs; seeded."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n + n // 20, d))
    outputs = X @ rng.standard_normal((d, n_classes))
    return X, outputs + outputs.std() * rng.gumbel(size=outputs.shape) / 2
