"""The gradients of a net's rows themselves: by vmap, or by a backward pass for each.

The second is what every quicker way is held to, on a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.func import grad, vmap

from .._layers import to_numpy
from ._engines import map_batch, rows_within, take_row, take_rows, written_out
from ._net import Net, Tensors
from ._rows import NetRows

_KEPT_BYTES = 1 << 22

Pull = Callable[[torch.Tensor], torch.Tensor]
"""``F -> D``: cotangents ``(n, K)`` of raw outputs."""


def row_gradients(
    net: Net, theta: Tensors, batch: Any, D: torch.Tensor, names: list[str], *, vmappable: bool
) -> Iterator[Tensors]:
    """Gradients of ``sum_k D_ik F_ik``, ``(m, *shape)`` for each parameter, a few rows at a time."""
    if not vmappable:
        for one, _ in row_gradients_by_loop(net, theta, batch, D, names):
            yield {name: g[None] for name, g in one.items()}
        return
    rest = {name: tensor for name, tensor in theta.items() if name not in names}

    def value(parameters: Tensors, row: Any, d: torch.Tensor) -> torch.Tensor:
        return (net.raw({**rest, **parameters}, map_batch(row, lambda part: part.unsqueeze(0)))[0] * d).sum()

    several = vmap(grad(value), in_dims=(None, 0, 0))
    chosen = {name: theta[name] for name in names}
    step = rows_within(sum(tensor.nbytes for tensor in chosen.values()))
    with written_out(net):
        for start in range(0, D.shape[0], step):
            at = slice(start, start + step)
            yield several(chosen, take_rows(batch, at), D[at])


def row_gradients_by_loop(
    net: Net, theta: Tensors, batch: Any, D: torch.Tensor, names: list[str]
) -> Iterator[tuple[Tensors, torch.Tensor]]:
    """The same by a backward pass for each row, ``(*shape)``, and its outputs ``(K,)``: right wherever torch can
    differentiate.
    """
    leaves = {name: t.detach().requires_grad_(name in names) for name, t in theta.items()}
    wanted = [leaves[name] for name in names]
    with torch.enable_grad():
        for i in range(D.shape[0]):
            F = net.raw(leaves, take_row(batch, i))
            if not F.requires_grad and len(names) == len(theta):
                raise TypeError(
                    f"As far as torch tells the outputs of {net.name} depend on none of the parameters that influence "
                    "is taken in: they are not used, or their gradient is cut on the way (detach, no_grad, a NumPy "
                    "array)."
                )
            if not F.requires_grad:  # of some of the parameters a row may use none
                yield {name: torch.zeros_like(theta[name]) for name in names}, F[0]
                continue
            found = torch.autograd.grad(F, wanted, D[i : i + 1], allow_unused=True)
            parts = zip(names, found, strict=True)
            yield {name: torch.zeros_like(theta[name]) if g is None else g for name, g in parts}, F[0].detach()


def squared_norms(net: Net, theta: Tensors, batch: Any, pull: Pull, vmappable: bool) -> np.ndarray:
    """Squared norms ``(n,)`` of the rows' gradients, without layers."""
    with torch.no_grad():
        D = pull(net.raw(theta, batch))
    parts = row_gradients(net, theta, batch, D, list(theta), vmappable=vmappable)
    norms = [sum((g.reshape(g.shape[0], -1) ** 2).sum(dim=1) for g in part.values()) for part in parts]
    return np.concatenate([to_numpy(norm) for norm in norms])


class OwnRows:
    """A few rows, and what the backward pass of each by itself says, at one place in the parameters.

    ``D (n, K)`` are cotangents of the outputs and ``v (p,)`` is a direction in the parameters, both drawn. Where they
    are small the gradients are kept, and each row's pass is made once, whatever is held to it.
    """

    def __init__(self, net: Net, params: np.ndarray, theta: Tensors, few: NetRows) -> None:
        self.net, self.params, self.theta = net, params, theta
        self.batch = few.batch(net.device, net.cast)
        self.D = net.tensor(np.random.default_rng(0).standard_normal((len(few), net.n_outputs)))
        self._made: list[tuple[torch.Tensor, torch.Tensor]] = []

    @cached_property
    def v(self) -> torch.Tensor:
        drawn = np.random.default_rng(1).standard_normal(self.net.n_params, dtype=np.float32)
        return self.net.tensor(drawn)  # float32: four times as quick, for large nets

    @property
    def small(self) -> bool:
        """Whether they may be kept."""
        return len(self.D) * sum(tensor.nbytes for tensor in self.theta.values()) <= _KEPT_BYTES

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The gradient ``(p,)`` of ``sum_k D_ik F_ik`` of each row, good until the next, and its outputs ``(K,)``."""
        if not self._made:
            made = self._passes()
            if not self.small:
                yield from made
                return
            with self.net.still(exact=True):
                self._made = list(made)
        yield from self._made

    def _passes(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Memory is asked for once where it is much, to be looked at before the next.
        flat = None if self.small else torch.empty(self.net.n_params, dtype=self.net.dtype, device=self.net.device)
        for parts, F in row_gradients_by_loop(self.net, self.theta, self.batch, self.D, list(self.theta)):
            yield torch.cat([parts[name].reshape(-1) for name in self.theta], out=flat), F


def flattened(parts: Tensors, names: Iterable[str]) -> torch.Tensor:
    """Tensors as one vector, in the order of the names."""
    return torch.cat([parts[name].reshape(-1) for name in names])
