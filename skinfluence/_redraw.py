"""Which kept row takes the place of each removed one, where the number of rows may not change."""

from __future__ import annotations

import numpy as np


def redraw(codes: np.ndarray, kept: np.ndarray, random_state: np.random.RandomState) -> np.ndarray:
    """Row indices ``(n,)``: a kept row stands for itself, a removed one is replaced by a kept row of its class.

    Within a class the replacements are drawn by systematic sampling from a random order: how often two kept rows are
    drawn differs by one at most.
    """
    indices = np.arange(len(codes))
    for code in np.unique(codes[~kept]):
        of_class = codes == code
        places, donors = np.flatnonzero(of_class & ~kept), random_state.permutation(np.flatnonzero(of_class & kept))
        steps = (random_state.random_sample() + np.arange(len(places))) * (len(donors) / len(places))
        indices[places] = donors[np.minimum(steps.astype(np.intp), len(donors) - 1)]
    return indices
