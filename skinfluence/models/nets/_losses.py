"""The training loss of a net, row by row, as a function of its raw outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property, partial
from math import prod
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...losses import Link
from .._fitted import NO_CLASS
from ._class_shares import class_shares
from ._engines import batch_rows, take_row, take_rows
from ._first_rows import as_numpy
from ._model import NetModel
from ._slopes import Derivatives, derivatives_of

Ask = Callable[[Any, Any, torch.Tensor], torch.Tensor]
"""``(criterion, output, target) -> loss``."""

_NO_CURVATURE = (nn.L1Loss, nn.HingeEmbeddingLoss, nn.MarginRankingLoss)
_TOLERANCE = 1e-3
_NORMALISED = 0.1  # log of a sum of probabilities, in bfloat16


def ignored_label(criterion: Any) -> int | None:
    """The label whose rows the criterion leaves out of its mean; None where there is none, or no mean."""
    knows = isinstance(criterion, (nn.CrossEntropyLoss, nn.NLLLoss)) and criterion.reduction == "mean"
    return int(criterion.ignore_index) if knows else None


class RowLoss:
    """Makes a criterion, however it reduces, give one loss for each row, and each row's share in the mean.

    The training loss is taken to be ``sum_i c_i l_i / sum_i c_i``: ``c_i`` is 1, or what torch's cross-entropy divides
    by, the weights of the classes of the row's targets, those at ``ignore_index`` left out.

    ``by_mean`` says that the criterion gives one number for all rows whatever its ``reduction``: their mean, made by
    hand. The row's losses are then had by asking of one row at a time, their sum by asking of all at once.
    ``asked_plainly`` says that the criterion gets outputs and targets as they are.
    """

    def __init__(self, criterion: Any, ask: Ask, *, asked_plainly: bool = False) -> None:
        self.ask, self.asked_plainly = ask, asked_plainly
        self.reduction = getattr(criterion, "reduction", None)
        self.criterion = self.plain = criterion
        if isinstance(criterion, nn.Module):
            with torch.inference_mode(False):
                self.criterion = copy.deepcopy(criterion)
            self.plain = copy.copy(self.criterion)  # of which one attribute is another
        if self.reduction in ("mean", "sum", "batchmean"):
            self.plain.reduction = "none"
        self.by_mean = False
        self.reached: tuple[np.ndarray, np.ndarray] | None = None
        self.by_class: tuple[np.ndarray, np.ndarray] | None = None  # sorted labels, and what the loss weighs them by
        self.place: tuple[torch.dtype, torch.device] | None = None

    def follow(self, classes: np.ndarray, like: torch.Tensor) -> None:
        """Learn what a `get_loss` of the user's makes of a net's classes.

        The criterion's class weights are those of the labels that reach it; where it has none, the `get_loss` may have
        weights of its own.
        """
        weight = getattr(self.criterion, "weight", None)
        if not isinstance(self.criterion, (nn.CrossEntropyLoss, nn.NLLLoss)) or weight is None:
            shares = class_shares(partial(self.ask, self.criterion), classes, like)
            self.by_class = None if shares is None else (classes, shares)
            return
        given: list[torch.Tensor] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given.append(args[1] if len(args) > 1 else kwargs["target"])

        hook = self.criterion.register_forward_pre_hook(note, with_kwargs=True)
        try:
            self.ask(self.criterion, weight.new_zeros(classes.size, weight.numel()), torch.from_numpy(classes))
        except Exception as error:  # a user's get_loss may raise anything, for one where it takes several outputs
            if classes.min() >= 0 and classes.max() < weight.numel():
                return  # labels as they are, which the first rows will be held against
            raise TypeError(
                f"The criterion has weights for {weight.numel()} classes, and the net's are {classes.tolist()}. Which "
                f"weights are theirs was asked of the net's get_loss, which failed: {type(error).__name__}: {error}. "
                f"Train the net on labels 0 to {weight.numel() - 1}, with skorch's own get_loss."
            ) from error
        finally:
            hook.remove()
        if given:
            self.reached = classes, given[-1].cpu().numpy()

    def to(self, like: torch.Tensor) -> None:
        """The criterion's own tensors (weights of classes, say) to the dtype and device of outputs."""
        if self.place == (like.dtype, like.device):
            return
        for criterion in (self.plain, self.criterion):
            if isinstance(criterion, nn.Module):
                criterion.to(dtype=like.dtype, device=like.device)
        self.place = like.dtype, like.device

    def shares(self, y: torch.Tensor) -> np.ndarray | None:
        """``c (n,)``, or None where all are alike; by NumPy, because not every device has float64."""
        if self.by_class is not None:
            classes, by_class = self.by_class
            labels = y.cpu().numpy()
            place = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
            return np.where(classes[place] == labels, by_class[place], 0.0)  # no class: left out, as -100 is
        if self.reduction != "mean" or not isinstance(self.criterion, (nn.CrossEntropyLoss, nn.NLLLoss)):
            return None
        if y.is_floating_point():  # class probabilities: torch divides by the number of rows
            return None
        weight = self.criterion.weight
        labels = y.cpu().numpy()
        if self.reached is not None:
            classes, reached = self.reached
            place = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
            labels = np.where(classes[place] == labels, reached[place], labels)
        counted = labels != self.criterion.ignore_index
        if weight is None and labels.ndim == 1 and counted.all():
            return None
        shares = counted.astype(np.float64)
        if weight is not None:
            shares *= as_numpy(weight)[np.where(counted, labels, 0)]
        total: np.ndarray = shares.reshape(len(labels), -1).sum(axis=1)
        return total

    def values(self, out: Any, y: torch.Tensor) -> torch.Tensor:
        """The loss of each row, ``(n,)``."""
        n = batch_rows(out)
        if self.by_mean:
            shares = self.shares(y)
            some = range(n) if shares is None else np.flatnonzero(shares).tolist()
            own = [self.ask(self.criterion, take_row(out, i), y[i : i + 1]).reshape(()) for i in some]
            if len(own) == n:
                return torch.stack(own)
            found = out.new_zeros(n)
            return found.index_put((torch.tensor(some, device=out.device),), torch.stack(own)) if own else found
        terms = self.ask(self.plain, out, y)
        if terms.dim() == 0:
            raise ValueError("The loss is one number for all rows.")
        shares = self.shares(y)
        if shares is None and terms.numel() == n:  # one term a row: there is nothing to add up
            return terms.reshape(n)
        terms = terms.reshape(n, -1)
        if shares is not None:
            wide = np.float64 if terms.dtype == torch.float64 else np.float32
            divisor = torch.from_numpy(np.where(shares > 0, shares, 1.0).astype(wide)).to(terms.dtype).to(terms.device)
            counted = torch.from_numpy(shares > 0).to(terms.device)
            return torch.where(counted, terms.sum(dim=1) / divisor, torch.zeros_like(divisor))
        return terms.sum(dim=1) if self.reduction in ("sum", "batchmean") else terms.mean(dim=1)

    def slope(self, out: Any, y: torch.Tensor) -> torch.Tensor | None:
        """The derivative of their sum, where it can be written down."""
        share = self._written_share(out, y)
        if share is None or self.written is None:
            return None
        D = self.written.slope(out, y)
        return D if share == 1 else D.mul_(share)

    def curved(self, out: Any, y: torch.Tensor, V: torch.Tensor) -> torch.Tensor | None:
        """The second derivative of their sum, times ``V`` of as many numbers as the outputs, where it can be written
        down.
        """
        share = self._written_share(out, y)
        if share is None or self.written is None:
            return None
        H = self.written.curved(out, V.reshape(out.shape))
        return H if share == 1 else H.mul_(share)

    def _written_share(self, out: Any, y: torch.Tensor) -> float | None:
        """What a term counts for in its row's loss, where the derivatives that are written down are the loss's."""
        if self.written is None or self.by_mean or not isinstance(out, torch.Tensor):
            return None
        if y.is_floating_point():
            if out.shape != y.shape or isinstance(self.plain, nn.CrossEntropyLoss):
                return None
            return 1.0 if self.reduction in ("sum", "batchmean") else len(out) / out.numel()
        known = isinstance(self.plain, nn.CrossEntropyLoss) and out.dim() == 2 and y.dim() == 1
        return 1.0 if known and not bool((y == self.plain.ignore_index).any()) else None

    @cached_property
    def written(self) -> Derivatives | None:
        return derivatives_of(self.plain) if self.asked_plainly else None

    def total(self, out: Any, y: torch.Tensor) -> torch.Tensor:
        """Their sum."""
        if self.by_class is not None and self.by_mean:  # rows of one class have one share: their mean is a plain one
            labels, shares = self.by_class
            places = [y == int(label) for label, share in zip(labels, shares, strict=True) if share]
            sums = [
                self.ask(self.criterion, take_rows(out, at), y[at]).reshape(()) * int(at.sum())
                for at in places
                if bool(at.any())
            ]
            return torch.stack(sums).sum() if sums else (out * 0).sum()
        if self.by_mean:
            return self.ask(self.criterion, out, y).reshape(()) * batch_rows(out)
        return self.values(out, y).sum()

    def settle(self, out: Any, y: torch.Tensor) -> str | None:
        """Find out, on a few rows, how the criterion reduces, by what it gives for each of them alone.

        What it gives for all must be a sum or mean of that; if not, the complaint is returned.
        """
        shares = self.shares(y)
        counted = torch.from_numpy(np.ones(len(y)) if shares is None else shares)
        rows = counted.nonzero()[:, 0].tolist()
        if not rows:
            return None
        alone = torch.stack([self._whole(take_row(out, i), y[i : i + 1]) for i in rows])
        together = self._whole(out, y)
        weight = counted[rows]
        summed = self.reduction == "sum"
        mean = alone.sum() if summed else (alone * weight).sum() / weight.sum()
        as_one = _close(mean, together)
        for self.by_mean in (False, True):
            if self.by_mean and (summed or (shares is not None and self.by_class is None) or not as_one):
                break
            try:
                found = self.values(out, y)[rows].detach().cpu().double()
            except (RuntimeError, ValueError, TypeError):  # one number for all rows, or not to be had unreduced
                continue
            if as_one and _close(found, alone):
                return None
        self.by_mean = False
        return (
            f"The net's loss is no sum or mean of one term a row: on {len(rows)} rows together it is "
            f"{float(together):.6g}, and {float(mean):.6g} by what it is on each alone. A loss that compares rows with "
            "one another, or draws at random, gives rows no gradients of their own."
        )

    def _whole(self, out: Any, y: torch.Tensor) -> torch.Tensor:
        """The criterion as it is; the mean of what it does not reduce."""
        found = self.ask(self.criterion, out, y).detach().cpu().double()
        return found.mean() if found.dim() else found


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    size = max(float(a.abs().max()), float(b.abs().max()), 1e-6)
    return bool(torch.isfinite(a - b).all()) and float((a - b).abs().max()) <= _TOLERANCE * size


class NetLoss:
    """A `RowLoss` behind the `Loss` protocol: NumPy outputs and targets in, values and derivatives out.

    Parameters
    ----------
    rowwise : RowLoss
    model : NetModel
        Whose outputs they are.
    labels : ndarray or None
        The labels that class codes stand for; None where targets are taken as they are.
    link : {"softmax", "sigmoid", "identity"} or None
    from_raw : callable or None
        Makes of raw outputs what the criterion takes.
    log_probabilities : bool
        Whether raw outputs are log-probabilities that the criterion is linear in.
    curvature : {"gauss_newton", "hessian"}
        What its second derivative is for. That of a loss that is linear in the outputs says nothing of the net to
        Gauss and Newton: log-probabilities are then taken for logits, which they are too, and anything else raises.
    """

    def __init__(
        self,
        rowwise: RowLoss,
        model: NetModel,
        labels: np.ndarray | None,
        link: Link | None,
        from_raw: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        log_probabilities: bool = False,
        curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
    ) -> None:
        self.rowwise, self.model, self.labels, self.from_raw = rowwise, model, labels, from_raw
        self.gauss_newton = curvature == "gauss_newton"
        self.as_logits = log_probabilities and self.gauss_newton
        self.coded = True
        self.ignored: int | None = None  # what `NO_CLASS` stands for, once there were such rows
        self._link = link

    @property
    def link(self) -> Link | None:
        """What outputs predict, where there is one a column; None where targets are no class codes but should be."""
        structure = self.model.net.structure
        if structure is not None and (not structure.single or len(structure.shapes[0]) > 1):
            return None
        return self._link if self.coded or self._link in ("identity", "exp") else None

    @property
    def twice_differentiable(self) -> bool:
        criterion = self.rowwise.criterion
        flat = isinstance(criterion, nn.MultiMarginLoss) and criterion.p == 1
        return not isinstance(criterion, _NO_CURVATURE) and not flat

    def value(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        with self.model.net.still(), torch.no_grad():
            return self._numpy(self.rowwise.values(*self.asked(self.tensor(F), y)), F)

    def gradient(self, F: np.ndarray, y: np.ndarray) -> np.ndarray:
        f = self.tensor(F)
        D = None if self.from_raw is not None else self.rowwise.slope(*self.asked(f, y))
        if D is not None:
            return self._numpy(D.reshape(F.shape), F)
        with self.model.net.still(), torch.enable_grad():
            f.requires_grad_()
            (g,) = torch.autograd.grad(self.rowwise.total(*self.asked(f, y)), f)
        return self._numpy(g, F)

    def hessian_product(self, F: np.ndarray, y: np.ndarray, V: np.ndarray) -> np.ndarray:
        if self.from_raw is None and not self.as_logits:
            written = self.rowwise.curved(*self.asked(self.tensor(F), y), self.tensor(V))
            if written is not None:
                return self._numpy(written.reshape(F.shape), F)
        with self.model.net.still(), torch.enable_grad():
            f = self.tensor(F).requires_grad_()
            raw = self._normalised(f) if self.as_logits else f
            (g,) = torch.autograd.grad(self.rowwise.total(*self.asked(raw, y)), f, create_graph=True)
            if not g.requires_grad:
                if self.gauss_newton:
                    raise TypeError(
                        f"The loss of {self.model.net.name} is linear in what the net puts out, so that its "
                        "Gauss-Newton matrix is zero. Put curvature='hessian' in DifferentiableNet, or take a method "
                        "that needs no second derivative, such as 'ip', 'self_tracin' or 'trak'."
                    )
                return np.zeros_like(F)
            try:
                (h,) = torch.autograd.grad((g * self.tensor(V)).sum(), f)
            except RuntimeError as error:  # what torch raises where a derivative is missing has no class of its own
                if "is not implemented" not in str(error):
                    raise
                raise TypeError(
                    f"The loss of {self.model.net.name} has no second derivative in torch ({error}). Take a method "
                    "that needs none, such as 'ip', 'ip_ensemble', 'self_tracin', 'datainf' or 'trak'."
                ) from error
        return self._numpy(h, F)

    def _normalised(self, f: torch.Tensor) -> torch.Tensor:
        """Log-probabilities as the log-softmax of themselves: the same numbers, which curve as those of logits do."""
        out = self.model.structure.unflat(f)
        total = float(torch.logsumexp(out.detach().double(), dim=1).abs().max())
        if not total < _NORMALISED:
            raise ValueError(
                f"{type(self.rowwise.criterion).__name__} takes log-probabilities, and the outputs of "
                f"{self.model.net.name} are none: the log of their sum is up to {total:.3g}, not 0. As the loss is "
                "linear in them, its Gauss-Newton matrix is zero. End the net in a LogSoftmax, or put "
                "curvature='hessian' in DifferentiableNet."
            )
        return torch.log_softmax(out, dim=1).reshape(f.shape)

    def targets(self, y: np.ndarray) -> torch.Tensor:
        """Encoded targets as the criterion takes them."""
        with torch.inference_mode(False):
            return self._targets(y)

    def _targets(self, y: np.ndarray) -> torch.Tensor:
        values = y if self.labels is None or y.dtype.kind == "f" else self.labels.take(y)
        if values.dtype.kind == "f":
            values = values.astype(np.float64 if self.model.net.dtype == torch.float64 else np.float32, copy=False)
        elif values.dtype.kind in "iub":
            values = values.astype(np.int64)
            if self.ignored is not None and y.ndim == 1:
                values[y == NO_CLASS] = self.ignored
        tensor = torch.from_numpy(np.require(values, requirements=["C", "W"]))
        if values.dtype.kind == "f" and self.model.structure.single:
            shape = (len(y), *self.model.structure.shapes[0])
            tensor = tensor.reshape(shape) if values.size == prod(shape) else tensor
        return tensor.to(self.model.net.device)

    def asked(self, f: torch.Tensor, y: np.ndarray) -> tuple[Any, torch.Tensor]:
        """Outputs and targets as the criterion takes them, of raw outputs ``(n, K)`` and encoded targets."""
        out = self.model.structure.unflat(f)
        self.rowwise.to(f)
        return out if self.from_raw is None else self.from_raw(out), self.targets(y)

    def tensor(self, F: np.ndarray) -> torch.Tensor:
        """Raw outputs as a tensor, copied."""
        with torch.inference_mode(False):
            return torch.from_numpy(np.array(F, order="C")).to(self.model.net.device)

    @staticmethod
    def _numpy(tensor: torch.Tensor, like: np.ndarray) -> np.ndarray:
        found: np.ndarray = tensor.detach().cpu().numpy()
        return found.astype(like.dtype, copy=False)
