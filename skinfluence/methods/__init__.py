"""Methods: how the influence of a row is estimated. Each has a name, and a class to configure it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._base import GradientMethod, Method
from ._gex import GEX
from ._inverses import Arnoldi, LiSSA
from ._layered import EKFAC, DataInf
from ._named import CG, IP, Exact, IPEnsemble
from ._neighbours import KNNShapley
from ._refit import LeaveOneOut
from ._self import SelfLiSSA, SelfTracIn
from ._shapley import BetaShapley, DataShapley
from ._tda import TDA
from ._tracin import TracIn
from ._trak import TRAK

__all__ = [
    "CG",
    "EKFAC",
    "GEX",
    "IP",
    "METHODS",
    "TDA",
    "TRAK",
    "Arnoldi",
    "BetaShapley",
    "DataInf",
    "DataShapley",
    "Exact",
    "GradientMethod",
    "IPEnsemble",
    "KNNShapley",
    "LeaveOneOut",
    "LiSSA",
    "Method",
    "SelfLiSSA",
    "SelfTracIn",
    "TracIn",
    "resolve_method",
]

METHODS: dict[str, Callable[[], Any]] = {
    "ip": IP,
    "ip_ensemble": IPEnsemble,
    "exact": Exact,
    "cg": CG,
    "lissa": LiSSA,
    "arnoldi": Arnoldi,
    "datainf": DataInf,
    "ekfac": EKFAC,
    "tracin": TracIn,
    "tda": TDA,
    "gex": GEX,
    "trak": TRAK,
    "self_tracin": SelfTracIn,
    "self_lissa": SelfLiSSA,
    "leave_one_out": LeaveOneOut,
    "data_shapley": DataShapley,
    "beta_shapley": BetaShapley,
    "knn_shapley": KNNShapley,
}


def resolve_method(method: Any) -> Any:
    """A method from its name or from a configured object.

    Examples
    --------
    >>> from skinfluence.methods import resolve_method
    >>> resolve_method("exact")
    Exact()
    """
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method must be one of {sorted(METHODS)} or a method object, got {method!r}.")
        return METHODS[method]()
    if isinstance(method, type) or not hasattr(method, "score_rows"):
        raise TypeError(
            f"method must be one of {sorted(METHODS)} or an object such as IPEnsemble(n_members=10), got {method!r}."
        )
    return method
