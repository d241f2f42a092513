"""Passes over the rows' gradients, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..models._blocks import memory_budget
from ..models._layers import LayerRows, nbytes
from ..operators import TrainingProblem


class LayerPasses:
    """The training rows' gradients layer by layer, as often as they are asked for.

    The first pass keeps what they are made of (a layer's inputs, the gradients at its outputs) if that takes no more
    than a quarter of ``sklearn.get_config()["working_memory"]``, shared with so many of its kind; otherwise each pass
    makes it anew.
    """

    def __init__(
        self,
        problem: TrainingProblem,
        params: np.ndarray,
        cotangents: Callable[[np.ndarray, slice], np.ndarray] | None = None,
        share: int = 1,
    ) -> None:
        self.problem, self.params, self.cotangents = problem, params, cotangents
        self.room = memory_budget() // (4 * share)
        self.kept: list[tuple[slice, list[LayerRows]]] | None = None

    def __iter__(self) -> Iterator[tuple[slice, list[LayerRows]]]:
        if self.kept is not None:
            yield from self.kept
            return
        kept: list[tuple[slice, list[LayerRows]]] = []
        room = self.room
        for at, layers in self.problem.layer_rows(self.params, self.cotangents):
            if room >= 0:
                room -= sum(nbytes(rows) for rows in layers)
                kept.append((at, layers))
                if room < 0:
                    kept.clear()
            yield at, layers
        if room >= 0:
            self.kept = kept
