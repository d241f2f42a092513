"""What X and y may be: every container gives the scores of the plain array, and what does not fit is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

torch = pytest.importorskip("torch")
skorch = pytest.importorskip("skorch")
from sklearn import config_context  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.neural_network import MLPClassifier  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from skorch.helper import SliceDict  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as nnf  # noqa: E402

from skinfluence import CuratedClassifier, HeldOut, InfluenceSelector, Pipeline, influence_scores  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402

from . import truth  # noqa: E402

N, N_VAL = 20, 8


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


class Words(nn.Module):
    """Takes tokens and a mask by name, as text models do."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 5), nn.Linear(5, 2)

    def forward(self, tokens, mask):
        h = self.embed(tokens) * mask[..., None]
        return self.head(torch.tanh(h.sum(dim=1)))


class Columns(nn.Module):
    """Takes the columns of a frame by name."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, age, income):
        return self.head(torch.cat([age, income], dim=1))


class Pairs(torch.utils.data.Dataset):
    def __init__(self, X, y=None):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i] if self.y is None else (self.X[i], self.y[i])


@pytest.fixture
def rows(rng):
    X, X_val = rng.standard_normal((N, 4)), rng.standard_normal((N_VAL, 4))
    return X, rng.randint(3, size=N), X_val, rng.randint(3, size=N_VAL)


def read_only(X):
    X = X.copy()
    X.setflags(write=False)
    return X


def strided(X):
    wide = np.zeros((len(X) * 2, X.shape[1] * 3))
    wide[::2, ::3] = X
    return wide[::2, ::3]


class OwnArray:
    """Something with the array interface and no more."""

    def __init__(self, X):
        self.X = X
        self.shape = X.shape

    def __len__(self):
        return len(self.X)

    def __array__(self, dtype=None, copy=None):
        found = np.asarray(self.X, dtype=dtype)  # NumPy 1 knows no copy=None
        return found.copy() if copy else found


FORMS = {
    "tensor": torch.from_numpy,
    "tensor_in_a_graph": lambda X: torch.from_numpy(X.copy()).requires_grad_() * 1,
    "list": lambda X: X.tolist(),
    "fortran": np.asfortranarray,
    "read_only": read_only,
    "strided": strided,
    "reversed": lambda X: X[::-1].copy()[::-1],
    "mirrored_columns": lambda X: X[:, ::-1].copy()[:, ::-1],
    "swapped_bytes": lambda X: X.astype(X.dtype.newbyteorder()),
    "dataset": Pairs,
    "tensor_dataset": lambda X: Pairs(torch.from_numpy(X)),
    "array_like": OwnArray,
    "memory_map": lambda X: X.view(np.memmap),
}


EVERY = [(form, "ip") for form in FORMS]
SOME = [(form, method) for form in ("tensor", "reversed", "dataset") for method in ("self_tracin", "exact")]


@pytest.mark.parametrize(("form", "method"), EVERY + SOME)
def test_a_container_changes_nothing(form, method, rows):
    X, y, X_val, y_val = rows
    pair = (mlp(), nn.CrossEntropyLoss())
    wanted = influence_scores(pair, X, y, X_val, y_val, method=method, random_state=0)
    make = FORMS[form]
    found = influence_scores(pair, make(X), y, make(X_val), y_val, method=method, random_state=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    # X_val in another form than X
    mixed = influence_scores(pair, X, y, make(X_val), y_val, method=method, random_state=0)
    np.testing.assert_allclose(mixed, wanted, rtol=1e-9)


TARGETS = {
    "tensor": torch.from_numpy,
    "list": lambda y: y.tolist(),
    "column": lambda y: y.reshape(-1, 1),
    "series": lambda y: pd.Series(y, index=np.arange(len(y)) + 100),
    "int32": lambda y: y.astype(np.int32),
    "uint8": lambda y: y.astype(np.uint8),
    "reversed": lambda y: y[::-1].copy()[::-1],
    "read_only": read_only,
}


@pytest.mark.parametrize("form", TARGETS)
def test_a_container_of_targets_changes_nothing(form, rows):
    X, y, X_val, y_val = rows
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(
        mlp, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0, iterator_train__shuffle=True
    ).fit(X, y)
    wanted = influence_scores(net, X, y, X_val, y_val)
    np.testing.assert_allclose(wanted, truth.ip(net.module_.eval(), nnf.cross_entropy, X, y, X_val, y_val), rtol=1e-7)
    make = TARGETS[form]
    np.testing.assert_allclose(influence_scores(net, X, make(y), X_val, make(y_val)), wanted, rtol=1e-12)


def test_a_curator_takes_tensors_and_datasets(rows):
    X, y, _, _ = rows
    net = skorch.NeuralNetClassifier(mlp, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0)

    def curated(X, y):
        return InfluenceSelector(net, method="ip", removal_rate=0.2, cv=2, random_state=0).fit(X, y).scores_

    wanted = curated(X, y)
    np.testing.assert_allclose(curated(torch.from_numpy(X), torch.from_numpy(y)), wanted, rtol=1e-9)
    np.testing.assert_allclose(curated(Pairs(X, y), y), wanted, rtol=1e-9)
    images = X.reshape(N, 2, 2)
    flat = skorch.NeuralNetClassifier(
        lambda: nn.Sequential(nn.Flatten(), *mlp()), criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None,
        verbose=0,
    )  # fmt: skip
    curator = InfluenceSelector(flat, method="ip", removal_rate=0.2, cv=2, random_state=0).fit(images, y)
    np.testing.assert_allclose(curator.scores_, wanted, rtol=1e-9)
    assert curator.transform(images).shape == (N, 2, 2)
