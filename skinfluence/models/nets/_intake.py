"""How nets take rows and targets, and what is held against their own training loss before it is trusted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array, validate_data
from torch import nn

from ...losses import Loss
from .._fitted import NO_CLASS, encode_labels, encode_targets
from ._losses import NetLoss, ignored_label
from ._model import NetModel
from ._net import Net
from ._probe import look_at_others
from ._rows import NetRows, dataset_targets, spread

_N_VERIFIED = 6


@dataclass
class Seen:
    """What was last seen of the rows: the Dataset, in case it brings the targets too."""

    X: Any = None


@dataclass(frozen=True)
class NetIntake:
    """How a net takes rows and targets; see `Intake`.

    ``by_class`` says that the loss's weights are weights of classes, and enter so. ``l2`` is the penalty's, which
    becomes ``own_l2`` and what ``penalised`` finds in the loss, once rows are there.
    """

    model: NetModel
    loss: NetLoss
    classes: np.ndarray | None
    l2: np.ndarray
    own_l2: np.ndarray
    penalised: Callable[[Any, torch.Tensor], np.ndarray | None]
    by_class: bool = False
    seen: Seen = field(default_factory=Seen)

    def rows(self, X: Any) -> NetRows:
        self.seen.X = X
        first = self.model.net.structure is None
        rows = self.model.rows(X)
        if not first and (rows.form is None or rows.form != self.model.state.form):
            look_at_others(self.model.net, self.model.theta, rows)
        return rows

    def targets(self, y: Any) -> np.ndarray:
        if y is None:
            y = dataset_targets(self.seen.X)
            if y is None:
                raise ValueError("y is None, and X is no Dataset that pairs its rows with targets.")
        if isinstance(y, torch.Tensor):
            y = y.detach().cpu().numpy()
        if self.classes is not None:
            if np.ndim(y) > 1 and np.shape(y)[1:] != (1,):
                raise ValueError(
                    f"A classifier's y has one label a row, got an array of shape {np.shape(y)}. Nets with several "
                    "labels a row are wrapped in skorch.NeuralNet, or given as (module, loss)."
                )
            return self._codes(column_or_1d(y), self.classes)
        # What is right at first sight is not looked at more closely: that takes as long as a pass of a small net.
        plain = type(y) is np.ndarray and y.ndim > 0 and y.size > 0 and y.dtype.kind in "fiub"
        if not (plain and np.isfinite(y).all()):
            y = check_array(y, ensure_2d=False, allow_nd=True, dtype=None, input_name="y")
        if y.dtype.kind not in "fiub":
            raise ValueError(f"A net's targets must be numbers, got dtype {y.dtype}.")
        link, single = self.loss.link, self.model.structure.single
        if link == "sigmoid" and ((y == 0) | (y == 1)).all():
            self._note(self.model.n_outputs == 1 and y.size == len(y))
            return (y.reshape(-1) if self.loss.coded else y).astype(np.int64)
        if y.dtype.kind in "iub" and link != "identity" and link != "sigmoid" and link != "exp":
            if link is None or y.ndim > 1:
                self._note(False)
                return y.astype(np.int64)
            return self._classes(y.astype(np.int64))
        self._note(False)
        y = y.astype(np.float64)
        y = y.reshape(-1, 1) if y.ndim == 1 and single else y
        if link in ("identity", "exp") and y[0].size != self.model.n_outputs:
            raise ValueError(
                f"y must have {self.model.n_outputs} target(s) a row, as the net puts out; got {y[0].size}."
            )
        return y

    def _note(self, coded: bool) -> None:
        self.loss.coded = self.loss.coded and coded

    def _codes(self, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """The code of each label, `NO_CLASS` for those that the loss ignores."""
        ignored = ignored_label(self.loss.rowwise.criterion)
        if ignored is None or ignored in classes or y.dtype.kind not in "iuf":
            return encode_labels(y, classes)
        of_none = y == ignored
        self._note_ignored(of_none, ignored)
        codes = np.full(len(y), NO_CLASS)
        codes[~of_none] = encode_labels(y[~of_none], classes)
        return codes

    def _note_ignored(self, of_none: np.ndarray, ignored: int) -> None:
        if of_none.all():
            raise ValueError(
                f"All labels of y are {ignored}, which the net's loss ignores (ignore_index): there is nothing to "
                "score."
            )
        if of_none.any():
            self.loss.ignored = ignored

    def _classes(self, y: np.ndarray) -> np.ndarray:
        """The targets, which are columns of the outputs, `NO_CLASS` for those to be ignored; others raise."""
        n_classes = self.model.structure.shapes[0][0] if self.model.structure.shapes[0] else 1
        known = (y >= 0) & (y < n_classes)
        criterion = self.loss.rowwise.criterion
        of_none = ~known & (y == getattr(criterion, "ignore_index", None))
        if not (known | of_none).all():
            strange = np.unique(y[~(known | of_none)])[:5].tolist()
            raise ValueError(
                f"y holds labels that the net has no output for: {strange}. Its {n_classes} classes are 0 to "
                f"{n_classes - 1}."
            )
        ignored = ignored_label(criterion)
        if ignored is None:
            self._note(not of_none.any())
            return y
        self._note_ignored(of_none, ignored)
        return np.where(of_none, NO_CLASS, y)

    def row_weight(self, targets: np.ndarray) -> np.ndarray | None:
        if self.by_class:
            counted = targets != NO_CLASS
            return None if counted.all() else counted.astype(np.float64)
        return self.loss.rowwise.shares(self.loss.targets(targets))

    def verify(self, rows: NetRows, targets: np.ndarray) -> None:
        check_lengths(rows, targets)
        with self.model.net.still():
            self._verify(rows, targets)

    def _verify(self, rows: NetRows, targets: np.ndarray) -> None:
        self.model.probe(rows)
        few = spread(len(rows), _N_VERIFIED)
        F = self.model.outputs(rows[few])
        if not np.isfinite(F).all():
            return  # said, with the name of the rows, where all outputs are looked at
        try:
            out, y = self.loss.asked(self.loss.tensor(F), targets[few])
            complaint = self.loss.rowwise.settle(out, y)
            l2 = self.penalised(out, y)
        except Exception as error:  # a user's criterion or get_loss may raise anything
            raise TypeError(
                f"The net's loss cannot be had from its outputs and targets alone: {type(error).__name__}: {error} "
                f"Targets are {targets.dtype} {targets.shape[1:]} a row, and must be as they were in fit; a get_loss "
                "that needs X is not supported."
            ) from error
        if complaint is not None:
            raise TypeError(complaint)
        if l2 is None:
            self.l2[:] = self.own_l2
        else:
            np.add(self.own_l2, l2, out=self.l2)


@dataclass(frozen=True)
class MLPIntake:
    """How scikit-learn's MLPs take rows and targets."""

    estimator: Any
    model: NetModel
    loss: Loss
    classes: np.ndarray | None

    def rows(self, X: Any) -> NetRows:
        X = validate_data(
            self.estimator,
            X,
            reset=False,
            accept_sparse="csr",
            dtype=(np.float64, np.float32),
            ensure_all_finite=False,
        )
        return self.model.rows(NetRows.of(X, self.model.net.numpy_dtype, sparse=True))

    def targets(self, y: Any) -> np.ndarray:
        return encode_targets(y, self.classes, self.model.n_outputs, self.loss)

    def row_weight(self, targets: np.ndarray) -> None:
        return None

    def verify(self, rows: NetRows, targets: np.ndarray) -> None:
        check_lengths(rows, targets)
        self.model.probe(rows)


def check_lengths(rows: NetRows, targets: np.ndarray) -> None:
    """Raise as scikit-learn does where rows and targets do not match."""
    if len(rows) != len(targets):
        raise ValueError(f"Found input variables with inconsistent numbers of samples: {[len(rows), len(targets)]}")


def in_its_own(criterion: Any) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """The user's own criterion, not a copy; outputs and targets are brought to its tensors' precision and device."""
    tensors = [*criterion.parameters(), *criterion.buffers()] if isinstance(criterion, nn.Module) else []
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), None)

    if like is None:
        return criterion
    return lambda out, y: criterion(_cast(out, like), _cast(y, like))


def _cast(value: Any, like: torch.Tensor) -> Any:
    if isinstance(value, Mapping):
        return {name: _cast(part, like) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(_cast(part, like) for part in value)
    return value.to(like) if value.is_floating_point() else value.to(like.device)


class Penalised:
    """What a training loss adds in the parameters themselves, found by asking it of fixed outputs.

    Parameters
    ----------
    net : Net
    ask : callable
        ``(output, target) -> loss``.
    parameters : dict of Tensor
        Those that the loss knows of, under the names of ``net.theta``.
    factor : float
        What it counts by beside the mean over rows.
    """

    def __init__(self, net: Net, ask: Any, parameters: dict[str, torch.Tensor], factor: float) -> None:
        self.net, self.ask, self.parameters, self.factor = net, ask, parameters, factor

    def __call__(self, out: Any, y: torch.Tensor) -> np.ndarray | None:
        """The L2 penalty of each parameter, ``(p,)``, or None where there is none; a term of another form warns."""
        still = [tensor for tensor in self.parameters.values() if not tensor.requires_grad]
        try:
            for tensor in still:
                tensor.requires_grad_(True)
            with torch.enable_grad():
                loss = self.ask(out, y).mean()
                if not loss.requires_grad:
                    return None
                found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        finally:
            for tensor in still:
                tensor.requires_grad_(False)
        l2: dict[str, torch.Tensor] = {}
        for (name, tensor), g in zip(self.parameters.items(), found, strict=True):
            if g is None or not bool(g.any()):
                continue
            rate = float((g * tensor.detach()).sum() / (tensor.detach() ** 2).sum())
            if not torch.allclose(g, rate * tensor.detach(), rtol=1e-3, atol=1e-3 * float(g.abs().max())):
                warnings.warn(
                    f"The loss of {self.net.name} adds a term in {name.removeprefix('inner.')!r} that is no L2 "
                    "penalty. It is left out: the scores are those of the rest of the loss.",
                    UserWarning,
                    stacklevel=6,
                )
                continue
            l2[name] = torch.full_like(tensor, rate * self.factor)
        return self.net.flat(l2) if l2 else None
