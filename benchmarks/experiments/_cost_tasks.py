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
from sklearn.neural_network import MLPClassifier

from skinfluence import InfluenceSelector, influence_scores
from skinfluence.methods import GEX, METHODS, TDA, DataShapley, TracIn
from skinfluence.models import as_model

LINEAR, NET = "logistic regression", "MLP"
N_CHECKPOINTS = 5
INPUTS = 100  # of the net
EPOCHS = 20  # of a training of the net, for what refits it
IP, SELF_LISSA = "ip", "self_lissa"
REFITS = ("leave_one_out", "data_shapley")
#: Beta Shapley values make the refits of Shapley values.
GRADIENTS = tuple(name for name in METHODS if name not in (*REFITS, "beta_shapley"))


@dataclass(frozen=True)
class Task:
    """A fitted model, its training and validation rows, and what refits it once."""

    family: str
    estimator: Any
    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    refit: Callable[[], Any]
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

    def _params(self) -> np.ndarray:
        return np.asarray(as_model(self.estimator).model.params)

    def method(self, name: str, gex_steps: int) -> Any:
        """The method of that name with the package's settings, and checkpoints where it needs them.

        They lie on the line from zero to the fitted parameters: what they cost does not depend on where they are.
        """
        if name in ("tracin", "tda"):
            params = self._params()
            points = [params * share for share in np.linspace(0, 1, N_CHECKPOINTS + 1)[1:]]
            return TracIn(points) if name == "tracin" else TDA(checkpoints=points)
        return GEX(n_steps=gex_steps) if name == "gex" else name

    def call(self, name: str, gex_steps: int) -> Callable[[], np.ndarray]:
        """What is timed: a call as a user would write it, every gradient included."""
        judges = () if name.startswith("self_") else (self.X_val, self.y_val)
        rows = (self.X, self.y, *judges)
        return partial(_quietly, influence_scores, self.estimator, *rows, method=self.method(name, gex_steps))

    def count_refits(self, name: str, n_permutations: int) -> int:
        """How many models a method fits that refits."""
        method: Any = DataShapley(n_permutations) if name == "data_shapley" else name
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
    refit = partial(_quietly, clone(model).fit, X[:n], y[:n])
    return Task(LINEAR, model, X[:n], y[:n], X[n:], y[n:], refit, n_classes)


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
    trained = MLPClassifier((width, width), max_iter=EPOCHS, batch_size=min(128, n), random_state=0)
    refit = partial(_quietly, trained.fit, X[:n], y[:n])
    return Task(NET, DifferentiableNet((module.eval(), loss)), X[:n], y[:n], X[n:], y[n:], refit, n_classes)


def _draw(n: int, d: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, a twentieth more than n for validation, and their noisy outputs; seeded."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n + n // 20, d))
    outputs = X @ rng.standard_normal((d, n_classes))
    return X, outputs + outputs.std() * rng.gumbel(size=outputs.shape) / 2
