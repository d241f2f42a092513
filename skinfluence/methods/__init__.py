"""Methods: how the influence of a row is estimated. Each has a name, and a class to configure it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._base import GradientMethod, Method
from ._named import CG, IP, Exact, IPEnsemble, SelfTracIn
from ._refit import LeaveOneOut

__all__ = [
    "CG",
    "IP",
    "METHODS",
    "Exact",
    "GradientMethod",
    "IPEnsemble",
    "LeaveOneOut",
    "Method",
    "SelfTracIn",
    "resolve_method",
]

METHODS: dict[str, Callable[[], Any]] = {
    "ip": IP,
    "ip_ensemble": IPEnsemble,
    "exact": Exact,
    "cg": CG,
    "self_tracin": SelfTracIn,
    "leave_one_out": LeaveOneOut,
}


def resolve_method(method: Any) -> Any:
    """A method from its name or from a configured object."""
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method must be one of {sorted(METHODS)} or a method object, got {method!r}.")
        return METHODS[method]()
    if isinstance(method, type) or not hasattr(method, "score_rows"):
        raise TypeError(
            f"method must be one of {sorted(METHODS)} or an object such as IPEnsemble(n_members=10), got {method!r}."
        )
    return method
