"""`FittedModel` of a skorch net, of a bare module with its loss, and of scikit-learn's MLPs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_scalar
from torch import nn
from torch.nn import functional as nnf

from ... import curves
from ...losses import DevianceLoss, Link, Loss, MarginLoss, ResidualLoss, SoftmaxLoss
from .._fitted import ClassWeight, FittedModel, Penalty, Task, without_ignored
from ._copies import twin_of, uncompiled
from ._engines import ENGINES
from ._intake import MLPIntake, NetIntake, Penalised, in_its_own
from ._losses import NetLoss, RowLoss, ignored_label
from ._model import NetModel
from ._net import Net
from ._probe import State

# Losses of torch as functions, and the modules that they are: of these it is known what their outputs predict.
_AS_MODULES: list[tuple[Any, type[nn.Module]]] = [
    (nnf.cross_entropy, nn.CrossEntropyLoss),
    (nnf.nll_loss, nn.NLLLoss),
    (nnf.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss),
    (nnf.binary_cross_entropy, nn.BCELoss),
    (nnf.mse_loss, nn.MSELoss),
    (nnf.l1_loss, nn.L1Loss),
    (nnf.smooth_l1_loss, nn.SmoothL1Loss),
    (nnf.huber_loss, nn.HuberLoss),
    (nnf.poisson_nll_loss, nn.PoissonNLLLoss),
]
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class NetOptions:
    """The choices of `skinfluence.nets.DifferentiableNet`, checked."""

    parameters: Any = "all"
    curvature: Any = "gauss_newton"
    weight_decay: Any = "optimizer"
    dtype: Any = None
    engine: str = "auto"
    block_rows: int | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.curvature not in ("gauss_newton", "hessian"):
            raise ValueError(f"curvature must be 'gauss_newton' or 'hessian', got {self.curvature!r}.")
        if self.dtype is not None and self.dtype not in _DTYPES:
            raise ValueError(f"dtype must be None or one of {list(_DTYPES)}, got {self.dtype!r}.")
        if self.engine not in ("auto", *ENGINES):
            raise ValueError(f"engine must be 'auto' or one of {list(ENGINES)}, got {self.engine!r}.")
        if self.compile and self.engine not in ("auto", "forward"):
            raise ValueError(f"What compile=True compiles is forward mode, and engine is {self.engine!r}.")
        if isinstance(self.weight_decay, str) and self.weight_decay != "optimizer":
            raise ValueError(f"weight_decay must be 'optimizer' or a number, got {self.weight_decay!r}.")
        if not isinstance(self.weight_decay, str):
            check_scalar(self.weight_decay, "weight_decay", Real, min_val=0)
        if self.block_rows is not None:
            check_scalar(self.block_rows, "block_rows", Integral, min_val=1)

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return None if self.dtype is None else _DTYPES[self.dtype]

    @property
    def own_decay(self) -> bool:
        """Whether the weight decay is the net's own."""
        return isinstance(self.weight_decay, str)

    def decay_of(self, own: np.ndarray) -> np.ndarray:
        """The weight decay of each parameter: the optimiser's ``own``, or what the user says."""
        return own if self.own_decay else np.full_like(own, float(self.weight_decay))

    def state(self) -> State:
        """What a model starts from."""
        engine = "compiled" if self.compile else self.engine
        block_rows = None if self.block_rows is None else int(self.block_rows)
        return State(engine=engine, block_rows=block_rows, asked=(self.engine, block_rows))


# --- the three kinds of nets ------------------------------------------------------------------------------------------


def from_skorch(estimator: Any, options: NetOptions) -> FittedModel:
    """Of a fitted (or initialised) skorch net: its module, its criterion through its own `get_loss`."""
    inner = twin_of(estimator)

    def call(module: nn.Module, batch: Any) -> Any:
        inner.__dict__["module_"] = module
        return inner.infer(batch)

    def ask(criterion: Any, out: Any, y: torch.Tensor) -> torch.Tensor:
        inner.__dict__["criterion_"] = criterion
        return inner.get_loss(out, y, X=None, training=True)

    criterion = estimator.criterion_
    task, classes, labels, meaning = _read(estimator, criterion)
    net = Net(estimator.module_, options.parameters, call=call, to_raw=meaning.to_raw, dtype=options.torch_dtype)
    inner.__dict__["module_"] = net.module.inner
    rowwise = RowLoss(criterion, ask, asked_plainly=_asks_plainly(estimator))
    if classes is not None and classes.dtype.kind in "iu" and _has_own_loss(estimator):
        with net.still():
            rowwise.follow(classes.astype(np.int64), next(iter(net.theta.values())))
    per_batch = 1.0 / _batch_size(estimator) if getattr(criterion, "reduction", "mean") == "sum" else 1.0
    own = dict(net.module.named_parameters())
    found = Penalised(
        net, lambda out, y: ask(rowwise.criterion, out, y), {name: own[name] for name in net.theta}, per_batch
    )
    return _build(
        estimator, net, rowwise, options, _optimizer_decay(estimator, net) * per_batch, found,
        meaning=meaning, task=task, classes=classes, labels=labels,
    )  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What raw outputs predict, how the module's outputs are made raw and back, and whether the criterion takes raw
    outputs for log-probabilities.
    """

    link: Link | None = None
    to_raw: Any = None
    from_raw: Any = None
    log_probabilities: bool = False


def _read(estimator: Any, criterion: Any) -> tuple[Task, np.ndarray | None, np.ndarray | None, Meaning]:
    """Task, classes, the labels that the criterion takes for them, and what the outputs predict."""
    kinds = {cls.__name__ for cls in type(estimator).__mro__ if cls.__module__.split(".")[0] == "skorch"}
    own_loss = _has_own_loss(estimator)
    if "NeuralNetBinaryClassifier" in kinds:
        classes = np.asarray(estimator.classes_)
        meaning = Meaning("sigmoid") if isinstance(criterion, nn.BCEWithLogitsLoss) else Meaning()
        if isinstance(criterion, nn.BCELoss) and not own_loss:
            meaning = Meaning("sigmoid", _logit, torch.sigmoid)
        return "classification", classes, classes.astype(np.float64), meaning
    if "NeuralNetClassifier" in kinds:
        found = getattr(estimator, "classes_", None)
        meaning = Meaning("softmax") if isinstance(criterion, nn.CrossEntropyLoss) else Meaning()
        if isinstance(criterion, nn.NLLLoss) and not own_loss:
            meaning = Meaning("softmax", _log, _unlog, log_probabilities=True)
        if found is None:
            return "classification", None, None, meaning
        classes, ignored = np.asarray(found), ignored_label(criterion)
        if ignored is not None and classes.dtype.kind in "iu":
            classes = without_ignored(classes, ignored)
        if not np.array_equal(classes, np.arange(len(classes))):  # a class is no column
            meaning = replace(meaning, link=None)
        return "classification", classes, classes, meaning
    if "NeuralNetRegressor" in kinds and not isinstance(criterion, nn.PoissonNLLLoss):
        return "regression", None, None, Meaning("identity")
    task, labels, meaning = _read_criterion(criterion)
    return task, None, labels, meaning


def _has_own_loss(estimator: Any) -> bool:
    """Whether ``get_loss`` is the user's."""
    return not type(estimator).get_loss.__module__.startswith("skorch.")


def _asks_plainly(estimator: Any) -> bool:
    """Whether the criterion gets outputs and targets as they are (but for log-probabilities, which it makes itself)."""
    known = type(estimator).get_loss.__module__ in ("skorch.net", "skorch.classifier")
    return known and "get_loss" not in vars(estimator)


def _read_criterion(criterion: Any) -> tuple[Task, np.ndarray | None, Meaning]:
    """The same of a criterion alone."""
    if isinstance(criterion, nn.CrossEntropyLoss):
        return "classification", None, Meaning("softmax")
    if isinstance(criterion, nn.NLLLoss):  # of log-probabilities, which are logits too
        return "classification", None, Meaning("softmax", log_probabilities=True)
    if isinstance(criterion, nn.BCEWithLogitsLoss):
        return "classification", np.array([0.0, 1.0]), Meaning("sigmoid")
    if isinstance(criterion, nn.BCELoss):
        return "classification", np.array([0.0, 1.0]), Meaning("sigmoid", _logit, torch.sigmoid)
    if isinstance(criterion, nn.PoissonNLLLoss):
        return "regression", None, Meaning("exp" if criterion.log_input else "identity")
    if isinstance(criterion, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)):
        return "regression", None, Meaning("identity")
    return "regression", None, Meaning(log_probabilities=isinstance(criterion, nn.KLDivLoss))


def from_module(pair: tuple[nn.Module, Any], options: NetOptions) -> FittedModel:
    """Of a bare ``(module, loss)``; the loss is ``loss(output, target)``, a mean over rows or one number a row."""
    module, criterion = pair
    if not callable(criterion):
        raise TypeError(
            f"A bare net is a pair (module, loss) with loss(output, target) -> tensor; the loss is {criterion!r}."
        )

    criterion = next((module() for function, module in _AS_MODULES if criterion is function), criterion)

    def ask(criterion: Any, out: Any, y: torch.Tensor) -> torch.Tensor:
        return criterion(out, y)

    def call(module: nn.Module, batch: Any) -> Any:
        if isinstance(batch, dict):
            return module(**batch)
        return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)

    task, labels, meaning = _read_criterion(criterion)
    net = Net(module, options.parameters, call=call, to_raw=meaning.to_raw, dtype=options.torch_dtype, cast_inputs=True)
    own = dict(uncompiled(module).named_parameters())
    parameters = {name: own[name.removeprefix("inner.")] for name in net.theta}
    rowwise = RowLoss(criterion, ask, asked_plainly=True)
    return _build(
        module, net, rowwise, options, np.zeros(net.n_params), Penalised(net, in_its_own(criterion), parameters, 1.0),
        meaning=meaning, task=task, labels=labels,
    )  # fmt: skip


def from_mlp(estimator: Any, options: NetOptions) -> FittedModel:
    """Of scikit-learn's MLPClassifier or MLPRegressor: its weights carried over to a torch module."""
    classes = getattr(estimator, "classes_", None)
    if classes is not None and estimator.out_activation_ == "logistic" and estimator.n_outputs_ > 1:
        raise TypeError("A multilabel MLPClassifier has several labels a row; influence takes one.")
    log_link = getattr(estimator, "loss", "") == "poisson"
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "identity": nn.Identity}
    layers: list[nn.Module] = []
    for W, b in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        linear = nn.utils.skip_init(nn.Linear, *W.shape)  # which draws no first weights from torch's random numbers
        linear.weight = nn.Parameter(torch.from_numpy(np.array(W.T)))
        linear.bias = nn.Parameter(torch.from_numpy(np.array(b)))
        layers += [linear, activation[estimator.activation]()]
    net = Net(nn.Sequential(*layers[:-1]), options.parameters, dtype=options.torch_dtype, cast_inputs=True)
    loss: Loss
    if classes is not None:
        loss = SoftmaxLoss() if estimator.n_outputs_ > 1 else MarginLoss(curves.cross_entropy_curve())
    else:
        loss = DevianceLoss(1.0) if log_link else ResidualLoss(curves.squared_curve())
    decays = {name: float(estimator.alpha) * name.endswith(".weight") for name in net.theta}
    model = NetModel(net, state=options.state())
    return FittedModel(
        estimator=estimator,
        model=model,
        loss=loss,
        penalty=_penalty(net, options.decay_of(_flat_decay(net, decays)), "sum"),
        task="regression" if classes is None else "classification",
        classes=classes,
        curvature=options.curvature,
        intake=MLPIntake(estimator, model, loss, classes),
    )


def _build(
    estimator: Any,
    net: Net,
    rowwise: RowLoss,
    options: NetOptions,
    decay: np.ndarray,
    penalised: Penalised,
    *,
    meaning: Meaning,
    task: Task,
    classes: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> FittedModel:
    model = NetModel(net, state=options.state())
    loss = NetLoss(
        rowwise, model, labels, meaning.link, meaning.from_raw,
        log_probabilities=meaning.log_probabilities, curvature=options.curvature,
    )  # fmt: skip
    class_weight = None
    if classes is not None and classes.dtype.kind in "iu":
        shares = rowwise.shares(torch.from_numpy(classes.astype(np.int64)))
        if shares is not None:
            class_weight = ClassWeight(dict(zip(classes.tolist(), shares.tolist(), strict=True)))
    penalty = _penalty(net, options.decay_of(decay), "mean")

    def found(out: Any, y: torch.Tensor) -> np.ndarray | None:
        l2 = penalised(out, y) if options.own_decay else None
        return None if l2 is None else l2 * penalty.free

    return FittedModel(
        estimator=estimator,
        model=model,
        loss=loss,
        penalty=penalty,
        task=task,
        classes=classes,
        class_weight=class_weight,
        curvature=options.curvature,
        intake=NetIntake(model, loss, classes, penalty.l2, penalty.l2.copy(), found, by_class=class_weight is not None),
    )


def _penalty(net: Net, decay: np.ndarray, per: Any) -> Penalty:
    free = ~net.padding()
    return Penalty(l2=decay * free, l1=np.zeros(net.n_params), free=free, per=per)


def _optimizer_decay(estimator: Any, net: Net) -> np.ndarray:
    """The optimiser's weight decay of each parameter: the L2 penalty beside a mean loss."""
    optimizer = getattr(estimator, "optimizer_", None)
    groups = [] if optimizer is None else optimizer.param_groups
    by_id = {id(p): float(group.get("weight_decay", 0.0)) for group in groups for p in group["params"]}
    own = dict(uncompiled(estimator.module_).named_parameters())
    return _flat_decay(net, {name: by_id.get(id(own[name.removeprefix("inner.")]), 0.0) for name in net.theta})


def _flat_decay(net: Net, decays: dict[str, float]) -> np.ndarray:
    return net.flat({name: torch.full_like(net.theta[name], value) for name, value in decays.items()})


def _batch_size(estimator: Any) -> int:
    size = estimator.get_params().get("iterator_train__batch_size", estimator.batch_size)
    return int(size) if size and size > 0 else 1


def _log(p: torch.Tensor) -> torch.Tensor:
    return torch.log(p + torch.finfo(p.dtype).eps)


def _unlog(F: torch.Tensor) -> torch.Tensor:
    return torch.exp(F) - torch.finfo(F.dtype).eps


def _logit(p: torch.Tensor) -> torch.Tensor:
    return torch.logit(p, eps=torch.finfo(p.dtype).eps)
