"""Every kind of training loss: scores against a backward pass for each row through the user's own criterion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import has_fit_parameter

torch = pytest.importorskip("torch")
skorch = pytest.importorskip("skorch")
from torch import nn  # noqa: E402
from torch.nn import functional as nnf  # noqa: E402

from skinfluence import (  # noqa: E402
    InfluenceRelabeler,
    InfluenceReweighter,
    InfluenceSelector,
    influence_scores,
    methods,
)
from skinfluence.models import as_model  # noqa: E402
from skinfluence.nets import DifferentiableNet  # noqa: E402
from skinfluence.objectives import Utility  # noqa: E402

from . import truth  # noqa: E402

N, N_VAL, D = 16, 8, 4


class Body(nn.Module):
    """A small net in float64."""

    def __init__(self, n_outputs: int = 3, last: str = "none", flat: bool = False) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(D, 5), nn.Linear(5, n_outputs)
        self.last, self.flat = last, flat
        self.double()

    def forward(self, x):
        F = self.head(torch.tanh(self.first(x)))
        made = {
            "softmax": lambda F: F.softmax(dim=-1),
            "log_softmax": lambda F: F.log_softmax(dim=-1),
            "sigmoid": torch.sigmoid,
            "softplus": nnf.softplus,
            "none": lambda F: F,
        }
        F = made[self.last](F)
        return F[:, 0] if self.flat else F


class Tagger(nn.Module):
    """A class for each of three places of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(D, 6), nn.Linear(6, 9)
        self.double()

    def forward(self, x):
        return self.head(torch.tanh(self.first(x))).reshape(len(x), 3, 3)


class Focal(nn.Module):
    """A criterion of the user's own, one number a row inside and their mean outside."""

    def forward(self, out, y):
        logp = nnf.log_softmax(out, dim=1)[torch.arange(len(y)), y]
        return (-((1 - logp.exp()) ** 2) * logp).mean()


class Unreduced(nn.Module):
    """One number a row; it has no ``reduction`` to be told by."""

    def forward(self, out, y):
        return ((out - y) ** 2).sum(dim=1)


class Tempered(nn.Module):
    """A criterion with a parameter that was learnt with the net."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, out, y):
        return nnf.cross_entropy(out * self.scale, y)


class Uncertain(nn.Module):
    """A mean and a variance for each row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(D, 5), nn.Linear(5, 2)
        self.double()

    def forward(self, x):
        F = self.head(torch.tanh(self.first(x)))
        return F[:, :1], nnf.softplus(F[:, 1:]) + 0.1


def gaussian(out, y):
    return nnf.gaussian_nll_loss(out[0], y, out[1])


def codes(rng, n, n_classes=3):
    return rng.randint(n_classes, size=n)


def reals(rng, n, width=1):
    return rng.standard_normal((n, width))


def counts(rng, n):
    return rng.poisson(2.0, size=(n, 1)).astype(float)


def bits(rng, n, width=1):
    return (rng.rand(n, width) > 0.5).astype(float)


def odds(rng, n, n_classes=3):
    return rng.dirichlet(np.ones(n_classes), size=n)


def tags(rng, n):
    y = rng.randint(3, size=(n, 3))
    y[:, 2][rng.rand(n) > 0.6] = -100  # padding at the end of some rows
    return y


def class_weight(y):
    return WEIGHT.numpy()[y]


WEIGHT = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A criterion, a net and targets for it; ``share`` is what each row counts in the criterion's mean."""

    name: str
    criterion: Any
    targets: Any
    module: Any = Body
    share: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    summed: bool = False

    def make(self, **options):
        return self.criterion(**{**self.options, **options}) if isinstance(self.criterion, type) else self.criterion


def body(*args, **kwargs):
    return lambda: Body(*args, **kwargs)


BARE = [
    Case("cross_entropy", nn.CrossEntropyLoss, codes),
    Case("label_smoothing", nn.CrossEntropyLoss, codes, options={"label_smoothing": 0.2}),
    Case("class_weights", nn.CrossEntropyLoss, codes, options={"weight": WEIGHT}, share=class_weight),
    Case("sum", nn.CrossEntropyLoss, codes, options={"reduction": "sum"}, summed=True),
    Case("sum_weights", nn.CrossEntropyLoss, codes, options={"reduction": "sum", "weight": WEIGHT}, summed=True),
    Case("class_probabilities", nn.CrossEntropyLoss, odds),
    Case("ignored", nn.CrossEntropyLoss, tags, module=Tagger, share=lambda y: (y != -100).sum(axis=1)),
    Case("nll", nn.NLLLoss, codes, module=body(3, "log_softmax")),
    Case("nll_weights", nn.NLLLoss, codes, body(3, "log_softmax"), class_weight, options={"weight": WEIGHT}),
    Case("binary_logits", nn.BCEWithLogitsLoss, bits, module=body(1)),
    Case("binary_logits_flat", nn.BCEWithLogitsLoss, lambda rng, n: bits(rng, n)[:, 0], module=body(1, flat=True)),
    Case("pos_weight", nn.BCEWithLogitsLoss, bits, body(1),
         options={"pos_weight": torch.tensor([3.0], dtype=torch.float64)}),
    Case("binary", nn.BCELoss, bits, module=body(1, "sigmoid")),
    Case("multilabel", nn.BCEWithLogitsLoss, lambda rng, n: bits(rng, n, 3)),
    Case("multilabel_margin", nn.MultiLabelSoftMarginLoss, lambda rng, n: bits(rng, n, 3)),
    Case("squared", nn.MSELoss, reals, module=body(1)),
    Case("squared_sum", nn.MSELoss, reals, module=body(1), options={"reduction": "sum"}, summed=True),
    Case("several_targets", nn.MSELoss, lambda rng, n: reals(rng, n, 3)),
    Case("absolute", nn.L1Loss, reals, module=body(1)),
    Case("smooth_absolute", nn.SmoothL1Loss, reals, module=body(1), options={"beta": 0.5}),
    Case("huber", nn.HuberLoss, reals, module=body(1), options={"delta": 0.5}),
    Case("poisson", nn.PoissonNLLLoss, counts, module=body(1)),
    Case("poisson_rate", nn.PoissonNLLLoss, counts, module=body(1, "softplus"), options={"log_input": False}),
    Case("divergence", nn.KLDivLoss, odds, module=body(3, "log_softmax"), options={"reduction": "batchmean"}),
    Case("margins", nn.MultiMarginLoss, codes),
    Case("hinge", nn.SoftMarginLoss, lambda rng, n: 2 * bits(rng, n) - 1, module=body(1)),
    Case("gaussian", gaussian, reals, module=Uncertain),
    Case("function", nnf.cross_entropy, codes),
    Case("binary_function", nnf.binary_cross_entropy, bits, module=body(1, "sigmoid")),
    Case("other_function", lambda out, y: nnf.cross_entropy(out, y), codes),
    Case("own", Focal, codes),
    Case("unreduced", Unreduced, lambda rng, n: reals(rng, n, 3)),
    Case("with_parameter", Tempered, codes),
]  # fmt: skip


def drawn(case, seed=0):
    rng = np.random.RandomState(seed)
    torch.manual_seed(seed)
    module = case.module()
    X, X_val = rng.standard_normal((N, D)), rng.standard_normal((N_VAL, D))
    return module, X, case.targets(rng, N), X_val, case.targets(rng, N_VAL)


def mean_of(criterion, summed):
    """The criterion's value; the mean of it where it is one number a row."""
    return lambda out, y: criterion(out, y).mean() if not summed else criterion(out, y)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("case", BARE, ids=lambda case: case.name)
def test_a_bare_loss(case):
    module, X, y, X_val, y_val = drawn(case)
    criterion = case.make()
    loss = mean_of(criterion, case.summed)
    share = None if case.share is None else case.share(y)
    close(
        influence_scores((module, criterion), X, y, X_val, y_val),
        truth.ip(module, loss, X, y, X_val, y_val, share=share, per_row=case.summed),
    )
    norms = (truth.row_gradients(module, loss, X, y) ** 2).sum(axis=1)
    c = np.ones(N) if share is None else share
    close(influence_scores((module, criterion), X, y, method="self_tracin"), -norms * c / c.sum())


PLAIN_MEANS = [
    case
    for case in BARE
    if isinstance(case.criterion, type)
    and getattr(case.make(), "reduction", None) == "mean"
    and case.share is None  # whose mean is one by weights
]


@pytest.mark.parametrize("case", PLAIN_MEANS, ids=lambda case: case.name)
def test_how_a_criterion_reduces_is_its_own_affair(case):
    """Unreduced it gives the scores of the mean."""
    module, X, y, X_val, y_val = drawn(case)
    close(
        influence_scores((module, case.make(reduction="none")), X, y, X_val, y_val),
        influence_scores((module, case.make()), X, y, X_val, y_val),
    )


# --- skorch -----------------------------------------------------------------------------------------------------------


class WithL2(skorch.NeuralNetClassifier):
    """Adds a penalty in ``get_loss``."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + 0.05 * sum((p**2).sum() for p in self.module_.parameters())


class WithL1(skorch.NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        return loss + 0.01 * self.module_.head.weight.abs().sum()


class Unweighed(skorch.NeuralNetClassifier):
    """The usual way to have row-wise losses: a criterion that does not reduce, and a mean by hand."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred, y_true, *args, **kwargs).mean()


class Smoothed(skorch.NeuralNetClassifier):
    """Takes nothing of the criterion."""

    def get_loss(self, y_pred, y_true, X=None, training=False):
        return 0.9 * nnf.cross_entropy(y_pred, y_true) - 0.1 * nnf.log_softmax(y_pred, dim=1).mean()


class Shifted(skorch.NeuralNetClassifier):
    """Classes 1, 2 and 3 on columns 0, 1 and 2."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred, y_true - 1, *args, **kwargs)


def skorch_net(kind, module, criterion, **options):
    return kind(
        module, criterion=criterion, **{"max_epochs": 2, "lr": 0.05, "train_split": None, "verbose": 0, **options}
    )


def nll_of_probabilities(p, y):
    """As skorch does it."""
    return nnf.nll_loss(torch.log(p + torch.finfo(p.dtype).eps), y)


def plain_bce(p, y):
    return nnf.binary_cross_entropy(p, y.double())


def ones(rng, n):
    """Labels of two classes, in the dtype that torch's binary losses take."""
    return bits(rng, n)[:, 0]


CE = nn.CrossEntropyLoss
CLASSIFIER, BINARY, REGRESSOR = (
    skorch.NeuralNetClassifier,
    skorch.NeuralNetBinaryClassifier,
    skorch.NeuralNetRegressor,
)
SKORCH = {
    "classifier": (CLASSIFIER, body(3, "softmax"), nn.NLLLoss, {}, codes, nll_of_probabilities, None),
    "logits": (CLASSIFIER, body(3), CE, {}, codes, nnf.cross_entropy, None),
    "smoothing": (CLASSIFIER, body(3), CE, {"criterion__label_smoothing": 0.2}, codes,
                  lambda F, y: nnf.cross_entropy(F, y, label_smoothing=0.2), None),
    "weights": (CLASSIFIER, body(3), CE, {"criterion__weight": WEIGHT}, codes, nnf.cross_entropy, class_weight),
    "weighted_nll": (CLASSIFIER, body(3, "softmax"), nn.NLLLoss, {"criterion__weight": WEIGHT}, codes,
                     nll_of_probabilities, class_weight),
    "sum": (CLASSIFIER, body(3), CE, {"criterion__reduction": "sum", "lr": 0.001}, codes, nnf.cross_entropy, None),
    "own_criterion": (CLASSIFIER, body(3), Focal, {}, codes, Focal(), None),
    "own_loss": (Smoothed, body(3), CE, {}, codes,
                 lambda F, y: 0.9 * nnf.cross_entropy(F, y) - 0.1 * nnf.log_softmax(F, dim=1).mean(), None),
    "by_hand": (Unweighed, body(3), CE, {"criterion__reduction": "none"}, codes, nnf.cross_entropy, None),
    "l2_term": (WithL2, body(3), CE, {}, codes, nnf.cross_entropy, None),
    "binary": (BINARY, body(1, flat=True), nn.BCEWithLogitsLoss, {}, ones,
               lambda F, y: nnf.binary_cross_entropy_with_logits(F, y.double()), None),
    "binary_column": (BINARY, body(1), nn.BCEWithLogitsLoss, {}, ones,
                      lambda F, y: nnf.binary_cross_entropy_with_logits(F[:, 0], y.double()), None),
    "binary_probabilities": (BINARY, body(1, "sigmoid", flat=True), nn.BCELoss, {},
                             ones, plain_bce, None),
    "regressor": (REGRESSOR, body(1), nn.MSELoss, {}, reals, nnf.mse_loss, None),
    "two_targets": (REGRESSOR, body(2), nn.MSELoss, {}, lambda rng, n: reals(rng, n, 2), nnf.mse_loss, None),
    "l1": (REGRESSOR, body(1), nn.L1Loss, {}, reals, nnf.l1_loss, None),
    "smooth_l1": (REGRESSOR, body(1), nn.SmoothL1Loss, {}, reals, nnf.smooth_l1_loss, None),
    "huber": (REGRESSOR, body(1), nn.HuberLoss, {"criterion__delta": 0.3}, reals,
              lambda F, y: nnf.huber_loss(F, y, delta=0.3), None),
    "poisson": (REGRESSOR, body(1), nn.PoissonNLLLoss, {}, counts, nnf.poisson_nll_loss, None),
    "net": (skorch.NeuralNet, body(3), CE, {}, codes, nnf.cross_entropy, None),
    "divergence": (skorch.NeuralNet, body(3, "log_softmax"), nn.KLDivLoss, {"criterion__reduction": "batchmean"}, odds,
                   lambda F, y: nnf.kl_div(F, y, reduction="batchmean"), None),
    "multilabel": (skorch.NeuralNet, body(3), nn.BCEWithLogitsLoss, {}, lambda rng, n: bits(rng, n, 3),
                   nnf.binary_cross_entropy_with_logits, None),
}  # fmt: skip


@pytest.mark.parametrize("name", SKORCH)
def test_a_skorch_net(name):
    kind, module, criterion, options, targets, loss, share = SKORCH[name]
    rng = np.random.RandomState(0)
    X, X_val = rng.standard_normal((N, D)), rng.standard_normal((N_VAL, D))
    y, y_val = targets(rng, N), targets(rng, N_VAL)
    torch.manual_seed(0)
    net = skorch_net(kind, module, criterion, **options).fit(X, y)
    if share is None:
        wanted = truth.ip(net.module_.eval(), loss, X, y, X_val, y_val, per_row=False)
    else:
        wanted = weighed(net, share, loss, X, y, X_val, y_val)
    close(influence_scores(net, X, y, X_val, y_val), wanted)


def fitted(kind, criterion=CE, targets=codes, module=Body, **options):
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((N, D)), targets(rng, N)
    torch.manual_seed(0)
    return skorch_net(kind, module, criterion, **options).fit(X, y), X, y


def test_an_l2_term_in_get_loss_is_found_and_is_no_part_of_a_row():
    net, _, _ = fitted(WithL2)
    X, y = np.random.RandomState(1).standard_normal((N, D)), codes(np.random.RandomState(1), N)
    exact = influence_scores(net, X, y, method="exact")
    plain, _, _ = fitted(CLASSIFIER, optimizer__weight_decay=0.1)  # the same penalty: 0.05 w² = 0.1 w² / 2
    plain.module_.load_state_dict(net.module_.state_dict())
    np.testing.assert_allclose(exact, influence_scores(plain, X, y, method="exact"), rtol=1e-6)
    without = influence_scores(DifferentiableNet(plain, weight_decay=0.0), X, y, method="exact")
    assert np.abs(without / exact - 1).max() > 0.01


class Holding(nn.Module):
    """A criterion that holds the net it is for, and adds a penalty in its parameters."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, out, y):
        return nnf.cross_entropy(out, y) + 0.05 * sum((p**2).sum() for p in self.net.parameters())


def test_an_l2_term_in_a_criterion_that_holds_the_net():
    module, X, y, _, _ = drawn(BARE[0])
    found = influence_scores((module, Holding(module)), X, y, X, y, method="exact")
    asked = DifferentiableNet((module, nn.CrossEntropyLoss()), weight_decay=0.1)
    np.testing.assert_allclose(found, influence_scores(asked, X, y, X, y, method="exact"), rtol=1e-6)


def test_a_term_that_is_no_l2_penalty_is_left_out_and_says_so():
    net, X, y = fitted(WithL1)
    with pytest.warns(UserWarning, match=r"adds a term in 'head\.weight' that is no L2 penalty"):
        found = influence_scores(net, X, y, X, y)
    close(found, truth.ip(net.module_.eval(), nnf.cross_entropy, X, y, X, y))


def test_a_get_loss_that_shifts_the_labels():
    rng = np.random.RandomState(0)
    net, X, y = fitted(Shifted, targets=lambda rng, n: codes(rng, n) + 1)
    X_val, y_val = rng.standard_normal((N_VAL, D)), codes(rng, N_VAL) + 1

    def loss(F, y):
        return nnf.cross_entropy(F, y - 1)

    close(influence_scores(net, X, y, X_val, y_val), truth.ip(net.module_.eval(), loss, X, y, X_val, y_val))


def weighed(net, share, loss, X, y, X_val, y_val):
    """IP where the objective is the training loss, so that validation rows weigh as training rows do."""
    G, J = (truth.row_gradients(net.module_.eval(), loss, *rows) for rows in ((X_val, y_val), (X, y)))
    c, c_val = share(y), share(y_val)
    return c / c.sum() * (J @ (c_val / c_val.sum() @ G))


@pytest.mark.parametrize("n_classes", [3, 2])
def test_class_weights_are_those_of_the_labels_that_get_loss_makes(n_classes):
    """Of two classes, 1 and 2, both have a weight of their own label too: the wrong one."""

    def targets(rng, n):
        return codes(rng, n, n_classes) + 1

    net, X, y = fitted(Shifted, targets=targets, criterion__weight=WEIGHT)
    rng = np.random.RandomState(1)
    X_val, y_val = rng.standard_normal((N_VAL, D)), targets(rng, N_VAL)

    def loss(F, y):
        return nnf.cross_entropy(F, y - 1)

    wanted = weighed(net, lambda y: class_weight(y - 1), loss, X, y, X_val, y_val)
    close(influence_scores(net, X, y, X_val, y_val), wanted)
    assert as_model(net).class_weight.value == dict(zip([1, 2, 3][:n_classes], WEIGHT.tolist(), strict=False))


class Named(nn.Module):
    """Its outputs have names."""

    def __init__(self):
        super().__init__()
        self.inner = Body()

    def forward(self, x):
        return {"logits": self.inner(x)}


class OfNamed(skorch.NeuralNetClassifier):
    first = 0

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return super().get_loss(y_pred["logits"], y_true - self.first, *args, **kwargs)


class OfNamedShifted(OfNamed):
    first = 1


def test_class_weights_where_get_loss_takes_no_plain_outputs():
    """It cannot be asked what it makes of the labels: they are taken as they are, where they can be."""
    net, X, y = fitted(OfNamed, module=Named, criterion__weight=WEIGHT)
    wanted = weighed(net, class_weight, lambda F, y: nnf.cross_entropy(F["logits"], y), X, y, X, y)
    close(influence_scores(net, X, y, X, y), wanted)
    net, X, y = fitted(OfNamedShifted, targets=lambda rng, n: codes(rng, n) + 1, module=Named, criterion__weight=WEIGHT)
    with pytest.raises(TypeError, match=r"weights for 3 classes.*are \[1, 2, 3\].*Train the net on labels 0 to 2"):
        influence_scores(net, X, y)


# --- rows that the loss ignores ---------------------------------------------------------------------------------------

IGNORED = {
    "default": (CLASSIFIER, -100, {}),
    "another": (CLASSIFIER, 7, {"criterion__ignore_index": 7}),
    "weights": (CLASSIFIER, -100, {"criterion__weight": WEIGHT}),
    "plain_net": (skorch.NeuralNet, -100, {}),
}


def with_ignored(name, n_ignored=5):
    """A fitted net, its rows of which some are to be ignored, which those are, and validation rows alike."""
    kind, label, options = IGNORED[name]

    def targets(rng, n):
        y = codes(rng, n)
        y[:n_ignored] = label
        return y

    net, X, y = fitted(kind, targets=targets, **options)
    rng = np.random.RandomState(1)
    return net, X, y, y == label, rng.standard_normal((N_VAL, D)), np.append(codes(rng, N_VAL - 1), label)


@pytest.mark.parametrize("objective", ["utility", Utility(loss="mae")])
@pytest.mark.parametrize("method", ["ip", "self_tracin", "exact", methods.EKFAC(labels="true")], ids=str)
@pytest.mark.parametrize("name", IGNORED)
def test_ignored_rows_are_of_no_class_and_score_zero(name, method, objective):
    net, X, y, ignored, X_val, y_val = with_ignored(name)
    options = {"method": method, "objective": objective, "random_state": 0}
    found = influence_scores(net, X, y, X_val, y_val, **options)
    np.testing.assert_array_equal(found[ignored], 0)
    # The others score as if those were not there: to the net's loss they are not.
    close(found[~ignored], influence_scores(net, X[~ignored], y[~ignored], X_val[:-1], y_val[:-1], **options))
    in_sample = influence_scores(net, X, y, **options)  # by the loss that bears wrong labels, which needs the link
    close(in_sample[~ignored], influence_scores(net, X[~ignored], y[~ignored], **options))
    np.testing.assert_array_equal(in_sample[ignored], 0)


def test_ignored_rows_of_a_bare_pair_score_zero_too():
    module, X, y, _, _ = drawn(BARE[0])
    y[:5] = -100
    pair = (module, nn.CrossEntropyLoss())
    found = influence_scores(pair, X, y)
    np.testing.assert_array_equal(found[:5], 0)
    close(found[5:], influence_scores(pair, X[5:], y[5:]))
    assert as_model(pair).loss.link == "softmax"


def test_a_sum_counts_the_rows_that_it_ignores():
    """Their terms are zero, but they are rows of the batch: the loss is by its own mean."""
    module, X, y, X_val, y_val = drawn(BARE[0])
    y[:5] = -100
    found = influence_scores((module, nn.CrossEntropyLoss(reduction="sum")), X, y, X_val, y_val)
    np.testing.assert_array_equal(found[:5], 0)
    close(found[5:], influence_scores((module, nn.CrossEntropyLoss()), X[5:], y[5:], X_val, y_val) * (N - 5) / N)


def test_classes_are_those_that_are_not_ignored():
    net, _, _, _, _, _ = with_ignored("weights")
    assert net.classes_.tolist() == [-100, 0, 1, 2]
    model = as_model(net)
    assert model.classes.tolist() == [0, 1, 2]
    assert model.loss.link == "softmax"
    assert model.class_weight.value == dict(enumerate(WEIGHT.tolist()))


def test_a_class_that_is_ignored_stays_a_class():
    """It has a column of its own: without it the others' codes would be those of other columns."""
    net, X, y = fitted(CLASSIFIER, criterion__ignore_index=0)
    assert as_model(net).classes.tolist() == [0, 1, 2]
    found = influence_scores(net, X, y)
    np.testing.assert_array_equal(found[y == 0], 0)
    assert (found[y != 0] != 0).all()


def test_ignored_rows_alone_are_refused():
    net, X, y, ignored, X_val, y_val = with_ignored("default")
    with pytest.raises(ValueError, match=r"All labels of y are -100.*nothing to score"):
        influence_scores(net, X[ignored], y[ignored], X_val, y_val)
    with pytest.raises(ValueError, match=r"validation rows: All labels of y are -100"):
        influence_scores(net, X, y, X_val[-1:], y_val[-1:])
    only = ignored | (y == 1)
    with pytest.raises(ValueError, match=r"at least two classes, got one: \[1\]"):
        influence_scores(net, X[only], y[only])


@pytest.mark.parametrize("method", ["data_shapley", "knn_shapley"])
def test_methods_that_need_a_class_for_each_row_refuse_ignored_ones(method):
    net, X, y, _, X_val, y_val = with_ignored("default")
    with pytest.raises(ValueError, match=r"5 rows of y have the label that the net's loss ignores.*Leave them out"):
        influence_scores(net, X, y, X_val[:-1], y_val[:-1], method=method, random_state=0)


@pytest.mark.parametrize("wrapped", ["plain", "wrapped", "pipeline", "instance", "frozen"])
@pytest.mark.parametrize("curator", [InfluenceSelector, InfluenceReweighter, InfluenceRelabeler])
def test_curators_refuse_ignored_rows_before_anything_is_fitted(curator, wrapped):
    net, X, y, _, _, _ = with_ignored("default")
    plain = skorch_net(CLASSIFIER, Body, nn.CrossEntropyLoss() if wrapped == "instance" else CE)
    made = {
        "wrapped": lambda: DifferentiableNet(plain),
        "pipeline": lambda: make_pipeline(StandardScaler(), plain),
        "frozen": lambda: FrozenEstimator(net),
    }.get(wrapped, lambda: plain)()
    with pytest.raises(ValueError, match=r"5 rows with the label -100.*Leave them out of X and y"):
        curator(made, method="ip", random_state=0).fit(X, y)
    assert not getattr(plain, "initialized_", False)


def test_curators_take_labels_that_another_index_leaves_alone():
    _, X, y = fitted(CLASSIFIER)
    for options in ({}, {"criterion__ignore_index": 9}, {"criterion__ignore_index": 0}):
        net = skorch_net(CLASSIFIER, Body, CE, **options)
        assert InfluenceSelector(net, method="ip", cv=2, random_state=0).fit(X, y).scores_.shape == (N,)


def test_a_batch_that_is_summed_scales_the_weight_decay():
    """With a sum the optimiser's weight decay stands beside a batch, not beside a row."""
    net, X, y = fitted(CLASSIFIER, criterion__reduction="sum", optimizer__weight_decay=0.4, batch_size=10, lr=0.001)
    model = as_model(net)
    np.testing.assert_allclose(model.penalty.l2, 0.04)
    assert np.isfinite(influence_scores(net, X, y, method="exact")).all()


# --- losses that are refused ------------------------------------------------------------------------------------------


class Ranking(nn.Module):
    """Compares rows with one another."""

    def forward(self, out, y):
        return nnf.relu(1 - (out[:, None, 0] - out[None, :, 0]) * torch.sign(y[:, None, 0] - y[None, :, 0])).mean()


class NeedsX(skorch.NeuralNetClassifier):
    def get_loss(self, y_pred, y_true, X=None, training=False):
        return super().get_loss(y_pred, y_true) * (1 + X.mean())


class Drops(nn.Module):
    def forward(self, out, y):
        return nnf.cross_entropy(nnf.dropout(out, 0.5, training=True), y)


class OneNumberForAll(nn.Module):
    """The mean over rows, squared: no sum of one term a row."""

    def forward(self, out, y):
        return nnf.mse_loss(out, y) ** 2


@pytest.mark.parametrize(
    ("criterion", "targets", "n_outputs"),
    [(Ranking, reals, 1), (Drops, codes, 3), (OneNumberForAll, reals, 1)],
    ids=["compares", "draws", "squares"],
)
def test_a_loss_that_is_no_sum_over_rows_is_refused(criterion, targets, n_outputs):
    module, X, y, X_val, y_val = drawn(Case("", criterion, targets, module=body(n_outputs)))
    with pytest.raises(TypeError, match=r"no sum or mean of one term a row.*gives rows no gradients of their own"):
        influence_scores((module, criterion()), X, y, X_val, y_val)


def test_a_get_loss_that_needs_the_rows_is_refused():
    net, X, y = fitted(NeedsX)
    with pytest.raises(TypeError, match="a get_loss that needs X is not supported"):
        influence_scores(net, X, y)


def test_methods_that_need_a_second_derivative_refuse_a_kink():
    net, X, y = fitted(REGRESSOR, nn.L1Loss, reals, body(1))
    with pytest.raises(TypeError, match="needs the second derivative of the training loss"):
        influence_scores(net, X, y, method="exact")


class Speech(nn.Module):
    """Log-probabilities of three signs and the blank at each of six times."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.GRU(D, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return torch.log_softmax(self.head(self.inner(x[:, None].expand(-1, 6, -1).cumsum(1))[0]), dim=2)


def ctc(out, y):
    n, length, _ = out.shape
    lengths = torch.full((n,), length), torch.full((n,), y.shape[1])
    return nnf.ctc_loss(out.transpose(0, 1), y, *lengths, reduction="none").mean()


class Transcribing(skorch.NeuralNet):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return ctc(y_pred, y_true)


def transcripts(rng, n):
    return rng.randint(1, 4, (n, 2))


def test_ctc_has_gradients_and_no_second_derivative():
    """torch has neither its forward mode nor the derivative of its gradient."""
    rng = np.random.RandomState(0)
    torch.manual_seed(0)
    module = Speech().double()
    X, y, X_val, y_val = (
        rng.standard_normal((N, D)),
        transcripts(rng, N),
        rng.standard_normal((4, D)),
        transcripts(rng, 4),
    )
    net = Transcribing(module, nn.CTCLoss, max_epochs=0, train_split=None, verbose=0).fit(X, y)
    wanted = truth.ip(net.module_, ctc, X, y, X_val, y_val)
    norms = (truth.row_gradients(net.module_, ctc, X, y) ** 2).sum(axis=1)
    for one in (net, (net.module_, ctc)):
        close(influence_scores(one, X, y, X_val, y_val), wanted)
        close(influence_scores(one, X, y, method="self_tracin"), -norms / N)
        with pytest.raises(TypeError, match=r"no second derivative in torch .*Take a method that needs none"):
            influence_scores(one, X, y, X_val, y_val, method="cg")


# --- scikit-learn's MLPs ----------------------------------------------------------------------------------------------

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity}
POISSON = "loss" in MLPRegressor().get_params()


def as_torch(mlp):
    layers = []
    for W, b in zip(mlp.coefs_, mlp.intercepts_, strict=True):
        linear = nn.Linear(*W.shape).double()
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(W.T))
            linear.bias.copy_(torch.tensor(b))
        layers += [linear, ACTIVATIONS[mlp.activation]()]
    return nn.Sequential(*layers[:-1])


def fit_mlp(kind, X, y, **options):
    mlp = kind(hidden_layer_sizes=(6, 5), max_iter=15, random_state=0, alpha=0.05, **options)
    with pytest.warns(ConvergenceWarning):
        return mlp.fit(X, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_mlp_classifiers(n_classes, activation):
    X, codes_ = make_classification(60, 6, n_informative=4, n_classes=n_classes, random_state=0)
    names = np.array(["bad", "fair", "good"])
    y = names[codes_]  # labels may be strings
    mlp = fit_mlp(MLPClassifier, X[:40], y[:40], activation=activation)
    loss = (
        nnf.cross_entropy if n_classes > 2 else (lambda F, y: nnf.binary_cross_entropy_with_logits(F[:, 0], y.double()))
    )
    close(
        influence_scores(mlp, X[:40], y[:40], X[40:], y[40:]),
        truth.ip(as_torch(mlp), loss, X[:40], codes_[:40], X[40:], codes_[40:]),
    )


REGRESSIONS = ["squared_error", pytest.param("poisson", marks=pytest.mark.skipif(not POISSON, reason="from 1.7 on"))]


@pytest.mark.parametrize("kind", REGRESSIONS)
def test_mlp_regressors(kind):
    X, y = make_regression(60, 6, noise=3.0, random_state=0)
    y = y / y.std()
    y = np.random.RandomState(0).poisson(np.exp(y / 2)).astype(float) if kind == "poisson" else y
    mlp = fit_mlp(MLPRegressor, X[:40], y[:40], **({"loss": kind} if kind == "poisson" else {}))
    loss = (
        (lambda F, y: nnf.poisson_nll_loss(F[:, 0], y))
        if kind == "poisson"
        else (lambda F, y: ((F[:, 0] - y) ** 2).mean() / 2)
    )
    close(
        influence_scores(mlp, X[:40], y[:40], X[40:], y[40:]),
        truth.ip(as_torch(mlp), loss, X[:40], y[:40], X[40:], y[40:]),
    )


def test_mlp_regressors_with_several_targets():
    X, y = make_regression(60, 6, n_targets=2, random_state=0)
    y = y / y.std(axis=0)
    mlp = fit_mlp(MLPRegressor, X[:40], y[:40])

    def loss(F, y):
        # Its gradient is that of the sum over targets, whatever the loss it prints.
        return ((F - y) ** 2).sum(dim=1).mean() / 2

    close(
        influence_scores(mlp, X[:40], y[:40], X[40:], y[40:]),
        truth.ip(as_torch(mlp), loss, X[:40], y[:40], X[40:], y[40:]),
    )


@pytest.mark.skipif(not has_fit_parameter(MLPClassifier(), "sample_weight"), reason="weights from scikit-learn 1.7 on")
def test_mlps_with_sample_weight():
    X, y = make_classification(60, 6, random_state=0)
    weight = np.random.RandomState(0).uniform(0.5, 2, size=60)
    mlp = MLPClassifier(hidden_layer_sizes=(6, 5), max_iter=15, random_state=0)
    with pytest.warns(ConvergenceWarning):
        mlp.fit(X, y, sample_weight=weight)

    def loss(F, y):
        return nnf.binary_cross_entropy_with_logits(F[:, 0], y.double())

    close(
        influence_scores(mlp, X, y, X[:20], y[:20], sample_weight=weight),
        truth.ip(as_torch(mlp), loss, X, y, X[:20], y[:20], share=weight),
    )


def test_row_weights_of_a_skorch_net_count_in_the_scores():
    net, X, y = fitted(CLASSIFIER)
    weight = np.random.RandomState(0).uniform(0.5, 2, size=N)
    close(
        influence_scores(net, X, y, X[:6], y[:6], sample_weight=weight),
        truth.ip(net.module_.eval(), nnf.cross_entropy, X, y, X[:6], y[:6], share=weight),
    )


def test_multilabel_mlps_are_refused():
    X = np.random.RandomState(0).standard_normal((40, 4))
    mlp = fit_mlp(MLPClassifier, X, bits(np.random.RandomState(0), 40, 3).astype(int))
    with pytest.raises(TypeError, match="multilabel MLPClassifier has several labels a row"):
        influence_scores(mlp, X, bits(np.random.RandomState(0), 40, 3))


# --- log-probabilities ------------------------------------------------------------------------------------------------

INVERSES = {"exact": methods.Exact(damping=0.1), "cg": methods.CG(damping=0.1), "lissa": methods.LiSSA(damping=0.1)}
LOG_PROBABILITIES = {
    "nll": ("log_softmax", nn.NLLLoss(), codes),
    "weights": ("log_softmax", nn.NLLLoss(weight=WEIGHT), codes),
    "divergence": ("log_softmax", nn.KLDivLoss(reduction="batchmean"), odds),
    "skorch": ("softmax", nn.NLLLoss, codes),
}


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("inverse", INVERSES)
@pytest.mark.parametrize("name", LOG_PROBABILITIES)
def test_log_probabilities_curve_as_the_logits_that_they_are(name, inverse, curvature):
    """Losses are linear in them, and Gauss and Newton's matrix of a linear loss is zero."""
    last, criterion, targets = LOG_PROBABILITIES[name]
    module, X, y, X_val, y_val = drawn(Case(name, criterion, targets, module=body(3, last)))
    logits = Body(3)
    logits.load_state_dict(module.state_dict())
    with_weights = nn.CrossEntropyLoss(weight=getattr(criterion, "weight", None))
    net: Any = (module, criterion)
    if name == "skorch":
        net = CLASSIFIER(Body, module__last=last, criterion=criterion, train_split=None, verbose=0).initialize()
        net.module_.load_state_dict(module.state_dict())
        net.classes_inferred_ = np.arange(3)
    found, wanted = (
        influence_scores(
            DifferentiableNet(one, curvature=curvature, weight_decay=1.0), X, y, X_val, y_val, method=INVERSES[inverse]
        )
        for one in (net, (logits, with_weights))
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7 * np.abs(wanted).max())


def test_a_loss_that_is_linear_in_the_outputs_has_no_gauss_newton_matrix():
    case = Case("linear", lambda out, y: -(out * y).sum(dim=1), odds)
    module, X, y, X_val, y_val = drawn(case)
    net = (module, case.criterion)
    with pytest.raises(
        TypeError, match=r"The loss of Body is linear.*Gauss-Newton matrix is zero.*curvature='hessian'"
    ):
        influence_scores(net, X, y, X_val, y_val, method=INVERSES["exact"])
    other = DifferentiableNet(net, curvature="hessian", weight_decay=10.0)
    assert np.isfinite(influence_scores(other, X, y, X_val, y_val, method=INVERSES["exact"])).all()
    assert influence_scores(net, X, y, X_val, y_val).any()


def test_outputs_that_are_no_log_probabilities_are_not_taken_for_such():
    module, X, y, X_val, y_val = drawn(Case("nll", nn.NLLLoss, codes))  # no softmax at its end
    with pytest.raises(ValueError, match=r"NLLLoss takes log-probabilities.*of Body are none.*LogSoftmax"):
        influence_scores((module, nn.NLLLoss()), X, y, X_val, y_val, method="cg")
    assert influence_scores((module, nn.NLLLoss()), X, y, X_val, y_val).any()


# --- get_loss with a memory -------------------------------------------------------------------------------------------


class Notes(skorch.NeuralNetClassifier):
    """Writes down what it sees."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        loss = super().get_loss(y_pred, y_true, *args, **kwargs)
        self.history.record_batch("seen", loss.item())
        self.losses_.append(loss.item())
        return loss


def test_what_a_net_notes_down_in_its_loss_is_not_noted_by_influence():
    rng = np.random.RandomState(0)
    X, y = rng.standard_normal((N, D)), codes(rng, N)
    net = Notes(Body, criterion=CE, max_epochs=2, train_split=None, verbose=0).initialize()
    net.losses_ = []
    net.partial_fit(X, y)
    before, history = list(net.losses_), repr(net.history)
    assert np.isfinite(influence_scores(net, X, y)).all()
    assert net.losses_ == before
    assert repr(net.history) == history


# --- weights of a get_loss's own --------------------------------------------------------------------------------------


class Weighing(skorch.NeuralNetClassifier):
    """Weighs classes by itself, as those do who leave the criterion alone."""

    options: ClassVar[dict] = {"weight": WEIGHT}

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return nnf.cross_entropy(y_pred, y_true, **self.options)


class Ignoring(Weighing):
    options: ClassVar[dict] = {"ignore_index": 1}


class IgnoringAndWeighing(Weighing):
    options: ClassVar[dict] = {"ignore_index": 1, "weight": WEIGHT, "label_smoothing": 0.1}


class WeighingProbabilities(Weighing):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        weight = WEIGHT[y_true]
        return -(weight * y_pred[np.arange(len(y_true)), y_true].log()).sum() / weight.sum()


class MeanOfWeighed(Weighing):
    """Whose rows are larger, but all count alike."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return (nnf.cross_entropy(y_pred, y_true, reduction="none") * WEIGHT[y_true]).mean()


def own_weights(kind, last="none"):
    rng = np.random.RandomState(0)
    X, y, X_val, y_val = rng.standard_normal((N, D)), codes(rng, N), rng.standard_normal((N_VAL, D)), codes(rng, N_VAL)
    torch.manual_seed(0)
    net = kind(Body, module__last=last, criterion=CE, max_epochs=2, train_split=None, verbose=0).fit(X, y)
    return net, X, y, X_val, y_val


@pytest.mark.parametrize(
    ("kind", "last", "share"),
    [
        (Weighing, "none", lambda y: WEIGHT.numpy()[y]),
        (Ignoring, "none", lambda y: (y != 1).astype(float)),
        (IgnoringAndWeighing, "none", lambda y: WEIGHT.numpy()[y] * (y != 1)),
        (WeighingProbabilities, "softmax", lambda y: WEIGHT.numpy()[y]),
        (MeanOfWeighed, "none", lambda y: np.ones(len(y))),
    ],
)
def test_a_get_loss_that_weighs_classes(kind, last, share):
    net, X, y, X_val, y_val = own_weights(kind, last)
    c = share(y)

    def loss(F, y):
        return net.get_loss(F, y) if share(y.numpy()).any() else 0 * F.sum()  # torch's mean of no rows is nan

    close(influence_scores(net, X, y, X_val, y_val), truth.ip(net.module_, loss, X, y, X_val, y_val, share=c))
    norms = (truth.row_gradients(net.module_, loss, X, y) ** 2).sum(axis=1)
    close(influence_scores(net, X, y, method="self_tracin"), -norms * c / c.sum())


def test_the_curvature_of_a_get_loss_that_weighs_classes():
    net, X, y, X_val, y_val = own_weights(Weighing)
    found, wanted = (
        influence_scores(one, X, y, X_val, y_val, method=INVERSES["exact"])
        for one in (net, (net.module_, nn.CrossEntropyLoss(weight=WEIGHT)))
    )
    close(found, wanted)


class Drawing(Weighing):
    def get_loss(self, y_pred, y_true, *args, **kwargs):
        torch.rand(3)
        return super().get_loss(y_pred, y_true)


def test_random_numbers_that_a_get_loss_draws_are_put_back_once_its_weights_are_known():
    net, X, y, X_val, y_val = own_weights(Drawing)
    before = torch.get_rng_state()
    as_model(net)
    assert torch.equal(torch.get_rng_state(), before)
    scores = influence_scores(net, X, y, X_val, y_val)
    close(scores, influence_scores((net.module_, nn.CrossEntropyLoss(weight=WEIGHT)), X, y, X_val, y_val))


@pytest.mark.parametrize("method", ["ip", "self_tracin", "exact", "ip_ensemble"])
@pytest.mark.parametrize("draw", [torch.rand, np.random.rand], ids=["torch", "numpy"])
def test_random_numbers_that_a_loss_draws_are_put_back(draw, method):
    def loss(out, y):
        draw(3)
        return nnf.cross_entropy(out, y)

    module, X, y, X_val, y_val = drawn(BARE[0])
    before, numpy_before = torch.get_rng_state(), np.random.get_state()
    influence_scores((module, loss), X, y, X_val, y_val, method=method, random_state=0)
    assert torch.equal(torch.get_rng_state(), before)
    for found, wanted in zip(np.random.get_state(), numpy_before, strict=True):
        np.testing.assert_array_equal(found, wanted)


class Centred(skorch.NeuralNetClassifier):
    """Compares rows with one another, which weighs nothing."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        return nnf.cross_entropy(y_pred - y_pred.mean(dim=0), y_true)


def test_a_get_loss_that_compares_rows_is_still_refused():
    net, X, y, *_ = own_weights(Centred)
    with pytest.raises(TypeError, match="compares rows with one another"):
        influence_scores(net, X, y)
