"""Classes counted and weighted, without arrays as long as the rows: there may be many."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

# What counting takes beside the codes, 8 bytes a row, is for so many rows.
_ROWS_AT_ONCE = 1 << 17


def count_codes(codes: np.ndarray, weight: np.ndarray | None, n_classes: int) -> np.ndarray:
    """Rows of each class, or the sum of their weights, ``(n_classes,)`` in float64."""
    counts = np.zeros(n_classes)
    for start in range(0, len(codes), _ROWS_AT_ONCE):
        at = slice(start, start + _ROWS_AT_ONCE)
        counts += np.bincount(codes[at], None if weight is None else weight[at], minlength=n_classes)
    return counts


def class_weights(value: Any, codes: np.ndarray, sample_weight: np.ndarray | None, n_classes: int) -> np.ndarray:
    """The weight of each class, by scikit-learn's `compute_class_weight`, which sorts the rows to count them."""
    counts = count_codes(codes, None, n_classes)
    labels = np.arange(n_classes)
    present = labels[counts > 0]
    if isinstance(value, str) and value == "balanced" and len(present) == n_classes:
        counts = counts if sample_weight is None else count_codes(codes, sample_weight, n_classes)
        return np.asarray(counts.sum() / (n_classes * counts))
    return np.asarray(compute_class_weight(value, classes=labels, y=present))
