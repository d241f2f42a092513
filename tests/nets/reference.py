"""The truth about a net: backward passes of single rows, one for each output. Nothing here uses the package."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def row(X: Any, i: int) -> Any:
    if isinstance(X, dict):
        return {name: row(part, i) for name, part in X.items()}
    if isinstance(X, tuple):
        return tuple(row(part, i) for part in X)
    return torch.as_tensor(np.ascontiguousarray(X[i : i + 1]))


def n_rows(X: Any) -> int:
    return n_rows(next(iter(X.values()))) if isinstance(X, dict) else n_rows(X[0]) if isinstance(X, tuple) else len(X)


def ask(module: Any, batch: Any) -> torch.Tensor:
    """Raw outputs ``(n, K)``: all that the module gives, side by side."""
    out = module(**batch) if isinstance(batch, dict) else module(*batch) if isinstance(batch, tuple) else module(batch)
    parts = list(out.values()) if isinstance(out, dict) else list(out) if isinstance(out, tuple) else [out]
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


def free_parameters(module: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def flat(tensors: Any, like: Any) -> np.ndarray:
    parts = [
        np.zeros(p.numel()) if g is None else g.to_dense().double().numpy().ravel()
        for g, p in zip(tensors, like, strict=True)
    ]
    return np.concatenate(parts)


def outputs_and_jacobian(module: Any, X: Any) -> tuple[np.ndarray, np.ndarray]:
    """``F (n, K)`` and ``dF / dparameters (n, K, p)``, in the module's own dtype."""
    params = list(free_parameters(module).values())
    outputs, jacobian = [], []
    for i in range(n_rows(X)):
        (F,) = ask(module, row(X, i))
        outputs.append(F.detach().double().numpy())
        grads = [torch.autograd.grad(f, params, retain_graph=True, allow_unused=True) for f in F]
        jacobian.append(np.stack([flat(g, params) for g in grads]))
    return np.stack(outputs), np.stack(jacobian)


def input_gradients(module: Any, X: np.ndarray, D: np.ndarray) -> np.ndarray:
    found = []
    for i in range(len(X)):
        x = row(X, i).requires_grad_()
        (g,) = torch.autograd.grad((ask(module, x) * torch.as_tensor(D[i : i + 1])).sum(), x)
        found.append(g.numpy()[0])
    return np.stack(found)


def second_order(module: Any, X: Any, D: np.ndarray, v: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """``sum_ik D_ik (d²F_ik) v``, by central differences of gradients."""

    def gradient(at: float) -> np.ndarray:
        parameters = free_parameters(module).values()
        kept = [p.detach().clone() for p in parameters]
        start = 0
        with torch.no_grad():
            for p in parameters:
                p += at * torch.as_tensor(v[start : start + p.numel()]).reshape(p.shape)
                start += p.numel()
        try:
            found = np.einsum("ik,ikp->p", D, outputs_and_jacobian(module, X)[1])
        finally:
            with torch.no_grad():
                for p, value in zip(parameters, kept, strict=True):
                    p.copy_(value)
        return found

    return (gradient(step) - gradient(-step)) / (2 * step)
