"""Arrays of other libraries and devices, brought to where linear models are scored: to NumPy, on the host."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from ._dask import in_memory

_FOREIGN = ("torch", "cupy", "jax", "jaxlib", "array_api_strict")


def is_foreign(values: Any) -> bool:
    """Whether it is an array of another library than NumPy, such as scikit-learn takes by the array API."""
    root = type(values).__module__.split(".")[0]
    return root in _FOREIGN and all(hasattr(values, name) for name in ("shape", "dtype", "__getitem__"))


def on_host(values: Any) -> Any:
    """A foreign array as a NumPy array, without a copy where it is in the host's memory already; a Dask collection
    computed; anything else as it is.
    """
    if not is_foreign(values):
        return in_memory(values)
    if hasattr(values, "detach"):  # torch, wherever it is
        return values.detach().cpu().numpy()
    if hasattr(values, "get"):  # CuPy, whose arrays refuse to be converted otherwise
        return values.get()
    return np.asarray(values) if hasattr(values, "__array__") else np.from_dlpack(values)


def hosted(estimator: Any) -> Any:
    """The fitted estimator with its parameters on the host: itself, or a shallow copy if they are not there."""
    if type(getattr(estimator, "coef_", None)) is np.ndarray:  # an estimator's arrays are of one library
        return estimator
    foreign = {name: value for name, value in vars(estimator).items() if is_foreign(value)}
    if not foreign:
        return estimator
    estimator = copy.copy(estimator)
    vars(estimator).update({name: on_host(value) for name, value in foreign.items()})
    return estimator
