"""Derivatives of torch's own losses in the outputs, written down: recording a graph takes longer than a small net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ._copies import is_changed


@dataclass(frozen=True)
class Derivatives:
    """Of the sum of the terms of a loss, each of which has one row.

    ``slope(outputs, targets)`` is the first; ``curved(outputs, directions)`` the second, times a direction for each
    row: of these losses it does not depend on the targets.
    """

    slope: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    curved: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def derivatives_of(criterion: Any) -> Derivatives | None:
    """Those of an unreduced criterion, or None where it is left to torch: all but the plainest of losses."""
    if not isinstance(criterion, nn.Module) or is_changed(criterion):
        return None
    weighted = any(getattr(criterion, name, None) is not None for name in ("weight", "pos_weight"))
    if weighted or getattr(criterion, "label_smoothing", 0) != 0:
        return None
    return _WRITTEN.get(type(criterion))


def _cross_entropy(F: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    D = torch.softmax(F, dim=1)
    D.scatter_add_(1, y[:, None], D.new_full((1, 1), -1.0).expand(len(y), 1))
    return D


def _cross_entropy_curved(F: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    P = torch.softmax(F, dim=1)
    PV = P * V
    return PV.sub_(P.mul_(PV.sum(dim=1, keepdim=True)))


def _sigmoid_curved(F: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    P = torch.sigmoid(F)
    return P * torch.sigmoid(-F) * V  # not 1 - P, which is zero long before its logit is without end


_WRITTEN: dict[type, Derivatives] = {
    nn.BCEWithLogitsLoss: Derivatives(lambda F, y: torch.sigmoid(F) - y, _sigmoid_curved),
    nn.CrossEntropyLoss: Derivatives(_cross_entropy, _cross_entropy_curved),
    nn.MSELoss: Derivatives(lambda F, y: (F - y) * 2, lambda F, V: V * 2),
}
