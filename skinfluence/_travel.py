"""The training rows, and the parameters that go with them, on their way through the steps of a Pipeline."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.pipeline import Pipeline as _SklearnPipeline
from sklearn.utils.metadata_routing import get_routing_for_object

from ._held_out import HeldOut
from ._rows import count_rows, n_rows, take_rows


class TravellingRows:
    """The training rows on their way through the steps, and the parameters that go with them."""

    def __init__(self, X: Any, y: Any, params: dict[str, Any], fixed: set[str]) -> None:
        self.X, self.y, self.params, self.fixed = X, y, dict(params), fixed  # fixed: parameters of other rows
        self.carried = dict(params)  # the same, transformed by the steps passed so far
        self.indices = np.arange(n_rows(X))
        self.weight: Any = None

    def weighted(self, sample_weight: Any) -> Any:
        return self.weight if sample_weight is None else self.weight * np.asarray(sample_weight)

    def carry(self, fitted: _SklearnPipeline, keys: set[str]) -> None:
        """Transform the validation rows that later steps want."""
        metadata = consumed(fitted, "transform", self.params)
        for key in keys:
            self.carried[key] = _transformed(self.carried[key], lambda X: fitted.transform(X, **metadata))

    def keep(self, curator: Any, X: Any, y: Any, factor: Any) -> None:
        """Go on with the rows that a curating step returned."""
        n, kept = len(self.indices), np.asarray(curator.sample_indices_)
        for key, value in self.params.items():
            if key not in self.fixed and count_rows(value) == n:
                self.params[key] = take_rows(value, kept)
        # A curator's transform is the identity, but set_output may have it make frames: so it will in predict, and the
        # later steps are to be fitted on the container they will meet there.
        X = X if isinstance(curator, _SklearnPipeline) else curator.transform(X)
        self.X, self.y, self.indices = X, y, self.indices[kept]
        self.weight = None if self.weight is None else self.weight[kept]
        if factor is not None:
            self.weight = np.asarray(factor) if self.weight is None else self.weight * np.asarray(factor)


def _transformed(values: Any, transform: Callable[[Any], Any]) -> Any:
    """Transform validation rows, in whatever they came."""
    if isinstance(values, HeldOut):
        moved = copy(values)
        moved.X = transform(values.X)
        return moved
    if isinstance(values, tuple):  # several sets, as scikit-learn allows in transform_input
        return tuple(transform(X) for X in values)
    return None if values is None else transform(values)


def consumed(estimator: Any, method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Pick the parameters that a method other than fit has requested: none, unless metadata is routed."""
    if not get_config()["enable_metadata_routing"]:
        return {}
    return {key: params[key] for key in get_routing_for_object(estimator).consumes(method, params)}


def curating_steps(curator: Any) -> dict[str, Any]:
    """The curating steps of a curator, each under the prefix of its fit parameters: itself alone, unless a Pipeline."""
    if not isinstance(curator, _SklearnPipeline):
        return {"": curator}
    return {
        f"{name}__{path}": inner
        for name, step in curator.steps
        if hasattr(step, "fit_curate")
        for path, inner in curating_steps(step).items()
    }
