"""Functions of torch that are computed in another way while a net is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode


class Rules(TorchFunctionMode):
    """Functions of torch that are computed in another way."""

    def __init__(self, rules: dict[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.rules = rules

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.rules.get(func, func)(*args, **(kwargs or {}))


def _weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    """``g v / |v|``: torch's own has no forward mode, and a wrong second derivative in v."""
    others = [k for k in range(v.dim()) if k != dim] if dim >= 0 else list(range(v.dim()))
    return v * (g / v.square().sum(dim=others, keepdim=True).sqrt())


def _embedding_bag(input: Any, weight: Any, *args: Any, **kwargs: Any) -> Any:
    """Sums and means of a table's rows by `embedding`: torch's own has no second derivative."""
    options = {**_BAG_DEFAULTS, **dict(zip(_BAG_DEFAULTS, args, strict=False)), **kwargs}
    padding = options.pop("padding_idx")
    mode = options.pop("mode")
    usual = all(value == _BAG_DEFAULTS[name] for name, value in options.items() if not isinstance(value, torch.Tensor))
    tensors = any(isinstance(value, torch.Tensor) for value in options.values())
    if input.dim() != 2 or mode not in ("sum", "mean") or tensors or not usual:
        return nnf.embedding_bag(input, weight, *args, **kwargs)
    counted = input != (-1 if padding is None else padding % weight.shape[0])
    summed = (nnf.embedding(input, weight) * counted.unsqueeze(-1)).sum(dim=1)
    return summed if mode == "sum" else summed / counted.sum(dim=1, keepdim=True).clamp(min=1)


_BAG_DEFAULTS: dict[str, Any] = {
    "offsets": None,
    "max_norm": None,
    "norm_type": 2.0,
    "scale_grad_by_freq": False,
    "mode": "mean",
    "sparse": False,
    "per_sample_weights": None,
    "include_last_offset": False,
    "padding_idx": None,
}


PLAIN_RULES: dict[Any, Callable[..., Any]] = {torch._weight_norm: _weight_norm, nnf.embedding_bag: _embedding_bag}


class DualRules(Rules):
    """Functions of dual numbers that are computed in another way.

    ``parts`` are the values and tangents of the parameters, by the ids of the duals: looking them up is a fifth of what
    unpacking takes, and a small net has little else to do.
    """

    def __init__(self, parts: dict[int, tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__(PLAIN_RULES)
        self.parts = parts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Not by a table of its own methods: it would refer to itself, and keep the parameters until such are collected.
        if func is nnf.linear:
            return self.linear(*args, **(kwargs or {}))
        if func is nnf.batch_norm:
            return self.batch_norm(*args, **(kwargs or {}))
        if func is nnf.embedding:
            return self.embedding(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def unpacked(self, tensor: Any) -> tuple[Any, Any]:
        if tensor is None:
            return None, None
        return self.parts.get(id(tensor)) or forward_ad.unpack_dual(tensor)

    def linear(self, input: Any, weight: Any, bias: Any = None) -> Any:
        """With the sums done inside the products: a fifth off a wide MLP."""
        (x, dx), (W, dW), (b, db) = self.unpacked(input), self.unpacked(weight), self.unpacked(bias)
        y = nnf.linear(x, W, b)
        if y.requires_grad:  # what is recorded is the graph of the outputs alone
            x, W, dx = x.detach(), W.detach(), None if dx is None else dx.detach()
        if dW is not None:
            dy = nnf.linear(x, dW, db)
            if dx is not None:
                flat = (dy, dx) if dx.dim() == 2 else (dy.view(-1, W.shape[0]), dx.reshape(-1, W.shape[1]))
                flat[0].addmm_(flat[1], W.t())
        elif dx is not None:
            dy = nnf.linear(dx, W, db)
        elif db is not None:
            dy = db.expand_as(y).clone()  # what follows may write to it, and the direction is not its own
        else:
            return y
        return forward_ad.make_dual(y, dy)

    def batch_norm(
        self, input: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
        training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Any:  # fmt: skip
        """By kept statistics, linear in the input and in the weights; torch's own takes twice as long on images.

        In training mode, by the rows' own statistics, it is torch's own.
        """
        (x, dx), (w, dw), (b, db) = self.unpacked(input), self.unpacked(weight), self.unpacked(bias)
        if training or (dx is None and dw is None and db is None):
            return nnf.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        y = nnf.batch_norm(x, running_mean, running_var, w, b, False, momentum, eps)
        if y.requires_grad:  # as in `linear`
            x, w, dx = x.detach(), None if w is None else w.detach(), None if dx is None else dx.detach()
        if dw is None and db is None:
            dy = torch.zeros_like(y)
        else:
            dw = torch.zeros_like(db) if dw is None else dw
            dy = nnf.batch_norm(x, running_mean, running_var, dw, db, False, momentum, eps)
        if dx is not None:
            scale = (running_var + eps).rsqrt() if w is None else (running_var + eps).rsqrt() * w
            dy.addcmul_(dx, scale.view(-1, *[1] * (x.dim() - 2)))
        return forward_ad.make_dual(y, dy)

    def embedding(self, input: Any, weight: Any, padding_idx: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Padding never learns: its tangent is zero, which torch forgets."""
        W, dW = self.unpacked(weight)
        y = nnf.embedding(input, W, padding_idx, *args, **kwargs)
        if dW is None:
            return y
        dy = nnf.embedding(input, dW)
        if padding_idx is not None:
            dy = dy * (input != padding_idx % W.shape[0]).unsqueeze(-1)
        return forward_ad.make_dual(y, dy)
