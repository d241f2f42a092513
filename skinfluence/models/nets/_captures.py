"""What went through each layer of a net: inputs on the way forward, gradients on the way back.

Calls of torch's functions are watched, not modules: a weight is recognised wherever it is used, in a module of the
user's own too. How rows lie in a layer's inputs (first, second, or folded into the positions) cannot be read off a
shape; it is found once, by trying each way on a few rows against their own backward passes. What cannot be explained
so is left to per-row gradients.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as nnf
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from ._net import Tensors
from ._rules import PLAIN_RULES


@dataclass
class Call:
    """One use of a layer's parameters."""

    kind: str  # "linear", "conv", "embedding" or "norm"
    weight: str | None  # names of the parameters, None where they are not among the chosen
    bias: str | None
    x: torch.Tensor
    version: int
    edge: Any
    arguments: dict[str, Any]

    @property
    def parameters(self) -> list[str]:
        return [name for name in (self.weight, self.bias) if name is not None]


class Watch(TorchFunctionMode):
    """Notes the calls that use some of the parameters ``theta``, while a net runs on ``n_rows`` rows.

    It goes by the rules of `written_out` too: two modes would each be told of whatever is asked of a tensor.
    """

    def __init__(self, theta: Tensors, n_rows: int) -> None:
        super().__init__()
        self.names = {id(tensor): name for name, tensor in theta.items()}
        self.n_rows = n_rows
        self.calls: list[Call] = []

    @cached_property
    def opened(self) -> Callable[..., Any]:
        return _opened(self)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is nnf.multi_head_attention_forward:
            return self.opened(*args, **kwargs)
        reader = _READERS.get(func)
        if reader is None:
            return PLAIN_RULES.get(func, func)(*args, **kwargs)
        return self.noted(func, reader, args, kwargs)

    def noted(self, func: Any, reader: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        kind, x, weight, bias, arguments = reader(*args, **kwargs)
        weight, bias = self.names.get(id(weight)), self.names.get(id(bias))
        if (weight is None and bias is None) or not out.requires_grad:
            return out
        if kind == "embedding" and out.shape[0] == 1 and self.n_rows > 1:
            # Looked up once for all rows (positions, say): given to each, so that each has a gradient of its own.
            out, x = out.expand(self.n_rows, *out.shape[1:]), x.expand(self.n_rows, *x.shape[1:])
        self.calls.append(Call(kind, weight, bias, x.detach(), x._version, get_gradient_edge(out), arguments))
        return out

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        return self.noted(nnf.linear, _linear, (x, weight, bias), {})


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    return "linear", input, weight, bias, {}


def _convolution(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return "conv", input, weight, bias, {**options, "kernel": tuple(weight.shape[2:])}


def _embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    plain = max_norm is None and not scale_grad_by_freq
    return ("embedding" if plain else "other"), input, weight, None, {"padding": padding_idx}


def _layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    def normalised(x: Any) -> Any:
        return nnf.layer_norm(x, normalized_shape, eps=eps)

    return "norm", input, weight, bias, {"normalised": normalised, "features": len(normalized_shape), "axis": -1}


def _group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    def normalised(x: Any) -> Any:
        return nnf.group_norm(x, num_groups, eps=eps)

    return "norm", input, weight, bias, {"normalised": normalised, "features": 1, "axis": 1}


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    def normalised(x: Any) -> Any:
        return nnf.batch_norm(x, running_mean, running_var, eps=eps)

    # Without running statistics rows depend on one another, and have no gradients of their own.
    kind = "other" if training else "norm"
    return kind, input, weight, bias, {"normalised": normalised, "features": 1, "axis": 1}


_READERS: dict[Any, Callable[..., Any]] = {
    nnf.linear: _linear,
    torch.conv1d: _convolution,
    torch.conv2d: _convolution,
    nnf.conv1d: _convolution,
    nnf.conv2d: _convolution,
    nnf.embedding: _embedding,
    nnf.layer_norm: _layer_norm,
    nnf.group_norm: _group_norm,
    nnf.batch_norm: _batch_norm,
}


def _opened(watch: Watch) -> Callable[..., Any]:
    """torch's multi-head attention with its linear layers watched: the function itself, over names of which one is
    another.

    A watching mode sees the outermost function alone, and attention is one.
    """
    names: dict[str, Any] = dict(vars(nnf))
    # The names and the functions over them refer to each other, and are there until such are collected: what was
    # watched need not be.
    watching = weakref.ref(watch)

    def linear(*args: Any, **kwargs: Any) -> Any:
        there = watching()
        assert there is not None
        return there.linear(*args, **kwargs)

    names.update(linear=linear, has_torch_function=lambda tensors: False)
    for name, function in vars(nnf).items():
        own = isinstance(function, types.FunctionType) and function.__globals__ is vars(nnf)
        if own and ("attention" in name or "projection" in name):
            copied = types.FunctionType(function.__code__, names, name, function.__defaults__, function.__closure__)
            copied.__kwdefaults__ = function.__kwdefaults__
            names[name] = copied
    opened: Callable[..., Any] = names["multi_head_attention_forward"]
    return opened
