"""Small skorch nets, and rows for them, for the tests of the places where nets live."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import make_classification, make_regression
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from torch import nn

N, D = 80, 5


class MLP(nn.Module):
    def __init__(self, width: int = 6, n_outputs: int = 2, flat: bool = False) -> None:
        super().__init__()
        self.first, self.drop, self.head = nn.Linear(D, width), nn.Dropout(0.1), nn.Linear(width, n_outputs)
        self.flat = flat

    def forward(self, x):
        F = self.head(self.drop(torch.tanh(self.first(x))))
        return F[:, 0] if self.flat else F


class Counted(NeuralNetClassifier):
    """Counts how often nets of its kind were fitted."""

    fits = 0

    def fit(self, X, y=None, **fit_params):
        Counted.fits += 1
        return super().fit(X, y, **fit_params)


class Weighted(NeuralNetClassifier):
    """Takes weights for rows, by drawing its batches from them."""

    def fit(self, X, y=None, sample_weight=None, **fit_params):
        if sample_weight is not None:
            p = np.asarray(sample_weight) / np.sum(sample_weight)
            drawn = np.random.RandomState(0).choice(len(p), len(p), p=p)
            X, y = X[drawn], y[drawn]
        return super().fit(X, y, **fit_params)


SHORT = {
    "max_epochs": 3,
    "lr": 0.2,
    "batch_size": 16,
    "iterator_train__shuffle": True,
    "train_split": None,
    "verbose": 0,
}


def classifier(kind=NeuralNetClassifier, **options):
    return kind(MLP, **{"criterion": nn.CrossEntropyLoss, **SHORT, **options})


def binary(**options):
    return NeuralNetBinaryClassifier(MLP, module__n_outputs=1, module__flat=True, **{**SHORT, **options})


def regressor(**options):
    return NeuralNetRegressor(MLP, module__n_outputs=1, **{**SHORT, "lr": 0.05, **options})


def table(n_classes=2, seed=0):
    X, y = make_classification(
        N, D, n_informative=4, n_redundant=0, n_classes=n_classes, n_clusters_per_class=1, flip_y=0.1, random_state=seed
    )
    return X.astype(np.float32), y


def targets(seed=0):
    X, y = make_regression(N, D, noise=5.0, random_state=seed)
    return X.astype(np.float32), (y / y.std()).astype(np.float32).reshape(-1, 1)
