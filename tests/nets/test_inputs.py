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
from skorch import NeuralNetClassifier  # noqa: E402
from skorch.helper import SliceDict  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as nnf  # noqa: E402

from skinfluence import (  # noqa: E402
    CuratedClassifier,
    HeldOut,
    InfluenceRelabeler,
    InfluenceSelector,
    Pipeline,
    influence_scores,
)
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


def test_a_dataset_brings_its_targets(rows):
    X, y, X_val, y_val = rows
    pair = (mlp(), nn.CrossEntropyLoss())
    wanted = influence_scores(pair, X, y, X_val, y_val)
    np.testing.assert_allclose(influence_scores(pair, Pairs(X, y), None, X_val, y_val), wanted, rtol=1e-12)
    np.testing.assert_allclose(influence_scores(pair, Pairs(X, y), y, X_val, y_val), wanted, rtol=1e-12)
    held_out = HeldOut(Pairs(X_val, y_val), None)
    np.testing.assert_allclose(influence_scores(pair, Pairs(X, y), None, held_out), wanted, rtol=1e-12)
    both = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    np.testing.assert_allclose(influence_scores(pair, both, None, X_val, y_val), wanted, rtol=1e-12)
    half = torch.utils.data.Subset(both, list(range(10)))
    np.testing.assert_allclose(
        influence_scores(pair, half, None, X_val, y_val), influence_scores(pair, X[:10], y[:10], X_val, y_val)
    )


def test_labels_are_not_changed_where_a_dataset_has_its_own(rows):
    X, y, _, _ = rows
    net = NeuralNetClassifier(mlp(), criterion=nn.CrossEntropyLoss, train_split=None, max_epochs=1, verbose=0)
    curated = CuratedClassifier(net, curator=InfluenceRelabeler(net, cv=2))
    with pytest.raises(TypeError, match=r"trained on the targets that the Dataset brings.*array or a dict of arrays"):
        curated.fit(Pairs(X, y), y)


# --- inputs by name and by place --------------------------------------------------------------------------------------


@pytest.fixture
def words(rng):
    X = {"tokens": rng.randint(9, size=(N, 6)), "mask": (rng.rand(N, 6) > 0.3).astype(np.float64)}
    torch.manual_seed(0)
    return Words().double(), X, rng.randint(2, size=N)


@pytest.mark.parametrize("form", ["arrays", "tensors", "int32", "float32", "nested_series"])
def test_a_dict_goes_by_name(form, words):
    module, X, y = words
    wanted = truth.ip(module, nnf.cross_entropy, X, y, X, y)
    forms = {
        "arrays": lambda name, part: part,
        "tensors": lambda name, part: torch.from_numpy(part),
        "int32": lambda name, part: part.astype(np.int32) if name == "tokens" else part,
        # Zeros and ones are the same in every precision: they are brought to the module's.
        "float32": lambda name, part: part.astype(np.float32) if name == "mask" else part,
        "nested_series": lambda name, part: part.tolist(),
    }
    asked = {name: forms[form](name, part) for name, part in X.items()}
    np.testing.assert_allclose(influence_scores((module, nn.CrossEntropyLoss()), asked, y, X, y), wanted, rtol=1e-8)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(2, 3)
        self.double()

    def forward(self, x, z):
        return self.a(x) + self.b(z) ** 2


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_tuple_goes_by_place(kind, rng):
    torch.manual_seed(0)
    module, y = Two(), rng.randint(3, size=N)
    X = (rng.standard_normal((N, 4)), rng.standard_normal((N, 2)))
    found = influence_scores((module, nn.CrossEntropyLoss()), kind(X), y, X, y)
    np.testing.assert_allclose(found, truth.ip(module, nnf.cross_entropy, X, y, X, y), rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_tokens_may_be_of_any_dtype_that_torch_looks_up(dtype, rng):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(20, 2)).double()
    X, y = rng.randint(9, size=(N, 4)), rng.randint(2, size=N)
    wanted = truth.ip(module, nnf.cross_entropy, X, y, X, y)
    found = influence_scores((module, nn.CrossEntropyLoss()), X.astype(dtype), y, X.astype(dtype), y)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)
    with pytest.raises(ValueError, match=r"(?s)Sequential fails on these rows.*X is of int16 \(4,\) a row"):
        influence_scores((module, nn.CrossEntropyLoss()), X.astype(np.int16), y)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_frame_goes_by_name_of_column(kind, rng):
    made = pytest.importorskip(kind)
    torch.manual_seed(0)
    module, y = Columns().double(), rng.randint(3, size=N)
    X = {"age": rng.standard_normal((N, 1)), "income": rng.standard_normal((N, 1))}
    frame = made.DataFrame({name: column[:, 0] for name, column in X.items()})
    if kind == "pandas":
        frame.index = np.arange(N)[::-1]  # labels of rows are no places
    found = influence_scores((module, nn.CrossEntropyLoss()), frame, y, X, y)
    np.testing.assert_allclose(found, truth.ip(module, nnf.cross_entropy, X, y, X, y), rtol=1e-8)


def test_images_and_sequences_keep_their_shape(rng):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    X, y = rng.standard_normal((N, 2, 4, 4)), rng.randint(2, size=N)
    found = influence_scores((module, nn.CrossEntropyLoss()), X[:, :, ::-1], y, X.transpose(0, 1, 3, 2), y)
    wanted = truth.ip(module, nnf.cross_entropy, X[:, :, ::-1], y, X.transpose(0, 1, 3, 2), y)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array])
def test_sparse_rows_of_an_mlp(kind, rng):
    X, y = rng.standard_normal((40, 6)) * (rng.rand(40, 6) > 0.6), rng.randint(2, size=40)
    net = MLPClassifier(4, solver="lbfgs", alpha=1.0, random_state=0).fit(X, y)
    for method in ("ip", "self_tracin", "exact"):
        wanted = influence_scores(net, X, y, X[:9], y[:9], method=method)
        np.testing.assert_allclose(influence_scores(net, kind(X), y, X[:9], y[:9], method=method), wanted, rtol=1e-9)


def test_rows_go_through_the_steps_before_a_net(rows):
    X, y, X_val, y_val = rows
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(mlp, criterion=nn.CrossEntropyLoss, max_epochs=2, train_split=None, verbose=0)
    pipe = make_pipeline(StandardScaler(), net).fit(X, y)
    scale = pipe[0].transform
    wanted = truth.ip(pipe[-1].module_.eval(), nnf.cross_entropy, scale(X), y, scale(X_val), y_val)
    np.testing.assert_allclose(influence_scores(pipe, X, y, X_val, y_val), wanted, rtol=1e-7)
    named = influence_scores(pipe, X, y, HeldOut(X_val, y_val))
    np.testing.assert_array_equal(named, influence_scores(pipe, X, y, X_val, y_val))


# --- precision --------------------------------------------------------------------------------------------------------


def test_float32_rows_meet_a_float64_net(rows):
    """A bare module is given its own precision, a skorch net what it would be given in fit."""
    X, y, X_val, y_val = rows
    X, X_val = X.astype(np.float32), X_val.astype(np.float32)
    module = mlp()
    wanted = truth.ip(module, nnf.cross_entropy, X.astype(np.float64), y, X_val.astype(np.float64), y_val)
    np.testing.assert_allclose(influence_scores((module, nn.CrossEntropyLoss()), X, y, X_val, y_val), wanted, rtol=1e-8)


def test_float64_rows_meet_a_float32_net(rows):
    X, y, X_val, y_val = rows
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(
        lambda: mlp().float(), criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0
    ).fit(X.astype(np.float32), y)
    with pytest.raises(ValueError, match=r"(?s)Sequential fails on these rows.*float32.*X is of float64 \(4,\) a row"):
        influence_scores(net, X, y, X_val, y_val)
    found = influence_scores(net, X.astype(np.float32), y, X_val.astype(np.float32), y_val)
    wrapped = influence_scores(DifferentiableNet(net, dtype="float32"), X, y, X_val, y_val)
    np.testing.assert_allclose(wrapped, found, rtol=1e-5)


# --- what does not fit ------------------------------------------------------------------------------------------------

NOT_FINITE = r"raw outputs are not finite.*\(for a net\) not finite themselves"
WRONG = {
    "narrow": (lambda X: X[:, :3], ValueError, r"Sequential fails on these rows.*float64 \(3,\) a row"),
    "flat": (lambda X: X[:, 0], ValueError, r"Sequential fails on these rows.*float64 \(\) a row"),
    "integers": (lambda X: X.astype(int), ValueError, r"Sequential fails on these rows.*int64 \(4,\) a row"),
    "empty": (lambda X: X[:0], ValueError, r"X has no rows: found array with 0 sample"),
    "none": (lambda X: None, TypeError, "A net takes numbers, got an array of dtype object"),
    "number": (lambda X: 3.0, TypeError, "X must hold rows, got float"),
    "strings": (lambda X: X.astype(str), TypeError, r"A net takes numbers, got an array of dtype <U"),
    "objects": (lambda X: X.astype(object), TypeError, "A net takes numbers, got an array of dtype object"),
    "sparse": (sp.csr_matrix, TypeError, "A net takes dense rows, got a sparse matrix"),
    "nan": (lambda X: np.where(X > 1, np.nan, X), ValueError, NOT_FINITE),
    "infinite": (lambda X: np.where(X > 1, np.inf, X), ValueError, NOT_FINITE),
    "dict": (lambda X: {"x": X}, TypeError, "Sequential fails on these rows"),
    "uneven_tuple": (lambda X: (X, X[:3]), ValueError, r"parts of X must have the same number of rows, got \[3, 20\]"),
    "uneven_dict": (lambda X: {"a": X, "b": X[:3]}, ValueError, r"same number of rows, got \[3, 20\]"),
    "empty_dict": (lambda X: {}, ValueError, "X has no parts: found an empty dict"),
    "empty_dataset": (lambda X: Pairs(X[:0]), ValueError, "X has no rows"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rows_that_do_not_fit(name, rows):
    make, error, message = WRONG[name]
    X, y, _, _ = rows
    with pytest.raises(error, match=f"(?s){message}"):
        influence_scores((mlp(), nn.CrossEntropyLoss()), make(X), y)


@pytest.mark.parametrize("name", ["narrow", "strings", "sparse", "nan", "empty"])
def test_validation_rows_that_do_not_fit(name, rows):
    make, error, message = WRONG[name]
    X, y, X_val, y_val = rows
    message = message.replace("X has", "In the validation rows: X has")
    with pytest.raises(error, match=f"(?s){message}"):
        influence_scores((mlp(), nn.CrossEntropyLoss()), X, y, make(X_val), y_val[:0] if name == "empty" else y_val)


WRONG_TARGETS = {
    "short": (lambda y: y[:-1], ValueError, r"inconsistent numbers of samples: \[20, 19\]"),
    "long": (lambda y: np.append(y, 0), ValueError, r"inconsistent numbers of samples: \[20, 21\]"),
    "unknown": (lambda y: y + 1, ValueError, r"labels that the net has no output for: \[3\].*0 to 2"),
    "negative": (lambda y: y - 5, ValueError, "labels that the net has no output for"),
    "missing": (lambda y: None, ValueError, "y is None, and X is no Dataset"),
    "strings": (lambda y: y.astype(str), ValueError, "targets must be numbers, got dtype <U"),
    "nan": (lambda y: np.where(y == 1, np.nan, y), ValueError, "NaN"),
    "empty": (lambda y: y[:0], ValueError, "0 sample"),
    "reals": (lambda y: y + 0.5, TypeError, "loss cannot be had from its outputs and targets alone"),
}


@pytest.mark.parametrize("name", WRONG_TARGETS)
def test_targets_that_do_not_fit(name, rows):
    make, error, message = WRONG_TARGETS[name]
    X, y, _, _ = rows
    with pytest.raises(error, match=f"(?s){message}"):
        influence_scores((mlp(), nn.CrossEntropyLoss()), X, make(y))


def test_regression_targets_of_another_width(rng):
    X = rng.standard_normal((N, 4))
    with pytest.raises(ValueError, match=r"y must have 3 target\(s\) a row, as the net puts out; got 2"):
        influence_scores((mlp(), nn.MSELoss()), X, rng.standard_normal((N, 2)))
    with pytest.raises(ValueError, match=r"y must have 3 target\(s\) a row, as the net puts out; got 1"):
        influence_scores((mlp(), nn.MSELoss()), X, rng.standard_normal(N))


def test_rows_of_another_length(rng):
    """Sequences may differ in length from call to call, as long as the net puts out as much for each."""
    pooled, flat = Words().double(), nn.Conv1d(1, 1, 3).double()
    X, y = {"tokens": rng.randint(9, size=(N, 6)), "mask": np.ones((N, 6))}, rng.randint(2, size=N)
    longer = {"tokens": rng.randint(9, size=(N, 8)), "mask": np.ones((N, 8))}
    found = influence_scores((pooled, nn.CrossEntropyLoss()), X, y, longer, y)
    np.testing.assert_allclose(found, truth.ip(pooled, nnf.cross_entropy, X, y, longer, y), rtol=1e-8)
    short, long = rng.standard_normal((N, 1, 6)), rng.standard_normal((N, 1, 8))
    with pytest.raises(
        ValueError, match="In the validation rows: Conv1d puts out 6 numbers a row for these rows and 4"
    ):
        influence_scores((flat, nn.MSELoss()), short, short[..., :4], long, long[..., :6])


def test_a_classifier_has_one_label_a_row(rows):
    X, y, _, _ = rows
    torch.manual_seed(0)
    net = skorch.NeuralNetClassifier(mlp, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0)
    net.fit(X, y)
    with pytest.raises(ValueError, match=r"one label a row, got an array of shape \(20, 2\)"):
        influence_scores(net, X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"labels that the estimator was not fitted with: \[7\]"):
        influence_scores(net, X, np.where(y == 1, 7, y))
    with pytest.raises(ValueError, match="at least two classes, got one"):
        influence_scores(net, X, np.zeros(N, dtype=int))


def test_weights_of_another_length(rows):
    X, y, _, _ = rows
    with pytest.raises(ValueError, match=r"sample_weight\.shape|inconsistent numbers of samples|sample_weight"):
        influence_scores((mlp(), nn.CrossEntropyLoss()), X, y, sample_weight=np.ones(N - 1))


# --- curators take what nets take -------------------------------------------------------------------------------------


def text_net():
    return skorch.NeuralNetClassifier(Words, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0)


def test_a_curator_takes_a_dict(words):
    _, X, y = words
    X = X | {"mask": X["mask"].astype(np.float32)}
    curator = InfluenceSelector(text_net(), method="ip", removal_rate=0.2, cv=2, random_state=0)
    kept, y_kept, _ = curator.fit_curate(X, y)
    assert {name: len(part) for name, part in kept.items()} == {"tokens": 16, "mask": 16}
    np.testing.assert_array_equal(kept["tokens"], X["tokens"][curator.support_])
    np.testing.assert_array_equal(y_kept, y[curator.support_])
    assert curator.transform(X) is X
    sliced = SliceDict(**X)
    np.testing.assert_array_equal(clone(curator).fit(sliced, y).scores_, curator.scores_)
    with pytest.raises(ValueError, match="parts of X must have the same number of rows"):
        InfluenceSelector(text_net()).fit(X | {"mask": X["mask"][:-1]}, y)


@pytest.mark.parametrize("final", ["final", "given"])
def test_a_pipeline_takes_a_dict(words, final):
    _, X, y = words
    X = X | {"mask": X["mask"].astype(np.float32)}
    curator = InfluenceSelector("final" if final == "final" else text_net(), method="ip", removal_rate=0.2, cv=2,
                                random_state=0)  # fmt: skip
    pipe = Pipeline([("curate", clone(curator)), ("net", text_net())]).fit(X, y)
    alone = clone(curator).set_params(estimator=text_net()).fit(X, y)
    np.testing.assert_array_equal(pipe["curate"].scores_, alone.scores_)
    np.testing.assert_array_equal(pipe.sample_indices_, np.flatnonzero(alone.support_))
    assert pipe.predict(X).shape == (N,)


class Seeing(skorch.NeuralNetClassifier):
    """Keeps what it was fitted on."""

    def fit(self, X, y=None, sample_weight=None):
        self.seen_ = X, y, sample_weight
        return super().fit(X, y)


@pytest.mark.parametrize("home", ["pipeline", "curated"])
def test_weights_follow_the_rows_of_a_dict(words, home):
    _, X, y = words
    X = X | {"mask": X["mask"].astype(np.float32)}
    net = Seeing(Words, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0)
    curator = InfluenceSelector(text_net(), method="ip", removal_rate=0.2, cv=2, random_state=0)
    # Weights for the net that is fitted last alone: the curator's takes none.
    weight = np.arange(1.0, N + 1)
    if home == "pipeline":
        model = Pipeline([("curate", curator), ("net", net)]).fit(X, y, net__sample_weight=weight)
        fitted, kept = model["net"], model.sample_indices_
    else:
        with config_context(enable_metadata_routing=True):
            net.set_fit_request(sample_weight=True)
            model = CuratedClassifier(net, curator.set_fit_request(sample_weight=False)).fit(X, y, sample_weight=weight)
        fitted, kept = model.estimator_, model.curator_.sample_indices_
    seen, labels, weights = fitted.seen_
    assert len(kept) == 16
    np.testing.assert_array_equal(seen["tokens"], X["tokens"][kept])
    np.testing.assert_array_equal(labels, y[kept])
    np.testing.assert_array_equal(weights, weight[kept])


def test_a_dataset_brings_a_curator_its_targets(rows):
    X, y, _, _ = rows
    net = skorch.NeuralNetClassifier(mlp, criterion=nn.CrossEntropyLoss, max_epochs=1, train_split=None, verbose=0)
    curator = InfluenceSelector(net, method="ip", removal_rate=0.2, cv=2, random_state=0)
    wanted = clone(curator).fit(Pairs(X, y), y)
    own = clone(curator).fit(Pairs(X, y), None)
    np.testing.assert_array_equal(own.scores_, wanted.scores_)
    kept, y_kept, _ = clone(curator).fit_curate(Pairs(X, y), None)
    np.testing.assert_array_equal(y_kept, y[wanted.support_])
    assert len(kept) == len(y_kept)
    pipe = Pipeline([("curate", clone(curator)), ("net", clone(net))]).fit(Pairs(X, y))
    np.testing.assert_array_equal(pipe.sample_indices_, np.flatnonzero(wanted.support_))
    redrawn = clone(curator).fit_transform(Pairs(X, y))
    np.testing.assert_array_equal(redrawn.indices, clone(curator).fit_transform(Pairs(X, y), y).indices)
    with pytest.raises(ValueError, match=r"requires y to be passed.*items that are no pairs \(row, target\)"):
        clone(curator).fit(Pairs(X), None)


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
