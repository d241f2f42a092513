"""What a loss weighs the rows of each class by, where only what it gives for rows can tell."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_ALIKE = 1e-4
_MOST_COLUMNS = 1 << 16


def class_shares(loss: Loss, classes: np.ndarray, like: torch.Tensor) -> np.ndarray | None:
    """``c_k`` of integer classes, up to a factor, if ``loss(output, target)`` is ``sum_i c_i l_i / sum_i c_i``.

    None if all are alike, or if that is not to be had: what is found holds for the loss only once rows have been held
    to it. A class without any share is one whose rows have no loss alone, and change nothing beside another.
    """
    if classes.min(initial=0) < 0 or classes.max(initial=0) >= _MOST_COLUMNS:
        return None  # they are no columns
    # Numbers that are good as logits and as probabilities, of as many columns as there may be.
    drawn = np.random.default_rng(0).dirichlet(np.full(int(classes.max(initial=0)) + 1, 0.5), size=2) + 1e-3
    for dtype, width in product((torch.float64, like.dtype), {len(classes), drawn.shape[1]}):
        out = torch.from_numpy(drawn[:, :width] / drawn[:, :width].sum(axis=1, keepdims=True)).to(like.device, dtype)
        try:
            shares = _ratios(loss, out, torch.from_numpy(classes).to(like.device))
        except Exception:  # a user's loss may raise anything of what is no output of the net
            continue
        return None if shares is None or np.allclose(shares, 1, rtol=_ALIKE) else shares
    return None


def _ratios(loss: Loss, out: torch.Tensor, labels: torch.Tensor) -> np.ndarray | None:
    def value(rows: list[int], of: list[int]) -> float:
        return float(loss(out[rows], labels[of]).detach())

    alone = np.array([[value([i], [k]) for k in range(len(labels))] for i in (0, 1)])
    counted = np.isfinite(alone).all(axis=0)
    if not counted.any():
        return None
    first = int(counted.argmax())
    shares = np.where(counted, 1.0, 0.0)
    for k in range(len(labels)):
        if k == first:
            continue
        # Of two ways to give two outputs to two classes the one whose losses are further apart.
        i = int(np.abs(alone[1, first] - alone[0, k]) > np.abs(alone[0, first] - alone[1, k]))
        a, b = alone[i, first], alone[1 - i, k]
        together = value([i, 1 - i], [first, k])
        if not counted[k]:
            if not np.isclose(together, a, rtol=_ALIKE):
                return None
            continue
        if not min(a, b) < together < max(a, b):
            return None
        shares[k] = (together - a) / (b - together)
    return shares
