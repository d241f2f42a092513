"""Inner-product scores by a backward pass for each row: slow, and obviously right. Nothing here uses the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from .reference import n_rows, row

Loss = Callable[[Any, torch.Tensor], torch.Tensor]
"""``(output, target) -> loss``: one number, the mean over rows."""


def batch(X: Any) -> Any:
    """All rows as tensors."""
    if isinstance(X, dict):
        return {name: batch(part) for name, part in X.items()}
    return tuple(batch(part) for part in X) if isinstance(X, tuple) else torch.as_tensor(np.ascontiguousarray(X))


def call(module: nn.Module, X: Any) -> Any:
    return module(**X) if isinstance(X, dict) else module(*X) if isinstance(X, tuple) else module(X)


def gradient(value: torch.Tensor, params: list[torch.Tensor]) -> np.ndarray:
    if not value.requires_grad:
        return np.zeros(sum(p.numel() for p in params))
    grads = torch.autograd.grad(value, params, allow_unused=True)
    return np.concatenate(
        [np.zeros(p.numel()) if g is None else g.double().numpy().ravel() for g, p in zip(grads, params, strict=True)]
    )


def row_gradients(module: nn.Module, loss: Loss, X: Any, y: Any) -> np.ndarray:
    """``(n, p)``."""
    params = [p for p in module.parameters() if p.requires_grad]
    y = torch.as_tensor(y)
    return np.stack(
        [gradient(loss(call(module, row(X, i)), y[i : i + 1]), params) for i in range(n_rows(X))],
    )


def ip(
    module: nn.Module, loss: Loss, X: Any, y: Any, X_val: Any, y_val: Any, share: Any = None, per_row: bool = False
) -> np.ndarray:
    """``(c_i / sum c) grad l_i . g``, with ``g`` the gradient of the loss on the validation rows.

    ``share`` is each row's ``c``; ``per_row`` says that the loss is a sum, to be divided by the number of rows.
    """
    params = [p for p in module.parameters() if p.requires_grad]
    c = np.ones(n_rows(X)) if share is None else np.asarray(share, dtype=float)
    g = gradient(loss(call(module, batch(X_val)), torch.as_tensor(y_val)), params)
    g = g / n_rows(X_val) if per_row else g
    return c / c.sum() * (row_gradients(module, loss, X, y) @ g)


def self_influence(module: nn.Module, loss: Loss, X: Any, y: Any) -> np.ndarray:
    return -(row_gradients(module, loss, X, y) ** 2).sum(axis=1) / n_rows(X)
