"""Which row stands in each row's place, where the number of rows, and their labels, may not change."""

from __future__ import annotations

import numpy as np


def redraw(codes: np.ndarray, weights: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
    """Row indices ``(n,)``: within its class a row is drawn in proportion to its weight, and stays in its own place.

    Systematic sampling from a random order: how often a row is drawn differs from its share of its class by less than
    one. Rows of weight zero, those that were removed, are never drawn.
    """
    indices = np.arange(len(codes))
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        if np.ptp(weights[rows]) == 0:
            continue
        rows = random_state.permutation(rows)
        edges = np.cumsum(weights[rows] / weights[rows].sum() * len(rows))
        edges[-1] = len(rows)
        times = np.diff(np.floor(edges + random_state.random_sample()), prepend=0.0).astype(np.intp)
        times[weights[rows] == 0] = 0
        indices[np.sort(rows[times == 0])] = np.repeat(rows, np.maximum(times - 1, 0))[: np.count_nonzero(times == 0)]
    return indices
