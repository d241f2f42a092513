"""A net's chosen layer by itself, where it is the last thing that the net does: what comes before it never moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..linear import LinearModel
from ._copies import copied, is_changed
from ._net import Net, Tensors


@dataclass(frozen=True)
class Head:
    """The layer within the net, and a net of its own that is its copy."""

    layer: nn.Module
    net: Net
    is_whole_net: bool


def head_of(net: Net) -> Head | None:
    """The module that all chosen parameters are of, if it is one part of the net and shares them with none.

    Not one with hooks: what they do to its inputs would be done twice. The whole net is one if it is a linear layer:
    that is worth handling as a linear model.
    """
    owners = [home for homes in net.homes.values() for home, _ in homes]
    if len(owners) != len(net.theta) or any(owner is not owners[0] for owner in owners):
        return None
    layer = next(part for part in net.module.modules() if part._parameters is owners[0])
    own = [name.rpartition(".")[2] for name in net.theta]
    whole = layer is net.module.inner
    if is_changed(layer) or (whole and not _is_linear(layer, own, net)):
        return None
    alone = copied(layer)
    for name in own:
        alone._parameters[name].requires_grad_()
    return Head(layer, Net(alone, own, cast_inputs=True), whole)


def inputs_of(head: Head, net: Net, leaves: Tensors, batch: Any) -> torch.Tensor | None:
    """What goes into the layer; None where more than its outputs makes the net's, or where the chosen parameters
    reach the outputs by another way too.
    """
    calls: list[tuple[Any, Any, Any, list[int]]] = []

    def note(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        calls.append((args, kwargs, out, _versions(args, out)))

    hook = head.layer.register_forward_hook(note, with_kwargs=True)
    try:
        F = net.raw(leaves, batch)
    finally:
        hook.remove()
    if len(calls) != 1:
        return None
    args, kwargs, out, versions = calls[0]
    if kwargs or len(args) != 1 or not all(isinstance(part, torch.Tensor) for part in (*args, out)):
        return None
    (x,) = args
    if _versions(args, out) != versions:  # changed in place after the layer
        return None
    if x.requires_grad or not x.is_floating_point() or len(x) != len(F) or out.numel() != F.numel():
        return None
    return x.detach() if torch.equal(out.detach().reshape(F.shape), F.detach()) else None


def linear_head(head: Head, params: np.ndarray, inputs: np.ndarray) -> tuple[LinearModel, np.ndarray] | None:
    """A plain linear layer of one input a row as a `LinearModel`, whose products cost no call of torch, and which of
    ``params`` its own are; None for other layers, for one whose bias does not move, and on an accelerator.
    """
    net = head.net
    if inputs.ndim != 2 or not _is_linear(head.layer, [name.removeprefix("inner.") for name in net.theta], net):
        return None
    K, d = net.theta["inner.weight"].shape
    has_bias = "inner.bias" in net.theta
    order = np.empty((K, d + has_bias), dtype=np.intp)
    order[:, :d] = net.offsets["inner.weight"] + np.arange(K * d).reshape(K, d)
    if has_bias:
        order[:, d] = net.offsets["inner.bias"] + np.arange(K)
    order = order.ravel()
    return LinearModel(params[order], n_features=d, n_outputs=K, fit_intercept=has_bias), order


def _is_linear(layer: nn.Module, chosen: list[str], net: Net) -> bool:
    """Whether it is torch's linear layer and nothing else, all of its parameters chosen, in the reach of NumPy."""
    if type(layer) is not nn.Linear or net.device.type != "cpu" or net.dtype not in (torch.float32, torch.float64):
        return False
    every = {"weight"} if layer.bias is None else {"weight", "bias"}
    return set(chosen) == every == {name for name, own in layer._parameters.items() if own is not None}


def _versions(args: Any, out: Any) -> list[int]:
    """Which torch counts up whenever a tensor is changed in place."""
    return [part._version for part in (*args, out) if isinstance(part, torch.Tensor) and not part.is_inference()]
