"""The gradients of a net's rows as `LayerRows`, and which parameters can be had so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .._layers import AffineRows, DirectRows, Layer, LayerRows, as_like, to_numpy
from ._captures import Call, Watch
from ._convolutions import ConvRows, padded, positions
from ._engines import batch_rows, written_out
from ._net import Net, Tensors, as_leaves
from ._row_gradients import OwnRows, Pull, row_gradients

_LAYOUTS = ("first", "second", "merged_rows", "merged_positions")
_FEW_GROUPS = 8
_ADDED_UP = (torch.float32, torch.float64)


@dataclass
class Plan:
    """Which calls explain which parameters, and how the rows lie in them; ``rest`` needs per-row gradients.

    ``signature`` is what all calls were: where they are others, the way through the module depends on the data, and the
    plan does not hold.
    """

    layers: list[tuple[list[int], str]] = field(default_factory=list)  # calls, layout
    rest: list[str] = field(default_factory=list)
    signature: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class LookupRows:
    """An embedding: which of its rows were looked up ``(n, T)``, and the gradients there ``B (n, T, d)``."""

    layer: Layer
    index: torch.Tensor
    B: torch.Tensor

    def like(self, matrix: np.ndarray) -> Any:
        return as_like(matrix, self.B)

    def squared_norms(self) -> np.ndarray:
        summed, _ = self.by_entry()
        return to_numpy((summed * self.B).sum(dim=(1, 2)))

    def products(self, V: Any) -> np.ndarray:
        return to_numpy((V[self.index] * self.B).sum(dim=(1, 2)))

    def total(self, weights: np.ndarray) -> np.ndarray:
        return self.scattered(self.B * as_like(weights, self.B)[:, None, None])

    def second_moments(self, weights: np.ndarray) -> tuple[np.ndarray, None]:
        """Of the gradients; indices are their own basis."""
        B = (self.B * as_like(np.sqrt(weights), self.B)[:, None, None]).reshape(-1, self.B.shape[2])
        return to_numpy(B.T @ B), None

    def rotated_squares(self, Q_A: torch.Tensor, Q_B: None, weights: np.ndarray) -> np.ndarray:
        rotated = LookupRows(self.layer, self.index, self.B @ Q_A)
        summed, times = rotated.by_entry()
        # Each of the positions that share an index has their sum: together they count once.
        return self.scattered(summed**2 / times[:, :, None] * as_like(weights, self.B)[:, None, None])

    def by_entry(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For each position the sum over those of the same row with the same index, and their number."""
        same = (self.index[:, :, None] == self.index[:, None, :]).to(self.B.dtype)
        return same @ self.B, same.sum(dim=2)

    def scattered(self, values: torch.Tensor) -> np.ndarray:
        """Sums of ``values (n, T, d)`` at their indices, ``(vocabulary, d)`` in float64."""
        out = values.new_zeros(self.layer.shape)
        out.index_add_(0, self.index.reshape(-1), values.reshape(-1, values.shape[2]))
        return to_numpy(out)


def watched(
    net: Net, theta: Tensors, batch: Any, pull: Pull
) -> tuple[torch.Tensor, list[Call], list[torch.Tensor | None]]:
    """The cotangents of the raw outputs, the calls, and the gradient at each call's output."""
    with written_out(net, rules=False), torch.enable_grad():
        leaves = as_leaves(theta)
        watch = Watch(leaves, batch_rows(batch))
        with watch:
            F = net.raw(leaves, batch)
        D = pull(F.detach())
        edges = [call.edge for call in watch.calls]
        deltas = torch.autograd.grad(F, edges, D, allow_unused=True) if edges else ()
    return D, watch.calls, list(deltas)


def make_plan(net: Net, own: OwnRows, tolerance: float) -> Plan:
    """Try each way of reading the calls on a few rows, and keep what agrees with the rows' own backward passes."""
    theta = own.theta
    try:
        _, calls, deltas = watched(net, theta, own.batch, lambda F: own.D)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # watching is in the way of this net
        return Plan([], list(theta))
    truth = _Truth(net, own)
    plan = Plan(signature=_signature(calls))
    by_weight: dict[str, list[int]] = {}
    for i, call in enumerate(calls):
        by_weight.setdefault(call.parameters[0], []).append(i)
    explained: set[str] = set()
    for indices in by_weight.values():
        names = calls[indices[0]].parameters
        for layout in _LAYOUTS:
            if explained & set(names):
                break
            read = _arranged(net, theta, calls, deltas, indices, layout, len(own.D))
            if read is not None and truth.agrees(read, names, tolerance):
                plan.layers.append((indices, layout))
                explained |= set(names)
    plan.rest = [name for name in theta if name not in explained]
    return plan


def layer_rows(net: Net, theta: Tensors, batch: Any, pull: Pull, plan: Plan, vmappable: bool) -> list[LayerRows] | None:
    """The gradients of the rows of a batch in every parameter; None if the plan does not hold for it."""
    n = batch_rows(batch)
    found: list[LayerRows] = []
    if plan.layers:
        D, calls, deltas = watched(net, theta, batch, pull)
        if _signature(calls) != plan.signature:
            return None
        for indices, layout in plan.layers:
            rows = _arranged(net, theta, calls, deltas, indices, layout, n)
            if rows is None:
                return None
            found += rows
    else:
        with torch.no_grad():
            D = pull(net.raw(theta, batch))
    return found + direct_rows(net, theta, batch, D, plan.rest, vmappable)


def squared_lengths(layers: list[LayerRows]) -> np.ndarray:
    """Squared norms ``(n,)`` of the rows' gradients in all of the layers; plain ones are added up as tensors."""
    plain: torch.Tensor | None = None
    others = []
    for rows in layers:
        if not isinstance(rows, AffineRows) or rows.A.shape[1] > 1 or rows.B.dtype not in _ADDED_UP:
            others.append(rows.squared_norms())
            continue
        n = rows.A.shape[0]
        inputs = torch.linalg.vector_norm(rows.A.view(n, -1), dim=1).square_()
        outputs = torch.linalg.vector_norm(rows.B.view(n, -1), dim=1).square_()
        if rows.bias:
            inputs += 1
        plain = inputs.mul_(outputs) if plain is None else plain.addcmul_(inputs, outputs)
    added_up = others if plain is None else [to_numpy(plain), *others]
    return np.add.reduce(added_up) if len(added_up) > 1 else added_up[0]


def direct_rows(
    net: Net, theta: Tensors, batch: Any, D: torch.Tensor, names: list[str], vmappable: bool
) -> list[LayerRows]:
    """The gradients of the rows in the parameters named, one by one."""
    if not names:
        return []
    parts = list(row_gradients(net, theta, batch, D, names, vmappable=vmappable))
    found: list[LayerRows] = []
    for name in names:
        G = torch.cat([part[name].reshape(part[name].shape[0], -1) for part in parts])
        at = slice(net.offsets[name], net.offsets[name] + G.shape[1])
        layer = Layer(name.removeprefix("inner."), ((at, (G.shape[1], 1)),))
        found.append(DirectRows(layer, G[:, :, None]))
    return found


def _signature(calls: list[Call]) -> list[tuple[str, ...]]:
    return [(call.kind, *call.parameters) for call in calls]


# --- from calls to rows -----------------------------------------------------------------------------------------------


def _arranged(
    net: Net,
    theta: Tensors,
    calls: list[Call],
    deltas: list[torch.Tensor | None],
    indices: list[int],
    layout: str,
    n: int,
) -> list[LayerRows] | None:
    """The calls of one weight as rows, or None where they cannot be read in this layout."""
    if indices[-1] >= len(calls):
        return None
    parts = []
    for i in indices:
        call, delta = calls[i], deltas[i]
        if delta is None or call.x._version != call.version or call.parameters != calls[indices[0]].parameters:
            return None
        read = _READ.get(call.kind)
        rows = None if read is None else read(net, theta, call, delta, layout, n)
        if rows is None:
            return None
        parts.append(rows)
    if len(parts) == 1:
        return parts[0]
    # A weight used several times: its uses are further positions.
    several = []
    for rows in parts:
        one = rows[0].unfolded if isinstance(rows[0], ConvRows) else rows[0]
        if len(rows) > 1 or not isinstance(one, AffineRows):
            return None
        several.append(one)
    A, B = (torch.cat([getattr(one, part) for one in several], dim=1) for part in ("A", "B"))
    return [AffineRows(several[0].layer, A, B, several[0].bias)]


def _linear_rows(net: Net, theta: Tensors, call: Call, delta: Any, layout: str, n: int) -> list[LayerRows] | None:
    A, B = _positions(call.x, n, layout), _positions(delta, n, layout)
    if A is None or B is None or A.shape[1] != B.shape[1]:
        return None
    return [_affine(net, call, A, B)]


def _conv_rows(net: Net, theta: Tensors, call: Call, delta: Any, layout: str, n: int) -> list[LayerRows] | None:
    if layout != "first" or call.x.shape[0] != n or call.x.dim() != len(call.arguments["kernel"]) + 2:
        return None
    x, geometry = padded(call.x, call.arguments)
    B = delta if delta.dim() == 4 else delta.unsqueeze(2)
    groups = call.arguments["groups"]
    if groups == 1 and call.weight is not None and not geometry.pointwise:
        c = B.shape[1], x.shape[1] * geometry.kernel[0] * geometry.kernel[1]
        return [ConvRows(_layer(net, _matrix_of(call, *c)), x, B, geometry, call.bias is not None)]
    A = positions(x, geometry)  # (n, T, channels * kernel)
    A = A.reshape(n, A.shape[1], groups, -1)
    B = B.reshape(n, groups, B.shape[1] // groups, -1).transpose(2, 3)
    if groups <= _FEW_GROUPS:
        return [_affine(net, call, A[:, :, g], B[:, g], (g, groups)) for g in range(groups)]
    parts, names = [], []
    if call.weight is not None:
        parts.append((B.transpose(2, 3) @ A.transpose(1, 2)).reshape(n, delta.shape[1], -1))
        names.append((call.weight, (delta.shape[1], parts[0].shape[2])))
    if call.bias is not None:
        parts.append(B.sum(dim=2).reshape(n, -1, 1))
        names.append((call.bias, (delta.shape[1], 1)))
    return [DirectRows(_layer(net, names), torch.cat(parts, dim=2))]


def _norm_rows(net: Net, theta: Tensors, call: Call, delta: Any, layout: str, n: int) -> list[LayerRows] | None:
    x = call.arguments["normalised"](call.x)
    if call.arguments["axis"] == 1 and x.dim() > 2:
        if layout != "first" or x.shape[0] != n:
            return None
        A, B = (t.flatten(2).transpose(1, 2) for t in (x, delta))
    else:
        if call.arguments["axis"] == -1:
            x, delta = (t.flatten(-call.arguments["features"]) for t in (x, delta))
        A, B = _positions(x, n, layout), _positions(delta, n, layout)
        if A is None or B is None:
            return None
    parts, names = [], []
    if call.weight is not None:
        parts.append((A * B).sum(dim=1))
        names.append((call.weight, (A.shape[2], 1)))
    if call.bias is not None:
        parts.append(B.sum(dim=1))
        names.append((call.bias, (A.shape[2], 1)))
    return [DirectRows(_layer(net, names), torch.stack(parts, dim=2))]


def _embedding_rows(net: Net, theta: Tensors, call: Call, delta: Any, layout: str, n: int) -> list[LayerRows] | None:
    index, B = _positions(call.x[..., None], n, layout), _positions(delta, n, layout)
    if index is None or B is None or call.weight is None:
        return None
    index = index[..., 0]
    if call.arguments["padding"] is not None:
        vocabulary = theta[call.weight].shape[0]
        B = B * (index != call.arguments["padding"] % vocabulary)[..., None]
    return [LookupRows(_layer(net, [(call.weight, tuple(theta[call.weight].shape))]), index, B)]


_READ: dict[str, Callable[..., list[LayerRows] | None]] = {
    "linear": _linear_rows,
    "conv": _conv_rows,
    "norm": _norm_rows,
    "embedding": _embedding_rows,
}


def _affine(net: Net, call: Call, A: Any, B: Any, group: tuple[int, int] = (0, 1)) -> AffineRows:
    layer = _layer(net, _matrix_of(call, B.shape[2], A.shape[2]), group)
    if call.weight is None:  # the bias alone, as the weight of an input that is always one
        return AffineRows(layer, A.new_ones(*A.shape[:2], 1), B)
    return AffineRows(layer, A, B, bias=call.bias is not None)


def _matrix_of(call: Call, b: int, a: int) -> list[tuple[str, tuple[int, int]]]:
    """The parameters of a call and their shapes in the matrix ``(b, a [+ 1])``."""
    weight = [] if call.weight is None else [(call.weight, (b, a))]
    return weight + ([] if call.bias is None else [(call.bias, (b, 1))])


def _layer(net: Net, names: list[tuple[str, tuple[int, int]]], group: tuple[int, int] = (0, 1)) -> Layer:
    slices = []
    for name, shape in names:
        size = shape[0] * shape[1]
        start = net.offsets[name] + group[0] * size
        slices.append((slice(start, start + size), shape))
    label = names[0][0].removeprefix("inner.").rpartition(".")[0] or names[0][0].removeprefix("inner.")
    return Layer(label if group[1] == 1 else f"{label} (group {group[0]})", tuple(slices))


def _positions(x: torch.Tensor, n: int, layout: str) -> torch.Tensor | None:
    """``(n, T, a)``: a row's positions together."""
    a = x.shape[-1]
    if x.dim() < 2:
        return None
    if layout == "first" and x.shape[0] == n:
        return x.reshape(n, -1, a)
    if layout == "second" and x.dim() >= 3 and x.shape[1] == n:
        return x.transpose(0, 1).reshape(n, -1, a)
    if x.shape[0] != n and x.shape[0] % n == 0:
        if layout == "merged_rows":
            return x.reshape(n, -1, a)
        if layout == "merged_positions":
            return x.reshape(x.shape[0] // n, n, -1, a).transpose(0, 1).reshape(n, -1, a)
    return None


class _Truth:
    """The rows' own gradients: their squared norms, and a weighted sum over rows, for each parameter."""

    def __init__(self, net: Net, own: OwnRows) -> None:
        n = len(own.D)
        self.net = net
        self.weights = np.arange(1.0, n + 1)
        self.places = {name: slice(net.offsets[name], net.offsets[name] + t.numel()) for name, t in own.theta.items()}
        filled = [name for name, at in self.places.items() if at.stop > at.start]
        starts = [self.places[name].start for name in filled]
        norms = np.zeros((n, len(filled)))
        self.sums = np.zeros(net.n_params)
        for i, (row, _) in enumerate(own):
            flat = to_numpy(row)
            self.sums += self.weights[i] * flat
            norms[i] = np.add.reduceat(flat * flat, starts)
        self.norms = {name: np.zeros(n) for name in own.theta} | dict(zip(filled, norms.T, strict=True))

    def agrees(self, rows: list[LayerRows], names: list[str], tolerance: float) -> bool:
        """Whether ``rows`` are the gradients in the parameters named."""
        wanted = np.add.reduce([self.norms[name] for name in names])
        if not bool((np.abs(squared_lengths(rows) - wanted) <= tolerance * (wanted + wanted.max())).all()):
            return False
        flat = np.zeros(self.net.n_params)
        for part in rows:
            part.layer.add(part.total(self.weights), flat)
        off = max(float(np.abs(flat[at] - self.sums[at]).max()) for at in map(self.places.__getitem__, names))
        size = max(float(np.abs(self.sums[at]).max()) for at in map(self.places.__getitem__, names))
        return off <= tolerance * size
