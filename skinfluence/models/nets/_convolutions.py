"""The gradients of a net's rows in a convolution, without its input unfolded.

The gradient of a row at a tap of the kernel is a product of the gradients at the outputs and the input moved by that
tap. With the outputs written into rows as wide as the input's, what lies beyond them zero, a move is an offset in a
flat array: a slice, and no copy. The squared norm is the sum of squares of these products, or, where there are few
positions and many channels, that of the products of two Gram matrices: of the outputs' gradients, and of the input,
moved along its diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf

from .._layers import AffineRows, Layer, as_like, chunks, to_numpy, with_bias

# Adding two matrices up costs as much as so many products for each of their entries (measured).
_ADDING = 10
# With fewer channels products are too thin to be worth a call for each tap: these inputs are unfolded.
_FEW_CHANNELS = 12


@dataclass(frozen=True)
class Geometry:
    """A convolution of two dimensions over an input that is already padded."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def pointwise(self) -> bool:
        return self.kernel == (1, 1)

    def taps(self) -> Iterator[tuple[int, int]]:
        """Where in the input each entry of the kernel lies, for the first output."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield i * self.dilation[0], j * self.dilation[1]


def padded(x: torch.Tensor, arguments: dict[str, Any]) -> tuple[torch.Tensor, Geometry]:
    """The input ``(n, c, H, W)`` of a convolution of one or two dimensions, with its padding."""
    dims = len(arguments["kernel"])
    kernel, stride, dilation = (_as_tuple(arguments[k], dims) for k in ("kernel", "stride", "dilation"))
    padding = arguments["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    else:
        each = (0,) * dims if isinstance(padding, str) else _as_tuple(padding, dims)
        sides = [side for p in reversed(each) for side in (p, p)]
    x = nnf.pad(x, sides) if any(sides) else x
    if dims == 1:
        return x.unsqueeze(2), Geometry((1, *kernel), (1, *stride), (1, *dilation))
    return x, Geometry(kernel, stride, dilation)


def positions(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The patches of an input, ``(n, T, channels * kernel)``; of a pointwise convolution a view."""
    if geometry.pointwise:
        return x[:, :, :: geometry.stride[0], :: geometry.stride[1]].flatten(2).transpose(1, 2)
    unfolded = nnf.unfold(x, geometry.kernel, geometry.dilation, 0, geometry.stride)
    return unfolded.transpose(1, 2)


@dataclass(frozen=True)
class ConvRows:
    """A convolution of one group: inputs ``x (n, c, H, W)``, and gradients at the outputs ``B (n, b, h, w)``."""

    layer: Layer
    x: torch.Tensor
    B: torch.Tensor
    geometry: Geometry
    bias: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""
        return self.B.shape[1], self.x.shape[1], *self.geometry.kernel

    def like(self, matrix: np.ndarray) -> Any:
        return as_like(matrix, self.B)

    @property
    def unfolded(self) -> AffineRows:
        """The same as a layer with a matrix."""
        return AffineRows(
            self.layer, positions(self.x, self.geometry), self.B.flatten(2).transpose(1, 2), bias=self.bias
        )

    def squared_norms(self) -> np.ndarray:
        if self.shape[1] < _FEW_CHANNELS:
            return self.unfolded.squared_norms()
        flat = _Flat.of(self)
        found = flat.by_gram() if flat.gram_is_cheaper() else flat.by_taps()
        if self.bias:
            found += self.B.sum(dim=(2, 3)).square().sum(dim=1)
        return to_numpy(found)

    def products(self, V: Any) -> np.ndarray:
        W, column = (V[:, :-1], V[:, -1]) if self.bias else (V, None)
        pulled = nnf.conv2d(self.x, W.reshape(self.shape), column, self.geometry.stride, 0, self.geometry.dilation)
        return to_numpy((pulled * self.B).sum(dim=(1, 2, 3)))

    def total(self, weights: np.ndarray) -> np.ndarray:
        scaled = self.B * as_like(weights, self.B)[:, None, None, None]
        matrix = torch.nn.grad.conv2d_weight(
            self.x, self.shape, scaled, self.geometry.stride, 0, self.geometry.dilation
        ).reshape(self.shape[0], -1)
        return with_bias(to_numpy(matrix), to_numpy(scaled.sum(dim=(0, 2, 3))) if self.bias else None)

    def second_moments(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.unfolded.second_moments(weights)

    def rotated_squares(self, Q_A: Any, Q_B: Any, weights: np.ndarray) -> np.ndarray:
        return self.unfolded.rotated_squares(Q_A, Q_B, weights)


@dataclass(frozen=True)
class _Flat:
    """Gradients and inputs of a convolution as flat arrays over positions.

    ``B (n, b, T)`` are the gradients in rows of the input's width. ``phases`` are the inputs ``(n, c, L)`` at every
    ``stride``-th place, from each place that a tap begins at; ``taps`` name the phase and the offset in it.
    """

    B: torch.Tensor
    phases: dict[tuple[int, int], torch.Tensor]
    taps: list[tuple[tuple[int, int], int]]

    @classmethod
    def of(cls, rows: ConvRows) -> _Flat:
        (sy, sx), h = rows.geometry.stride, rows.B.shape[2]
        taps = list(rows.geometry.taps())
        beyond, width = max(y // sy for y, _ in taps), rows.B.shape[3] + max(x // sx for _, x in taps)
        phases: dict[tuple[int, int], torch.Tensor] = {}
        for y, x in taps:
            phase = (y % sy, x % sx)
            if phase not in phases:
                part = rows.x[:, :, phase[0] :: sy, phase[1] :: sx][:, :, : h + beyond, :width]
                # One row more than there is: the last slice ends in it.
                short = width - part.shape[3], h + beyond + 1 - part.shape[2]
                phases[phase] = nnf.pad(part, (0, short[0], 0, short[1])).flatten(2)
        B = nnf.pad(rows.B, (0, width - rows.B.shape[3])).flatten(2)
        return cls(B, phases, [((y % sy, x % sx), y // sy * width + x // sx) for y, x in taps])

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """Channels in and out, positions of inputs and outputs, and taps."""
        _, c, L = next(iter(self.phases.values())).shape
        return c, self.B.shape[1], L, self.B.shape[2], len(self.taps)

    def gram_is_cheaper(self) -> bool:
        c, b, L, T, k = self.numbers
        return len(self.phases) * L * L * c + T * T * (b + _ADDING * k) < k * T * b * c

    def by_gram(self) -> torch.Tensor:
        """``sum_tu (sum_taps <x_{t + tap}, x_{u + tap}>) <B_t, B_u>``."""
        _, _, L, T, _ = self.numbers
        found = []
        for at in chunks(len(self.B), len(self.phases) * L * L + 2 * T * T, self.B):
            grams = {phase: x[at].mT @ x[at] for phase, x in self.phases.items()}
            moved = (grams[phase][:, o : o + T, o : o + T] for phase, o in self.taps)
            summed = next(moved).clone()
            for gram in moved:
                summed += gram
            summed *= self.B[at].mT @ self.B[at]
            found.append(summed.sum(dim=(1, 2)))
        return torch.cat(found)

    def by_taps(self) -> torch.Tensor:
        """``sum_taps ‖sum_t B_t x_{t + tap}^T‖²``."""
        T = self.B.shape[2]
        found = self.B.new_zeros(len(self.B))
        for phase, o in self.taps:
            G = self.B @ self.phases[phase][:, :, o : o + T].mT
            found += G.square().sum(dim=(1, 2))
        return found


def _as_tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)
